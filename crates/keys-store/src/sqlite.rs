//! Parts that only SQLite has: files, pragmas, immediate transactions, blocking calls.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::dsl::sql;
use diesel::expression::{AppearsOnTable, Expression, ValidGrouping};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Integer, Nullable};
use diesel::sqlite::Sqlite;
use diesel::{QueryResult, sql_query};
use diesel_async::AsyncConnection as _;
use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use keys_core::KeyDigest;
use keys_service::ports::{KeyUse, day_of};
use tokio::runtime::Handle;

use crate::error::ConnectError;
use crate::options::StoreOptions;
use crate::rows::{AccountRow, EventRow, FoundRow, KeyRow, RevocationRow};
use crate::schema::{account, api_key, audit_event};
use crate::types::{DbId, DbTimestamp, Id, Moment};

mod feed;
pub(crate) mod file;
mod life;
pub(crate) mod pool;
mod presence;
mod types;

pub(crate) use file::DatabaseFile;
pub use file::{FileLost, UnsafeFile};
pub(crate) use life::LifeFile;

pub(crate) use feed::{Followers, SqliteFeed};

/// A connection whose calls run on threads for blocking work.
pub(crate) type SqliteConnection = SyncConnectionWrapper<diesel::SqliteConnection, BlockingThreads>;

/// Runs blocking calls on the runtime's threads for them. Unlike the default of `diesel-async`, it
/// does not wait for a call whose future was dropped, which would block a worker and panic on a
/// single-threaded runtime.
pub(crate) struct BlockingThreads(Handle);

impl SpawnBlocking for BlockingThreads {
    fn spawn_blocking<'a, R>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn std::error::Error + Send + Sync>>>
    where
        R: Send + 'static,
    {
        self.0
            .spawn_blocking(task)
            .map(|outcome| outcome.map_err(Into::into))
            .boxed()
    }

    fn get_runtime() -> Self {
        Self(Handle::current())
    }
}

/// Purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// Creates connections.
pub(crate) struct SqliteConnector {
    file: Arc<DatabaseFile>,
    busy_timeout: Duration,
    /// A connection that is open as long as the store. While it is open, no process removes the
    /// write-ahead log.
    anchor: Mutex<Option<SqliteConnection>>,
}

impl SqliteConnector {
    /// Creates the file if it is missing and creation is enabled.
    pub(crate) fn new(path: &Path, options: &StoreOptions) -> io::Result<Result<Self, UnsafeFile>> {
        let file = DatabaseFile::new(path, options.create)?;
        Ok(file.map(|file| Self {
            file: Arc::new(file),
            busy_timeout: options.statement_timeout,
            anchor: Mutex::new(None),
        }))
    }

    pub(crate) fn file(&self) -> &Arc<DatabaseFile> {
        &self.file
    }

    /// Opens the first connection and keeps it. From then on the file must stay the same.
    pub(crate) async fn open(&self) -> Result<(), ConnectError> {
        let mut connection = self.connect(Access::ReadWrite).await?;
        // The first statement that reads opens the log and its index.
        connection
            .spawn_blocking(|open| open.batch_execute("select count(*) from sqlite_schema"))
            .await?;
        self.file.opened()?;
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        *anchor = Some(connection);
        Ok(())
    }

    pub(crate) async fn connect(&self, access: Access) -> Result<SqliteConnection, ConnectError> {
        // A lost file must not be created again, nor another one opened in its place.
        self.file.check()?;
        let mut connection = SqliteConnection::establish(self.file.name()).await?;
        let pragmas = self.pragmas(access);
        let patience = self.busy_timeout;
        connection
            .spawn_blocking(move |open| set_up(open, &pragmas, patience))
            .await?;
        self.file.check()?;
        Ok(connection)
    }

    /// Returns a connection for migrations, which run on a thread of their own.
    pub(crate) fn connect_to_migrate(&self) -> Result<diesel::SqliteConnection, ConnectError> {
        self.file.check()?;
        let mut connection = diesel::SqliteConnection::establish(self.file.name())?;
        set_up(
            &mut connection,
            &self.pragmas(Access::ReadWrite),
            self.busy_timeout,
        )?;
        Ok(connection)
    }

    fn pragmas(&self, access: Access) -> String {
        // `full` makes a revocation that was answered survive a loss of power: in WAL mode `normal`
        // does not. `trusted_schema` keeps a file with a schema of unknown origin from calling our
        // functions.
        let common = format!(
            "pragma busy_timeout = {}; pragma journal_mode = wal; pragma synchronous = full; \
             pragma foreign_keys = on; pragma trusted_schema = off;",
            self.busy_timeout.as_millis()
        );
        match access {
            Access::ReadWrite => common,
            Access::Read => format!("{common} pragma query_only = on;"),
        }
    }
}

/// If several connections open a new file at once, one makes it a WAL file. SQLite refuses the
/// others at once and ignores its timeout, because two that wait for each other would do so for
/// ever.
fn set_up(
    open: &mut diesel::SqliteConnection,
    pragmas: &str,
    patience: Duration,
) -> QueryResult<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    let begin = Instant::now();
    loop {
        match open.batch_execute(pragmas) {
            Err(diesel::result::Error::DatabaseError(_, information))
                if information.message() == "database is locked" && begin.elapsed() < patience =>
            {
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

async fn begin(connection: &mut SqliteConnection) -> QueryResult<()> {
    // A deferred transaction that writes after having read ends in "busy" when another one wrote in
    // between.
    connection
        .spawn_blocking(|open| {
            diesel::connection::AnsiTransactionManager::begin_transaction_sql(
                open,
                "begin immediate",
            )
        })
        .await
}

/// Returns the keys stored under any of these digests, all in one call on the blocking thread. A
/// list of any length would have to be prepared each time; stepping through one prepared statement
/// costs microseconds.
pub(crate) fn keys_by_digest(
    connection: &mut SqliteConnection,
    wanted: Vec<[u8; KeyDigest::LEN]>,
) -> impl Future<Output = QueryResult<Vec<FoundRow>>> + use<> {
    connection.spawn_blocking(move |open| {
        let read = |open: &mut diesel::SqliteConnection| {
            let found = wanted.iter().map(|digest| key_by_digest(open, digest));
            found.filter_map(Result::transpose).collect()
        };
        // As one transaction the file is locked and checked for changes once, not for each of them.
        if wanted.len() > 1 {
            open.transaction(read)
        } else {
            read(open)
        }
    })
}

fn key_by_digest(
    open: &mut diesel::SqliteConnection,
    digest: &[u8; KeyDigest::LEN],
) -> QueryResult<Option<FoundRow>> {
    api_key::table
        .left_join(account::table)
        .filter(api_key::digest.eq(Opaque(digest.as_slice().into_sql::<Binary>())))
        .select((
            api_key::digest,
            api_key::pepper_id,
            KeyRow::as_select(),
            Option::<AccountRow>::as_select(),
        ))
        .get_result(open)
        .optional()
}

/// A value that SQLite's planner does not inspect. Once a table has been analysed, the planner
/// compares values with the samples of an indexed column, and prepares the statement again for each
/// value, which costs more than the look-up.
#[derive(QueryId, ValidGrouping)]
struct Opaque<E>(E);

impl<E: Expression> Expression for Opaque<E> {
    type SqlType = E::SqlType;
}

impl<E: AppearsOnTable<T>, T> AppearsOnTable<T> for Opaque<E> {}

impl<E: QueryFragment<Sqlite>> QueryFragment<Sqlite> for Opaque<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("(select ");
        self.0.walk_ast(out.reborrow())?;
        out.push_sql(")");
        Ok(())
    }
}

/// Returns the number of the latest change, of this transaction or an earlier one.
pub(crate) async fn last_change(connection: &mut SqliteConnection) -> QueryResult<u64> {
    // Rows that were pruned keep their numbers, so the table itself may have a lower maximum.
    let query = "select coalesce(max(seq), 0) from sqlite_sequence where name = 'key_change'";
    let last = connection.spawn_blocking(|open| sql::<BigInt>(query).get_result::<i64>(open));
    Ok(u64::try_from(last.await?).unwrap_or(0))
}

/// Revokes those of the keys of `events` that are not revoked, and writes their events, all in one
/// call on the blocking thread. Returns which.
pub(crate) fn revoke_keys(
    connection: &mut SqliteConnection,
    why: RevocationRow,
    events: Vec<EventRow>,
) -> impl Future<Output = QueryResult<Vec<DbId>>> + use<> {
    connection.spawn_blocking(move |open| {
        let mut revoked = Vec::with_capacity(events.len());
        for event in events {
            let id = event.subject_id;
            let count = diesel::update(api_key::table.find(id))
                .filter(api_key::revoked_at.is_null())
                .set((
                    api_key::revoked_at.eq(event.at),
                    api_key::revoked_reason.eq(why.reason),
                    api_key::revoked_note.eq(why.note.as_deref()),
                ))
                .execute(open)?;
            if count > 0 {
                diesel::insert_into(audit_event::table)
                    .values(event)
                    .execute(open)?;
                revoked.push(id);
            }
        }
        Ok(revoked)
    })
}

/// Records uses, all in one call on the blocking thread.
pub(crate) fn record_uses(
    connection: &mut SqliteConnection,
    uses: Vec<KeyUse>,
) -> impl Future<Output = QueryResult<()>> + use<> {
    connection.spawn_blocking(move |open| {
        for one in uses {
            sql_query(
                "update api_key set \
                 last_used_at = max(coalesce(last_used_at, ?1), ?1), \
                 use_count = use_count + min(?2, 9223372036854775807 - use_count) \
                 where id = ?3",
            )
            .bind::<Moment, _>(DbTimestamp(one.last_used_at))
            .bind::<BigInt, _>(i64::try_from(one.count).unwrap_or(i64::MAX))
            .bind::<Id, _>(DbId(one.key_id.as_uuid()))
            .execute(open)?;
            // By itself, because SQLite writes the indexes of each column that a statement names.
            sql_query(
                "update api_key set last_used_day = ?1 \
                 where id = ?2 and coalesce(last_used_day < ?1, true)",
            )
            .bind::<Integer, _>(day_of(one.last_used_at))
            .bind::<Id, _>(DbId(one.key_id.as_uuid()))
            .execute(open)?;
        }
        Ok(())
    })
}

/// Deletes at most `limit` changes that are older than `kept` and have a number of at most `up_to`,
/// the oldest first, and records the progress in the same transaction. Returns how many.
pub(crate) async fn prune_changes(
    connection: &mut SqliteConnection,
    kept: Duration,
    up_to: Option<u64>,
    limit: i64,
) -> QueryResult<usize> {
    let kept = kept.as_secs();
    let up_to = up_to.map_or(i64::MAX, |up_to| i64::try_from(up_to).unwrap_or(i64::MAX));
    connection
        .spawn_blocking(move |open| {
            // Of the rows with the lowest numbers. Times follow numbers except for changes of the
            // clock.
            let old = format!(
                "select seq from ( \
                     select seq, at from key_change where seq <= {up_to} order by seq limit {limit} \
                 ) where at < (cast(strftime('%s', 'now') as integer) - {kept}) * 1000000"
            );
            sql_query(format!(
                "insert into key_change_pruned (one, mark) select 1, coalesce(max(seq), 0) from ({old}) where true \
                 on conflict (one) do update set mark = max(mark, excluded.mark)"
            ))
            .execute(open)?;
            sql_query(format!("delete from key_change where seq in ({old})")).execute(open)
        })
        .await
}

/// Returns the age of the oldest change in microseconds.
pub(crate) async fn oldest_change(connection: &mut SqliteConnection) -> QueryResult<Option<i64>> {
    let query = "select cast(strftime('%s', 'now') as integer) * 1000000 - min(at) from key_change";
    connection
        .spawn_blocking(|open| sql::<Nullable<BigInt>>(query).get_result(open))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        number: i64,
    }

    async fn number(connection: &mut SqliteConnection, query: &str) -> i64 {
        let query = sql_query(format!("select ({query}) as number"));
        let row = connection.spawn_blocking(|open| query.get_result::<Row>(open));
        row.await.unwrap().number
    }

    #[tokio::test]
    async fn connections_are_durable_and_readers_only_read() {
        const FULL: i64 = 2;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        let connector = SqliteConnector::new(&path, &StoreOptions::default());
        let connector = connector.unwrap().unwrap();
        for (access, query_only) in [(Access::ReadWrite, 0), (Access::Read, 1)] {
            let mut open = connector.connect(access).await.unwrap();
            for (query, expected) in [
                ("select synchronous from pragma_synchronous", FULL),
                ("select foreign_keys from pragma_foreign_keys", 1),
                ("select journal_mode = 'wal' from pragma_journal_mode", 1),
                ("select timeout from pragma_busy_timeout", 5_000),
                ("select query_only from pragma_query_only", query_only),
            ] {
                assert_eq!(
                    number(&mut open, query).await,
                    expected,
                    "{access:?} {query}"
                );
            }
        }
    }
}
