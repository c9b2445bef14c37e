//! Bringing a database up to date, and telling whether it is.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use diesel::backend::Backend;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::{AsyncMigrationHarness, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use keys_service::store::StoreError;
use tokio::sync::oneshot;

use crate::connection::{Connection, query};
use crate::error::QueryError;
use crate::postgres::PostgresConnector;
use crate::schema::__diesel_schema_migrations as schema_migrations;
use crate::sqlite::SqliteConnector;

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Why a database could not be brought up to date. Migrations that were finished before stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// There is no connection, or another instance has been migrating for too long.
    #[error("no connection to migrate the database with")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// A newer program has been here.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A migration failed, and was undone.
    #[error("a migration failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The thread that migrates could not be started, or died.
    #[error("the thread for migrations is gone")]
    Thread,
}

/// The schema of a database is not the one this program knows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// It was never migrated, or may not be read.
    #[error("the database has no schema that can be read; migrate it")]
    Missing(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// It lacks migrations that this program has.
    #[error("the database is older than this program, it lacks {0:?}; migrate it")]
    Pending(Vec<String>),
    /// It has migrations that this program does not know.
    #[error(
        "the database is newer than this program, which does not know its {0:?}; update the program"
    )]
    Unknown(Vec<String>),
}

pub(crate) async fn postgres(
    runtime: &tokio::runtime::Handle,
    connector: Arc<PostgresConnector>,
) -> Result<(), MigrateError> {
    // The connection is driven by the store's runtime while the thread below waits for it.
    let connection = runtime
        .spawn(async move { connector.connect_to_migrate().await })
        .await
        .map_err(|error| MigrateError::Connect(Box::new(error)))?
        .map_err(MigrateError::Connect)?;
    on_thread(move || run::<Pg>(&mut AsyncMigrationHarness::new(connection), POSTGRES)).await
}

pub(crate) async fn sqlite(connector: Arc<SqliteConnector>) -> Result<(), MigrateError> {
    on_thread(move || {
        let mut connection = connector
            .connect_to_migrate()
            .map_err(MigrateError::Connect)?;
        // One transaction around all of them, begun for writing, keeps other processes out.
        connection
            .immediate_transaction(|connection| run::<Sqlite>(connection, SQLITE).map_err(Failed))
            .map_err(|Failed(error)| error)?;
        let checked = connector.file().check();
        checked.map_err(|error| MigrateError::Failed(Box::new(error)))
    })
    .await
}

/// Lets a transaction fail for more reasons than the database's own.
struct Failed(MigrateError);

impl From<diesel::result::Error> for Failed {
    fn from(error: diesel::result::Error) -> Self {
        Self(MigrateError::Failed(Box::new(error)))
    }
}

fn run<DB: Backend>(
    harness: &mut impl MigrationHarness<DB>,
    known: EmbeddedMigrations,
) -> Result<(), MigrateError> {
    let applied = harness.applied_migrations().map_err(MigrateError::Failed)?;
    let applied: BTreeSet<String> = applied.iter().map(ToString::to_string).collect();
    match compare::<DB>(&known, &applied) {
        Ok(()) => return Ok(()),
        Err(SchemaError::Pending(_) | SchemaError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    harness
        .run_pending_migrations(known)
        .map_err(MigrateError::Failed)?;
    Ok(())
}

/// Runs `work` on a thread that belongs to no runtime, where migrations may block as they please.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MigrateError> + Send + 'static,
) -> Result<T, MigrateError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("keys-migrations".to_owned())
        .spawn(move || sender.send(work()))
        .map_err(|_| MigrateError::Thread)?;
    receiver.await.map_err(|_| MigrateError::Thread)?
}

/// Reads which migrations the database has, which also shows that it can be reached.
pub(crate) async fn applied(
    connection: &mut Connection,
) -> Result<Result<BTreeSet<String>, SchemaError>, StoreError> {
    let versions: Result<Vec<String>, QueryError> =
        query!(connection, |open| schema_migrations::table
            .select(schema_migrations::version)
            .load(open));
    match versions {
        Ok(versions) => Ok(Ok(versions.into_iter().collect())),
        Err(error) if error.is_transient() => Err(error.into()),
        // The table cannot be read, most likely because there is none.
        Err(error) => Ok(Err(SchemaError::Missing(Some(Box::new(error))))),
    }
}

/// Compares what the database has with what this program knows.
pub(crate) fn check(
    connection: &Connection,
    applied: &BTreeSet<String>,
) -> Result<(), SchemaError> {
    match connection {
        Connection::Postgres(_) => compare::<Pg>(&POSTGRES, applied),
        Connection::Sqlite(_) => compare::<Sqlite>(&SQLITE, applied),
    }
}

fn compare<DB: Backend>(
    known: &impl MigrationSource<DB>,
    applied: &BTreeSet<String>,
) -> Result<(), SchemaError> {
    let known: BTreeSet<String> = known
        .migrations()
        .expect("embedded migrations need no reading")
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    let missing_in = |from: &BTreeSet<String>, other: &BTreeSet<String>| {
        other.difference(from).cloned().collect::<Vec<_>>()
    };
    let unknown = missing_in(&known, applied);
    let pending = missing_in(applied, &known);
    if !unknown.is_empty() {
        Err(SchemaError::Unknown(unknown))
    } else if applied.is_empty() {
        Err(SchemaError::Missing(None))
    } else if !pending.is_empty() {
        Err(SchemaError::Pending(pending))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<DB: Backend>(migrations: &EmbeddedMigrations) -> Vec<String> {
        let migrations = MigrationSource::<DB>::migrations(migrations).unwrap();
        migrations
            .iter()
            .map(|one| one.name().to_string())
            .collect()
    }

    #[test]
    fn both_databases_have_the_same_migrations() {
        assert_eq!(names::<Pg>(&POSTGRES), names::<Sqlite>(&SQLITE));
        assert!(!names::<Pg>(&POSTGRES).is_empty());
    }

    #[test]
    fn a_schema_of_another_version_is_told_apart() {
        let compare = |versions: &[&str]| {
            let applied = versions.iter().map(|text| (*text).to_owned()).collect();
            super::compare::<Pg>(&POSTGRES, &applied)
        };
        let known: Vec<String> = MigrationSource::<Pg>::migrations(&POSTGRES)
            .unwrap()
            .iter()
            .map(|one| one.name().version().to_string())
            .collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        assert!(compare(&known).is_ok());
        assert!(
            matches!(compare(&known[..1]), Err(SchemaError::Pending(versions)) if versions == known[1..])
        );
        assert!(matches!(compare(&[]), Err(SchemaError::Missing(None))));
        let unknown = compare(&[&known[..], &["2099"]].concat());
        assert!(matches!(unknown, Err(SchemaError::Unknown(versions)) if versions == ["2099"]));
        // Both newer and older: it is the newer part that no migration can mend.
        assert!(matches!(compare(&["2099"]), Err(SchemaError::Unknown(_))));
    }
}
