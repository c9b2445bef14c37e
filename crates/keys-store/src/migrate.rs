//! Migrates a database, and checks whether it is up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::backend::Backend;
use diesel::migration::{Migration, MigrationSource};
#[cfg(feature = "postgres")]
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;
#[cfg(feature = "sqlite")]
use diesel::sqlite::Sqlite;
#[cfg(feature = "postgres")]
use diesel_async::AsyncMigrationHarness;
use diesel_async::RunQueryDsl;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use keys_service::ports::StoreError;
use tokio::sync::oneshot;

use crate::connection::{Connection, query};
use crate::databases::by_database;
use crate::error::QueryError;
#[cfg(feature = "postgres")]
use crate::postgres::PostgresConnector;
use crate::rows::{AccountRow, FoundRow, KeyRow};
use crate::schema::{
    __diesel_schema_migrations as schema_migrations, account, api_key, schema_compatibility,
};
#[cfg(feature = "sqlite")]
use crate::sqlite::SqliteConnector;

#[cfg(feature = "postgres")]
const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
#[cfg(feature = "sqlite")]
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Tables other than those of keys and accounts.
const TABLES: [&str; 4] = [
    "audit_event",
    "idempotency",
    "key_change",
    "key_change_pruned",
];

/// Error returned when a database could not be migrated. Migrations that were finished before stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// There is no connection, or another instance has been migrating for too long.
    #[error("no connection to migrate the database with")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// A newer program has migrated the database.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A migration failed, and was rolled back.
    #[error("a migration failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The thread of the migration could not be started, or panicked.
    #[error("the thread for migrations is gone")]
    Thread,
}

/// Time for which a migration is retried while other transactions hold the tables that it alters.
const LOCK_PATIENCE: Duration = Duration::from_mins(1);

/// Pause between two attempts, in which the reads that queued behind the first are answered.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// For each migration, the oldest one that a program must know to run after it: table
/// `schema_compatibility`.
type Compatibility = BTreeMap<String, String>;

/// Error returned when this program cannot use the schema of a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// It was never migrated, or cannot be read.
    #[error("the database has no schema that can be read; migrate it")]
    Missing(#[source] Option<Box<dyn Error + Send + Sync>>),
    /// It lacks migrations that this program has.
    #[error("the database is older than this program, it lacks {0:?}; migrate it")]
    Pending(Vec<String>),
    /// It has migrations that this program does not know and that do not allow it.
    #[error(
        "the database is newer than this program, which cannot go on after its {0:?}; update the program"
    )]
    Unknown(Vec<String>),
}

#[cfg(feature = "postgres")]
pub(crate) async fn postgres(
    runtime: &tokio::runtime::Handle,
    connector: Arc<PostgresConnector>,
) -> Result<(), MigrateError> {
    // The store's runtime drives the connection while the thread below waits for it.
    let (connection, compatibility) = runtime
        .spawn(async move {
            let mut connection = connector.connect_to_migrate().await?;
            let rows = schema_compatibility::table.load(&mut connection).await;
            Ok((connection, compatibility(rows)))
        })
        .await
        .map_err(|error| MigrateError::Connect(Box::new(error)))?
        .map_err(MigrateError::Connect)?;
    let mut connection = on_thread(move || {
        let mut harness = AsyncMigrationHarness::new(connection);
        let begin = Instant::now();
        loop {
            match run::<Pg>(&mut harness, POSTGRES, &compatibility) {
                Ok(()) => return Ok(harness.into_inner()),
                // A long query or an open transaction holds a table that the migration alters.
                Err(MigrateError::Failed(error))
                    if is_lock_timeout(&*error) && begin.elapsed() < LOCK_PATIENCE =>
                {
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    })
    .await?;
    let repaired = runtime
        .spawn(async move { crate::postgres::repair_triggers(&mut connection).await })
        .await
        .map_err(|error| MigrateError::Failed(Box::new(error)))?;
    if repaired.is_err() {
        // The feed reports the fault, and caches are not used until it is repaired.
        tracing::warn!(
            "triggers that write the log of changes do not fire in every replication role, and this role may not alter them"
        );
    }
    Ok(())
}

/// Compares the number of keys of each account with the keys, and counts again if it differs.
/// Returns whether it did.
#[cfg(feature = "postgres")]
pub(crate) async fn recount_keys(
    runtime: &tokio::runtime::Handle,
    connector: Arc<PostgresConnector>,
) -> Result<bool, MigrateError> {
    let counted = async move {
        let mut connection = connector
            .connect_to_migrate()
            .await
            .map_err(MigrateError::Connect)?;
        let failed = |error| MigrateError::Failed(Box::new(error));
        let is_wrong = crate::postgres::are_keys_miscounted(&mut connection).await;
        if !is_wrong.map_err(failed)? {
            return Ok(false);
        }
        let begin = Instant::now();
        loop {
            match crate::postgres::recount_keys(&mut connection).await {
                Err(error) if is_lock_timeout(&error) && begin.elapsed() < LOCK_PATIENCE => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                outcome => return outcome.map(|()| true).map_err(failed),
            }
        }
    };
    runtime
        .spawn(counted)
        .await
        .map_err(|error| MigrateError::Failed(Box::new(error)))?
}

/// Returns whether a migration gave up waiting for a lock. The driver reports that only in its
/// message.
fn is_lock_timeout(error: &(dyn Error + Send + Sync + 'static)) -> bool {
    error.to_string().contains("lock timeout")
}

/// Without the table no migration is known to be compatible.
fn compatibility(rows: QueryResult<Vec<(String, String)>>) -> Compatibility {
    rows.unwrap_or_default().into_iter().collect()
}

#[cfg(feature = "sqlite")]
pub(crate) async fn sqlite(connector: Arc<SqliteConnector>) -> Result<(), MigrateError> {
    on_thread(move || {
        let mut connection = connector
            .connect_to_migrate()
            .map_err(MigrateError::Connect)?;
        // One transaction around all of them, begun for writing, keeps other processes out.
        connection
            .immediate_transaction(|connection| {
                let rows = diesel::RunQueryDsl::load(schema_compatibility::table, connection);
                run::<Sqlite>(connection, SQLITE, &compatibility(rows)).map_err(Failed)
            })
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
    compatibility: &Compatibility,
) -> Result<(), MigrateError> {
    let applied = harness.applied_migrations().map_err(MigrateError::Failed)?;
    let applied: BTreeSet<String> = applied.iter().map(ToString::to_string).collect();
    match compare::<DB>(&known, &applied, compatibility) {
        Ok(_) => return Ok(()),
        Err(SchemaError::Pending(_) | SchemaError::Missing(_)) => {}
        Err(error) => return Err(error.into()),
    }
    harness
        .run_pending_migrations(known)
        .map_err(MigrateError::Failed)?;
    Ok(())
}

/// Runs `work` on a thread outside of any runtime, where migrations may block.
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

/// Checks that every table can be read, without caching, and returns whether the database accepts
/// writes.
pub(crate) async fn probe(connection: &mut Connection) -> Result<bool, QueryError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Bool)]
        takes_writes: bool,
    }
    // Reads the columns for verification, and shows that the tables exist.
    let _: Vec<FoundRow> = query!(&mut *connection, |open| api_key::table
        .left_join(account::table)
        .select((
            api_key::digest,
            api_key::pepper_id,
            KeyRow::as_select(),
            Option::<AccountRow>::as_select(),
        ))
        .limit(0)
        .load(open))?;
    let (further, takes_writes): (&[&str], &str) = by_database!(connection, Connection {
        Postgres(_) => (
            &["instance", "instance_epoch"],
            "pg_catalog.current_setting('transaction_read_only') = 'off'",
        ),
        Sqlite(_) => (&[], "true"),
    });
    let mut sql = format!("select {takes_writes} as takes_writes");
    for table in TABLES.iter().chain(further) {
        let _ = write!(sql, ", exists (select 1 from {table} limit 0) as {table}");
    }
    let row: Row = query!(connection, |open| sql_query(sql).get_result(open))?;
    Ok(row.takes_writes)
}

/// Checks whether this program can use the schema, which also shows that the database can be
/// reached. Returns the migrations that this program does not know and that allow it.
pub(crate) async fn check(
    connection: &mut Connection,
) -> Result<Result<Vec<String>, SchemaError>, StoreError> {
    let versions: Result<Vec<String>, QueryError> =
        query!(&mut *connection, |open| schema_migrations::table
            .select(schema_migrations::version)
            .load(open));
    let applied: BTreeSet<String> = match versions {
        Ok(versions) => versions.into_iter().collect(),
        Err(error) if error.is_transient() => return Err(error.into()),
        // The table cannot be read, most likely because it does not exist.
        Err(error) => return Ok(Err(SchemaError::Missing(Some(Box::new(error))))),
    };
    let compare = |connection: &Connection, compatibility: &Compatibility| {
        by_database!(connection, Connection {
            Postgres(_) => compare::<Pg>(&POSTGRES, &applied, compatibility),
            Sqlite(_) => compare::<Sqlite>(&SQLITE, &applied, compatibility),
        })
    };
    let unknown = match compare(connection, &Compatibility::new()) {
        Err(SchemaError::Unknown(unknown)) => unknown,
        outcome => return Ok(outcome),
    };
    // Only now, because a role that may not read this table needs it for newer schemas only.
    let rows: Result<Vec<(String, String)>, QueryError> =
        query!(&mut *connection, |open| schema_compatibility::table
            .load(open));
    match rows {
        Ok(rows) => Ok(compare(connection, &rows.into_iter().collect())),
        Err(error) if error.is_transient() => Err(error.into()),
        Err(_) => Ok(Err(SchemaError::Unknown(unknown))),
    }
}

/// Compares the migrations of the database with those of this program. Returns the unknown ones
/// that allow it.
fn compare<DB: Backend>(
    known: &impl MigrationSource<DB>,
    applied: &BTreeSet<String>,
    compatibility: &Compatibility,
) -> Result<Vec<String>, SchemaError> {
    let known: BTreeSet<String> = known
        .migrations()
        .expect("embedded migrations need no reading")
        .iter()
        .map(|migration| migration.name().version().to_string())
        .collect();
    let latest = known.last();
    let unknown: Vec<String> = applied.difference(&known).cloned().collect();
    let pending: Vec<String> = known.difference(applied).cloned().collect();
    // Versions are dates and times of the same length, so they sort as texts.
    let is_compatible = |migration: &String| {
        let oldest = compatibility.get(migration);
        oldest.is_some_and(|oldest| latest.is_some_and(|latest| oldest <= latest))
    };
    let (compatible, incompatible): (Vec<_>, Vec<_>) = unknown.into_iter().partition(is_compatible);
    if !incompatible.is_empty() {
        Err(SchemaError::Unknown(incompatible))
    } else if applied.is_empty() {
        Err(SchemaError::Missing(None))
    } else if !pending.is_empty() {
        Err(SchemaError::Pending(pending))
    } else {
        Ok(compatible)
    }
}

#[cfg(test)]
#[cfg(all(feature = "postgres", feature = "sqlite"))]
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
    fn schema_of_another_version_is_told_apart() {
        let known: Vec<String> = MigrationSource::<Pg>::migrations(&POSTGRES)
            .unwrap()
            .iter()
            .map(|one| one.name().version().to_string())
            .collect();
        let newer = |versions: &[&str]| {
            let newer = versions.iter().map(|text| (*text).to_owned());
            known.iter().cloned().chain(newer).collect::<BTreeSet<_>>()
        };
        let compatibility: Compatibility = [
            ("20990101000000", known.last().unwrap().as_str()),
            ("20990102000000", "20261121000000"),
            ("20990103000000", "20990102000000"),
        ]
        .map(|(migration, oldest)| (migration.to_owned(), oldest.to_owned()))
        .into();
        let compare =
            |applied: BTreeSet<String>| super::compare::<Pg>(&POSTGRES, &applied, &compatibility);
        let is_unknown = |outcome, expected: &[&str]| matches!(outcome, Err(SchemaError::Unknown(versions)) if versions == expected);

        assert!(compare(newer(&[])).unwrap().is_empty());
        let first: BTreeSet<String> = known[..1].iter().cloned().collect();
        assert!(
            matches!(compare(first), Err(SchemaError::Pending(versions)) if versions == known[1..])
        );
        assert!(matches!(
            compare(BTreeSet::new()),
            Err(SchemaError::Missing(None))
        ));
        let compatible = ["20990101000000", "20990102000000"];
        assert_eq!(compare(newer(&compatible)).unwrap(), compatible);
        // Without a row, and with one that requires more than this program knows.
        for unknown in ["20990103000000", "20990104000000"] {
            let outcome = compare(newer(&["20990101000000", unknown]));
            assert!(is_unknown(outcome, &[unknown]), "{unknown}");
        }
        // Both newer and older: no migration can repair the newer part.
        let both = BTreeSet::from(["20990104000000".to_owned()]);
        assert!(is_unknown(compare(both), &["20990104000000"]));
    }
}
