//! The port to the log of changes, and the bounds that instances with a cache keep to.

use std::time::Duration;

use async_trait::async_trait;

use super::errors::StoreError;
use super::feed::ChangeFeed;

/// The log of all changes that instances with a cache must hear of.
#[async_trait]
pub trait ChangeLog: Send + Sync + 'static {
    /// Returns a feed of all changes of keys and accounts, except recorded uses, for one instance.
    /// Each is a reader of its own, which others wait for from its first poll on.
    fn feed(&self) -> Box<dyn ChangeFeed>;

    /// Returns whether every instance that may still have a cache has applied `commit`. Instances
    /// without a sign of life for `silence` have no usable cache. `false` also if the store cannot
    /// tell, because a caller that waits for `true` waits no longer than until all caches have
    /// expired.
    async fn is_seen_everywhere(
        &self,
        commit: &Commit,
        silence: Duration,
    ) -> Result<bool, StoreError>;

    /// Returns the age of the oldest row of the log of changes. `None` if the log is empty, or if
    /// the store keeps none.
    async fn oldest_change(&self) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }
}

/// Time for which a record may be trusted after it was read, or after all changes were known: the
/// published bound.
pub const REVOCATION_BOUND: Duration = Duration::from_secs(2);

/// Time after the start of its last poll in which an instance may accept keys from its cache: one
/// bound for that poll, and one for a record that was read directly just before the first bound
/// ended.
pub const TRUST_MAX: Duration = Duration::from_secs(2 * REVOCATION_BOUND.as_secs());

/// Maximum age of the last sign of life of an instance when one of its polls begins.
pub const REPORT_AGE_MAX: Duration = Duration::from_secs(1);

/// Time of silence after which an instance is no longer waited for: [`TRUST_MAX`], with a percent
/// for clocks that run at different rates and 50 ms for those that are read late, after the oldest
/// sign of life that a poll may have begun with.
///
/// It is longer than necessary for most instances, which costs little: a caller never waits longer
/// than [`REVOCATION_BOUND`] and these allowances after its own change, because by then every
/// record that was read before the change has expired.
pub const SILENCE_MAX: Duration = silence_max(Duration::ZERO);

/// Returns [`SILENCE_MAX`] of instances with a `grace`.
#[must_use]
pub const fn silence_max(grace: Duration) -> Duration {
    let trust = if grace.as_secs() >= TRUST_MAX.as_secs() {
        grace.as_secs() + 1
    } else {
        TRUST_MAX.as_secs()
    };
    Duration::from_millis(trust * 1_010 + 50 + REPORT_AGE_MAX.as_secs() * 1_000)
}

/// Identifies the transaction of a change, to ask later whether every instance has seen it. Valid
/// only for the store that returned it, and only while that store is the same database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Commit {
    log: u64,
    number: u64,
}

impl Commit {
    /// Creates one for stores whose log never changes its identity: the number of the transaction.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self::in_log(0, number)
    }

    /// Creates one for stores: the number of the transaction, and the identity of the log that the
    /// number belongs to. A number is meaningless in the log of another database, even of a copy of
    /// this one.
    #[must_use]
    pub const fn in_log(log: u64, number: u64) -> Self {
        Self { log, number }
    }

    /// Returns the number, for stores.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }

    /// Returns the identity of the log, for stores.
    #[must_use]
    pub const fn log(self) -> u64 {
        self.log
    }
}
