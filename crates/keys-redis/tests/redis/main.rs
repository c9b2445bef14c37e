//! The shared limiter on a real Redis, and without one.
#![expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]

mod away;
mod counting;
mod tls;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keys_core::{KeyId, Quota};
use keys_redis::{KeyPrefix, RedisLimiter, RedisLimiterBuilder, RedisUrl};
use keys_service::ports::{
    Bucket, Decision, LimiterError, LimiterState, RateLimiter as _, Subject,
};
use keys_service::{FallbackLimiter, OnUnavailable, SystemClock};
use keys_testkit::redis::Redis;

const ONE: NonZeroU32 = NonZeroU32::MIN;

fn quota(requests: u32, period_seconds: u32) -> Quota {
    Quota::new(requests, period_seconds).unwrap()
}

fn bucket(limit: &str) -> Bucket {
    let id: KeyId = "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap();
    Bucket {
        subject: Subject::Key(id),
        limit: limit.parse().unwrap(),
    }
}

type Limiter = FallbackLimiter<RedisLimiter>;

/// Builds a limiter on Redis, and the fallback around it.
struct Builder {
    redis: RedisLimiterBuilder,
    on_unavailable: OnUnavailable,
}

impl Builder {
    fn new(url: &str) -> Self {
        let url: RedisUrl = url.parse().unwrap();
        Self {
            redis: RedisLimiter::builder(url),
            on_unavailable: OnUnavailable::Local,
        }
    }

    fn budget(mut self, budget: Duration) -> Self {
        self.redis = self.redis.budget(budget);
        self
    }

    fn key_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.redis = self.redis.key_prefix(prefix);
        self
    }

    fn on_unavailable(mut self, on_unavailable: OnUnavailable) -> Self {
        self.on_unavailable = on_unavailable;
        self
    }

    async fn connect(self) -> Limiter {
        let clock = Arc::new(SystemClock);
        FallbackLimiter::start(self.redis.build(), self.on_unavailable, clock).await
    }
}

fn limiter_on(redis: &Redis) -> Builder {
    Builder::new(&redis.url())
}

/// Returns a limiter that waits for a busy machine, for tests of counting and not of speed.
async fn patient(redis: &Redis) -> Limiter {
    let limiter = limiter_on(redis)
        .budget(Duration::from_secs(10))
        .on_unavailable(OnUnavailable::Deny)
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    limiter
}

/// Waits until the limiter is in that state.
async fn until(limiter: &Limiter, state: LimiterState) {
    const AT_MOST: Duration = Duration::from_secs(20);
    let start = Instant::now();
    while limiter.state() != state {
        assert!(start.elapsed() < AT_MOST, "it stays {:?}", limiter.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn take(limiter: &Limiter, limit: &str, quota: Quota) -> Result<Decision, LimiterError> {
    limiter.take(&bucket(limit), quota, ONE).await
}

/// Takes until the limiter has detected that Redis is unavailable, and returns how long each call
/// took.
async fn take_until(limiter: &Limiter, state: LimiterState) -> Vec<Duration> {
    const CALLS_MAX: usize = 1_000;
    let mut times = Vec::new();
    while limiter.state() != state {
        assert!(times.len() < CALLS_MAX, "it stays {:?}", limiter.state());
        let start = Instant::now();
        let _ = take(limiter, "any", quota(1_000_000, 1)).await;
        times.push(start.elapsed());
    }
    times
}
