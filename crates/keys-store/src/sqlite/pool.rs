//! The connections to a SQLite file.

use std::num::NonZeroU32;
use std::sync::Arc;

use deadpool::managed;
use diesel::{ConnectionError, QueryResult};
use diesel_async::pooled_connection::deadpool::{Object as Pooled, Pool as PoolOf};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod, SetupCallback,
};
use diesel_async::{AsyncConnection, TransactionManager as _};
use futures_util::FutureExt as _;
use keys_core::chain;
use keys_service::ports::StoreError;

use super::{Access, DatabaseFile, SqliteConnection, SqliteConnector};
use crate::error::{ConnectError, QueryError};
use crate::health::WriteHealth;
use crate::options::StoreOptions;

type Connections = PoolOf<SqliteConnection>;
type Object = Pooled<SqliteConnection>;
type Transactions = <SqliteConnection as AsyncConnection>::TransactionManager;

/// The connections to one file.
#[derive(Clone)]
pub(crate) struct Pool {
    /// One connection, because SQLite has one writer at a time, and waiting here is cheaper than in
    /// SQLite.
    writer: Connections,
    readers: Connections,
    pub(crate) file: Arc<DatabaseFile>,
    health: WriteHealth,
}

impl Pool {
    pub(crate) fn new(
        connector: &Arc<SqliteConnector>,
        options: &StoreOptions,
        health: WriteHealth,
    ) -> Self {
        let setup = |access| -> SetupCallback<SqliteConnection> {
            let connector = Arc::clone(connector);
            Box::new(move |_| {
                let connector = Arc::clone(&connector);
                async move {
                    // The pool's own error for "no connection" contains text only.
                    let bad = |error: ConnectError| ConnectionError::BadConnection(chain(&*error));
                    connector.connect(access).await.map_err(bad)
                }
                .boxed()
            })
        };
        Self {
            writer: pool(options, NonZeroU32::MIN, setup(Access::ReadWrite)),
            readers: pool(options, options.connections_max, setup(Access::Read)),
            health,
            file: Arc::clone(connector.file()),
        }
    }

    pub(crate) async fn read(&self) -> Result<Lease, StoreError> {
        self.take(&self.readers).await
    }

    /// Returns a connection with a transaction open for writing.
    pub(crate) async fn begin(&self) -> Result<Lease, StoreError> {
        let mut lease = self.take(&self.writer).await?;
        lease.in_transaction = true;
        let outcome = super::begin(lease.enter()).await;
        lease.leave(outcome)?;
        Ok(lease)
    }

    async fn take(&self, connections: &Connections) -> Result<Lease, StoreError> {
        match connections.get().await {
            Ok(object) => Ok(Lease::new(object, self.health.clone())),
            Err(error) => Err(StoreError::Unavailable(Box::new(error))),
        }
    }
}

/// A connection that returns to its pool only while it is known to be in order. One that was given
/// up in the middle of a query or transaction is closed at once, which releases all its locks.
pub(crate) struct Lease {
    object: Option<Object>,
    in_query: bool,
    in_transaction: bool,
    broken: bool,
    health: WriteHealth,
}

impl Lease {
    fn new(object: Object, health: WriteHealth) -> Self {
        Self {
            object: Some(object),
            in_query: false,
            in_transaction: false,
            broken: false,
            health,
        }
    }

    /// Returns the connection, until [`leave`](Self::leave).
    pub(crate) fn enter(&mut self) -> &mut SqliteConnection {
        self.in_query = true;
        self.object.as_mut().expect("held until dropped")
    }

    pub(crate) fn leave<T>(&mut self, outcome: QueryResult<T>) -> Result<T, QueryError> {
        self.in_query = false;
        outcome.map_err(|error| {
            let error = QueryError::from(error);
            self.broken |= error.is_transient();
            if self.in_transaction {
                self.health.failed(&error);
            }
            error
        })
    }

    pub(crate) async fn commit(mut self) -> Result<(), QueryError> {
        let outcome = Transactions::commit_transaction(self.enter()).await;
        self.leave(outcome)?;
        self.in_transaction = false;
        self.health.succeeded();
        Ok(())
    }

    pub(crate) async fn roll_back(mut self) -> Result<(), QueryError> {
        let outcome = Transactions::rollback_transaction(self.enter()).await;
        self.leave(outcome)?;
        self.in_transaction = false;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if (self.in_query || self.in_transaction || self.broken)
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
    }
}

fn pool(
    options: &StoreOptions,
    connections_max: NonZeroU32,
    setup: SetupCallback<SqliteConnection>,
) -> Connections {
    let mut config = ManagerConfig::default();
    // A connection that is found closed is replaced. Asking the server each time would double the
    // cost of a look-up.
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = setup;
    // The connector has the address. The pool gets none that it could print.
    Connections::builder(AsyncDieselConnectionManager::new_with_config("", config))
        .runtime(deadpool::Runtime::Tokio1)
        .max_size(usize::try_from(connections_max.get()).unwrap_or(usize::MAX))
        .queue_mode(managed::QueueMode::Lifo)
        .wait_timeout(Some(options.pool_wait))
        .create_timeout(Some(options.connect_timeout))
        .build()
        .expect("a runtime is given for the time limits")
}
