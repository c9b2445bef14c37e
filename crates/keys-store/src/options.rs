//! How a store uses its database.

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
/// let options = StoreOptions {
///     connections_max: NonZeroU32::new(20).expect("20 is not zero"),
///     ..StoreOptions::default()
/// };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The most connections at once; 10 by default. With PostgreSQL the one that follows changes is among them, and there are at
    /// least 3. With SQLite it is the number of readers, beside the one writer.
    pub connections_max: NonZeroU32,
    /// Where the feed and migrations connect to PostgreSQL, past a pooler; `None`, the default, is the URL of the database.
    pub direct_url: Option<DatabaseUrl>,
    /// How long to wait for a free connection; 1 second by default.
    pub pool_wait: Duration,
    /// How long establishing one connection may take; 3 seconds by default.
    pub connect_timeout: Duration,
    /// How long one statement may take, in whole milliseconds; 5 seconds by default. With SQLite it is how long to wait
    /// for another process that is writing.
    pub statement_timeout: Duration,
    /// How long an operation may take altogether; 10 seconds by default. A change given up then may or may not have
    /// been made.
    pub operation_timeout: Duration,
    /// Whether a SQLite file that is missing is created, with its folder; `true` by default. With `false` a database that was
    /// moved away is an error, and never an empty one.
    pub create: bool,
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
