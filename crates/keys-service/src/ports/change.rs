//! What every change carries.

use std::net::IpAddr;
use std::sync::Arc;

use keys_core::{
    AccountId, AuditAction, AuditActor, AuditEvent, AuditSubject, Denial, EventId, KeyId, KeyKind,
    Plans, Question, ScopeSet, StoredKey, Timestamp, judge,
};

use super::idempotency::Completion;

/// On whose word a change is made.
#[derive(Debug, Clone)]
pub enum Authority {
    /// The owner of the machine or of the embedding program.
    Trusted,
    /// The holder of a credential, to be judged again inside the transaction.
    Caller(Caller),
}

/// A credential that was accepted for a change, and what it was accepted for.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The credential.
    pub key_id: KeyId,
    /// Its kind, which the stored key must have.
    pub kind: KeyKind,
    /// The account it belongs to, which the stored key must belong to.
    pub account_id: Option<AccountId>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The scopes that the change needs.
    pub scopes: ScopeSet,
    /// The plans its account must satisfy; `None` where the plan does not matter.
    pub plans: Option<Arc<Plans>>,
    /// The records by which it was accepted. The store may judge the caller by them and make the
    /// change on the condition that they are still as they were, instead of reading them again.
    /// `None` if they are not known.
    pub accepted: Option<Arc<StoredKey>>,
}

impl Caller {
    /// Judges the caller as the transaction sees it. `stored` is `None` if the key is gone.
    ///
    /// # Errors
    /// The reason why the caller may no longer make the change.
    pub fn check(&self, stored: Option<&StoredKey>, now: Timestamp) -> Result<(), Denial> {
        let stored = stored.ok_or(Denial::NotFound)?;
        let question = Question {
            kinds: &[self.kind],
            plans: self.plans.as_deref(),
            address: self.address,
            scopes: &self.scopes,
        };
        judge(stored, &question, || now)?;
        // No statement of this program moves a key to another account. A key that was moved by
        // other means is not the credential that was accepted.
        if stored.key.account_id == self.account_id {
            Ok(())
        } else {
            Err(Denial::KindNotAllowed)
        }
    }
}

/// What every change carries: when, on whose word, from where, and which reserved answer it completes.
#[derive(Debug, Clone)]
pub struct Change {
    /// When the change is made.
    pub at: Timestamp,
    /// Identifies its audit event.
    pub event_id: EventId,
    /// On whose word.
    pub authority: Authority,
    /// The idempotent answer to keep in the same transaction, if one was reserved.
    pub completion: Option<Completion>,
    /// The reason of a change that no caller asks for at this moment, for the audit trail.
    pub reason: Option<&'static str>,
}

impl Change {
    /// The event that this change leaves in the audit trail.
    #[must_use]
    pub fn event(&self, action: AuditAction, subject: AuditSubject) -> AuditEvent {
        let (actor, address) = match &self.authority {
            Authority::Trusted => (AuditActor::System, None),
            Authority::Caller(caller) => {
                let (kind, id) = (caller.kind, caller.key_id);
                (AuditActor::Credential { kind, id }, caller.address)
            }
        };
        AuditEvent {
            id: self.event_id,
            at: self.at,
            actor,
            action,
            subject,
            address,
            reason: self.reason.map(str::to_owned),
        }
    }
}
