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
    /// not have been made. At least the time that an operation with one statement may take:
    /// `pool_wait`, `connect_timeout` and `statement_timeout` together. An operation that reaches
    /// this limit is taken for one on a dead connection, so all connections are replaced.
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

    /// Checks that the time limits fit together. [`Store::connect`](crate::Store::connect) checks
    /// this first.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn check(&self) -> Result<(), InvalidOptions> {
        let statement_timeout = self.statement_timeout;
        if statement_timeout < STATEMENT_TIMEOUT_MIN {
            return Err(InvalidOptions::StatementTimeout { statement_timeout });
        }
        if self.operation_timeout < self.operation_timeout_min() {
            return Err(InvalidOptions::OperationTimeout {
                operation_timeout: self.operation_timeout,
                pool_wait: self.pool_wait,
                connect_timeout: self.connect_timeout,
                statement_timeout,
            });
        }
        Ok(())
    }

    fn operation_timeout_min(&self) -> Duration {
        let statement = self.pool_wait.saturating_add(self.statement_timeout);
        statement.saturating_add(self.connect_timeout)
    }

    /// Returns the time to connect that `operation_timeout` leaves room for, if it is less than
    /// `connect_timeout`.
    #[cfg(feature = "postgres")]
    pub(crate) fn room_to_connect(&self, connect_timeout: Duration) -> Option<Duration> {
        let others = self.pool_wait.saturating_add(self.statement_timeout);
        let room = self.operation_timeout.saturating_sub(others);
        (room < connect_timeout).then_some(room)
    }
}

/// Minimum of [`StoreOptions::statement_timeout`]. It is set in whole milliseconds, and PostgreSQL
/// takes 0 for no limit.
const STATEMENT_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Error returned when the time limits of [`StoreOptions`] do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOptions {
    /// An operation would be given up before its connection or its only statement is.
    #[error(
        "operation_timeout ({operation_timeout:?}) must be at least pool_wait ({pool_wait:?}), \
         connect_timeout ({connect_timeout:?}) and statement_timeout ({statement_timeout:?}) together: \
         raise it, or lower one of the others"
    )]
    OperationTimeout {
        /// Time limit of a whole operation.
        operation_timeout: Duration,
        /// Time limit of waiting for a free connection.
        pool_wait: Duration,
        /// Time limit of establishing one connection.
        connect_timeout: Duration,
        /// Time limit of one statement.
        statement_timeout: Duration,
    },
    /// PostgreSQL would take it for no limit.
    #[error("statement_timeout ({statement_timeout:?}) must be at least {STATEMENT_TIMEOUT_MIN:?}")]
    StatementTimeout {
        /// Time limit of one statement.
        statement_timeout: Duration,
    },
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn refusal(options: &StoreOptions) -> String {
        options.check().expect_err("must be refused").to_string()
    }

    #[test]
    fn operation_has_time_for_a_connection_and_a_statement() {
        StoreOptions::default().check().unwrap();
        let exact = StoreOptions::default()
            .pool_wait(SECOND)
            .connect_timeout(SECOND * 2)
            .statement_timeout(SECOND / 2)
            .operation_timeout(SECOND * 7 / 2);
        exact.check().unwrap();
        let short = exact.clone().operation_timeout(SECOND * 3);
        assert_eq!(
            refusal(&short),
            "operation_timeout (3s) must be at least pool_wait (1s), connect_timeout (2s) and \
             statement_timeout (500ms) together: raise it, or lower one of the others"
        );
        for short in [
            exact.clone().pool_wait(Duration::MAX),
            exact.clone().connect_timeout(SECOND * 3),
            exact.clone().statement_timeout(SECOND),
        ] {
            assert!(refusal(&short).starts_with("operation_timeout"));
        }
    }

    #[test]
    fn statement_timeout_is_never_without_limit() {
        let none = StoreOptions::default().statement_timeout(Duration::from_micros(999));
        let message = "statement_timeout (999µs) must be at least 1ms";
        assert_eq!(refusal(&none), message);
        let least = StoreOptions::default().statement_timeout(Duration::from_millis(1));
        least.check().unwrap();
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn time_to_connect_of_the_url_is_compared_with_the_room_for_it() {
        let options = StoreOptions::default();
        assert_eq!(options.room_to_connect(SECOND * 4), None);
        assert_eq!(options.room_to_connect(SECOND * 5), Some(SECOND * 4));
    }
}
