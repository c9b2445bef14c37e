//! Plans: the maximum of keys and the rate limits of accounts. They are configuration, not a fixed
//! list.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::account::Account;
use crate::texts::{display_as_str, table};

/// Error returned when a text is not the name of a plan or a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a plan or limit is named by 1 to 64 lower-case letters, digits, `-` and `_`")]
#[non_exhaustive]
pub struct InvalidPlanName;

fn is_name(text: &str) -> bool {
    const MAX_LEN: usize = 64;
    (1..=MAX_LEN).contains(&text.len())
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 64 characters: lower-case letters, digits, `-` and `_`.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidPlanName;

            fn from_str(text: &str) -> Result<Self, InvalidPlanName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(InvalidPlanName) }
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        display_as_str!($name);
    };
}

name! {
    /// The name of a plan.
    PlanName
}
name! {
    /// The name of a limit of a plan.
    LimitName
}

/// A number of requests in a period. Unused requests are saved up to that number, then arrive
/// evenly spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Quota {
    /// Requests in a period.
    pub requests: NonZeroU32,
    /// The period in seconds.
    pub period_seconds: NonZeroU32,
}

impl Quota {
    /// Returns a quota of `requests` in a period. `None` if one of the numbers is 0.
    #[must_use]
    pub const fn new(requests: u32, period_seconds: u32) -> Option<Self> {
        match (NonZeroU32::new(requests), NonZeroU32::new(period_seconds)) {
            (Some(requests), Some(period_seconds)) => Some(Self {
                requests,
                period_seconds,
            }),
            _ => None,
        }
    }

    /// Returns a quota of `requests` a minute. `None` if that is 0.
    ///
    /// ```
    /// # use keys_core::Quota;
    /// const TEN: Quota = Quota::per_minute(10).expect("10 is not zero");
    /// assert_eq!(TEN.interval().as_secs(), 6);
    /// ```
    #[must_use]
    pub const fn per_minute(requests: u32) -> Option<Self> {
        Self::new(requests, 60)
    }

    /// Returns the time after which one used request is available again.
    #[must_use]
    pub fn interval(self) -> Duration {
        let period = Duration::from_secs(self.period_seconds.get().into());
        (period / self.requests.get()).max(Duration::from_nanos(1))
    }
}

/// The keys that share a bucket of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a limiter must decide for each"
)]
pub enum LimitPer {
    /// All keys of an account together.
    #[default]
    Account,
    /// Each key by itself.
    Key,
}

/// A limit of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(from = "LimitTable", into = "LimitTable"))]
#[non_exhaustive]
pub struct Limit {
    /// The quota.
    pub quota: Quota,
    /// The keys that share it.
    pub per: LimitPer,
}

impl Limit {
    /// Creates a limit that the keys in `per` share.
    #[must_use]
    pub const fn new(quota: Quota, per: LimitPer) -> Self {
        Self { quota, per }
    }
}

impl From<Quota> for Limit {
    fn from(quota: Quota) -> Self {
        Self::new(quota, LimitPer::Account)
    }
}

/// The serialized form of a [`Limit`]: one table.
#[cfg(feature = "serde")]
#[derive(::serde::Serialize, ::serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitTable {
    requests: NonZeroU32,
    period_seconds: NonZeroU32,
    #[serde(default)]
    per: LimitPer,
}

#[cfg(feature = "serde")]
impl From<LimitTable> for Limit {
    fn from(table: LimitTable) -> Self {
        Self {
            quota: Quota {
                requests: table.requests,
                period_seconds: table.period_seconds,
            },
            per: table.per,
        }
    }
}

#[cfg(feature = "serde")]
impl From<Limit> for LimitTable {
    fn from(limit: Limit) -> Self {
        Self {
            requests: limit.quota.requests,
            period_seconds: limit.quota.period_seconds,
            per: limit.per,
        }
    }
}

table! {
    /// An operation of an account on its keys through the two contracts. Each has a limit of its
    /// own in every plan.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
    #[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
    #[expect(
        clippy::exhaustive_enums,
        reason = "complete: the contracts have three"
    )]
    pub enum Operation;

    /// All operations.
    ALL;

    /// Returns the name of its limit, as text.
    as_str;

    /// Create a key.
    Create = "create",
    /// List keys.
    List = "list",
    /// Revoke a key.
    Delete = "delete",
}

impl Operation {
    /// Returns the name of its limit.
    #[must_use]
    pub fn limit_name(self) -> LimitName {
        LimitName(self.as_str().into())
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Plan {
    /// Whether accounts on this plan may have and use keys.
    pub keys: bool,
    /// Maximum number of usable keys of an account.
    pub keys_max: u32,
    /// Limits by name, including those of every [`Operation`].
    pub limits: BTreeMap<LimitName, Limit>,
}

impl Plan {
    /// Creates a plan whose accounts may have up to `keys_max` usable keys, without limits.
    ///
    /// ```
    /// use keys_core::{Operation, Plan, Quota};
    ///
    /// let quota = Quota::per_minute(10).expect("10 is not zero");
    /// let plan = Plan::with_keys(5).limit(Operation::Create.limit_name(), quota);
    /// assert_eq!(plan.quota(Operation::Create), Some(quota));
    /// ```
    #[must_use]
    pub const fn with_keys(keys_max: u32) -> Self {
        Self {
            keys: true,
            keys_max,
            limits: BTreeMap::new(),
        }
    }

    /// Creates a plan whose accounts may neither have nor use keys, without limits.
    #[must_use]
    pub const fn without_keys() -> Self {
        let mut plan = Self::with_keys(0);
        plan.keys = false;
        plan
    }

    /// Adds a limit, or replaces the one of that name.
    #[must_use]
    pub fn limit(mut self, name: LimitName, limit: impl Into<Limit>) -> Self {
        self.limits.insert(name, limit.into());
        self
    }

    /// Returns the quota of an operation. `None` only if the plan was built without one.
    #[must_use]
    pub fn quota(&self, operation: Operation) -> Option<Quota> {
        self.limits.get(operation.as_str()).map(|limit| limit.quota)
    }
}

/// All configured plans.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
pub struct Plans(BTreeMap<PlanName, Plan>);

impl Plans {
    /// Creates the set of configured plans.
    #[must_use]
    pub fn new(plans: impl IntoIterator<Item = (PlanName, Plan)>) -> Self {
        Self(plans.into_iter().collect())
    }

    /// Returns the plans that both HTTP contracts document: `free` without keys, `pro` and
    /// `business` with ten.
    ///
    /// A session of a `free` account may still list and delete the keys that the account had
    /// before.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "the numbers are constants, none of them zero"
    )]
    pub fn documented() -> Self {
        const KEYS_MAX: u32 = 10;
        let named = |name: &str, plan: Plan, quotas: [u32; 3]| {
            let limits = Operation::ALL.into_iter().zip(quotas);
            let plan = limits.fold(plan, |plan, (operation, requests)| {
                let quota = Quota::per_minute(requests).expect("documented quotas are not zero");
                plan.limit(operation.limit_name(), quota)
            });
            (PlanName(name.into()), plan)
        };
        Self::new([
            named("free", Plan::without_keys(), [10, 10, 10]),
            named("pro", Plan::with_keys(KEYS_MAX), [10, 30, 10]),
            named("business", Plan::with_keys(KEYS_MAX), [30, 60, 30]),
        ])
    }

    /// Returns the plan of that name, if it is configured.
    #[must_use]
    pub fn find(&self, name: &PlanName) -> Option<&Plan> {
        self.0.get(name)
    }

    /// Returns all plans, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&PlanName, &Plan)> {
        self.0.iter()
    }

    /// Returns the maximum number of usable keys of `account`: 0 on a plan that is not configured
    /// any more.
    #[must_use]
    pub fn keys_max(&self, account: &Account) -> u32 {
        self.find(&account.plan).map_or(0, |plan| plan.keys_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountId, Timestamp};

    fn account(plan: &str) -> Account {
        let created_at = Timestamp::from_unix_micros(0);
        let id = AccountId::generate(created_at, &mut getrandom::SysRng).unwrap();
        Account::new(id, plan.parse().unwrap(), created_at)
    }

    #[test]
    fn a_plan_that_left_the_configuration_has_no_keys() {
        let plans = Plans::new([("pro".parse().unwrap(), Plan::with_keys(10))]);
        assert_eq!(plans.keys_max(&account("pro")), 10);
        assert_eq!(plans.keys_max(&account("legacy")), 0);
    }

    #[test]
    fn ten_a_minute_is_one_every_six_seconds() {
        let quota = Quota::per_minute(10).unwrap();
        assert_eq!(quota.interval(), Duration::from_secs(6));
    }
}
