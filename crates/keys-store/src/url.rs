//! Where a database is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::SslMode;

use crate::sqlite;

/// Where a database is: `sqlite:keys.db`, `sqlite:///var/lib/keys/keys.db` or `postgres://user@host/database`.
///
/// It may hold a password, so it cannot be shown; `Debug` says which kind it is and no more.
///
/// # SQLite
/// What follows `sqlite:` or `sqlite://` is the path, taken literally. A database in memory is refused: each
/// connection would see another one, and none would outlive the process.
///
/// # PostgreSQL
/// The URL is the one of [libpq](https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS), with
/// the parameters that `tokio-postgres` knows, and these for encryption:
///
/// | `sslmode` | Meaning |
/// |---|---|
/// | `disable` | No TLS. |
/// | `prefer` (the default) | TLS if the server offers it. Nobody checks who the server is, as nothing would keep an attacker from turning TLS off. |
/// | `require`, `verify-ca`, `verify-full` | TLS, with a certificate for the host's name from a trusted authority. Stricter than libpq, which checks only what the last two say. |
///
/// `sslrootcert` names a file with the trusted authorities in PEM; without it, those of the system are trusted.
///
/// ```
/// use keys_store::DatabaseUrl;
///
/// let url: DatabaseUrl = "postgres://keys:hunter2@db.internal/keys?sslmode=require".parse()?;
/// assert_eq!(format!("{url:?}"), "DatabaseUrl(postgres)");
/// assert!("sqlite::memory:".parse::<DatabaseUrl>().is_err());
/// # Ok::<(), keys_store::InvalidUrl>(())
/// ```
#[derive(Clone)]
pub struct DatabaseUrl(pub(crate) Location);

#[derive(Clone)]
pub(crate) enum Location {
    Postgres(Box<PostgresLocation>),
    Sqlite(PathBuf),
}

#[derive(Clone)]
pub(crate) struct PostgresLocation {
    pub(crate) config: tokio_postgres::Config,
    pub(crate) root_certificates: Option<PathBuf>,
}

/// The text says of no database where it is. The text itself is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// Neither SQLite nor PostgreSQL.
    #[error("a database URL starts with `sqlite:` or `postgres://`")]
    Scheme,
    /// Not a PostgreSQL URL, or one with an unknown parameter.
    #[error(
        "the PostgreSQL URL is malformed or has an unknown parameter; it is written \
         postgres://user:password@host:port/database?sslmode=require, special characters percent-encoded"
    )]
    Postgres,
    /// An unknown `sslmode`.
    #[error("sslmode is one of disable, prefer, require, verify-ca and verify-full")]
    SslMode,
    /// No path, or one with parameters.
    #[error("a SQLite URL is `sqlite:` and the path of a file, without parameters")]
    SqlitePath,
    /// A path with characters that no one types on purpose.
    #[error(
        "the path of a SQLite file has no control characters, such as line breaks, and no blanks at its ends; \
         a file with settings may have ended the line with one"
    )]
    SqliteCharacters,
    /// A path that a shell would have expanded.
    #[error(
        "`~` and `$` in the path of a SQLite file are not expanded here: write the whole path \
         (or ./~ for a folder of that name)"
    )]
    SqliteExpansion,
    /// In memory.
    #[error("a SQLite database in memory is a different one for each connection; name a file")]
    SqliteMemory,
}

impl DatabaseUrl {
    /// The SQLite database in the file at `path`.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Location::Sqlite(path.into()))
    }

    /// The path of the SQLite file without symbolic links in it, whether or not the file exists; `None` for PostgreSQL. This
    /// is where SQLite keeps the files that belong to the database.
    ///
    /// # Errors
    /// When the links lead nowhere or in circles.
    #[must_use]
    pub fn resolved_sqlite_path(&self) -> Option<io::Result<PathBuf>> {
        self.sqlite_path().map(sqlite::resolve)
    }

    /// The path of the SQLite file as it was written; `None` for PostgreSQL.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Location::Sqlite(path) => Some(path),
            Location::Postgres(_) => None,
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            parse_sqlite(path.strip_prefix("//").unwrap_or(path))
        } else if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            parse_postgres(text)
        } else {
            Err(InvalidUrl::Scheme)
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Location::Postgres(_) => "DatabaseUrl(postgres)",
            Location::Sqlite(_) => "DatabaseUrl(sqlite)",
        })
    }
}

fn parse_sqlite(path: &str) -> Result<DatabaseUrl, InvalidUrl> {
    if path.starts_with(":memory:") {
        Err(InvalidUrl::SqliteMemory)
    } else if path.contains(char::is_control) || path.trim() != path {
        Err(InvalidUrl::SqliteCharacters)
    } else if path.is_empty() || path.contains('?') || path.ends_with('/') {
        Err(InvalidUrl::SqlitePath)
    } else if path.starts_with('~') || path.split('/').any(is_variable) {
        Err(InvalidUrl::SqliteExpansion)
    } else {
        Ok(DatabaseUrl::sqlite(path))
    }
}

/// Whether a part of a path is written as shells and service managers write their variables, `$HOME` or `${HOME}`.
fn is_variable(part: &str) -> bool {
    let Some(name) = part.strip_prefix('$') else {
        return false;
    };
    name.starts_with(|first: char| first == '{' || first == '_' || first.is_ascii_alphabetic())
}

fn parse_postgres(text: &str) -> Result<DatabaseUrl, InvalidUrl> {
    // The parser ends the password at the first `@`, so a `?` before it is part of the password.
    let after_password = text.find('@').map_or(0, |at| at + 1);
    let query = text[after_password..].find('?');
    let (base, query) = match query.map(|at| after_password + at) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };

    // The driver knows three modes and no certificates; it is given the rest.
    let mut mode = SslMode::Prefer;
    let mut root_certificates = None;
    let mut rest = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", "disable")) => mode = SslMode::Disable,
            Some(("sslmode", "prefer")) => mode = SslMode::Prefer,
            Some(("sslmode", "require" | "verify-ca" | "verify-full")) => mode = SslMode::Require,
            Some(("sslmode", _)) => return Err(InvalidUrl::SslMode),
            Some(("sslrootcert", path)) => {
                let path = percent_decode_str(path).decode_utf8();
                root_certificates = Some(PathBuf::from(&*path.map_err(|_| InvalidUrl::Postgres)?));
            }
            _ => rest.push(parameter),
        }
    }
    let driver_url = format!("{base}?{}", rest.join("&"));
    // The driver's error may repeat parts of the text.
    let mut config: tokio_postgres::Config =
        driver_url.parse().map_err(|_| InvalidUrl::Postgres)?;
    config.ssl_mode(mode);
    Ok(DatabaseUrl(Location::Postgres(Box::new(
        PostgresLocation {
            config,
            root_certificates,
        },
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(text: &str) -> PostgresLocation {
        match text.parse::<DatabaseUrl>().unwrap().0 {
            Location::Postgres(location) => *location,
            Location::Sqlite(_) => panic!("{text}"),
        }
    }

    #[test]
    fn sqlite_paths_are_taken_literally() {
        for (text, path) in [
            ("sqlite:keys.db", "keys.db"),
            ("sqlite://keys.db", "keys.db"),
            ("sqlite:///var/lib/keys.db", "/var/lib/keys.db"),
            ("sqlite:/var/a b%20.db", "/var/a b%20.db"),
            ("sqlite:./~/keys.db", "./~/keys.db"),
            ("sqlite:data/a~b$c/$5.db", "data/a~b$c/$5.db"),
        ] {
            let url: DatabaseUrl = text.parse().unwrap();
            assert_eq!(url.sqlite_path(), Some(Path::new(path)), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_database_are_refused() {
        for (text, error) in [
            ("", InvalidUrl::Scheme),
            ("mysql://localhost", InvalidUrl::Scheme),
            ("host=localhost", InvalidUrl::Scheme),
            ("sqlite:", InvalidUrl::SqlitePath),
            ("sqlite:keys.db?mode=ro", InvalidUrl::SqlitePath),
            ("sqlite:data/", InvalidUrl::SqlitePath),
            ("sqlite:keys.db\0", InvalidUrl::SqliteCharacters),
            ("sqlite://data/keys.db\r", InvalidUrl::SqliteCharacters),
            ("sqlite://data/keys.db\n", InvalidUrl::SqliteCharacters),
            ("sqlite://data\r/keys.db", InvalidUrl::SqliteCharacters),
            ("sqlite://data/keys.db\u{85}", InvalidUrl::SqliteCharacters),
            ("sqlite://data/keys.db ", InvalidUrl::SqliteCharacters),
            ("sqlite:// data/keys.db", InvalidUrl::SqliteCharacters),
            ("sqlite://data/keys.db\u{a0}", InvalidUrl::SqliteCharacters),
            ("sqlite://~/keys.db", InvalidUrl::SqliteExpansion),
            ("sqlite:~keys/keys.db", InvalidUrl::SqliteExpansion),
            ("sqlite://$HOME/keys.db", InvalidUrl::SqliteExpansion),
            ("sqlite:///srv/${NAME}/keys.db", InvalidUrl::SqliteExpansion),
            ("sqlite::memory:", InvalidUrl::SqliteMemory),
            ("sqlite://:memory:", InvalidUrl::SqliteMemory),
            ("postgres://localhost?sslmode=maybe", InvalidUrl::SslMode),
            ("postgres://localhost?hunter2=x", InvalidUrl::Postgres),
            ("postgres://localhost:99999999/x", InvalidUrl::Postgres),
        ] {
            assert_eq!(text.parse::<DatabaseUrl>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn sslmode_is_read_in_all_its_spellings() {
        for (parameters, mode) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Prefer),
            ("?connect_timeout=3&sslmode=require", SslMode::Require),
            ("?sslmode=verify-ca", SslMode::Require),
            ("?sslmode=verify-full&application_name=x", SslMode::Require),
        ] {
            let location = postgres(&format!("postgres://u:p@h/d{parameters}"));
            assert_eq!(location.config.get_ssl_mode(), mode, "{parameters}");
        }
        let location = postgres("postgresql://u:p?q@h/d?sslrootcert=%2Fetc%2Fa%20b.pem");
        assert_eq!(
            location.root_certificates,
            Some(PathBuf::from("/etc/a b.pem"))
        );
        assert_eq!(location.config.get_password(), Some(b"p?q".as_slice()));
    }

    #[test]
    fn a_password_is_never_shown() {
        let url: DatabaseUrl = "postgres://u:hunter2@h/d".parse().unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
        let error = "postgres://u:hunter2@h:x/d"
            .parse::<DatabaseUrl>()
            .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
