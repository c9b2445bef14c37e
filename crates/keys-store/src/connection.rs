//! Pools, and the connections taken from them.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use deadpool::managed::{self, Manager};
use diesel::{ConnectionError, QueryResult};
use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection, RecyclingMethod, SetupCallback,
};
use diesel_async::{AsyncConnection, AsyncPgConnection, TransactionManager};
use futures_util::FutureExt as _;
use keys_service::store::StoreError;

use crate::error::QueryError;
use crate::options::StoreOptions;
use crate::postgres::{self, PostgresConnector};
use crate::sqlite::{self, DatabaseFile, SqliteConnection, SqliteConnector};

/// Why there is no connection.
pub(crate) type ConnectError = Box<dyn Error + Send + Sync>;

/// The open database.
#[derive(Clone)]
pub(crate) enum Pools {
    Postgres(Pool<AsyncPgConnection>),
    Sqlite {
        /// One connection: SQLite has one writer at a time, and waiting for a turn here is cheaper than in SQLite.
        writer: Pool<SqliteConnection>,
        readers: Pool<SqliteConnection>,
        file: Arc<DatabaseFile>,
    },
}

impl Pools {
    pub(crate) fn postgres(connector: Arc<PostgresConnector>, options: &StoreOptions) -> Self {
        Self::Postgres(pool(
            options,
            options.connections_max,
            Box::new(move |_| {
                let connector = Arc::clone(&connector);
                async move {
                    connector
                        .connect()
                        .await
                        .map_err(|error| bad_connection(&*error))
                }
                .boxed()
            }),
        ))
    }

    pub(crate) fn sqlite(connector: &Arc<SqliteConnector>, options: &StoreOptions) -> Self {
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
            file: Arc::clone(connector.file()),
        }
    }

    /// Makes sure that a SQLite file is still the one that was opened.
    pub(crate) fn check_file(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite { file, .. } => file.check(),
        }
    }

    /// As [`check_file`](Self::check_file), unless that was done a moment ago. For what only reads.
    pub(crate) fn check_file_now_and_then(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite { file, .. } => file.check_now_and_then(),
        }
    }

    /// Closes the connections to PostgreSQL that nobody uses and that were made before `began`: whatever made one of them fall
    /// silent has silenced all of them, and each would be found out one by one.
    pub(crate) fn forget_idle(&self, began: Instant) {
        if let Self::Postgres(pool) = self {
            pool.retain(|_, metrics| metrics.created >= began);
        }
    }

    /// A connection to read with.
    pub(crate) async fn read(&self) -> Result<Connection, StoreError> {
        Ok(match self {
            Self::Postgres(pool) => Connection::Postgres(take(pool).await?),
            Self::Sqlite { readers, .. } => Connection::Sqlite(take(readers).await?),
        })
    }

    /// A connection with a transaction open for writing, to be ended by [`Connection::finish`].
    pub(crate) async fn begin(&self) -> Result<Connection, StoreError> {
        let mut connection = match self {
            Self::Postgres(pool) => Connection::Postgres(take(pool).await?),
            Self::Sqlite { writer, .. } => Connection::Sqlite(take(writer).await?),
        };
        connection.begin().await?;
        Ok(connection)
    }
}

/// A connection of either database.
pub(crate) enum Connection {
    Postgres(Lease<AsyncDieselConnectionManager<AsyncPgConnection>>),
    Sqlite(Lease<AsyncDieselConnectionManager<SqliteConnection>>),
}

/// Runs one query, written once, on whichever database is open: `query!(connection, |open| table.load(open))`.
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
    async fn begin(&mut self) -> Result<(), QueryError> {
        match self {
            Self::Postgres(lease) => {
                lease.in_transaction = true;
                let outcome = postgres::begin(lease.enter()).await;
                lease.leave(outcome)
            }
            Self::Sqlite(lease) => {
                lease.in_transaction = true;
                let outcome = sqlite::begin(lease.enter()).await;
                lease.leave(outcome)
            }
        }
    }

    /// Ends the transaction: keeps what was done if `outcome` is a success, and nothing otherwise.
    pub(crate) async fn finish<T, E>(mut self, outcome: Result<T, E>) -> Result<T, E>
    where
        E: From<StoreError>,
    {
        let ended = match outcome {
            Ok(_) => query!(&mut self, |open| commit(open)),
            Err(_) => query!(&mut self, |open| rollback(open)),
        };
        match (outcome, ended) {
            // What went wrong first is what matters; a connection that cannot roll back is closed, which does.
            (Err(error), Err(_)) => Err(error),
            (Ok(_), Err(error)) => Err(StoreError::from(error).into()),
            (outcome, Ok(())) => {
                match &mut self {
                    Self::Postgres(lease) => lease.in_transaction = false,
                    Self::Sqlite(lease) => lease.in_transaction = false,
                }
                outcome
            }
        }
    }
}

/// A connection that goes back to its pool only while it is known to be in order. One that was given up in the middle
/// of a query or transaction is closed at once, which frees every lock it holds.
pub(crate) struct Lease<M: Manager> {
    // Boxed, because a connection to PostgreSQL is large and is moved about.
    object: Option<Box<managed::Object<M>>>,
    in_query: bool,
    in_transaction: bool,
    broken: bool,
}

impl<M: Manager> Lease<M> {
    fn new(object: managed::Object<M>) -> Self {
        Self {
            object: Some(Box::new(object)),
            in_query: false,
            in_transaction: false,
            broken: false,
        }
    }

    /// The connection, until [`leave`](Self::leave).
    pub(crate) fn enter(&mut self) -> &mut M::Type {
        self.in_query = true;
        self.object.as_mut().expect("held until dropped")
    }

    pub(crate) fn leave<T>(&mut self, outcome: QueryResult<T>) -> Result<T, QueryError> {
        self.in_query = false;
        outcome.map_err(|error| {
            let error = QueryError::from(error);
            self.broken |= error.is_transient();
            error
        })
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

async fn take<C>(pool: &Pool<C>) -> Result<Lease<AsyncDieselConnectionManager<C>>, StoreError>
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>:
        Manager<Type = C, Error = diesel_async::pooled_connection::PoolError>,
{
    match pool.get().await {
        Ok(object) => Ok(Lease::new(object)),
        Err(error) => Err(StoreError::Unavailable(Box::new(error))),
    }
}

fn pool<C>(options: &StoreOptions, connections_max: NonZeroU32, setup: SetupCallback<C>) -> Pool<C>
where
    C: PoolableConnection + Send + 'static,
    AsyncDieselConnectionManager<C>: Manager<Type = C>,
{
    let mut config = ManagerConfig::default();
    // A connection found closed is replaced; asking the server each time would double the cost of a look-up.
    config.recycling_method = RecyclingMethod::Fast;
    config.custom_setup = setup;
    // The connector knows where to; the pool is given no address that it could print.
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

/// The pool's own error for "no connection" carries text only.
fn bad_connection(error: &dyn Error) -> ConnectionError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    ConnectionError::BadConnection(text)
}
