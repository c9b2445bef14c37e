//! Following the log of changes: code that both databases share.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use keys_core::{AccountId, KeyId};
use keys_service::ports::{CHANGES_MAX, Changed, StoreError};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::error::ConnectError;

/// Number of rows that a poll reads. One more than it returns shows that there are more.
pub(crate) const ROWS_MAX: usize = CHANGES_MAX + 1;

/// Time limit for a feed to connect. Together with the next poll, a reconnection stays below the
/// time for which cached records are trusted.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Time limit of a poll in the client, because a connection whose other end vanished never answers.
pub(crate) const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// Shortest and longest pause between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Converts `kind` and `ref` of a row.
pub(crate) fn changed(kind: i64, reference: Option<Uuid>) -> Changed {
    match (kind, reference) {
        (1, Some(id)) => Changed::Key(KeyId::from_uuid(id)),
        (2, Some(id)) => Changed::Account(AccountId::from_uuid(id)),
        // Includes entries of a newer program, because forgetting too much is never wrong.
        _ => Changed::Everything,
    }
}

/// Schedule of attempts to connect.
pub(crate) struct Retry {
    failures: u32,
    at: Instant,
}

impl Retry {
    pub(crate) fn new() -> Self {
        Self {
            failures: 0,
            at: Instant::now(),
        }
    }

    pub(crate) async fn pause(&self) {
        tokio::time::sleep_until(self.at).await;
    }

    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn failed(&mut self) {
        self.at = Instant::now() + pause_after(self.failures);
        self.failures = self.failures.saturating_add(1);
    }
}

/// Returns the pause before the next attempt. The second half is random, so that instances that
/// lost the same database do not return at the same time.
fn pause_after(failures: u32) -> Duration {
    let (shortest, longest) = PAUSES;
    let pause = shortest.saturating_mul(1 << failures.min(8)).min(longest);
    // The seeds of hash maps are random enough.
    let dice = u32::try_from(RandomState::new().hash_one(failures) % 1_000).unwrap_or(0);
    pause / 2 + pause / 2 * dice / 1_000
}

/// Returns the error of a feed that could not be read.
pub(crate) fn unavailable(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// Returns the error of a feed without a connection.
pub(crate) fn not_connected() -> StoreError {
    unavailable("not connected")
}

/// Does a part of a poll within its time limit.
pub(crate) async fn in_time<T>(
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(POLL_TIMEOUT, work).await.map_err(unavailable)?
}

/// Connects on the runtime of the store, whichever runtime calls, within the time limit for that.
pub(crate) async fn connect<T: Send + 'static>(
    runtime: &Handle,
    opening: impl Future<Output = Result<T, ConnectError>> + Send + 'static,
) -> Result<T, StoreError> {
    let opening = runtime.spawn(timeout(CONNECT_TIMEOUT, opening));
    opening
        .await
        .map_err(unavailable)?
        .map_err(unavailable)?
        .map_err(StoreError::Unavailable)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn pauses_grow_to_a_second_and_start_again_after_a_success() {
        let mut retry = Retry::new();
        let pause = |retry: &mut Retry| {
            retry.failed();
            retry.at.saturating_duration_since(Instant::now())
        };
        assert!(pause(&mut retry) <= Duration::from_millis(50));
        for _ in 0..40 {
            assert!(pause(&mut retry) <= Duration::from_secs(1));
        }
        assert!(pause(&mut retry) >= Duration::from_millis(490));
        retry.succeeded();
        assert!(pause(&mut retry) <= Duration::from_millis(50));
    }

    #[test]
    fn instances_that_lost_the_same_database_do_not_come_back_in_step() {
        const INSTANCES: usize = 50;
        for failures in 0..10 {
            let pauses = (0..INSTANCES).map(|_| pause_after(failures));
            let pauses: BTreeSet<Duration> = pauses.collect();
            // There are a thousand values, so a few may collide.
            assert!(pauses.len() > INSTANCES * 3 / 4, "{pauses:?}");
            let (first, last) = (pauses.first(), pauses.last());
            let spread = last.zip(first).map(|(last, first)| last.abs_diff(*first));
            let all = PAUSES.0.saturating_mul(1 << failures).min(PAUSES.1) / 2;
            assert!(spread > Some(all / 2) && spread <= Some(all), "{pauses:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_everything() {
        let id = Uuid::from_u128(7);
        assert_eq!(changed(1, Some(id)), Changed::Key(KeyId::from_uuid(id)));
        assert_eq!(changed(1, None), Changed::Everything);
        assert_eq!(changed(9, Some(id)), Changed::Everything);
    }
}
