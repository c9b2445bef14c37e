//! The data that every change carries.

use std::net::IpAddr;
use std::sync::Arc;

use keys_core::{
    AccountId, AuditAction, AuditActor, AuditEvent, AuditSubject, Denial, EventId, KeyId, KeyKind,
    Plans, Question, ScopeSet, StoredKey, Timestamp, judge,
};

use super::idempotency::Completion;

/// The authority of a change.
#[derive(Debug, Clone)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every store must decide for each"
)]
pub enum Authority {
    /// The owner of the machine or of the embedding program.
    Trusted,
    /// The holder of a credential, to be checked again inside the transaction.
    Caller(Caller),
}

/// A credential that was accepted for a change, with the requirements it was accepted for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Caller {
    /// The credential.
    pub key_id: KeyId,
    /// Its kind, which the stored key must have.
    pub kind: KeyKind,
    /// The account it belongs to, which the stored key must belong to.
    pub account_id: Option<AccountId>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// Scopes that the change needs.
    pub scopes: ScopeSet,
    /// Plans that its account must satisfy. `None` if the plan does not matter.
    pub plans: Option<Arc<Plans>>,
    /// The records by which it was accepted. The store may judge the caller by them and make the
    /// change on the condition that they are still as they were, instead of reading them again.
    /// `None` if they are not known.
    pub accepted: Option<Arc<StoredKey>>,
}

impl Caller {
    /// Creates a caller for something that needs no scope and no plan, from an unknown address.
    #[must_use]
    pub fn new(key_id: KeyId, kind: KeyKind, account_id: Option<AccountId>) -> Self {
        Self {
            key_id,
            kind,
            account_id,
            address: None,
            scopes: ScopeSet::default(),
            plans: None,
            accepted: None,
        }
    }

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

/// The data that every change carries: its time, its authority, the client address, and the
/// reserved answer that it completes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Change {
    /// Time of the change.
    pub at: Timestamp,
    /// Identifies its audit event.
    pub event_id: EventId,
    /// Authority of the change.
    pub authority: Authority,
    /// The idempotent answer to store in the same transaction, if one was reserved.
    pub completion: Option<Completion>,
    /// The reason of a revocation, or of a change that no caller requests at this moment, for the
    /// audit trail.
    pub reason: Option<&'static str>,
}

impl Change {
    /// Creates a change that completes no reservation.
    #[must_use]
    pub const fn new(at: Timestamp, event_id: EventId, authority: Authority) -> Self {
        Self {
            at,
            event_id,
            authority,
            completion: None,
            reason: None,
        }
    }

    /// Returns the party that makes the change.
    #[must_use]
    pub fn actor(&self) -> AuditActor {
        match &self.authority {
            Authority::Trusted => AuditActor::System,
            Authority::Caller(caller) => AuditActor::Credential {
                kind: caller.kind,
                id: caller.key_id,
            },
        }
    }

    /// The event that this change leaves in the audit trail.
    #[must_use]
    pub fn event(&self, action: AuditAction, subject: AuditSubject) -> AuditEvent {
        let mut event = AuditEvent::new(self.event_id, self.at, self.actor(), action, subject);
        event.address = match &self.authority {
            Authority::Trusted => None,
            Authority::Caller(caller) => caller.address,
        };
        event.reason = self.reason.map(str::to_owned);
        event
    }

    /// Returns the identifier of the event number `index`, counted from 0, of a change that leaves
    /// several.
    #[must_use]
    pub fn event_id_of(&self, index: usize) -> EventId {
        /// The random bits at the end of a UUID of version 7.
        const RANDOM: u128 = (1 << 62) - 1;
        let first = self.event_id.as_uuid().as_u128();
        let counted = (first & RANDOM).wrapping_add(index as u128) & RANDOM;
        EventId::from_uuid(uuid::Uuid::from_u128(first & !RANDOM | counted))
    }
}
