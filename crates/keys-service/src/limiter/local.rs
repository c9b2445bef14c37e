//! The rate limiter inside this process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use governor::clock::{Clock as _, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use keys_core::Quota;
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::clock::Clock;
use crate::ports::{Bucket, Decision, LimiterError, RateLimiter, Subject};

/// Counts inside this process, by the generic cell rate algorithm (ITU-T I.371) of the `governor`
/// crate.
pub struct LocalLimiter {
    clock: Arc<dyn Clock>,
    /// Addresses are separate, because a client may have many of them: a flood of addresses does
    /// not affect accounts.
    by_quota: RwLock<HashMap<(Quota, bool), Arc<Counters>>>,
}

impl LocalLimiter {
    /// Creates an empty limiter.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            by_quota: RwLock::default(),
        }
    }

    /// Takes over the decision of another limiter: that the bucket will be full again after
    /// `reset`. For a limiter that this one stands in for, so that its outage does not fill any
    /// bucket.
    pub fn take_over(&self, bucket: &Bucket, quota: Quota, reset: Duration) {
        self.counters(bucket, quota).take_over(bucket, reset);
    }

    /// Takes from the bucket only if it is full, or keeps a tenth and at least one. For a limiter
    /// that this one stands in for and that is only late: other instances may have taken more since
    /// the last update. A bucket that is not known here counts as full.
    pub fn take_sparingly(&self, bucket: &Bucket, quota: Quota, cost: NonZeroU32) -> Decision {
        self.counters(bucket, quota)
            .take_sparingly(bucket, quota, cost)
    }

    fn counters(&self, bucket: &Bucket, quota: Quota) -> Arc<Counters> {
        let key = (quota, matches!(bucket.subject, Subject::Address(_)));
        if let Some(counters) = self.by_quota.read().get(&key) {
            return Arc::clone(counters);
        }
        let mut by_quota = self.by_quota.write();
        let counters = by_quota
            .entry(key)
            .or_insert_with(|| Arc::new(Counters::new(quota, Arc::clone(&self.clock))));
        Arc::clone(counters)
    }
}

#[async_trait]
impl RateLimiter for LocalLimiter {
    async fn take(
        &self,
        bucket: &Bucket,
        quota: Quota,
        cost: NonZeroU32,
    ) -> Result<Decision, LimiterError> {
        Ok(self.counters(bucket, quota).take(bucket, quota, cost))
    }

    async fn peek(&self, bucket: &Bucket, quota: Quota) -> Result<Option<Decision>, LimiterError> {
        Ok(Some(self.counters(bucket, quota).peek(bucket, quota)))
    }

    async fn give_back(&self, bucket: &Bucket, quota: Quota, cost: NonZeroU32) {
        let time = quota.interval().saturating_mul(cost.get());
        let counters = self.counters(bucket, quota);
        counters.buckets.give_back(bucket, time.into());
    }

    fn sweep(&self) {
        let all: Vec<_> = self.by_quota.read().values().cloned().collect();
        for counters in all {
            counters.buckets.sweep(counters.clock.now());
        }
    }
}

/// The buckets of one quota. Governor has no quota per key, so there is one of these for each
/// distinct quota.
struct Counters {
    clock: SinceStart,
    buckets: Buckets,
    limiter: governor::RateLimiter<Bucket, Buckets, SinceStart, NoOpMiddleware<Nanos>>,
}

impl Counters {
    fn new(quota: Quota, clock: Arc<dyn Clock>) -> Self {
        let rate = governor::Quota::with_period(quota.interval())
            .expect("an interval is at least a nanosecond")
            .allow_burst(quota.requests);
        let clock = SinceStart {
            start: clock.elapsed(),
            clock,
        };
        let buckets = Buckets::default();
        Self {
            limiter: governor::RateLimiter::new(rate, buckets.clone(), clock.clone()),
            buckets,
            clock,
        }
    }

    fn take_over(&self, bucket: &Bucket, reset: Duration) {
        let now = self.clock.now();
        let bucket = self.buckets.bounded(bucket, now);
        let full_at = now + Nanos::from(reset);
        let mut shard = self.buckets.shard(&bucket);
        shard.full_at.insert(bucket, full_at);
    }

    fn take(&self, bucket: &Bucket, quota: Quota, cost: NonZeroU32) -> Decision {
        let bucket = self.buckets.bounded(bucket, self.clock.now());
        // A cost above the quota is not passed on, because it would overflow.
        let asked = (cost <= quota.requests).then(|| self.limiter.check_key_n(&bucket, cost));
        let (allowed, retry_after) = match asked {
            Some(Ok(Ok(()))) => (true, Duration::ZERO),
            Some(Ok(Err(not_until))) => (false, not_until.wait_time_from(self.clock.now())),
            Some(Err(_)) | None => (
                false,
                Duration::from_secs(quota.period_seconds.get().into()),
            ),
        };
        let reset = self.buckets.until_full(&bucket, self.clock.now());
        Decision {
            limit: bucket.limit,
            quota,
            allowed,
            remaining: remaining(quota, reset),
            reset,
            retry_after,
        }
    }

    fn peek(&self, bucket: &Bucket, quota: Quota) -> Decision {
        let reset = self.buckets.until_full(bucket, self.clock.now());
        Decision {
            remaining: remaining(quota, reset),
            reset,
            ..Decision::allowed(bucket.limit.clone(), quota)
        }
    }

    fn take_sparingly(&self, bucket: &Bucket, quota: Quota, cost: NonZeroU32) -> Decision {
        let bucket = self.buckets.bounded(bucket, self.clock.now());
        if self.buckets.until_full(&bucket, self.clock.now()).is_zero() {
            return self.take(&bucket, quota, cost);
        }
        // All of it is taken, and the rest is given back, so that concurrent requests are refused
        // rather than accepted.
        let reserve = (quota.requests.get() / 10).max(1);
        let decision = self.take(&bucket, quota, cost.saturating_add(reserve));
        if !decision.allowed {
            return decision;
        }
        let given_back = quota.interval().saturating_mul(reserve);
        let reset = decision.reset.saturating_sub(given_back);
        self.buckets.give_back(&bucket, given_back.into());
        Decision {
            remaining: remaining(quota, reset),
            reset,
            ..decision
        }
    }
}

/// Returns the rest of a bucket that will be full after `reset`.
fn remaining(quota: Quota, reset: Duration) -> u32 {
    let used = reset.as_nanos().div_ceil(quota.interval().as_nanos());
    let used = u32::try_from(used).unwrap_or(u32::MAX);
    quota.requests.get().saturating_sub(used)
}

/// Times at which the buckets will be full again, in shards with a lock each.
///
/// Governor's own stores do not return that time, which the headers of every limited response
/// contain.
#[derive(Clone, Default)]
struct Buckets {
    shards: Arc<[Mutex<Shard>; Self::SHARDS]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    full_at: HashMap<Bucket, Nanos>,
    swept_at: Nanos,
}

impl Shard {
    fn sweep(&mut self, now: Nanos) {
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.shrink_to_fit();
        self.swept_at = now;
    }
}

impl Buckets {
    /// Enough that a few dozen threads rarely contend for one lock.
    const SHARDS: usize = 32;

    /// Buckets in a shard before clients at new addresses share one: the capacity of a table of
    /// 8,192 slots. With about 90 bytes each, all 229,376 stay near 20 MB.
    const SHARD_LEN_MAX: usize = 7_168;

    /// Buckets in a shard from which on full ones are removed before the next general sweep.
    const SHARD_LEN_USUAL: usize = 256;

    /// Interval of sweeps of a shard. Each examines every bucket, so it must not run for every new
    /// address.
    const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

    fn shard(&self, bucket: &Bucket) -> MutexGuard<'_, Shard> {
        // Truncation is fine, because only the low bits choose the shard.
        #[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
        let hash = self.hasher.hash_one(bucket) as usize;
        self.shards[hash % Self::SHARDS].lock()
    }

    /// Keeps clients from filling the memory with buckets, one for each of their addresses.
    fn bounded(&self, bucket: &Bucket, now: Nanos) -> Bucket {
        let mut bucket = bucket.clone();
        if matches!(bucket.subject, Subject::Address(Some(_))) {
            let mut shard = self.shard(&bucket);
            if shard.full_at.len() >= Self::SHARD_LEN_USUAL && !shard.full_at.contains_key(&bucket)
            {
                if now >= shard.swept_at + Nanos::from(Self::SWEEP_INTERVAL) {
                    shard.sweep(now);
                }
                if shard.full_at.len() >= Self::SHARD_LEN_MAX {
                    bucket.subject = Subject::Address(None);
                }
            }
        }
        bucket
    }

    fn until_full(&self, bucket: &Bucket, now: Nanos) -> Duration {
        self.shard(bucket)
            .full_at
            .get(bucket)
            .map_or(Duration::ZERO, |full_at| full_at.saturating_sub(now).into())
    }

    /// Makes the bucket full that much earlier.
    fn give_back(&self, bucket: &Bucket, time: Nanos) {
        if let Some(full_at) = self.shard(bucket).full_at.get_mut(bucket) {
            *full_at = full_at.saturating_sub(time);
        }
    }

    fn sweep(&self, now: Nanos) {
        for shard in self.shards.iter() {
            shard.lock().sweep(now);
        }
    }
}

impl StateStore for Buckets {
    type Key = Bucket;

    fn measure_and_replace<T, F, E>(&self, bucket: &Bucket, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(bucket);
        let (outcome, full_at) = decide(shard.full_at.get(bucket).copied())?;
        shard.full_at.insert(bucket.clone(), full_at);
        Ok(outcome)
    }
}

/// Our clock as governor reads it: from the start of the limiter, which governor takes for zero.
#[derive(Clone)]
struct SinceStart {
    clock: Arc<dyn Clock>,
    start: Duration,
}

impl governor::clock::Clock for SinceStart {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.clock.elapsed().saturating_sub(self.start).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_core::Timestamp;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Manual(AtomicU64);

    impl Clock for Manual {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_micros(0)
        }

        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn bucket(address: [u8; 4]) -> Bucket {
        Bucket {
            subject: Subject::of_address(Some(address.into())),
            limit: "create".parse().unwrap(),
        }
    }

    fn ten_a_minute() -> Quota {
        Quota::per_minute(10).unwrap()
    }

    #[tokio::test]
    async fn the_eleventh_of_ten_a_minute_is_refused_until_six_seconds_later() {
        let clock = Arc::new(Manual::default());
        let limiter = LocalLimiter::new(clock.clone());
        let take = || async {
            limiter
                .take(&bucket([10, 0, 0, 1]), ten_a_minute(), ONE)
                .await
                .unwrap()
        };
        for taken in 1..=10 {
            let decision = take().await;
            assert!(decision.allowed);
            assert_eq!(decision.remaining, 10 - taken);
            assert_eq!(decision.reset, Duration::from_secs(6) * taken);
        }
        clock.0.store(1_500, Ordering::Relaxed);
        let refused = take().await;
        assert!(!refused.allowed);
        assert_eq!(refused.remaining, 0);
        assert_eq!(refused.retry_after, Duration::from_millis(4_500));
        assert_eq!(refused.reset, Duration::from_millis(58_500));
        clock.0.store(6_000, Ordering::Relaxed);
        assert!(take().await.allowed);
        assert!(!take().await.allowed);
    }

    #[tokio::test]
    async fn looking_at_a_bucket_takes_nothing() {
        let clock = Arc::new(Manual::default());
        let limiter = LocalLimiter::new(clock.clone());
        let bucket = bucket([10, 0, 0, 1]);
        let peek = async || {
            let peeked = limiter.peek(&bucket, ten_a_minute()).await;
            peeked.unwrap().unwrap()
        };
        assert_eq!(
            (peek().await.remaining, peek().await.reset),
            (10, Duration::ZERO)
        );
        for _ in 0..3 {
            limiter.take(&bucket, ten_a_minute(), ONE).await.unwrap();
        }
        for _ in 0..20 {
            assert_eq!(peek().await.remaining, 7);
        }
        assert_eq!(peek().await.reset, Duration::from_secs(18));
        clock.0.store(6_000, Ordering::Relaxed);
        assert_eq!(peek().await.remaining, 8);
    }

    #[tokio::test]
    async fn taken_from_sparingly_a_bucket_keeps_a_tenth_and_at_least_one() {
        for (requests, allowed) in [(1, 1), (2, 1), (10, 9), (100, 90)] {
            let limiter = LocalLimiter::new(Arc::new(Manual::default()));
            let quota = Quota::per_minute(requests).unwrap();
            let bucket = bucket([10, 0, 0, 1]);
            let mut last = None;
            for _ in 0..allowed {
                let decision = limiter.take_sparingly(&bucket, quota, ONE);
                assert!(decision.allowed, "{decision:?}");
                last = Some((decision.remaining, decision.reset));
            }
            assert_eq!(last, Some((requests - allowed, quota.interval() * allowed)));
            let refused = limiter.take_sparingly(&bucket, quota, ONE);
            assert!(!refused.allowed);
            assert_eq!((refused.remaining, refused.reset), last.unwrap());
            assert!(refused.retry_after > Duration::ZERO);
            // Only the sparing method refuses.
            let decision = limiter.take(&bucket, quota, ONE).await.unwrap();
            assert_eq!(decision.allowed, requests > allowed);
        }
    }

    #[test]
    fn a_full_bucket_is_taken_from_sparingly_whatever_it_costs() {
        let limiter = LocalLimiter::new(Arc::new(Manual::default()));
        let cost = |cost| NonZeroU32::new(cost).unwrap();
        let take = |address, cost| {
            let decision = limiter.take_sparingly(&bucket(address), ten_a_minute(), cost);
            (decision.allowed, decision.remaining)
        };
        assert_eq!(take([10, 0, 0, 1], cost(10)), (true, 0));
        assert_eq!(take([10, 0, 0, 2], cost(11)), (false, 10));
        assert_eq!(take([10, 0, 0, 3], cost(1)), (true, 9));
        assert_eq!(take([10, 0, 0, 3], cost(9)), (false, 9));
        assert_eq!(take([10, 0, 0, 3], cost(8)), (true, 1));
        assert_eq!(take([10, 0, 0, 3], NonZeroU32::MAX), (false, 1));
    }

    #[tokio::test]
    async fn buckets_are_apart_and_ipv6_clients_are_one_per_64() {
        let limiter = LocalLimiter::new(Arc::new(Manual::default()));
        let quota = Quota::per_minute(1).unwrap();
        for address in [[10, 0, 0, 1], [10, 0, 0, 2]] {
            assert!(
                limiter
                    .take(&bucket(address), quota, ONE)
                    .await
                    .unwrap()
                    .allowed
            );
            assert!(
                !limiter
                    .take(&bucket(address), quota, ONE)
                    .await
                    .unwrap()
                    .allowed
            );
        }
        let subject = |text: &str| Subject::of_address(Some(text.parse().unwrap()));
        assert_eq!(subject("2001:db8::1"), subject("2001:db8::ffff:1"));
        assert_ne!(subject("2001:db8::1"), subject("2001:db8:0:1::1"));
        assert_eq!(subject("::ffff:10.0.0.1"), subject("10.0.0.1"));
    }

    #[tokio::test]
    async fn bucket_that_is_taken_over_goes_on_from_there() {
        let clock = Arc::new(Manual::default());
        let limiter = LocalLimiter::new(clock.clone());
        let bucket = bucket([10, 0, 0, 1]);
        let take = || limiter.take(&bucket, ten_a_minute(), ONE);
        clock.0.store(1_000, Ordering::Relaxed);
        limiter.take_over(&bucket, ten_a_minute(), Duration::from_secs(48));
        let decision = take().await.unwrap();
        assert!(decision.allowed);
        assert_eq!(decision.remaining, 1);
        assert_eq!(decision.reset, Duration::from_secs(54));
        limiter.take_over(&bucket, ten_a_minute(), Duration::ZERO);
        assert_eq!(take().await.unwrap().remaining, 9);
    }

    #[tokio::test]
    async fn given_back_is_as_if_never_taken() {
        let clock = Arc::new(Manual::default());
        let limiter = LocalLimiter::new(clock.clone());
        let bucket = bucket([10, 0, 0, 1]);
        let quota = ten_a_minute();
        let take = async |cost| {
            let cost = NonZeroU32::new(cost).unwrap();
            limiter.take(&bucket, quota, cost).await.unwrap().remaining
        };
        // Nothing was taken yet.
        limiter.give_back(&bucket, quota, ONE).await;
        assert_eq!(take(3).await, 7);
        assert_eq!(take(5).await, 2);
        let five = NonZeroU32::new(5).unwrap();
        limiter.give_back(&bucket, quota, five).await;
        assert_eq!(take(1).await, 6);
        clock.0.store(60_000, Ordering::Relaxed);
        limiter.give_back(&bucket, quota, ONE).await;
        assert_eq!(take(1).await, 9);
    }

    #[tokio::test]
    async fn more_than_the_quota_is_refused_and_takes_nothing() {
        let limiter = LocalLimiter::new(Arc::new(Manual::default()));
        let eleven = NonZeroU32::new(11).unwrap();
        let bucket = bucket([10, 0, 0, 1]);
        let take = |cost| limiter.take(&bucket, ten_a_minute(), cost);
        assert!(!take(eleven).await.unwrap().allowed);
        assert_eq!(take(ONE).await.unwrap().remaining, 9);
    }

    impl Counters {
        fn len(&self) -> usize {
            let shards = self.buckets.shards.iter();
            shards.map(|shard| shard.lock().full_at.len()).sum()
        }
    }

    #[test]
    fn a_flood_of_addresses_shares_one_bucket_and_sweeping_frees_the_rest() {
        let clock = Arc::new(Manual::default());
        let counters = Counters::new(ten_a_minute(), clock.clone());
        let bounded = |address: u32| {
            let bucket = bucket(address.to_be_bytes());
            counters.buckets.bounded(&bucket, counters.clock.now())
        };
        let mut address = 0_u32;
        while bounded(address).subject != Subject::Address(None) {
            counters.take(&bucket(address.to_be_bytes()), ten_a_minute(), ONE);
            address += 1;
            assert!(address < 300_000, "memory would grow without bound");
        }
        clock.0.store(7_000, Ordering::Relaxed);
        counters.buckets.sweep(counters.clock.now());
        assert_eq!(counters.len(), 0);
    }

    #[test]
    fn a_slow_flood_of_addresses_is_forgotten_as_it_goes() {
        let clock = Arc::new(Manual::default());
        let counters = Counters::new(ten_a_minute(), clock.clone());
        for address in 0..100_000_u32 {
            // Each bucket is full again after six seconds, and five are used every millisecond.
            clock.0.store(u64::from(address) / 5, Ordering::Relaxed);
            counters.take(&bucket(address.to_be_bytes()), ten_a_minute(), ONE);
            if address % 10_000 == 0 {
                assert!(counters.len() < 5_000 * (6 + 2), "{}", counters.len());
            }
        }
    }
}
