//! The script that takes from a bucket, its arguments and its result.

use std::num::NonZeroU32;
use std::time::Duration;

use keys_core::{LimitName, Quota};
use keys_service::ports::Decision;
use redis::{RedisResult, Script};

const SOURCE: &str = include_str!("take.lua");

/// The script. It is called by its hash, and sent only to a server that does not have it.
pub(crate) struct Take(Script);

impl Take {
    pub(crate) fn new() -> Self {
        Self(Script::new(SOURCE))
    }

    pub(crate) async fn call(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
        key: &str,
        wanted: Wanted,
    ) -> RedisResult<Answer> {
        let mut call = self.0.key(key);
        for nanos in [wanted.cost, wanted.capacity] {
            let (micros, nanos) = split(nanos);
            call.arg(micros).arg(nanos);
        }
        let answered = call.invoke_async(connection).await;
        let (allowed, micros, nanos): (bool, u64, u64) = answered?;
        Ok(Answer {
            allowed,
            reset: join((micros, nanos)),
        })
    }
}

/// Whole microseconds, and the nanoseconds beyond them.
fn split(nanos: u128) -> (u64, u64) {
    const NANOS_PER_MICRO: u128 = 1_000;
    let narrow = |number| u64::try_from(number).unwrap_or(u64::MAX);
    (
        narrow(nanos / NANOS_PER_MICRO),
        narrow(nanos % NANOS_PER_MICRO),
    )
}

fn join((micros, nanos): (u64, u64)) -> Duration {
    Duration::from_micros(micros) + Duration::from_nanos(nanos)
}

/// The arguments of the script, as times in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    cost: u128,
    capacity: u128,
}

/// A request for some tokens of a bucket with a quota. All values are times in nanoseconds: the
/// time in which the tokens arrive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub quota: Quota,
    pub cost: NonZeroU32,
}

impl Request {
    /// Takes the tokens.
    pub(crate) fn take(self) -> Wanted {
        Wanted {
            cost: self.cost(),
            capacity: self.capacity(),
        }
    }

    /// Takes nothing, which is always allowed.
    pub(crate) fn peek(self) -> Wanted {
        Wanted {
            cost: 0,
            capacity: self.capacity(),
        }
    }

    fn interval(self) -> u128 {
        self.quota.interval().as_nanos()
    }

    fn capacity(self) -> u128 {
        self.interval() * u128::from(self.quota.requests.get())
    }

    /// At most one more than the whole quota: a larger cost has the same result.
    fn cost(self) -> u128 {
        let capped = u128::from(self.cost.get()).min(u128::from(self.quota.requests.get()) + 1);
        self.interval() * capped
    }

    /// Returns the decision for the caller, the same as that of the limiter inside the process.
    pub(crate) fn decide(self, limit: LimitName, answer: Answer) -> Decision {
        let reset = answer.reset.as_nanos();
        let used = u32::try_from(reset.div_ceil(self.interval())).unwrap_or(u32::MAX);
        let retry_after = if answer.allowed {
            Duration::ZERO
        } else if self.cost > self.quota.requests {
            Duration::from_secs(self.quota.period_seconds.get().into())
        } else {
            join(split((reset + self.cost()).saturating_sub(self.capacity())))
        };
        let mut decision = Decision::allowed(limit, self.quota);
        decision.allowed = answer.allowed;
        decision.remaining = self.quota.requests.get().saturating_sub(used);
        decision.reset = answer.reset;
        decision.retry_after = retry_after;
        decision
    }
}

/// Result of the script.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    allowed: bool,
    /// Time until the bucket is full.
    reset: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_core::Timestamp;
    use keys_service::Clock as _;
    use keys_service::LocalLimiter;
    use keys_service::ports::{Bucket, RateLimiter as _, Subject};
    use keys_testkit::clock::FakeClock;
    use keys_testkit::redis::Redis;
    use keys_testkit::rng::seeded;
    use rand_core::Rng as _;

    /// Returns the script with a clock that the test sets. Its keys do not expire, because they
    /// would by the clock of the server.
    fn on_a_fake_clock() -> Script {
        let mut source = SOURCE.to_owned();
        for (real, fake) in [
            ("redis.call('TIME')", "{ ARGV[5], ARGV[6] }"),
            ("math.floor(micros / 1000) + 1", "3600000"),
        ] {
            assert!(source.contains(real), "{real}");
            source = source.replace(real, fake);
        }
        Script::new(&source)
    }

    struct Fake {
        script: Script,
        connection: redis::aio::MultiplexedConnection,
        clock: FakeClock,
    }

    impl Fake {
        async fn start(redis: &Redis) -> Self {
            let client = redis::Client::open(redis.url()).unwrap();
            Self {
                script: on_a_fake_clock(),
                connection: client.get_multiplexed_async_connection().await.unwrap(),
                clock: FakeClock::default(),
            }
        }

        async fn take(&mut self, key: &str, quota: Quota, cost: NonZeroU32) -> Decision {
            let now = self.clock.now().unix_micros();
            let request = Request { quota, cost };
            let (cost, capacity) = (split(request.cost()), split(request.capacity()));
            let (allowed, micros, nanos): (bool, u64, u64) = self
                .script
                .key(key)
                .arg(cost.0)
                .arg(cost.1)
                .arg(capacity.0)
                .arg(capacity.1)
                .arg(now / 1_000_000)
                .arg(now % 1_000_000)
                .invoke_async(&mut self.connection)
                .await
                .unwrap();
            let reset = join((micros, nanos));
            request.decide(limit(), Answer { allowed, reset })
        }
    }

    fn limit() -> LimitName {
        "verify".parse().unwrap()
    }

    fn quota(requests: u32, period_seconds: u32) -> Quota {
        Quota::new(requests, period_seconds).unwrap()
    }

    #[tokio::test]
    async fn every_answer_is_that_of_the_limiter_in_the_process() {
        let redis = Redis::start();
        let mut fake = Fake::start(&redis).await;
        let local = LocalLimiter::new(std::sync::Arc::new(fake.clock.clone()));
        let bucket = Bucket {
            subject: Subject::of_address(None),
            limit: limit(),
        };
        let mut rng = seeded(7);
        let mut random = |below: u64| rng.next_u64() % below;
        // Includes quotas that divide a period unevenly, down to parts of a microsecond, and none
        // that moves the clock beyond the year 2255, when microseconds since 1970 exceed 2^53.
        for quota in [
            quota(10, 60),
            quota(1, 1),
            quota(7, 60),
            quota(1_000, 1),
            quota(3_000_000, 10),
            quota(70_000, 60),
            quota(1, 86_400 * 30),
            quota(u32::MAX, u32::MAX),
        ] {
            let key = format!("{}/{}", quota.requests, quota.period_seconds);
            let interval = u64::try_from(quota.interval().as_nanos()).unwrap();
            for step in 0..400 {
                let advance = Duration::from_nanos(random(interval.saturating_mul(3)));
                fake.clock.advance(Duration::from_micros(
                    advance.as_micros().try_into().unwrap(),
                ));
                let most = u64::from(quota.requests.get()) + 2;
                let cost = match random(4) {
                    0 => random(most) + 1,
                    1 => random(most.div_ceil(8)) + 1,
                    _ => 1,
                };
                let cost = u32::try_from(cost).unwrap_or(u32::MAX).try_into().unwrap();
                let here = local.take(&bucket, quota, cost).await.unwrap();
                let there = fake.take(&key, quota, cost).await;
                assert_eq!(there, here, "{quota:?}, step {step}, cost {cost}");
            }
        }
    }

    #[tokio::test]
    async fn smaller_quota_and_a_clock_set_back_make_nobody_wait_longer_than_the_period() {
        let redis = Redis::start();
        let mut fake = Fake::start(&redis).await;
        let one = NonZeroU32::MIN;
        assert!(fake.take("smaller", quota(1, 86_400), one).await.allowed);
        let refused = fake.take("smaller", quota(10, 60), one).await;
        assert!(!refused.allowed);
        assert_eq!(refused.reset, Duration::from_mins(1));
        assert_eq!(refused.retry_after, Duration::from_secs(6));

        assert!(fake.take("back", quota(1, 60), one).await.allowed);
        let an_hour_ago = fake.clock.now().unix_micros() - 3_600_000_000;
        fake.clock.set(Timestamp::from_unix_micros(an_hour_ago));
        let refused = fake.take("back", quota(1, 60), one).await;
        assert!(!refused.allowed);
        assert_eq!(refused.retry_after, Duration::from_mins(1));
    }

    #[tokio::test]
    async fn value_that_is_no_time_counts_as_a_full_bucket() {
        let redis = Redis::start();
        let mut fake = Fake::start(&redis).await;
        for value in ["x", "12", "nonsense", "-"] {
            redis.command(&format!("SET key {value}"));
            let decision = fake.take("key", quota(10, 60), NonZeroU32::MIN).await;
            assert!(decision.allowed);
            assert_eq!(decision.remaining, 9, "{value}");
        }
    }
}
