//! Verdicts on presented keys.

use std::sync::LazyLock;

use keys_core::{
    AccountId, Denial, ExternalId, KeyId, KeyKind, LimitName, PlanName, Quota, ScopeSet, Timestamp,
};

use crate::cache::record::{Facts, PlanNames};
use crate::ports::{Decision, LimiterError, StoreError};

/// The code of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a guard must decide for each"
)]
pub enum VerdictCode {
    /// The key may be used.
    Valid,
    /// The key may not be used.
    Denied(Denial),
    /// The key is valid, but its limit is used up.
    RateLimited,
}

impl VerdictCode {
    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Denied(denial) => denial.code(),
            Self::RateLimited => "rate_limited",
        }
    }
}

/// Freshness of the record behind a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a record is current or stale"
)]
pub enum Freshness {
    /// Within the published bound.
    Current,
    /// The database is unavailable and the configured grace lasts.
    Stale,
}

impl Freshness {
    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
        }
    }
}

/// The answer to a [`VerifyRequest`](super::VerifyRequest).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verdict {
    /// The code.
    pub code: VerdictCode,
    /// The key, if it is known.
    pub key: Option<VerifiedKey>,
    /// The decision of the limit, if one was checked.
    pub rate_limit: Option<Decision>,
    /// Freshness of the record.
    pub freshness: Freshness,
}

impl Verdict {
    /// Returns whether the key may be used.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.code == VerdictCode::Valid
    }

    pub(super) fn denied(denial: Denial) -> Self {
        Self::current(VerdictCode::Denied(denial), None)
    }

    pub(super) fn current(code: VerdictCode, key: Option<VerifiedKey>) -> Self {
        Self {
            code,
            key,
            rate_limit: None,
            freshness: Freshness::Current,
        }
    }
}

/// The data about a key in a verdict. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedKey {
    id: KeyId,
    facts: Facts,
    /// The plan, if it is configured.
    plan: Option<&'static PlanName>,
}

/// The data about the account of a key in a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedAccount<'a> {
    /// Our identifier.
    pub id: AccountId,
    /// The host system's identifier, if it has one.
    pub external_id: Option<&'a ExternalId>,
    /// The plan. It may have been removed from the configuration since.
    pub plan: &'a PlanName,
}

impl VerifiedKey {
    #[inline]
    pub(super) fn new(id: KeyId, facts: Facts, names: &PlanNames) -> Self {
        let plan = facts.configured_plan(names);
        Self { id, facts, plan }
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the identifier.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.facts.kind
    }

    /// Returns the account it belongs to. `None` for an operator key.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "an account's plan is either a configured one or kept by name"
    )]
    pub fn account(&self) -> Option<VerifiedAccount<'_>> {
        Some(VerifiedAccount {
            id: self.facts.account_id()?,
            external_id: self.facts.external_id(),
            plan: self
                .plan
                .or_else(|| self.facts.unknown_plan())
                .expect("the name of a plan that is not configured is kept"),
        })
    }

    /// Returns the owner's name of the key.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(self.facts.name()).filter(|name| !name.is_empty())
    }

    /// Returns the scopes.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        static NONE: LazyLock<ScopeSet> = LazyLock::new(ScopeSet::default);
        match self.facts.narrowing() {
            Some(narrowing) => &narrowing.scopes,
            None => &NONE,
        }
    }

    /// Returns the expiry.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.facts.narrowing()?.expires_at
    }

    /// Returns the key's own limit of that name.
    #[must_use]
    pub fn own_limit(&self, name: &LimitName) -> Option<Quota> {
        self.facts.narrowing()?.limits.get(name)
    }
}

/// Error returned when there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No plan has a limit of that name.
    #[error("no plan has a limit of that name")]
    UnknownLimit,
    /// The store could not answer. Says nothing about the key.
    #[error("the key could not be looked up")]
    Store(#[from] StoreError),
    /// The limiter could not decide.
    #[error(transparent)]
    Limiter(#[from] LimiterError),
}
