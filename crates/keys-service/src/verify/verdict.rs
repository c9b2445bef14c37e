//! Answers to questions about presented keys.

use std::sync::LazyLock;

use keys_core::{AccountId, Denial, ExternalId, KeyId, KeyKind, PlanName, ScopeSet, Timestamp};

use crate::cache::record::{Facts, PlanNames};
use crate::ports::{Decision, LimiterError, StoreError};

/// What a verdict says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictCode {
    /// It may.
    Valid,
    /// It may not.
    Denied(Denial),
    /// It might, but too much was asked for in too short a time.
    RateLimited,
}

impl VerdictCode {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Denied(denial) => denial.code(),
            Self::RateLimited => "rate_limited",
        }
    }
}

/// How fresh the knowledge is that a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Within the published bound.
    Current,
    /// The database is away and the configured grace lasts.
    Stale,
}

impl Freshness {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
        }
    }
}

/// The answer to a [`VerifyRequest`].
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What it says.
    pub code: VerdictCode,
    /// The key, where one is known.
    pub key: Option<VerifiedKey>,
    /// What the limit said, where one was asked.
    pub rate_limit: Option<Decision>,
    /// How fresh the knowledge is.
    pub freshness: Freshness,
}

impl Verdict {
    /// Whether the key may be used.
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

/// What a verdict tells of a key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedKey {
    id: KeyId,
    facts: Facts,
    /// Where it is a configured one.
    plan: Option<&'static PlanName>,
}

/// What a verdict tells of the account that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedAccount<'a> {
    /// Our identifier.
    pub id: AccountId,
    /// The host system's identifier, if it gave one.
    pub external_id: Option<&'a ExternalId>,
    /// The plan; it may have left the configuration since.
    pub plan: &'a PlanName,
}

impl VerifiedKey {
    #[inline]
    pub(super) fn new(id: KeyId, facts: Facts, names: &PlanNames) -> Self {
        let plan = facts.configured_plan(names);
        Self { id, facts, plan }
    }

    /// The identifier.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.facts.kind
    }

    /// The account it belongs to; none exactly for an operator's key.
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

    /// What its owner calls it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(self.facts.name()).filter(|name| !name.is_empty())
    }

    /// What it may be used for.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        static NONE: LazyLock<ScopeSet> = LazyLock::new(ScopeSet::default);
        match self.facts.narrowing() {
            Some(narrowing) => &narrowing.scopes,
            None => &NONE,
        }
    }

    /// When it expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.facts.narrowing()?.expires_at
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No plan has a limit of that name.
    #[error("no plan has a limit of that name")]
    UnknownLimit,
    /// The store could not answer; says nothing about the key.
    #[error("the key could not be looked up")]
    Store(#[from] StoreError),
    /// The limiter could not decide.
    #[error(transparent)]
    Limiter(#[from] LimiterError),
}
