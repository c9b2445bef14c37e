//! Helpers by which tests follow a store.

use std::collections::HashSet;
use std::time::Duration;

use keys_service::ports::{ChangeFeed, Changed, Commit, KeyStore, SILENCE_MAX};
use tokio::time::{Instant, sleep, timeout};

/// Returns a feed whose instance has applied all changes up to now.
pub async fn followed(store: &dyn KeyStore) -> Box<dyn ChangeFeed> {
    let mut feed = store.feed();
    let changes = feed.poll().await.expect("the store answers");
    assert!(changes.reset, "nothing is known before the first poll");
    feed.applied().await;
    feed
}

/// Returns the new changes of the feed, and applies them at once.
pub async fn news(feed: &mut dyn ChangeFeed) -> HashSet<Changed> {
    let changes = feed.poll().await.expect("the store answers");
    assert!(!changes.reset, "the log reaches back to the last poll");
    feed.applied().await;
    changes.changed.into_iter().collect()
}

/// Returns the time until the feed has `change`, for an instance that polls whenever it is woken.
pub async fn time_until(feed: &mut dyn ChangeFeed, change: Changed) -> Duration {
    let begin = Instant::now();
    loop {
        feed.wait().await;
        if news(feed).await.contains(&change) {
            return begin.elapsed();
        }
    }
}

/// Returns whether every instance has seen `commit`, now or after reports in transit have arrived.
pub async fn is_seen_soon(
    store: &dyn KeyStore,
    commit: Commit,
    feeds: &mut [&mut Box<dyn ChangeFeed>],
) -> bool {
    for _ in 0..10 {
        if store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
        {
            return true;
        }
        for feed in &mut *feeds {
            // Delayed reports are sent while waiting.
            let _ = timeout(Duration::from_millis(20), feed.wait()).await;
        }
        sleep(Duration::from_millis(10)).await;
    }
    false
}
