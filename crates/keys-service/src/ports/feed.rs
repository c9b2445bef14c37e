//! The port through which an instance learns what was changed, by itself, by others and by hand.

use std::time::Duration;

use async_trait::async_trait;
use keys_core::{AccountId, KeyId};

use super::errors::StoreError;

/// The changes of a store as one instance follows them.
///
/// A store keeps a log of changes, written in the same transaction as each change. An instance that caches records
/// holds a feed of it and loops for ever:
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
/// [`is_seen_everywhere`](super::ChangeLog::is_seen_everywhere) returns `true`. That answer is right only if every
/// instance with a cache keeps to these rules, by a clock that counts suspended time:
///
/// - It accepts nothing from its cache before the first poll was applied.
/// - It accepts nothing from its cache later than [`TRUST_MAX`](super::TRUST_MAX) after the beginning of the last
///   poll that was applied, however recently it read the record. Direct reads alone could otherwise keep a cache
///   alive that no other instance knows of or waits for. Reading the record for each request remains possible
///   without end.
#[async_trait]
pub trait ChangeFeed: Send + 'static {
    /// Resolves when something may have changed, and [`POLL_INTERVAL`] after the last poll at the latest; at once
    /// while the feed is down. Cancel-safe.
    async fn wait(&mut self);

    /// Reads what has changed since the last poll that was [`applied`](Self::applied).
    ///
    /// Connects, or connects again, as needed, and then pauses between attempts by itself. Bounded in time: about
    /// three seconds while the store is away, half a second otherwise. May be dropped at any moment; what was not
    /// applied comes again.
    ///
    /// # Errors
    /// When the feed is down. Call again.
    async fn poll(&mut self) -> Result<Changes, StoreError>;

    /// Says that what the last poll found has been applied to the cache. Only now do polls go on from there, and may
    /// others be told: an instance that reported earlier would let them claim what is not yet so.
    ///
    /// The report goes out with this call or, if the last one was a moment ago, with the next [`wait`](Self::wait).
    /// It may be lost, which costs those who wait for it their time.
    async fn applied(&mut self);

    /// Whether the store has replicas and acknowledges changes before any of them has them.
    fn is_replicated_asynchronously(&self) -> bool {
        false
    }

    /// Whether changes are followed: connected, and the last poll succeeded.
    fn is_live(&self) -> bool;
}

/// What was changed.
///
/// The list is complete: these are all that a cache can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Changed {
    /// One key.
    Key(KeyId),
    /// One account: of each of its keys the account's share.
    Account(AccountId),
    /// Possibly anything.
    Everything,
}

/// What one poll found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What was changed since. The same may come twice, and in any order: applying it is idempotent.
    pub changed: Vec<Changed>,
    /// Whether everything is to be forgotten, because it is the first poll or because the log does not reach back to
    /// the last one.
    pub reset: bool,
    /// Whether this is one page of several. The next call of [`poll`](ChangeFeed::poll) returns the next page. Nothing
    /// may be trusted because of this poll before the last page was applied.
    pub more: bool,
    /// Whether another server of the same cluster has taken over since the last poll that was applied. It may lack the last
    /// changes of the one before.
    pub took_over: bool,
}

impl Changes {
    /// A reset.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            reset: true,
            ..Self::default()
        }
    }
}

/// How long after the last poll at the latest the next one is due.
pub const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How many changes one call of [`ChangeFeed::poll`] hands over at most; more come in pages.
pub const CHANGES_MAX: usize = 10_000;

/// How many changes the pages of one poll hand over at most: as many as the cache holds keys by default. With more, everything
/// is read anew instead, which is then cheaper.
pub const CHANGES_PAGED_MAX: usize = 1_000_000;

/// Where the pages of one poll have come to, for stores that number their changes in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The number of the last change that was handed over.
    pub after: u64,
    /// How many were handed over.
    pub count: usize,
}

impl Page {
    /// Makes one page of `new`: the changes after the page `self`, in order, with their numbers, and one more than
    /// [`CHANGES_MAX`] if there are more. Returns the place of the next page, if there is one.
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
