//! The audit trail: the changes that leave an event, and the fields of an event.

use std::net::IpAddr;

use uuid::Uuid;

use crate::id::{AccountId, EventId, KeyId};
use crate::key::KeyKind;
use crate::texts::{display_as_str, table};
use crate::timestamp::Timestamp;

table! {
    /// A change that leaves an event in the audit trail.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum AuditAction;

    /// All actions. Complete, because the list and the enum are made from one table.
    ALL;

    /// The stable name of the action, as it is stored: the changed thing and the change, in two
    /// words.
    as_str;

    /// An account was added.
    AccountCreated = "account.created",
    /// An account was changed.
    AccountUpdated = "account.updated",
    /// A key of any kind was added.
    KeyCreated = "key.created",
    /// A key of any kind was revoked.
    KeyRevoked = "key.revoked",
    /// Fields of a key were changed.
    KeyUpdated = "key.updated",
    /// A key was disabled.
    KeyDisabled = "key.disabled",
    /// A disabled key was enabled.
    KeyEnabled = "key.enabled",
    /// A key was replaced by a new one.
    KeyRotated = "key.rotated",
}

display_as_str!(AuditAction);

/// An entry of the audit trail: the actor, the change, its time and the client address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEvent {
    /// The identifier of the entry.
    pub id: EventId,
    /// The time of the change.
    pub at: Timestamp,
    /// The party that made the change.
    pub actor: AuditActor,
    /// The kind of change.
    pub action: AuditAction,
    /// The thing that was changed.
    pub subject: AuditSubject,
    /// The address that the request came from. `None` if there was no request, or its address is
    /// unknown.
    pub address: Option<IpAddr>,
    /// The reason of a revocation if its caller gave one, or of a change that no caller asked for
    /// at that moment, such as `replayed`.
    pub reason: Option<String>,
}

impl AuditEvent {
    /// Creates an entry without address and reason.
    #[must_use]
    pub const fn new(
        id: EventId,
        at: Timestamp,
        actor: AuditActor,
        action: AuditAction,
        subject: AuditSubject,
    ) -> Self {
        Self {
            id,
            at,
            actor,
            action,
            subject,
            address: None,
            reason: None,
        }
    }
}

/// The party that made a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: a credential or the service itself makes a change"
)]
pub enum AuditActor {
    /// The service itself, or the program that it is embedded in.
    System,
    /// The holder of a credential.
    Credential {
        /// The kind of the credential.
        kind: KeyKind,
        /// The credential.
        id: KeyId,
    },
}

impl AuditActor {
    /// All kinds of actors, as they are stored.
    pub const KINDS: [&'static str; 4] = [
        Self::SYSTEM,
        KeyKind::Operator.as_str(),
        KeyKind::Account.as_str(),
        KeyKind::Session.as_str(),
    ];

    const SYSTEM: &'static str = "system";

    /// Returns the actor of this kind. `None` for an unknown kind, or if exactly one of kind and
    /// credential is that of the service itself.
    #[must_use]
    pub fn from_stored(kind: &str, credential: Option<KeyId>) -> Option<Self> {
        match (kind, credential) {
            (Self::SYSTEM, None) => Some(Self::System),
            (kind, Some(id)) => {
                let kind = KeyKind::ALL.into_iter().find(|one| one.as_str() == kind)?;
                Some(Self::Credential { kind, id })
            }
            _ => None,
        }
    }

    /// The kind of the actor, as it is stored.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::System => Self::SYSTEM,
            Self::Credential { kind, .. } => kind.as_str(),
        }
    }

    /// The credential. `None` for [`System`](Self::System).
    #[must_use]
    pub const fn credential_id(self) -> Option<KeyId> {
        match self {
            Self::System => None,
            Self::Credential { id, .. } => Some(id),
        }
    }
}

/// The thing that an [`AuditEvent`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: nothing else can be changed"
)]
pub enum AuditSubject {
    /// An account.
    Account(AccountId),
    /// A key of any kind.
    Key(KeyId),
}

impl AuditSubject {
    /// The identifier, without its type.
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        match self {
            Self::Account(id) => id.as_uuid(),
            Self::Key(id) => id.as_uuid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_two_words_and_each_is_another() {
        let mut names = AuditAction::ALL.map(AuditAction::as_str);
        for name in names {
            let is_word = |word: &str| {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            };
            let words = name.split_once('.');
            assert!(
                words.is_some_and(|(one, other)| is_word(one) && is_word(other)),
                "{name}"
            );
            // As long as the column may be.
            assert!(name.len() <= 64, "{name}");
        }
        names.sort_unstable();
        assert!(names.is_sorted_by(|one, other| one < other));
    }
}
