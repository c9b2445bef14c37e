//! The replacement of a key by a new one.

use keys_core::{
    AuditAction, AuditEvent, AuditSubject, EventId, KeyDetails, KeyId, KeyVersion, Revocation,
    RevocationReason, Timestamp,
};

use super::change::Change;
use super::keys::NewKey;

/// The replacement of a key by a new one.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyRotation {
    /// The key that is replaced.
    pub old: KeyId,
    /// The version of the old key that the new one was made from.
    pub version: KeyVersion,
    /// The key before the old one in the chain. It ends at once, so that a chain has at most two
    /// usable keys.
    pub oldest: Option<KeyId>,
    /// The new key.
    pub new: NewKey,
    /// End of the old key, unless it ends earlier by itself. If this is not later than the change,
    /// the old key is revoked: it then ends at once, also by a clock that is behind.
    pub ends_at: Timestamp,
    /// Identifies the audit event of the new key.
    pub created_event: EventId,
    /// Identifies the audit event of the end of the oldest key.
    pub ended_event: EventId,
}

impl KeyRotation {
    /// The reason in the audit trail of the end of the oldest key.
    const REASON: RevocationReason = RevocationReason::Superseded;

    /// Replaces `old`, as it was read, by `new`. The [predecessor](NewKey::predecessor) of the new
    /// key is set.
    #[must_use]
    pub fn new(old: &KeyDetails, new: NewKey, ends_at: Timestamp, events: [EventId; 2]) -> Self {
        let [created_event, ended_event] = events;
        Self {
            old: old.key.id,
            version: old.version(),
            oldest: old.predecessor,
            new: new.predecessor(Some(old.key.id)),
            ends_at,
            created_event,
            ended_event,
        }
    }

    /// Returns the old key as it is after `change`.
    #[must_use]
    pub fn replaced(&self, mut old: KeyDetails, change: &Change) -> KeyDetails {
        old.successor = Some(self.new.key.id);
        if self.ends_at > change.at {
            let own = old.key.expires_at.unwrap_or(Timestamp::MAX);
            old.key.expires_at = Some(self.ends_at.min(own));
            old
        } else {
            Self::ended(old, change)
        }
    }

    /// Returns the oldest key as it is after `change`. `None` if it has ended before.
    #[must_use]
    pub fn superseded(&self, oldest: KeyDetails, change: &Change) -> Option<KeyDetails> {
        let is_next = oldest.successor == Some(self.old);
        let ends = is_next && !oldest.status(change.at).is_ended();
        ends.then(|| Self::ended(oldest, change))
    }

    fn ended(mut key: KeyDetails, change: &Change) -> KeyDetails {
        key.key.revoked_at = Some(change.at);
        key.revocation = Revocation::new(Some(Self::REASON));
        key
    }

    /// Returns the audit event of the old key.
    #[must_use]
    pub fn rotated_event(&self, change: &Change) -> AuditEvent {
        change.event(AuditAction::KeyRotated, AuditSubject::Key(self.old))
    }

    /// Returns the audit event of the new key.
    #[must_use]
    pub fn created_event(&self, change: &Change) -> AuditEvent {
        let subject = AuditSubject::Key(self.new.key.id);
        let mut event = change.event(AuditAction::KeyCreated, subject);
        event.id = self.created_event;
        event
    }

    /// Returns the audit event of the end of the oldest key.
    #[must_use]
    pub fn ended_event(&self, oldest: KeyId, change: &Change) -> AuditEvent {
        let mut event = change.event(AuditAction::KeyRevoked, AuditSubject::Key(oldest));
        event.id = self.ended_event;
        event.reason = Some(Self::REASON.as_str().to_owned());
        event
    }
}
