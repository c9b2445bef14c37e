//! Pools and their connections.

use std::time::Instant;

use keys_service::ports::StoreError;

use crate::postgres::{self, Purpose};
use crate::sqlite;

/// The open database.
#[derive(Clone)]
pub(crate) enum Pools {
    Postgres(postgres::Pool),
    Sqlite(sqlite::Pool),
}

impl Pools {
    /// Checks that a SQLite file is still the one that was opened.
    pub(crate) fn check_file(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite(pool) => pool.file.check(),
        }
    }

    /// Like [`check_file`](Self::check_file), unless that was done a moment ago. For operations
    /// that only read.
    pub(crate) fn check_file_now_and_then(&self) -> Result<(), StoreError> {
        match self {
            Self::Postgres(_) => Ok(()),
            Self::Sqlite(pool) => pool.file.check_now_and_then(),
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
            Self::Sqlite(_) => true,
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
            Self::Sqlite(pool) => Connection::Sqlite(pool.read().await?),
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
            Self::Sqlite(pool) => Connection::Sqlite(pool.begin().await?),
        })
    }
}

/// A connection of either database.
pub(crate) enum Connection {
    Postgres(postgres::Lease),
    Sqlite(sqlite::Lease),
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
