//! The URL of a database.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::databases::by_database;
#[cfg(feature = "sqlite")]
use crate::sqlite::file;

#[cfg(feature = "postgres")]
mod passfile;
#[cfg(feature = "postgres")]
mod postgres;

#[cfg(feature = "postgres")]
pub(crate) use passfile::{PassfileError, mode_for_others, password as password_in_file};
#[cfg(feature = "postgres")]
pub(crate) use postgres::{PostgresHost, PostgresLocation, TlsFiles, TlsRoots};

/// The URL of a database: `sqlite:keys.db`, `sqlite:///var/lib/keys/keys.db` or
/// `postgres://user@host/database`.
///
/// It may contain a password, so it has no `Display`; `Debug` shows the kind of the database only.
///
/// # SQLite
/// The text after `sqlite:` or `sqlite://` is the path, taken literally. A database in memory is
/// refused, because each connection would see another one, and none would outlive the process.
///
/// # PostgreSQL
/// The URL is read as
/// [libpq](https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS) reads
/// it: several hosts (`host1:5432,host2:5433`), percent-encoding, Unix sockets
/// (`?host=/run/postgresql`), and these parameters. A parameter that is not listed is refused by
/// its name. Environment variables of libpq (`PGPASSWORD`, ..) are not read. The default user is
/// the one that this process runs as, and the default database has the name of the user.
///
/// | Parameter | Meaning |
/// |---|---|
/// | `user`, `password`, `host`, `hostaddr`, `port`, `dbname` | override other parts of the URL |
/// | `passfile` | a file in the format of `.pgpass`, read for each new connection |
/// | `sslmode=disable` | no TLS |
/// | `sslmode=prefer` (the default), `allow` | TLS if the server offers it, not verified |
/// | `sslmode=require`, `verify-ca`, `verify-full` | TLS with a verified certificate |
/// | `sslrootcert` | a PEM file with the trusted authorities |
/// | `sslcert`, `sslkey` | PEM files with the client's certificate and its private key |
/// | `sslnegotiation`, `channel_binding` | as in libpq |
/// | `ssl_min_protocol_version` | as in libpq |
/// | `application_name` | shown in `pg_stat_activity`; defaults to `keys` |
/// | `fallback_application_name` | the same, if `application_name` is not set |
/// | `options` | settings of the session: `-c search_path=keys` |
/// | `connect_timeout` | seconds for each host |
/// | `keepalives`, `keepalives_idle`, `keepalives_interval` | as in libpq |
/// | `keepalives_count`, `tcp_user_timeout` | as in libpq |
/// | `target_session_attrs` | `any`, `read-write` or `primary`, all with the same effect |
/// | `load_balance_hosts` | `disable` or `random` |
///
/// - With `sslmode=prefer` the certificate is not verified, because an attacker could disable TLS
///   anyway.
/// - With `sslmode=require` and above it must be for the host's name, from a trusted authority.
///   This is stricter than libpq, which verifies it for `verify-full` only.
/// - Without `sslrootcert` the authorities of the system are trusted. The value `system` trusts
///   them too, and makes `sslmode=verify-full` the default: `disable`, `allow` and `prefer` are
///   then refused.
/// - Only its owner may have access to `passfile` and `sslkey`.
/// - `options` are set after connecting, because many poolers refuse them before.
/// - Whatever `target_session_attrs` is, only a primary server is used.
///
#[cfg_attr(feature = "postgres", doc = "```")]
#[cfg_attr(not(feature = "postgres"), doc = "```ignore")]
/// use keys_store::DatabaseUrl;
///
/// let url: DatabaseUrl = "postgres://keys:hunter2@db.internal/keys?sslmode=require".parse()?;
/// assert_eq!(format!("{url:?}"), "DatabaseUrl(postgres)");
/// assert!("sqlite::memory:".parse::<DatabaseUrl>().is_err());
/// # Ok::<(), keys_store::InvalidUrl>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(pub(crate) Location);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Location {
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresLocation>),
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
}

/// Error returned when a text is not the URL of a database. It never repeats a value of the URL,
/// which may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidUrl {
    /// Neither SQLite nor PostgreSQL.
    #[error("a database URL starts with `sqlite:` or `postgres://`")]
    Scheme,
    /// A database that is not compiled in, and the feature of this crate that it needs.
    #[error("this program was built without {0}: build it with the feature `{1}` of keys-store")]
    NotBuilt(&'static str, &'static str),
    /// A control character, often a line feed at the end of a file.
    #[error("the database URL contains a control character; remove line ends from it")]
    Control,
    /// Not a PostgreSQL URL.
    #[error(
        "the PostgreSQL URL is malformed; it is written \
         postgres://user:password@host:port/database?sslmode=require, special characters percent-encoded"
    )]
    Postgres,
    /// A parameter that this program does not know.
    #[error(
        "the PostgreSQL URL has the parameter `{0}`, which is not supported; remove it \
         (special characters of a password must be percent-encoded)"
    )]
    UnknownParameter(String),
    /// A known parameter with a value that this program does not support.
    #[error("the parameter `{name}` of the PostgreSQL URL must be {expected}")]
    Parameter {
        /// The name of the parameter.
        name: &'static str,
        /// The supported values.
        expected: &'static str,
    },
    /// An unknown `sslmode`.
    #[error("sslmode is one of disable, prefer, require, verify-ca and verify-full")]
    SslMode,
    /// A client certificate without its key, or a key without its certificate.
    #[error("the parameters `sslcert` and `sslkey` of the PostgreSQL URL need each other")]
    ClientCertificate,
    /// No path, or one with parameters.
    #[error("a SQLite URL is `sqlite:` and the path of a file, without parameters")]
    SqlitePath,
    /// A path with control characters, which are usually a mistake.
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
    /// A database in memory.
    #[error("a SQLite database in memory is a different one for each connection; name a file")]
    SqliteMemory,
}

#[cfg(feature = "sqlite")]
impl DatabaseUrl {
    /// Returns the SQLite database in the file at `path`.
    #[must_use]
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self(Location::Sqlite(path.into()))
    }

    /// Returns the path of the SQLite file without symbolic links in it, whether or not the file
    /// exists; `None` for PostgreSQL. SQLite keeps the files that belong to the database there.
    ///
    /// # Errors
    /// If the links lead nowhere or in circles.
    #[must_use]
    pub fn resolved_sqlite_path(&self) -> Option<io::Result<PathBuf>> {
        self.sqlite_path().map(file::resolve)
    }

    /// Returns the path of the SQLite file as it was written; `None` for PostgreSQL.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<&Path> {
        by_database!(&self.0, Location {
            Postgres(_) => None,
            Sqlite(path) => Some(path),
        })
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            #[cfg(feature = "sqlite")]
            return parse_sqlite(path.strip_prefix("//").unwrap_or(path));
            #[cfg(not(feature = "sqlite"))]
            return Err(InvalidUrl::NotBuilt("SQLite", "sqlite"));
        }
        let rest = text
            .strip_prefix("postgres://")
            .or_else(|| text.strip_prefix("postgresql://"))
            .ok_or(InvalidUrl::Scheme)?;
        if rest.contains(char::is_control) {
            return Err(InvalidUrl::Control);
        }
        #[cfg(not(feature = "postgres"))]
        return Err(InvalidUrl::NotBuilt("PostgreSQL", "postgres"));
        #[cfg(feature = "postgres")]
        Ok(Self(Location::Postgres(Box::new(postgres::parse(rest)?))))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(by_database!(self.0, Location {
            Postgres(_) => "DatabaseUrl(postgres)",
            Sqlite(_) => "DatabaseUrl(sqlite)",
        }))
    }
}

#[cfg(feature = "sqlite")]
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

/// Returns whether a part of a path has the form of a variable in shells and service managers,
/// `$HOME` or `${HOME}`.
#[cfg(feature = "sqlite")]
fn is_variable(part: &str) -> bool {
    let Some(name) = part.strip_prefix('$') else {
        return false;
    };
    name.starts_with(|first: char| first == '{' || first == '_' || first.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "sqlite")]
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

    #[cfg(not(all(feature = "postgres", feature = "sqlite")))]
    #[test]
    fn database_that_is_not_compiled_in_is_refused_by_name() {
        let (url, message) = if cfg!(feature = "postgres") {
            ("sqlite:keys.db", "this program was built without SQLite: ")
        } else {
            (
                "postgres://h/keys",
                "this program was built without PostgreSQL: ",
            )
        };
        let refused = url.parse::<DatabaseUrl>().unwrap_err().to_string();
        assert!(refused.starts_with(message), "{refused}");
    }

    #[cfg(all(feature = "postgres", feature = "sqlite"))]
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
            ("postgres://h/keys\n", InvalidUrl::Control),
        ] {
            assert_eq!(text.parse::<DatabaseUrl>().unwrap_err(), error, "{text}");
        }
    }
}
