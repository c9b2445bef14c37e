//! Pools and their connections.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use deadpool::managed::{self, Manager};
use diesel::{ConnectionError, QueryResult};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod, SetupCallback,
};
use diesel_async::{AsyncConnection, TransactionManager};
use futures_util::FutureExt as _;
use keys_service::ports::StoreError;

use crate::error::QueryError;
use crate::health::WriteHealth;
use crate::options::StoreOptions;
use crate::postgres::{self, Purpose};
use crate::sqlite::{self, DatabaseFile, SqliteConnection, SqliteConnector};

/// The open database.
#[derive(Clone)]
pub(crate) enum Pools {
    Postgres(postgres::Pool),
    Sqlite {
        /// One connection, because SQLite has one writer at a time, and waiting here is cheaper
        /// than in SQLite.
        writer: Pool<SqliteConnection>,
        readers: Pool<SqliteConnection>,
        file: Arc<DatabaseFile>,
        health: WriteHealth,
    },
}

impl Pools {
    pub(crate) fn sqlite(
        connector: &Arc<SqliteConnector>,
        options: &StoreOptions,
        health: WriteHealth,
    ) -> Self {
        let setup = |access| -> SetupCallback<SqliteConnection> {
            let connector = Arc::clone(connector);
            Box::new(move |_| {
                let connector = Arc::clone(&connector);
                async move {
                    connector
                        .connect(access)
                        .await
                        .map_err(|error| bad_connection(&*error))
                }
                .boxed()
            })
        };
        Self::Sqlite {
            writer: pool(options, NonZeroU32::MIN, setup(sqlite::Access::ReadWrite)),
            readers: pool(
                options,
                options.connections_max,
                setup(sqlite::Access::Read),
            ),
            health,
            file: Arc::clone(connector.file()),
        }
    }

    /// Checks that a SQLite file is still the one that was opened.
    pub(crate) fn check_file(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite { file, .. } => file.check(),
        }
    }

    /// Like [`check_file`](Self::check_file), unless that was done a moment ago. For operations
    /// that only read.
    pub(crate) fn check_file_now_and_then(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite { file, .. } => file.check_now_and_then(),
        }
    }

    /// Closes the connections to PostgreSQL that were made before `began`.
    pub(crate) fn forget_made_before(&self, began: Instant) {
        if let Self::Postgres(pool) = self {
            pool.forget_made_before(began);
        }
    }

    /// Returns `false` while commits that were given up have not ended.
    pub(crate) fn commits_end(&self) -> bool {
        match self {
            Self::Postgres(pool) => !pool.has_pending_commits(),
            Self::Sqlite { .. } => true,
        }
    }

    /// Returns a connection for verification, which is available even if other work hangs.
    pub(crate) async fn look_up(&self) -> Result<Connection, StoreError> {
        self.reader(Purpose::LookUp).await
    }

    /// Returns a connection for any other reading.
    pub(crate) async fn read(&self) -> Result<Connection, StoreError> {
        self.reader(Purpose::Read).await
    }

    async fn reader(&self, purpose: Purpose) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Postgres(pool) => Connection::Postgres(pool.take(purpose).await?),
            Self::Sqlite {
                readers, health, ..
            } => Connection::Sqlite(take(readers, health).await?),
        })
    }

    /// Returns a connection with a transaction open for writing. End it with
    /// [`Connection::finish`].
    pub(crate) async fn begin(&self) -> Result<Connection, StoreError> {
        self.begin_for(Purpose::Write).await
    }

    /// Like [`begin`](Self::begin), for regular work that can wait.
    pub(crate) async fn begin_housekeeping(&self) -> Result<Connection, StoreError> {
        self.begin_for(Purpose::Housekeeping).await
    }

    async fn begin_for(&self, purpose: Purpose) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Postgres(pool) => Connection::Postgres(pool.begin(purpose).await?),
            Self::Sqlite { writer, health, .. } => {
                let mut lease = take(writer, health).await?;
                lease.in_transaction = true;
                let outcome = sqlite::begin(lease.enter()).await;
                lease.leave(outcome)?;
                Connection::Sqlite(lease)
            }
        })
    }
}

/// A connection of either database.
pub(crate) enum Connection {
    Postgres(postgres::Lease),
    Sqlite(Lease<AsyncDieselConnectionManager<SqliteConnection>>),
}

/// Runs one query, written once, on whichever database is open:
/// `query!(connection, |open| table.load(open))`.
macro_rules! query {
    ($connection:expr, |$open:ident| $query:expr) => {
        match $connection {
            $crate::connection::Connection::Postgres(lease) => {
                let $open = lease.enter();
                let outcome = $query.await;
                lease.leave(outcome)
            }
            $crate::connection::Connection::Sqlite(lease) => {
                let $open = lease.enter();
                let outcome = $query.await;
                lease.leave(outcome)
            }
        }
    };
}
pub(crate) use query;

impl Connection {
    /// Ends the transaction: commits if `outcome` is a success, and rolls back otherwise.
    pub(crate) async fn finish<T, E>(self, outcome: Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        match (self, &outcome) {
            (Self::Postgres(lease), Ok(_)) => lease.commit().await.map_err(E::from)?,
            (Self::Sqlite(lease), Ok(_)) => lease.commit().await.map_err(StoreError::from)?,
            // The first error is the relevant one. A connection that cannot roll back is closed,
            // which rolls back.
            (Self::Postgres(lease), Err(_)) => drop(lease.roll_back().await),
            (Self::Sqlite(lease), Err(_)) => drop(lease.roll_back().await),
        }
        outcome
    }
}

/// A connection that returns to its pool only while it is known to be in order. One that was given
/// up in the middle of a query or transaction is closed at once, which releases all its locks.
pub(crate) struct Lease<M: Manager> {
    // Boxed, because a connection to PostgreSQL is large and is moved often.
    object: Option<Box<managed::Object<M>>>,
    in_query: bool,
    in_transaction: bool,
    broken: bool,
    health: WriteHealth,
}

impl<M: Manager> Lease<M> {
    fn new(object: managed::Object<M>, health: WriteHealth) -> Self {
        Self {
            object: Some(Box::new(object)),
            in_query: false,
            in_transaction: false,
            broken: false,
            health,
        }
    }

    /// Returns the connection, until [`leave`](Self::leave).
    pub(crate) fn enter(&mut self) -> &mut M::Type {
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
}

impl<M: Manager> Lease<M>
where
    M::Type: AsyncConnection,
{
    async fn commit(mut self) -> Result<(), QueryError> {
        let outcome = commit(self.enter()).await;
        self.leave(outcome)?;
        self.in_transaction = false;
        self.health.succeeded();
        Ok(())
    }

    async fn roll_back(mut self) -> Result<(), QueryError> {
        let outcome = rollback(self.enter()).await;
        self.leave(outcome)?;
        self.in_transaction = false;
        Ok(())
    }
}

impl<M: Manager> Drop for Lease<M> {
    fn drop(&mut self) {
        if (self.in_query || self.in_transaction || self.broken)
            && let Some(object) = self.object.take()
        {
            drop(managed::Object::take(*object));
        }
    }
}

async fn take<C>(
    pool: &Pool<C>,
    health: &WriteHealth,
) -> Result<Lease<AsyncDieselConnectionManager<C>>, StoreError>
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>:
        Manager<Type = C, Error = diesel_async::pooled_connection::PoolError>,
{
    match pool.get().await {
        Ok(object) => Ok(Lease::new(object, health.clone())),
        Err(error) => Err(StoreError::Unavailable(Box::new(error))),
    }
}

fn pool<C>(options: &StoreOptions, connections_max: NonZeroU32, setup: SetupCallback<C>) -> Pool<C>
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>: Manager<Type = C>,
{
    let mut config = ManagerConfig::default();
    // A connection that is found closed is replaced. Asking the server each time would double the
    // cost of a look-up.
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = setup;
    // The connector has the address. The pool gets none that it could print.
    Pool::builder(AsyncDieselConnectionManager::new_with_config("", config))
        .runtime(deadpool::Runtime::Tokio1)
        .max_size(usize::try_from(connections_max.get()).unwrap_or(usize::MAX))
        .queue_mode(managed::QueueMode::Lifo)
        .wait_timeout(Some(options.pool_wait))
        .create_timeout(Some(options.connect_timeout))
        .build()
        .expect("a runtime is given for the time limits")
}

async fn commit<C: AsyncConnection>(connection: &mut C) -> QueryResult<()> {
    C::TransactionManager::commit_transaction(connection).await
}

async fn rollback<C: AsyncConnection>(connection: &mut C) -> QueryResult<()> {
    C::TransactionManager::rollback_transaction(connection).await
}

/// The pool's own error for "no connection" contains text only.
fn bad_connection(error: &dyn std::error::Error) -> ConnectionError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    ConnectionError::BadConnection(text)
}
