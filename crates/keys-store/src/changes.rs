//! The log of changes, as those who write it see it.

use keys_service::feed::Commit;

use crate::connection::Connection;
use crate::error::QueryError;
use crate::{postgres, sqlite};

/// Identifies the transaction that `connection` is in, once it has changed something.
pub(crate) async fn commit(connection: &mut Connection) -> Result<Commit, QueryError> {
    let number = match connection {
        Connection::Postgres(lease) => {
            let outcome = postgres::transaction_number(lease.enter()).await;
            lease.leave(outcome)
        }
        Connection::Sqlite(lease) => {
            let outcome = sqlite::last_change(lease.enter()).await;
            lease.leave(outcome)
        }
    }?;
    Ok(Commit::from_number(number))
}

/// Stands in until the databases' own feeds are here.
pub(crate) struct NoFeed;

#[async_trait::async_trait]
impl keys_service::ChangeFeed for NoFeed {
    async fn wait(&mut self) {
        tokio::time::sleep(keys_service::feed::POLL_INTERVAL).await;
    }

    async fn poll(&mut self) -> Result<keys_service::Changes, keys_service::StoreError> {
        let error = "this store has no change feed yet".into();
        Err(keys_service::StoreError::Unavailable(error))
    }

    async fn applied(&mut self) {}

    fn is_live(&self) -> bool {
        false
    }
}
