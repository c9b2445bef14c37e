//! The port of rate limiters.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::{AccountId, KeyId, LimitName, Quota};

/// The subject of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// All keys of an account together.
    Account(AccountId),
    /// A key by itself, for a limit of its plan.
    Key(KeyId),
    /// A key, for a limit of its own.
    OwnLimit(KeyId),
    /// One client address; for IPv6 its /64, because one client can choose any address in it.
    /// `None` is the common bucket of all clients with an unknown address.
    Address(Option<IpAddr>),
}

impl Subject {
    /// Returns the subject of a client at `address`.
    #[must_use]
    pub fn of_address(address: Option<IpAddr>) -> Self {
        const HOST_BITS: u32 = 64;
        Self::Address(address.map(|address| match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> HOST_BITS << HOST_BITS).into(),
            v4 @ IpAddr::V4(_) => v4,
        }))
    }
}

/// Short text that no other subject has, for the keys of shared counters.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(id) => write!(f, "a{id}"),
            Self::Key(id) => write!(f, "k{id}"),
            Self::OwnLimit(id) => write!(f, "o{id}"),
            Self::Address(Some(IpAddr::V4(address))) => write!(f, "i{:08x}", address.to_bits()),
            Self::Address(Some(IpAddr::V6(address))) => write!(f, "i{:032x}", address.to_bits()),
            Self::Address(None) => f.write_str("i"),
        }
    }
}

/// A token bucket: one limit of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "complete: two values name a bucket"
)]
pub struct Bucket {
    /// The subject.
    pub subject: Subject,
    /// The limit.
    pub limit: LimitName,
}

/// Result of taking from a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The limit.
    pub limit: LimitName,
    /// Its quota.
    pub quota: Quota,
    /// Whether the bucket had enough.
    pub allowed: bool,
    /// Number that may still be taken at once.
    pub remaining: u32,
    /// Time until the whole quota is available again.
    pub reset: Duration,
    /// Time until the requested cost is available. Zero if it was.
    pub retry_after: Duration,
}

impl Decision {
    /// Creates the decision that the bucket had enough, and is full again.
    #[must_use]
    pub const fn allowed(limit: LimitName, quota: Quota) -> Self {
        Self {
            limit,
            quota,
            allowed: true,
            remaining: quota.requests.get(),
            reset: Duration::ZERO,
            retry_after: Duration::ZERO,
        }
    }
}

/// Error returned when the limiter could not decide.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimiterError {
    /// It did not decide in time, and may be deciding for others.
    #[error("the rate limiter is not available")]
    Late(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It cannot be reached, or does not work.
    #[error("the rate limiter is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Counts requests.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Takes `cost` from `bucket`, if that much is available. A refused call takes nothing.
    async fn take(
        &self,
        bucket: &Bucket,
        quota: Quota,
        cost: NonZeroU32,
    ) -> Result<Decision, LimiterError>;

    /// Returns the state of `bucket` without taking from it. `None` if the limiter cannot tell.
    async fn peek(&self, bucket: &Bucket, quota: Quota) -> Result<Option<Decision>, LimiterError> {
        let _ = (bucket, quota);
        Ok(None)
    }

    /// Puts back what [`take`](Self::take) took a moment ago, because another limit has refused the
    /// request. Does nothing by default: the request then counts although it was refused.
    async fn give_back(&self, bucket: &Bucket, quota: Quota, cost: NonZeroU32) {
        let _ = (bucket, quota, cost);
    }

    /// Removes buckets that are full again. Called periodically.
    fn sweep(&self) {}

    /// Returns the limiter that decides at the moment.
    fn state(&self) -> LimiterState {
        LimiterState::Local
    }

    /// Returns the calls decided by the fallback instead of the primary limiter, since start.
    fn undecided_total(&self) -> u64 {
        0
    }
}

/// The limiter that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "complete: shared, local or none")]
pub enum LimiterState {
    /// One counter for all instances together.
    Shared,
    /// Each instance by itself.
    Local,
    /// No limiter, because the shared counter is unavailable.
    Denying,
}

impl LimiterState {
    /// All states.
    pub const ALL: [Self; 3] = [Self::Shared, Self::Local, Self::Denying];

    /// Returns the state as text, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Denying => "denying",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_told_apart_by_their_text() {
        let address = |text: &str| Subject::of_address(Some(text.parse().unwrap())).to_string();
        assert_eq!(address("10.0.0.1"), "i0a000001");
        assert_eq!(address("2001:db8::1"), "i20010db8000000000000000000000000");
        assert_eq!(Subject::of_address(None).to_string(), "i");
        let uuid = uuid::Uuid::from_u128(1);
        let (account, key) = (AccountId::from_uuid(uuid), KeyId::from_uuid(uuid));
        assert_eq!(
            Subject::Account(account).to_string(),
            "aAAAAAAAAAAAAAAAAAAAAAQ"
        );
        assert_eq!(Subject::Key(key).to_string(), "kAAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(
            Subject::OwnLimit(key).to_string(),
            "oAAAAAAAAAAAAAAAAAAAAAQ"
        );
    }
}
