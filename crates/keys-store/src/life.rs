//! Detection of dead processes: whether the process that executes an idempotent request still
//! exists.
//!
//! A process holds a lock as long as it lives, and each of its reservations names that lock. When
//! the process dies the database or the operating system releases the lock, and the next attempt
//! does not wait until the time is over. An attempt of a living process is never taken over before
//! that, however slow it is.

use keys_service::ports::StoreError;

use crate::connection::Connection;
#[cfg(feature = "postgres")]
use crate::postgres;
#[cfg(feature = "sqlite")]
use crate::sqlite::LifeFile;

/// The lock of this process.
pub(crate) enum Life {
    /// Number of a shared advisory lock of PostgreSQL. Each session that has reserved an answer
    /// holds it, and so does the connection that follows the log of changes.
    #[cfg(feature = "postgres")]
    Postgres(i32),
    /// A file beside the database.
    #[cfg(feature = "sqlite")]
    Sqlite(LifeFile),
    /// No lock: behind a proxy that pools transactions, sessions do not belong to one process. Only
    /// the time limit decides.
    #[cfg(feature = "postgres")]
    Unknown,
}

impl Life {
    /// Returns whether the process that wrote `holder` is known to have ended. `false` if in doubt.
    pub(crate) async fn has_ended(
        &self,
        connection: &mut Connection,
        holder: &str,
    ) -> Result<bool, StoreError> {
        match (self, connection) {
            #[cfg(feature = "postgres")]
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
            #[cfg(feature = "sqlite")]
            (Self::Sqlite(own), Connection::Sqlite(_)) => Ok(own.has_ended(holder)),
            _ => Ok(false),
        }
    }
}
