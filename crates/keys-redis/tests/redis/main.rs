//! The shared limiter on a real Redis, and without one.
#![expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]

mod away;
mod counting;
mod tls;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use keys_core::{KeyId, Quota};
use keys_redis::{OnUnavailable, RedisLimiter, RedisLimiterBuilder};
use keys_service::{Bucket, Decision, LimiterError, LimiterState, RateLimiter as _, Subject};
use keys_testkit::redis::Redis;

const ONE: NonZeroU32 = NonZeroU32::MIN;

fn quota(requests: u32, period_seconds: u32) -> Quota {
    Quota {
        requests: requests.try_into().unwrap(),
        period_seconds: period_seconds.try_into().unwrap(),
    }
}

fn bucket(limit: &str) -> Bucket {
    let id: KeyId = "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap();
    Bucket {
        subject: Subject::Key(id),
        limit: limit.parse().unwrap(),
    }
}

fn limiter_on(redis: &Redis) -> RedisLimiterBuilder {
    RedisLimiter::builder(redis.url().parse().unwrap())
}

/// Returns a limiter that waits for a busy machine, for tests of counting and not of speed.
async fn patient(redis: &Redis) -> RedisLimiter {
    let limiter = limiter_on(redis)
        .budget(Duration::from_secs(10))
        .on_unavailable(OnUnavailable::Deny)
        .connect()
        .await;
    until(&limiter, LimiterState::Shared).await;
    limiter
}

/// Waits until the limiter is in that state.
async fn until(limiter: &RedisLimiter, state: LimiterState) {
    const AT_MOST: Duration = Duration::from_secs(20);
    let start = Instant::now();
    while limiter.state() != state {
        assert!(start.elapsed() < AT_MOST, "it stays {:?}", limiter.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn take(limiter: &RedisLimiter, limit: &str, quota: Quota) -> Result<Decision, LimiterError> {
    limiter.take(&bucket(limit), quota, ONE).await
}

/// Takes until the limiter has detected that Redis is unavailable, and returns how long each call
/// took.
async fn take_until(limiter: &RedisLimiter, state: LimiterState) -> Vec<Duration> {
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
