//! Limits of a single key, on top of those of its account's plan.

use std::collections::BTreeMap;

use crate::plan::{LimitName, Quota};

/// Limits of a single key by name. A request that counts against a limit of the plan must also fit
/// the key's own limit of that name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(::serde::Serialize, ::serde::Deserialize),
    serde(
        try_from = "BTreeMap<LimitName, Quota>",
        into = "BTreeMap<LimitName, Quota>"
    )
)]
pub struct KeyLimits(BTreeMap<LimitName, Quota>);

impl KeyLimits {
    /// Maximum number of limits of a key.
    pub const MAX_LEN: usize = 16;

    /// Collects limits. The last quota of a repeated name is kept.
    ///
    /// # Errors
    /// If there are more than [`MAX_LEN`](Self::MAX_LEN).
    pub fn new(
        limits: impl IntoIterator<Item = (LimitName, Quota)>,
    ) -> Result<Self, TooManyLimits> {
        let mut collected = BTreeMap::new();
        for (name, quota) in limits {
            collected.insert(name, quota);
            if collected.len() > Self::MAX_LEN {
                return Err(TooManyLimits);
            }
        }
        Ok(Self(collected))
    }

    /// Returns the quota of a limit.
    #[must_use]
    pub fn get(&self, name: &LimitName) -> Option<Quota> {
        self.0.get(name).copied()
    }

    /// Returns the limits, sorted by name.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&LimitName, Quota)> {
        self.0.iter().map(|(name, quota)| (name, *quota))
    }

    /// Returns these limits and those of `outer` that are missing here.
    ///
    /// # Errors
    /// If there are more than [`MAX_LEN`](Self::MAX_LEN) then.
    pub fn with_missing_of(self, outer: &Self) -> Result<Self, TooManyLimits> {
        let inherited = outer.iter().map(|(name, quota)| (name.clone(), quota));
        Self::new(inherited.chain(self.0))
    }

    /// Returns whether a key with the limits `inner` may do no more than one with these: it has
    /// each of these limits, with at most as many requests, in a period that is not shorter.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        self.iter().all(|(name, outer)| {
            inner.get(name).is_some_and(|inner| {
                inner.requests <= outer.requests && inner.period_seconds >= outer.period_seconds
            })
        })
    }

    /// Returns whether the key has no limits of its own.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(feature = "serde")]
impl TryFrom<BTreeMap<LimitName, Quota>> for KeyLimits {
    type Error = TooManyLimits;

    fn try_from(limits: BTreeMap<LimitName, Quota>) -> Result<Self, TooManyLimits> {
        Self::new(limits)
    }
}

#[cfg(feature = "serde")]
impl From<KeyLimits> for BTreeMap<LimitName, Quota> {
    fn from(limits: KeyLimits) -> Self {
        limits.0
    }
}

/// Error returned when a key would have too many limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has at most 16 limits of its own")]
#[non_exhaustive]
pub struct TooManyLimits;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_limits_are_inherited_and_higher_ones_are_not_covered() {
        let limits = |limits: &[(&str, u32, u32)]| {
            let quota = |&(name, requests, period): &(&str, u32, u32)| {
                let quota = Quota::new(requests, period).unwrap();
                (name.parse().unwrap(), quota)
            };
            KeyLimits::new(limits.iter().map(quota)).unwrap()
        };
        let outer = limits(&[("a", 10, 60), ("b", 1, 1)]);
        for (own, is_covered) in [
            (limits(&[]), true),
            (limits(&[("a", 5, 60), ("c", 9, 1)]), true),
            (limits(&[("a", 10, 120)]), true),
            (limits(&[("a", 11, 60)]), false),
            (limits(&[("a", 10, 59)]), false),
        ] {
            let inherited = own.clone().with_missing_of(&outer).unwrap();
            assert_eq!(outer.covers(&inherited), is_covered, "{own:?}");
            assert!(
                own.iter()
                    .all(|(name, own)| inherited.get(name) == Some(own))
            );
        }
        assert!(!outer.covers(&limits(&[("a", 10, 60)])), "b is missing");
        assert!(limits(&[]).covers(&outer));
    }

    #[test]
    fn more_than_the_maximum_are_refused_and_repeated_names_count_once() {
        let quota = Quota::per_minute(1).unwrap();
        let limits = |count: usize| {
            let names = (0..count).map(|number| format!("l{number}").parse().unwrap());
            names.map(move |name| (name, quota)).collect::<Vec<_>>()
        };
        let most = KeyLimits::MAX_LEN;
        assert_eq!(KeyLimits::new(limits(most + 1)), Err(TooManyLimits));
        let twice = limits(most).into_iter().chain(limits(most));
        assert_eq!(KeyLimits::new(twice).unwrap().iter().len(), most);
    }
}
