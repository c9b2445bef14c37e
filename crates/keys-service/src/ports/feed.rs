//! The port through which an instance receives changes by itself, by other instances and by hand.

use std::time::Duration;

use async_trait::async_trait;
use keys_core::{AccountId, KeyId};

use super::errors::StoreError;

/// The changes of a store as one instance follows them.
///
/// A store keeps a log of changes, written in the same transaction as each change. An instance that
/// caches records holds a feed of it and loops for ever:
///
/// ```
/// # use keys_service::ports::{ChangeFeed, Changes};
/// # fn apply(_: &Changes) {}
/// # async fn follow(mut feed: Box<dyn ChangeFeed>) {
/// loop {
///     feed.wait().await;
///     while let Ok(changes) = feed.poll().await {
///         apply(&changes); // to the cache, before anything else
///         if !changes.more {
///             feed.applied().await;
///             break;
///         }
///     }
/// }
/// # }
/// ```
///
/// # What other instances rely on
/// The instance that made a change may wait until
/// [`is_seen_everywhere`](super::ChangeLog::is_seen_everywhere) returns `true`. That answer is
/// right only if every instance with a cache keeps to these rules, by a clock that counts suspended
/// time:
///
/// - It accepts nothing from its cache before the first poll was applied.
/// - It accepts nothing from its cache later than [`TRUST_MAX`](super::TRUST_MAX) after the
///   beginning of the last poll that was applied, however recently it read the record. Direct reads
///   alone could otherwise keep a cache alive that no other instance knows of or waits for. Reading
///   the record for each request remains possible without end.
#[async_trait]
pub trait ChangeFeed: Send + 'static {
    /// Resolves when something may have changed, and [`POLL_INTERVAL`] after the last poll at the
    /// latest; at once while the feed is down. Cancel-safe.
    async fn wait(&mut self);

    /// Reads the changes since the last poll that was [`applied`](Self::applied).
    ///
    /// Connects, or connects again, as needed, and then pauses between attempts by itself. Bounded
    /// in time: about three seconds while the store is unavailable, half a second otherwise. May be
    /// dropped at any time; changes that were not applied come again.
    ///
    /// # Errors
    /// If the feed is down. Call again.
    async fn poll(&mut self) -> Result<Changes, StoreError>;

    /// Reports that the changes of the last poll have been applied to the cache. Only now polls
    /// continue from there and other instances are informed, because an earlier report would let
    /// them claim too much.
    ///
    /// The report is sent with this call or, if the last one was a moment ago, with the next
    /// [`wait`](Self::wait). It may be lost, which only delays the callers that wait for it.
    async fn applied(&mut self);

    /// Returns whether the store has replicas and acknowledges changes before any of them has them.
    fn is_replicated_asynchronously(&self) -> bool {
        false
    }

    /// Returns whether changes are followed: connected, and the last poll succeeded.
    fn is_live(&self) -> bool;
}

/// A changed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a cache can hold nothing else"
)]
pub enum Changed {
    /// A key.
    Key(KeyId),
    /// An account, which affects each of its keys.
    Account(AccountId),
    /// Possibly anything.
    Everything,
}

/// Result of one poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// Changes since the last poll. The same may come twice, and in any order, because applying it
    /// is idempotent.
    pub changed: Vec<Changed>,
    /// Whether the whole cache must be read again, because it is the first poll or because the log
    /// does not reach back to the last one.
    pub reset: bool,
    /// Whether this is one page of several. The next call of [`poll`](ChangeFeed::poll) returns the
    /// next page. Nothing may be trusted because of this poll before the last page was applied.
    pub more: bool,
    /// Whether another server of the same cluster has taken over since the last poll that was
    /// applied. It may lack the last changes of the previous one.
    pub took_over: bool,
}

impl Changes {
    /// Returns a reset.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            reset: true,
            ..Self::default()
        }
    }
}

/// Maximum interval of polls.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of changes that one call of [`ChangeFeed::poll`] returns. More come in pages.
pub const CHANGES_MAX: usize = 10_000;

/// Maximum number of changes in the pages of one poll: the default size of the cache. With more,
/// everything is read again instead, which is then cheaper.
pub const CHANGES_PAGED_MAX: usize = 1_000_000;

/// Position in the pages of one poll, for stores that number their changes in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Number of the last change that was returned.
    pub after: u64,
    /// Number of changes that were returned.
    pub count: usize,
}

impl Page {
    /// Returns one page of `new`: the changes after the page `self`, in order, with their numbers,
    /// and one more than [`CHANGES_MAX`] if there are more. Also returns the position of the next
    /// page, if there is one.
    #[must_use]
    pub fn next(previous: Option<Self>, mut new: Vec<(u64, Changed)>) -> (Changes, Option<Self>) {
        let more = new.len() > CHANGES_MAX;
        new.truncate(CHANGES_MAX);
        let count = previous.map_or(0, |page| page.count) + new.len();
        let next = new.last().filter(|_| more).map(|(after, _)| Self {
            after: *after,
            count,
        });
        if next.is_some() && count >= CHANGES_PAGED_MAX {
            return (Changes::everything(), None);
        }
        let changes = Changes {
            changed: new.into_iter().map(|(_, changed)| changed).collect(),
            more,
            ..Changes::default()
        };
        (changes, next)
    }
}
