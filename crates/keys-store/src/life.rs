//! Signs of life: whether the process that works on an idempotent request is still there.
//!
//! A process holds a lock as long as it lives, and each of its reservations names that lock. When the process dies the
//! database or the operating system releases the lock, and the next attempt need not wait until the time is up. An
//! attempt of a living process is never taken over before that, however slow it is.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use keys_service::store::StoreError;

use crate::connection::Connection;
use crate::postgres;
use crate::sqlite::LifeFile;

/// The number of this process. No other living process has it, with all but certainty. If two share one, neither is taken over
/// early.
static NUMBER: LazyLock<i32> = LazyLock::new(|| {
    // The seeds of hash maps are random enough for a number that must merely differ.
    let [a, b, c, d, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    i32::from_ne_bytes([a, b, c, d])
});

/// The lock of this process.
pub(crate) enum Life {
    /// The number of a shared advisory lock of PostgreSQL. Each session that reserves an answer holds it from then on, and so
    /// does the connection that follows the log of changes.
    Postgres(i32),
    /// A file beside the database.
    Sqlite(LifeFile),
    /// None: behind a proxy that pools transactions, a session is not this process's own. The time limit alone decides.
    Unknown,
}

impl Life {
    /// The lock of this process in PostgreSQL.
    pub(crate) fn postgres() -> Self {
        Self::Postgres(Self::number())
    }

    /// The number of the lock of this process in PostgreSQL.
    pub(crate) fn number() -> i32 {
        *NUMBER
    }

    /// Whether the process that wrote `holder` is known to have ended. `false` in doubt.
    pub(crate) async fn has_ended(
        &self,
        connection: &mut Connection,
        holder: &str,
    ) -> Result<bool, StoreError> {
        match (self, connection) {
            (Self::Postgres(own), Connection::Postgres(lease)) => {
                let Some((number, started)) = postgres::parse_holder(holder) else {
                    return Ok(false);
                };
                if number == *own {
                    return Ok(false);
                }
                let outcome = postgres::is_lock_free(lease.enter(), number, started).await;
                Ok(lease.leave(outcome)?)
            }
            (Self::Sqlite(own), Connection::Sqlite(_)) => Ok(own.has_ended(holder)),
            _ => Ok(false),
        }
    }
}
