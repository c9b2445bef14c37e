//! The port to whatever counts requests.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::{AccountId, KeyId, LimitName, Quota};

/// Who a limit is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Subject {
    /// All keys of an account together.
    Account(AccountId),
    /// One key.
    Key(KeyId),
    /// One client address; for IPv6 its /64, which is what one client can draw addresses from. `None` stands for all
    /// clients whose address is unknown.
    Address(Option<IpAddr>),
}

impl Subject {
    /// The subject of a client at `address`.
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
            Self::Address(Some(IpAddr::V4(address))) => write!(f, "i{:08x}", address.to_bits()),
            Self::Address(Some(IpAddr::V6(address))) => write!(f, "i{:032x}", address.to_bits()),
            Self::Address(None) => f.write_str("i"),
        }
    }
}

/// What is counted: one limit for one subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Who.
    pub subject: Subject,
    /// Which limit.
    pub limit: LimitName,
}

/// What came of taking from a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Which limit was asked.
    pub limit: LimitName,
    /// Its quota.
    pub quota: Quota,
    /// Whether there was enough.
    pub allowed: bool,
    /// How much may still be taken at once.
    pub remaining: u32,
    /// Until the whole quota is there again.
    pub reset: Duration,
    /// Until as much as was asked for is there; zero when it was.
    pub retry_after: Duration,
}

/// The limiter could not decide.
#[derive(Debug, thiserror::Error)]
#[error("the rate limiter is not available")]
pub struct LimiterError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Counts requests.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Takes `cost` from `bucket`, if that much is there. A refused taking takes nothing.
    async fn take(
        &self,
        bucket: &Bucket,
        quota: Quota,
        cost: NonZeroU32,
    ) -> Result<Decision, LimiterError>;

    /// Forgets buckets that are full again. Called from time to time.
    fn sweep(&self) {}

    /// Who decides at the moment.
    fn state(&self) -> LimiterState {
        LimiterState::Local
    }

    /// How many calls were not decided by whoever should have, since the start.
    fn undecided_total(&self) -> u64 {
        0
    }
}

/// Who decides. The list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimiterState {
    /// One counter for all instances together.
    Shared,
    /// Each instance by itself.
    Local,
    /// Nobody, because the shared counter is away.
    Denying,
}

impl LimiterState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Shared, Self::Local, Self::Denying];

    /// The state as text, for logs and metrics.
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
    }
}
