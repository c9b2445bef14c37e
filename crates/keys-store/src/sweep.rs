//! Deletion of old rows: a batch at a time, each in a transaction of its own, by one instance at a
//! time.

use std::time::{Duration, Instant};

use keys_core::Timestamp;
use keys_service::ports::{ENDED_SESSIONS_KEPT, StoreError};

use crate::connection::{Connection, Pools};
use crate::databases::by_database;
use crate::error::QueryError;
#[cfg(feature = "postgres")]
use crate::postgres;
#[cfg(feature = "sqlite")]
use crate::sqlite;
use crate::{idempotency, keys};

/// Rows deleted in one transaction: well within the time limit of a statement, so that no
/// transaction holds its locks for long.
const BATCH: i64 = 5_000;

/// Time for one kind of rows before the next kind has its turn. At some 100,000 rows a second, four
/// million old rows are gone after a few sweeps.
const BUDGET: Duration = Duration::from_secs(20);

/// Time for which changes are kept for caches. An instance that has not read them by then starts
/// afresh.
const CHANGES_KEPT: Duration = Duration::from_mins(10);

/// Longer than all kinds together may take.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(3);

/// A kind of rows that expire.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The log of changes up to this number, if the store's process knows all readers.
    Changes(Option<u64>),
    /// Changes that came from another server through a dump, and instances that are gone.
    Foreign,
    Sessions(Timestamp),
    Answers(Timestamp),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Changes(_) => "old rows of the log of changes",
            Self::Foreign => "rows of another server's log and instances that are gone",
            Self::Sessions(_) => "ended sessions",
            Self::Answers(_) => "expired idempotent answers",
        }
    }
}

/// Error returned when rows of one kind were not deleted.
#[derive(Debug, thiserror::Error)]
#[error("{what} could not be deleted")]
struct NotSwept {
    what: &'static str,
    #[source]
    source: StoreError,
}

impl From<NotSwept> for StoreError {
    fn from(error: NotSwept) -> Self {
        match error.source {
            Self::Unavailable(_) => Self::Unavailable(Box::new(error)),
            _ => Self::Unexpected(Box::new(error)),
        }
    }
}

/// Sweeps every kind, also if another one fails. Returns how many answers were deleted.
pub(crate) async fn sweep(
    pools: &Pools,
    slowest: Option<u64>,
    now: Timestamp,
    patience: Duration,
) -> Result<u64, StoreError> {
    let kept = i64::try_from(ENDED_SESSIONS_KEPT.as_micros()).unwrap_or(i64::MAX);
    let ended_before = Timestamp::from_unix_micros(now.unix_micros().saturating_sub(kept));
    let mut first = None;
    let mut answers = 0;
    for kind in [
        Kind::Answers(now),
        Kind::Sessions(ended_before),
        Kind::Foreign,
        Kind::Changes(slowest),
    ] {
        let what = kind.name();
        match sweep_kind(pools, kind, patience).await {
            Ok(count) if matches!(kind, Kind::Answers(_)) => answers = count,
            Ok(_) => {}
            Err(source) => {
                let error = StoreError::from(NotSwept { what, source });
                if first.is_some() {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "{what} could not be deleted"
                    );
                }
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(answers), Err)
}

async fn sweep_kind(pools: &Pools, kind: Kind, patience: Duration) -> Result<u64, StoreError> {
    let began = Instant::now();
    let mut deleted: u64 = 0;
    loop {
        let batch = async {
            let mut connection = pools.begin_housekeeping().await?;
            let outcome = batch(&mut connection, kind).await;
            let outcome = outcome.map_err(StoreError::from);
            connection.finish(outcome).await
        };
        let count = tokio::time::timeout(patience, batch)
            .await
            .map_err(|elapsed| StoreError::Unavailable(Box::new(elapsed)))??;
        deleted += count as u64;
        // A batch that is not full is the last one. It is also not full if the rest may not be
        // deleted yet.
        let is_full = i64::try_from(count).is_ok_and(|count| count >= BATCH);
        if !is_full || began.elapsed() >= BUDGET {
            return Ok(deleted);
        }
    }
}

async fn batch(connection: &mut Connection, kind: Kind) -> Result<usize, QueryError> {
    #[cfg(feature = "postgres")]
    if let Connection::Postgres(lease) = connection {
        let outcome = postgres::try_sweep_lock(lease.enter()).await;
        if !lease.leave(outcome)? {
            return Ok(0);
        }
        let outcome = postgres::plan_each_time(lease.enter()).await;
        lease.leave(outcome)?;
    }
    match (kind, connection) {
        #[cfg(feature = "postgres")]
        (Kind::Changes(_), Connection::Postgres(lease)) => {
            let outcome = postgres::prune_changes(lease.enter(), CHANGES_KEPT, BATCH).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "sqlite")]
        (Kind::Changes(slowest), Connection::Sqlite(lease)) => {
            let outcome = sqlite::prune_changes(lease.enter(), CHANGES_KEPT, slowest, BATCH).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "postgres")]
        (Kind::Foreign, Connection::Postgres(lease)) => {
            let outcome = postgres::forget_instances(lease.enter()).await;
            lease.leave(outcome)?;
            let outcome = postgres::prune_foreign_changes(lease.enter(), BATCH).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "sqlite")]
        (Kind::Foreign, Connection::Sqlite(_)) => Ok(0),
        (Kind::Sessions(ended_before), connection) => {
            keys::delete_ended_sessions(connection, ended_before, BATCH).await
        }
        (Kind::Answers(now), connection) => {
            idempotency::delete_expired(connection, now, BATCH).await
        }
    }
}

/// Returns the age of the oldest row in the log of changes.
pub(crate) async fn oldest_change(pools: Pools) -> Result<Option<Duration>, StoreError> {
    let micros = by_database!(&mut pools.read().await?, Connection {
        Postgres(lease) => {
            let outcome = postgres::oldest_change(lease.enter()).await;
            lease.leave(outcome)
        },
        Sqlite(lease) => {
            let outcome = sqlite::oldest_change(lease.enter()).await;
            lease.leave(outcome)
        },
    })?;
    Ok(micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))))
}
