//! The port to the log of changes, and the bounds that instances with a cache keep to.

use std::time::Duration;

use async_trait::async_trait;

use super::errors::StoreError;
use super::feed::ChangeFeed;

/// The log of all changes that instances with a cache must hear of.
#[async_trait]
pub trait ChangeLog: Send + Sync + 'static {
    /// A feed of all changes of keys and accounts, recorded uses excepted, for one instance. Each is a reader of its
    /// own, whom others wait for from its first poll on.
    fn feed(&self) -> Box<dyn ChangeFeed>;

    /// Whether every instance that may still have a cache has applied what `commit` changed. Those that have given no sign of life
    /// for `silence` have none they may use. `false` also where the store cannot tell: whoever waits for `true` waits
    /// no longer than until everything has run out anyway.
    async fn is_seen_everywhere(
        &self,
        commit: &Commit,
        silence: Duration,
    ) -> Result<bool, StoreError>;

    /// How old the oldest row of the log of changes is. `None` if the log is empty, or if the store keeps none.
    async fn oldest_change(&self) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }
}

/// How long a record may be trusted after it was read, or after everything was known: the published bound.
pub const REVOCATION_BOUND: Duration = Duration::from_secs(2);

/// How long after the beginning of its last poll an instance may accept anything from its cache: one bound for that
/// poll, and one for a record that was read directly just before the first ran out.
pub const TRUST_MAX: Duration = Duration::from_secs(2 * REVOCATION_BOUND.as_secs());

/// How old the last sign of life of an instance is at most when one of its polls begins.
pub const REPORT_AGE_MAX: Duration = Duration::from_secs(1);

/// How long an instance must have given no sign of life until nobody waits for it: [`TRUST_MAX`], with a percent for
/// clocks that run at different rates and 50 ms for those that are read late, after the oldest sign of life that a
/// poll may have begun with.
///
/// Longer than it has to be for most instances, which costs little: whoever waits never waits for longer than
/// [`REVOCATION_BOUND`] and these allowances after its own change, because by then every record that was read before
/// the change has run out anyway.
pub const SILENCE_MAX: Duration = silence_max(Duration::ZERO);

/// [`SILENCE_MAX`] of instances that accept what they know for as long as `grace` after their last poll.
#[must_use]
pub const fn silence_max(grace: Duration) -> Duration {
    let trust = if grace.as_secs() >= TRUST_MAX.as_secs() {
        grace.as_secs() + 1
    } else {
        TRUST_MAX.as_secs()
    };
    Duration::from_millis(trust * 1_010 + 50 + REPORT_AGE_MAX.as_secs() * 1_000)
}

/// Identifies the transaction of a change, to ask later whether every instance has seen it. Means something only to the
/// store that gave it, and only while that store is the same database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Commit {
    log: u64,
    number: u64,
}

impl Commit {
    /// For stores whose log cannot become another one: the number they gave the transaction.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self::in_log(0, number)
    }

    /// For stores: the number they gave the transaction, and the identity of the log that the number belongs to. A number
    /// says nothing about the log of another database, not even of a copy of this one.
    #[must_use]
    pub const fn in_log(log: u64, number: u64) -> Self {
        Self { log, number }
    }

    /// For stores: the number again.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }

    /// For stores: the identity of the log again.
    #[must_use]
    pub const fn log(self) -> u64 {
        self.log
    }
}
