//! A shared limiter, and what decides while it is unavailable.

use std::error::Error;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use keys_core::Quota;
use tokio::runtime::Handle;

use super::breaker::Breaker;
use super::local::LocalLimiter;
use crate::clock::Clock;
use crate::ports::{Bucket, Decision, LimiterError, LimiterState, RateLimiter};

/// Time that the start waits for the shared limiter.
const START_MAX: Duration = Duration::from_millis(500);

/// Interval of the trials while the shared limiter is unavailable, give or take a quarter, so that
/// many instances do not return at once.
const TRIAL_INTERVAL: Duration = Duration::from_millis(250);

/// A limiter that all instances share, and that may be unavailable.
///
/// [`take`](RateLimiter::take) must end within a short time of the limiter's own, with
/// [`LimiterError::Late`] if need be.
#[async_trait]
pub trait SharedLimiter: RateLimiter {
    /// The name of the limiter, for logs.
    const NAME: &'static str;

    /// Connects again if necessary, and returns whether the limiter decides within the time that
    /// calls have.
    ///
    /// # Errors
    /// Returns an error while it does not.
    async fn probe(&self) -> Result<(), LimiterError>;
}

/// Behavior while the shared limiter is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: there is no third way to decide"
)]
pub enum OnUnavailable {
    /// Each instance counts by itself, and so grants the whole quota.
    #[default]
    Local,
    /// Requests that count against a limit fail.
    Deny,
}

/// Counts by a [`SharedLimiter`] while that is available.
///
/// After three failed calls in a row no call waits for it. Until a trial, four times a second,
/// succeeds, each instance decides by a [`LocalLimiter`] of its own, or refuses to decide
/// ([`OnUnavailable`]). The local limiter starts from the last known state of each bucket. The
/// begin and the end are logged, and [`state`](RateLimiter::state) returns the current state.
pub struct FallbackLimiter<S> {
    inner: Arc<Inner<S>>,
}

impl<S: SharedLimiter> FallbackLimiter<S> {
    /// Starts to count by `shared`. Waits at most half a second for it: if it is unavailable, the
    /// limiter starts like one that lost it later. Without it, an instance counts by `clock`.
    ///
    /// `shared` is called on the runtime that this is called on, whichever runtime the limiter is
    /// used on. It should have several threads, and must last as long as the limiter.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub async fn start(shared: S, on_unavailable: OnUnavailable, clock: Arc<dyn Clock>) -> Self {
        let inner = Arc::new(Inner {
            shared,
            on_unavailable,
            breaker: Breaker::open(),
            local: LocalLimiter::new(clock),
            undecided: AtomicU64::new(0),
            runtime: Handle::current(),
        });
        match tokio::time::timeout(START_MAX, inner.shared.probe()).await {
            Ok(Ok(())) => inner.back(),
            Ok(Err(error)) => inner.away(&error),
            Err(elapsed) => inner.away(&LimiterError::Late(elapsed.into())),
        }
        Self { inner }
    }

    async fn ask(
        &self,
        bucket: &Bucket,
        quota: Quota,
        cost: NonZeroU32,
    ) -> Result<Decision, LimiterError> {
        if self.inner.breaker.is_open() {
            return Err(LimiterError::Unavailable(Away(S::NAME).into()));
        }
        let (inner, bucket) = (Arc::clone(&self.inner), bucket.clone());
        // Requests are answered on runtimes that end with their worker, and a connection that was
        // opened on one would end with it. On this runtime the outcome counts even if the caller
        // is gone.
        let asked = self.inner.runtime.spawn(async move {
            let decided = inner.shared.take(&bucket, quota, cost).await;
            match &decided {
                Ok(_) => inner.breaker.succeeded(),
                Err(error) => {
                    if inner.breaker.failed() {
                        inner.away(error);
                    }
                }
            }
            decided
        });
        asked
            .await
            .unwrap_or_else(|error| Err(LimiterError::Unavailable(error.into())))
    }
}

/// Error of calls that are not made.
#[derive(Debug, thiserror::Error)]
#[error("{0} has stopped answering")]
struct Away(&'static str);

#[async_trait]
impl<S: SharedLimiter> RateLimiter for FallbackLimiter<S> {
    async fn take(
        &self,
        bucket: &Bucket,
        quota: Quota,
        cost: NonZeroU32,
    ) -> Result<Decision, LimiterError> {
        let inner = &*self.inner;
        let error = match self.ask(bucket, quota, cost).await {
            Ok(decision) => {
                if inner.on_unavailable == OnUnavailable::Local {
                    // Otherwise every late answer, and the loss of the shared limiter, would give
                    // the whole quota once more.
                    inner.local.take_over(bucket, quota, decision.reset);
                }
                return Ok(decision);
            }
            Err(error) => error,
        };
        inner.undecided.fetch_add(1, Relaxed);
        tracing::debug!(error = cause(&error), "{} has not decided", S::NAME);
        match (inner.on_unavailable, error) {
            (OnUnavailable::Deny, error) => Err(error),
            // It was available just now, and other instances may use it: what they have taken is
            // not known here.
            (OnUnavailable::Local, LimiterError::Late(_)) => {
                Ok(inner.local.take_sparingly(bucket, quota, cost))
            }
            (OnUnavailable::Local, _) => inner.local.take(bucket, quota, cost).await,
        }
    }

    /// Returns the state that the shared limiter knows, or that of this instance while it is
    /// unavailable.
    async fn peek(&self, bucket: &Bucket, quota: Quota) -> Result<Option<Decision>, LimiterError> {
        if !self.inner.breaker.is_open() {
            let (inner, wanted) = (Arc::clone(&self.inner), bucket.clone());
            let asked = self
                .inner
                .runtime
                .spawn(async move { inner.shared.peek(&wanted, quota).await });
            // A look decides nothing, so a failed one does not count as a failure of the limiter.
            if let Ok(Ok(state)) = asked.await {
                return Ok(state);
            }
        }
        match self.inner.on_unavailable {
            OnUnavailable::Local => self.inner.local.peek(bucket, quota).await,
            OnUnavailable::Deny => Ok(None),
        }
    }

    /// Gives back what this instance has counted by itself. A shared limiter keeps what it took.
    async fn give_back(&self, bucket: &Bucket, quota: Quota, cost: NonZeroU32) {
        if self.inner.breaker.is_open() {
            self.inner.local.give_back(bucket, quota, cost).await;
        }
    }

    fn sweep(&self) {
        self.inner.local.sweep();
    }

    fn state(&self) -> LimiterState {
        let inner = &*self.inner;
        match inner.on_unavailable {
            _ if !inner.breaker.is_open() => LimiterState::Shared,
            OnUnavailable::Local => LimiterState::Local,
            OnUnavailable::Deny => LimiterState::Denying,
        }
    }

    /// Returns the number of calls that the shared limiter has not decided.
    fn undecided_total(&self) -> u64 {
        self.inner.undecided.load(Relaxed)
    }
}

impl<S: SharedLimiter> fmt::Debug for FallbackLimiter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FallbackLimiter")
            .field(&self.state())
            .finish()
    }
}

struct Inner<S> {
    shared: S,
    on_unavailable: OnUnavailable,
    breaker: Breaker,
    local: LocalLimiter,
    undecided: AtomicU64,
    runtime: Handle,
}

impl<S: SharedLimiter> Inner<S> {
    fn away(self: &Arc<Self>, error: &LimiterError) {
        let (name, error) = (S::NAME, cause(error));
        let meanwhile = match self.on_unavailable {
            OnUnavailable::Local => "this instance counts limits by itself",
            OnUnavailable::Deny => "whatever has a limit is refused",
        };
        tracing::warn!(error, "{name} is away: until it is back {meanwhile}");
        let weak = Arc::downgrade(self);
        self.runtime.spawn(until_back(weak));
    }

    fn back(&self) {
        self.breaker.close();
        tracing::info!(
            "limits are counted in {}, for all instances together",
            S::NAME
        );
    }
}

/// Tries at intervals, so that no caller has to, until the shared limiter is back or the limiter is
/// dropped.
async fn until_back<S: SharedLimiter>(limiter: Weak<Inner<S>>) {
    loop {
        tokio::time::sleep(jittered(TRIAL_INTERVAL)).await;
        let Some(inner) = limiter.upgrade() else {
            return;
        };
        if inner.shared.probe().await.is_ok() {
            inner.back();
            return;
        }
    }
}

/// Give or take a quarter.
fn jittered(interval: Duration) -> Duration {
    // Without randomness there is no jitter, and nothing worse.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    interval.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

/// The reason for an error, which itself says only that the limiter is not available.
fn cause(error: &LimiterError) -> &(dyn Error + 'static) {
    error.source().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::ports::Subject;
    use parking_lot::Mutex;
    use std::time::Instant;

    /// A limiter that decides, or fails as the test says.
    #[derive(Clone, Default)]
    struct Scripted(Arc<Mutex<Script>>);

    #[derive(Default)]
    struct Script {
        fails: Option<fn() -> LimiterError>,
        calls: usize,
    }

    impl Scripted {
        fn fails_with(&self, fails: Option<fn() -> LimiterError>) {
            self.0.lock().fails = fails;
        }

        fn calls(&self) -> usize {
            self.0.lock().calls
        }
    }

    #[async_trait]
    impl RateLimiter for Scripted {
        async fn take(
            &self,
            bucket: &Bucket,
            quota: Quota,
            _: NonZeroU32,
        ) -> Result<Decision, LimiterError> {
            self.0.lock().calls += 1;
            self.probe().await?;
            Ok(Decision {
                limit: bucket.limit.clone(),
                quota,
                allowed: true,
                remaining: 0,
                // All of it is taken.
                reset: Duration::from_mins(1),
                retry_after: Duration::ZERO,
            })
        }
    }

    #[async_trait]
    impl SharedLimiter for Scripted {
        const NAME: &'static str = "the script";

        async fn probe(&self) -> Result<(), LimiterError> {
            self.0.lock().fails.map_or(Ok(()), |fails| Err(fails()))
        }
    }

    fn away() -> LimiterError {
        LimiterError::Unavailable("the test says so".into())
    }

    fn late() -> LimiterError {
        LimiterError::Late("the test says so".into())
    }

    async fn start(on_unavailable: OnUnavailable) -> (Scripted, FallbackLimiter<Scripted>) {
        let shared = Scripted::default();
        let limiter =
            FallbackLimiter::start(shared.clone(), on_unavailable, Arc::new(SystemClock)).await;
        assert_eq!(limiter.state(), LimiterState::Shared);
        (shared, limiter)
    }

    async fn take(
        limiter: &FallbackLimiter<Scripted>,
        address: u8,
    ) -> Result<Decision, LimiterError> {
        let bucket = Bucket {
            subject: Subject::of_address(Some([10, 0, 0, address].into())),
            limit: "list".parse().unwrap(),
        };
        let quota = Quota::per_minute(10).unwrap();
        let taken = limiter.take(&bucket, quota, NonZeroU32::MIN);
        taken.await
    }

    async fn until_shared(limiter: &FallbackLimiter<Scripted>) {
        let start = Instant::now();
        while limiter.state() != LimiterState::Shared {
            assert!(start.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn three_failures_in_a_row_end_the_calls_until_a_trial_succeeds() {
        let (shared, limiter) = start(OnUnavailable::Local).await;
        shared.fails_with(Some(away));
        for calls in [1, 2, 3, 3, 3] {
            // The instance counts by itself.
            assert!(take(&limiter, 1).await.unwrap().allowed);
            assert_eq!(shared.calls(), calls);
        }
        assert_eq!(limiter.state(), LimiterState::Local);
        assert_eq!(limiter.undecided_total(), 5);
        shared.fails_with(None);
        until_shared(&limiter).await;
        take(&limiter, 1).await.unwrap();
        assert_eq!(shared.calls(), 4);
        assert_eq!(limiter.undecided_total(), 5);
    }

    #[tokio::test]
    async fn bucket_that_was_empty_is_empty_without_the_shared_limiter() {
        let (shared, limiter) = start(OnUnavailable::Local).await;
        assert!(take(&limiter, 1).await.unwrap().allowed);
        shared.fails_with(Some(away));
        assert!(!take(&limiter, 1).await.unwrap().allowed);
        assert!(take(&limiter, 2).await.unwrap().allowed);
    }

    #[tokio::test]
    async fn late_answer_leaves_a_tenth_of_a_bucket_to_other_instances() {
        let (shared, limiter) = start(OnUnavailable::Local).await;
        for (fails, expected) in [(late as fn() -> _, 9), (away, 10)] {
            let mut allowed = 0;
            for _ in 0..10 {
                // A success in between, so that it is tried each time.
                shared.fails_with(None);
                take(&limiter, 100).await.unwrap();
                shared.fails_with(Some(fails));
                allowed += u32::from(take(&limiter, expected).await.unwrap().allowed);
            }
            assert_eq!(allowed, u32::from(expected));
        }
    }

    #[tokio::test]
    async fn nothing_is_decided_without_the_shared_limiter_if_that_is_wanted() {
        let (shared, limiter) = start(OnUnavailable::Deny).await;
        shared.fails_with(Some(away));
        for _ in 0..5 {
            let error = take(&limiter, 1).await.unwrap_err();
            assert_eq!(error.to_string(), "the rate limiter is not available");
        }
        assert_eq!(shared.calls(), 3);
        assert_eq!(limiter.state(), LimiterState::Denying);
        shared.fails_with(None);
        until_shared(&limiter).await;
        assert!(take(&limiter, 1).await.unwrap().allowed);
    }

    #[test]
    fn jitter_is_a_quarter_at_most() {
        for _ in 0..1_000 {
            let interval = jittered(Duration::from_millis(100));
            assert!(interval >= Duration::from_millis(75), "{interval:?}");
            assert!(interval <= Duration::from_millis(125), "{interval:?}");
        }
    }
}
