//! The position of a transaction in the log of changes, and the instances that have seen it.

use std::time::Duration;

use keys_service::ports::{Commit, StoreError};

use crate::connection::Connection;
use crate::error::QueryError;
#[cfg(feature = "postgres")]
use crate::postgres;
#[cfg(feature = "sqlite")]
use crate::sqlite;

/// Identifies the current transaction of `connection`, once it has changed something.
pub(crate) async fn commit(connection: &mut Connection) -> Result<Commit, QueryError> {
    match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::transaction(lease.enter()).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(lease) => {
            let outcome = sqlite::last_change(lease.enter()).await;
            Ok(Commit::from_number(lease.leave(outcome)?))
        }
    }
}

/// Returns whether every instance that may still have a cache has seen the transaction. For
/// PostgreSQL, which knows all instances.
#[cfg(feature = "postgres")]
pub(crate) async fn is_seen_everywhere(
    connection: &mut Connection,
    commit: Commit,
    silence: Duration,
) -> Result<bool, StoreError> {
    let Connection::Postgres(lease) = connection else {
        return Ok(false);
    };
    let outcome = postgres::is_seen_everywhere(lease.enter(), commit, silence).await;
    Ok(lease.leave(outcome)?)
}
