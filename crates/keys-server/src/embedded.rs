//! The files of an embedded database: where they are, and whether a missing database may be
//! created.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use keys_store::DatabaseUrl;

use crate::config::Settings;

/// Suffixes of files beside a database that stay when the database is moved away.
const COMPANIONS: [&str; 4] = ["-feed.lock", "-feeds.lock", "-log.note", "-shm"];

/// Whether the operator has requested a new database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Creation {
    /// Creates a database on a first start only.
    FirstStart,
    /// `keys-server migrate --create`.
    Asked,
}

/// The files of an embedded database.
pub(crate) struct Embedded {
    database: PathBuf,
    /// A file that exists only if there was a database before.
    trace: Option<PathBuf>,
    /// Whether the trace is only written once the database has its tables.
    is_trace_of_tables: bool,
    /// Whether the database is missing or empty. Read after the trace, because another first start
    /// may be under way.
    is_missing: bool,
    may_create: bool,
}

impl Embedded {
    /// Checks which files exist. Returns `None` for PostgreSQL.
    pub(crate) fn find(
        settings: &Settings,
        url: &DatabaseUrl,
        creation: Creation,
    ) -> anyhow::Result<Option<Self>> {
        let Some(database) = url.resolved_sqlite_path() else {
            return Ok(None);
        };
        let database = database.context("setting `database.url`: the SQLite file")?;
        let log = beside(&database, "-wal");
        if !exists(&database) && length(&log) > 0 {
            bail!(
                "the database file {} is missing, but its write-ahead log {} is there, with changes that are in no other \
                 file: put the database back, or move the log away",
                database.display(),
                log.display()
            );
        }
        let pepper = pepper_beside(&database);
        let is_trace_of_tables = exists(&pepper);
        let trace = if is_trace_of_tables {
            Some(pepper)
        } else if settings.peppers.keys.is_empty() {
            // Without database and pepper, a new database cannot replace an old one by mistake.
            None
        } else {
            let companions = COMPANIONS.map(|ending| beside(&database, ending));
            companions.into_iter().find(|companion| exists(companion))
        };
        Ok(Some(Self {
            is_missing: length(&database) == 0,
            database,
            may_create: creation == Creation::Asked
                || (trace.is_none() && settings.database.create),
            trace,
            is_trace_of_tables,
        }))
    }

    /// Returns whether this start creates the database, if it goes on.
    pub(crate) fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// Returns whether the store may create the file.
    pub(crate) fn may_create(&self) -> bool {
        self.may_create
    }

    /// Refuses to create an empty database in place of one that existed before.
    pub(crate) fn check_missing(&self) -> anyhow::Result<()> {
        if self.is_missing && !self.may_create {
            bail!(self.refusal("is missing"));
        }
        Ok(())
    }

    /// Returns whether a database without tables must be refused.
    pub(crate) fn must_have_tables(&self) -> bool {
        self.is_trace_of_tables && !self.may_create
    }

    /// Returns the message for a database without tables.
    pub(crate) fn refusal(&self, what: &str) -> String {
        let why = match &self.trace {
            Some(trace) => format!("although {} is there", trace.display()),
            None => "and setting `database.create` is false".to_owned(),
        };
        format!(
            "the database file {} {what}, {why}: put the database back, or, if you want an empty one, \
             run `keys-server migrate --create`",
            self.database.display()
        )
    }

    /// Returns the pepper file beside the database, with all links in the setting resolved.
    pub(crate) fn pepper_file(&self, url: &DatabaseUrl) -> anyhow::Result<PathBuf> {
        let pepper = pepper_beside(&self.database);
        let Some(named) = url.sqlite_path().map(pepper_beside) else {
            return Ok(pepper);
        };
        if !exists(&named) || same_file(&named, &pepper) {
            return Ok(pepper);
        }
        let (named, pepper) = (named.display(), pepper.display());
        bail!(
            "the path in setting `database.url` is a link, and there is a pepper file {named} beside the link, which is not used: \
             if the keys were made with it, move it to {pepper}, otherwise remove it"
        )
    }
}

fn pepper_beside(database: &Path) -> PathBuf {
    database.with_file_name("pepper")
}

fn beside(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Returns whether a file of that name exists. If unknown, `true`, because a new file would
/// otherwise go unnoticed.
fn exists(path: &Path) -> bool {
    !matches!(fs::metadata(path), Err(error) if is_missing(&error))
}

/// Returns the length of a file. 0 if it does not exist, and not 0 if the length is unknown.
fn length(path: &Path) -> u64 {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Err(error) if is_missing(&error) => 0,
        _ => 1,
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}
