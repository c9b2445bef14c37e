//! The view of a credential by its own holder, and its end.

use keys_core::{KeyKind, LimitName, LimitPer, Operation, Quota, Revocation, RevocationReason};

use crate::actor::{Actor, Identity};
use crate::everywhere::Effective;
use crate::manage::RevokeError;
use crate::ports::{Bucket, Decision, KeySelection, Subject};
use crate::service::KeyService;

/// The origin of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a plan and a key have limits"
)]
pub enum LimitSource {
    /// The account's plan. The keys that share it.
    Plan(LimitPer),
    /// The key itself.
    Key,
}

impl LimitSource {
    /// Returns the stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan(_) => "plan",
            Self::Key => "key",
        }
    }
}

/// A limit that applies to a credential, and its current state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitState {
    /// Its name.
    pub name: LimitName,
    /// Its origin.
    pub source: LimitSource,
    /// Its quota.
    pub quota: Quota,
    /// The rest of it. `None` if that is not known at the moment.
    pub decision: Option<Decision>,
}

impl KeyService {
    /// Returns the limits that apply to the credential of `identity`, those of the account's plan
    /// and its own, each with what remains. Takes nothing from them.
    ///
    /// ```
    /// # use keys_core::{Pepper, PepperRing};
    /// # use keys_service::{Actor, KeyDraft, KeyService, MemoryStore, NewAccount, Requirement};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
    /// # let peppers = PepperRing::new("p1".parse()?, pepper);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service
    /// #     .create_account(&system, NewAccount::new("pro".parse()?))
    /// #     .await?;
    /// # let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// # let issued = service.issue_key(&system, draft).await?;
    /// let identity = service
    ///     .authenticate(issued.secret.expose(), None, &Requirement::account_key())
    ///     .await?;
    /// for limit in service.limits(&identity).await {
    ///     let remaining = limit.decision.map(|decision| decision.remaining);
    ///     println!("{}: {remaining:?} of {}", limit.name, limit.quota.requests);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn limits(&self, identity: &Identity) -> Vec<LimitState> {
        let plan = identity.account.as_ref();
        let plan = plan.and_then(|account| self.inner.plans.find(&account.plan));
        let mut states = Vec::new();
        for (name, limit) in plan.into_iter().flat_map(|plan| &plan.limits) {
            // Operations are always counted for all keys of an account together.
            let is_operation = Operation::ALL
                .iter()
                .any(|one| one.as_str() == name.as_str());
            let per = if is_operation {
                LimitPer::Account
            } else {
                limit.per
            };
            let subject = match per {
                LimitPer::Account => identity
                    .account
                    .as_ref()
                    .map(|one| Subject::Account(one.id)),
                LimitPer::Key => Some(Subject::Key(identity.key.id)),
            };
            states.push(LimitState {
                name: name.clone(),
                source: LimitSource::Plan(per),
                quota: limit.quota,
                decision: match subject {
                    Some(subject) => self.rest(subject, name, limit.quota).await,
                    None => None,
                },
            });
        }
        for (name, quota) in identity.key.limits.iter() {
            let subject = Subject::OwnLimit(identity.key.id);
            states.push(LimitState {
                name: name.clone(),
                source: LimitSource::Key,
                quota,
                decision: self.rest(subject, name, quota).await,
            });
        }
        states
    }

    /// Returns the state of a limit without taking from it.
    async fn rest(&self, subject: Subject, name: &LimitName, quota: Quota) -> Option<Decision> {
        let bucket = Bucket {
            subject,
            limit: name.clone(),
        };
        // A limiter that is unavailable does not keep the rest of the view from its reader.
        let peeked = self.inner.limiter.peek(&bucket, quota).await;
        peeked.ok().flatten()
    }

    /// Revokes the credential of `identity`, of any kind, and returns when the revocation has
    /// propagated to all instances. `None` if it was revoked meanwhile. Possession is enough,
    /// whichever credentials may [manage](Self::manager) keys.
    ///
    /// A finder of a key can do this as well as its owner, so an account's key is revoked as
    /// [leaked](RevocationReason::Leaked), with its successors and all keys that they made. A
    /// session or an operator key is revoked alone.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub async fn revoke_own_key(
        &self,
        identity: &Identity,
    ) -> Result<Option<Effective>, RevokeError> {
        let id = identity.key.id;
        let by = Actor::credential(identity, None);
        let reason = match identity.key.kind {
            KeyKind::Account => Some(RevocationReason::Leaked),
            KeyKind::Operator => None,
            KeyKind::Session => {
                let revocation = Revocation::default();
                return self.revoke_one(&by, None, id, revocation).await;
            }
        };
        let selection = KeySelection::ids([id]).of_kind(identity.key.kind);
        let revocation = Revocation::new(reason);
        let revoked = self.revoke_living(&by, id, selection, revocation).await?;
        Ok(revoked.and_then(|revoked| revoked.effective))
    }
}
