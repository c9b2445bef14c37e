//! The position of a transaction in the log of changes.

use keys_service::ports::Commit;

use crate::connection::Connection;
use crate::databases::by_database;
use crate::error::QueryError;
#[cfg(feature = "postgres")]
use crate::postgres;
#[cfg(feature = "sqlite")]
use crate::sqlite;

/// Identifies the current transaction of `connection`, once it has changed something.
pub(crate) async fn commit(connection: &mut Connection) -> Result<Commit, QueryError> {
    by_database!(connection, Connection {
        Postgres(lease) => {
            let outcome = postgres::transaction(lease.enter()).await;
            lease.leave(outcome)
        },
        Sqlite(lease) => {
            let outcome = sqlite::last_change(lease.enter()).await;
            Ok(Commit::from_number(lease.leave(outcome)?))
        },
    })
}
