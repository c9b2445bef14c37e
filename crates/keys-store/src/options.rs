//! Settings of a store.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::url::DatabaseUrl;

/// Limits of a store. The defaults suit one instance of the service.
///
/// ```
/// use std::num::NonZeroU32;
///
/// use keys_store::StoreOptions;
///
/// let connections = NonZeroU32::new(20).expect("20 is not zero");
/// let options = StoreOptions::default().connections_max(connections);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct StoreOptions {
    /// Maximum number of connections. Defaults to 10. With PostgreSQL it includes the one that
    /// follows changes, and is at least 3. With SQLite it is the number of readers, beside the one
    /// writer.
    pub connections_max: NonZeroU32,
    /// URL of PostgreSQL for the feed and migrations, to bypass a pooler. Defaults to `None`, the
    /// URL of the database.
    pub direct_url: Option<DatabaseUrl>,
    /// Time limit of waiting for a free connection. Defaults to 1 second.
    pub pool_wait: Duration,
    /// Time limit of establishing one connection. Defaults to 3 seconds.
    pub connect_timeout: Duration,
    /// Time limit of one statement, in whole milliseconds. Defaults to 5 seconds. With SQLite it is
    /// the time limit of waiting for another process that is writing.
    pub statement_timeout: Duration,
    /// Time limit of a whole operation. Defaults to 10 seconds. A change given up then may or may
    /// not have been made.
    pub operation_timeout: Duration,
    /// Whether a missing SQLite file is created, with its folder. Defaults to `true`. With `false`
    /// a database that was moved away is an error, and never an empty one.
    pub create: bool,
}

impl StoreOptions {
    /// Sets the maximum number of connections.
    pub fn connections_max(mut self, connections_max: NonZeroU32) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Sets the URL for the feed and migrations.
    pub fn direct_url(mut self, direct_url: Option<DatabaseUrl>) -> Self {
        self.direct_url = direct_url;
        self
    }

    /// Sets the time limit of waiting for a free connection.
    pub fn pool_wait(mut self, pool_wait: Duration) -> Self {
        self.pool_wait = pool_wait;
        self
    }

    /// Sets the time limit of establishing one connection.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// Sets the time limit of one statement.
    pub fn statement_timeout(mut self, statement_timeout: Duration) -> Self {
        self.statement_timeout = statement_timeout;
        self
    }

    /// Sets the time limit of a whole operation.
    pub fn operation_timeout(mut self, operation_timeout: Duration) -> Self {
        self.operation_timeout = operation_timeout;
        self
    }

    /// Sets whether a missing SQLite file is created.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        const CONNECTIONS_MAX: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");
        Self {
            connections_max: CONNECTIONS_MAX,
            direct_url: None,
            pool_wait: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(10),
            create: true,
        }
    }
}
