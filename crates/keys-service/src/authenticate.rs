//! Authentication of callers that manage keys or accounts.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use keys_core::{
    Denial, IssuePolicy, KeyKind, LimitName, Operation, Question, Quota, ScopeSet, SecretKey,
    judge, judge_account,
};

use crate::actor::{Actor, Identity};
use crate::ports::{Bucket, Decision, LimiterError, StoreError, Subject};
use crate::service::KeyService;

/// Requirements on a credential.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Requirement {
    /// Accepted kinds.
    pub kinds: Vec<KeyKind>,
    /// Required scopes.
    pub scopes: ScopeSet,
    /// Scopes that an operator key needs instead. `None` if it needs the same.
    pub operator_scopes: Option<ScopeSet>,
    /// Whether the account's plan must have keys.
    pub plan: bool,
}

impl Requirement {
    /// Returns the requirement of an account's key on a plan with keys, for other routes of an
    /// embedding program.
    #[must_use]
    pub fn account_key() -> Self {
        Self::of(&[KeyKind::Account], true)
    }

    /// Returns the requirement of an account's key or session on any plan, because
    /// [`KeyService::manager`] checks the plan later.
    #[must_use]
    pub fn account_holder() -> Self {
        Self::of(&[KeyKind::Account, KeyKind::Session], false)
    }

    /// Returns the requirement of an operator key with all of `scopes`.
    #[must_use]
    pub fn operator(scopes: ScopeSet) -> Self {
        Self::of(&[KeyKind::Operator], false).scopes(scopes)
    }

    /// Returns the requirement of a manager of keys: an operator key with all of `scopes`, or an
    /// account's key or session on any plan, because [`KeyService::manager`] checks the plan later.
    /// Scopes of an account's key belong to the host system and mean nothing here.
    #[must_use]
    pub fn key_manager(scopes: ScopeSet) -> Self {
        Self {
            operator_scopes: Some(scopes),
            ..Self::of(&KeyKind::ALL, false)
        }
    }

    fn of(kinds: &[KeyKind], plan: bool) -> Self {
        Self {
            kinds: kinds.to_vec(),
            scopes: ScopeSet::default(),
            operator_scopes: None,
            plan,
        }
    }

    /// Also requires all of `scopes`.
    #[must_use]
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// Returns the scopes that a credential of this kind needs.
    fn scopes_of(&self, kind: KeyKind) -> &ScopeSet {
        let of_operators = self.operator_scopes.as_ref();
        let of_operators = of_operators.filter(|_| kind == KeyKind::Operator);
        of_operators.unwrap_or(&self.scopes)
    }
}

/// Error returned when a credential is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticateError {
    /// It may not be used, or not for this purpose.
    #[error("the credential was refused")]
    Denied(#[source] Denial),
    /// The store could not answer. Says nothing about the credential.
    #[error("the credential could not be looked up")]
    Store(#[source] StoreError),
}

/// Credentials that may manage an account's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KeyManagement {
    /// Its keys and its sessions.
    #[default]
    Any,
    /// Its sessions only.
    SessionOnly,
}

/// Requirements of a surface on managing keys through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ManagementPolicy {
    /// Requirements on the account. Its plan must have keys for every operation but those of a
    /// session on existing keys.
    pub issue: IssuePolicy,
    /// Credentials that may manage.
    pub management: KeyManagement,
}

impl ManagementPolicy {
    /// Joins the requirements on the account and the credentials that may manage.
    #[must_use]
    pub const fn new(issue: IssuePolicy, management: KeyManagement) -> Self {
        Self { issue, management }
    }
}

impl KeyService {
    /// Finds out who presents `presented` from `address`, and judges it against `requirement`.
    ///
    /// Checks form and checksum first, then whether the key is known, then as [`judge`](judge())
    /// does. An acceptance counts as a use of the key only once
    /// [`record_success`](Self::record_success) is called.
    ///
    /// # Errors
    /// The first reason to refuse, or that the store could not answer.
    pub async fn authenticate(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        requirement: &Requirement,
    ) -> Result<Identity, AuthenticateError> {
        let secret = SecretKey::parse(presented)
            .map_err(|_| AuthenticateError::Denied(Denial::Malformed))?;
        let digests = self.inner.peppers.digests(&secret).collect();
        let known_as = self.known_as((&secret).into());
        if self.inner.cache.is_known_revoked(&known_as) {
            return Err(AuthenticateError::Denied(Denial::Revoked));
        }
        let found = self
            .inner
            .store
            .find_by_digests(digests)
            .await
            .map_err(AuthenticateError::Store)?
            .into_iter()
            .next()
            .ok_or(AuthenticateError::Denied(Denial::NotFound))?;
        let stored = found
            .stored
            .map_err(|unreadable| AuthenticateError::Denied(unreadable.denial()))?;
        if stored.key.revoked_at.is_some() {
            let loader = &self.inner.loader;
            loader.keep_revoked(&known_as, &found.digest, &stored);
        } else if self.inner.cache.acknowledged.contains(stored.key.id) {
            // The database has lost the revocation in a failover.
            return Err(AuthenticateError::Denied(Denial::Revoked));
        }
        if let Some(account) = &stored.account {
            self.note_missing_plan(account.id, &account.plan);
        }
        let scopes = requirement.scopes_of(stored.key.kind);
        let question = Question {
            kinds: &requirement.kinds,
            plans: requirement.plan.then_some(&*self.inner.plans),
            address,
            scopes,
        };
        judge(&stored, &question, || self.now()).map_err(AuthenticateError::Denied)?;
        Ok(Identity {
            key: stored.key,
            account: stored.account,
            address,
            scopes: scopes.clone(),
        })
    }

    /// Records that `identity` was accepted.
    pub fn record_success(&self, identity: &Identity) {
        self.record_use(identity.key.id);
    }

    /// Counts a failed authentication from `address`. If the decision is a refusal, answer that
    /// there were too many.
    ///
    /// # Errors
    /// If the limiter cannot decide.
    pub async fn count_failure(
        &self,
        address: Option<IpAddr>,
        quota: Quota,
    ) -> Result<Decision, LimiterError> {
        let limit = self.inner.unauthenticated.clone();
        self.count(Subject::of_address(address), limit, quota).await
    }

    /// Counts `operation` against the limit of the account behind `identity`, one bucket per
    /// account and operation, and against the key's own limit of that name.
    ///
    /// `None` if there is no account, or neither its plan nor the key has a limit for the
    /// operation.
    ///
    /// # Errors
    /// If the limiter cannot decide.
    pub async fn count_operation(
        &self,
        identity: &Identity,
        operation: Operation,
    ) -> Result<Option<Decision>, LimiterError> {
        let Some(account) = &identity.account else {
            return Ok(None);
        };
        let quota = match self.inner.plans.find(&account.plan) {
            Some(plan) => plan.quota(operation),
            None => Some(MISSING_PLAN_QUOTA),
        };
        let limit = operation.limit_name();
        let of_plan = quota.map(|quota| (Subject::Account(account.id), quota));
        let own = identity.key.limits.get(&limit);
        let of_key = own.map(|quota| (identity.key.id, quota));
        self.take(&limit, of_plan, of_key, NonZeroU32::MIN).await
    }

    async fn count(
        &self,
        subject: Subject,
        limit: LimitName,
        quota: Quota,
    ) -> Result<Decision, LimiterError> {
        let bucket = Bucket { subject, limit };
        let limiter = &self.inner.limiter;
        limiter.take(&bucket, quota, NonZeroU32::MIN).await
    }

    /// Returns the actor if `identity` may do `operation` on its account's keys through a surface
    /// with `policy`.
    ///
    /// On a plan without keys a session may still list and delete existing ones.
    ///
    /// # Errors
    /// [`Denial::KindNotAllowed`] for a key if only sessions may manage, otherwise the denial of
    /// the plan.
    pub fn manager(
        &self,
        identity: &Identity,
        operation: Operation,
        policy: &ManagementPolicy,
    ) -> Result<Actor, Denial> {
        let is_session = identity.key.kind == KeyKind::Session;
        if policy.management == KeyManagement::SessionOnly && !is_session {
            return Err(Denial::KindNotAllowed);
        }
        let cleans_up = is_session && operation != Operation::Create;
        let plans = (policy.issue.plan_gate && !cleans_up).then(|| Arc::clone(&self.inner.plans));
        if let (Some(plans), Some(account)) = (&plans, &identity.account) {
            judge_account(account, Some(plans))?;
        }
        Ok(Actor::credential(identity, plans))
    }
}

/// The quota of accounts on a plan that was removed from the configuration: that of the documented
/// plan without keys.
const MISSING_PLAN_QUOTA: Quota = Quota::per_minute(10).expect("10 is not zero");
