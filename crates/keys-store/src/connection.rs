//! Pools and their connections.

use std::time::Instant;

use keys_service::ports::StoreError;

use crate::databases::by_database;
#[cfg(feature = "postgres")]
use crate::postgres;
use crate::purpose::Purpose;
#[cfg(feature = "sqlite")]
use crate::sqlite;

/// The open database.
#[derive(Clone)]
pub(crate) enum Pools {
    #[cfg(feature = "postgres")]
    Postgres(postgres::Pool),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::pool::Pool),
}

impl Pools {
    /// Checks that a SQLite file is still the one that was opened.
    pub(crate) fn check_file(&self) -> Result<(), StoreError> {
        by_database!(self, Self {
            Postgres(_) => Ok(()),
            Sqlite(pool) => pool.file.check(),
        })
    }

    /// Like [`check_file`](Self::check_file), unless that was done a moment ago. For operations
    /// that only read.
    pub(crate) fn check_file_now_and_then(&self) -> Result<(), StoreError> {
        by_database!(self, Self {
            Postgres(_) => Ok(()),
            Sqlite(pool) => pool.file.check_now_and_then(),
        })
    }

    /// Closes the connections to PostgreSQL that were made before `began`.
    pub(crate) fn forget_made_before(&self, began: Instant) {
        #[cfg(feature = "postgres")]
        if let Self::Postgres(pool) = self {
            pool.forget_made_before(began);
        }
    }

    /// Returns `false` while commits that were given up have not ended.
    pub(crate) fn commits_end(&self) -> bool {
        by_database!(self, Self {
            Postgres(pool) => !pool.has_pending_commits(),
            Sqlite(_) => true,
        })
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
        Ok(by_database!(self, Self {
            Postgres(pool) => Connection::Postgres(pool.take(purpose).await?),
            Sqlite(pool) => Connection::Sqlite(pool.read().await?),
        }))
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
        Ok(by_database!(self, Self {
            Postgres(pool) => Connection::Postgres(pool.begin(purpose).await?),
            Sqlite(pool) => Connection::Sqlite(pool.begin().await?),
        }))
    }
}

/// A connection of either database.
pub(crate) enum Connection {
    #[cfg(feature = "postgres")]
    Postgres(postgres::Lease),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::pool::Lease),
}

/// Runs one query, written once, on whichever database is open:
/// `query!(connection, |open| table.load(open))`.
macro_rules! query {
    ($connection:expr, |$open:ident| $query:expr) => {
        match $connection {
            #[cfg(feature = "postgres")]
            $crate::connection::Connection::Postgres(lease) => {
                let $open = lease.enter();
                let outcome = $query.await;
                lease.leave(outcome)
            }
            #[cfg(feature = "sqlite")]
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
            #[cfg(feature = "postgres")]
            (Self::Postgres(lease), Ok(_)) => lease.commit().await.map_err(E::from)?,
            #[cfg(feature = "sqlite")]
            (Self::Sqlite(lease), Ok(_)) => lease.commit().await.map_err(StoreError::from)?,
            // The first error is the relevant one. A connection that cannot roll back is closed,
            // which rolls back.
            #[cfg(feature = "postgres")]
            (Self::Postgres(lease), Err(_)) => drop(lease.roll_back().await),
            #[cfg(feature = "sqlite")]
            (Self::Sqlite(lease), Err(_)) => drop(lease.roll_back().await),
        }
        outcome
    }
}
