//! The record of a key.

use std::fmt;

use crate::account::{Account, ExternalId};
use crate::id::{AccountId, KeyId};
use crate::key_format::ShownPrefix;
use crate::key_limits::KeyLimits;
use crate::name::KeyName;
use crate::network::AllowedNetworks;
use crate::scope::ScopeSet;
use crate::timestamp::Timestamp;

/// The kind of a credential. Decided when it is created, never inferred from its scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(::serde::Serialize, ::serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: code that decides by kind must decide for each"
)]
pub enum KeyKind {
    /// The credential of an operator. Belongs to no account; its scopes say what it may manage.
    Operator,
    /// An account's API key: listed, counted, limited by the plan.
    Account,
    /// The session of a signed-in person, for at most a day. Belongs to an account, is not listed
    /// and not counted.
    Session,
}

impl KeyKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Account, Self::Session];

    /// Returns the name used in logs and in the audit trail.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Account => "account",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The stored fields of a key, without its secret and its digest.
///
/// Serialized keys of earlier versions are read, so a field that is added later is an `Option` or
/// has a serde default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
#[non_exhaustive]
pub struct ApiKey {
    /// The identifier.
    pub id: KeyId,
    /// The kind.
    pub kind: KeyKind,
    /// The account it belongs to. `None` for [`KeyKind::Operator`].
    pub account_id: Option<AccountId>,
    /// The part of the secret that may be shown.
    pub shown_prefix: ShownPrefix,
    /// The owner's name of the key.
    pub name: Option<KeyName>,
    /// Addresses that may use it.
    pub allowed_networks: AllowedNetworks,
    /// Its scopes.
    pub scopes: ScopeSet,
    /// The first time at which it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// Time of its revocation.
    pub revoked_at: Option<Timestamp>,
    /// Time of the last successful use; may lag by the flush interval.
    pub last_used_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Time since when it is disabled. `None` while it is enabled.
    #[cfg_attr(feature = "serde", serde(default))]
    pub disabled_at: Option<Timestamp>,
    /// Its own limits, on top of those of the plan.
    #[cfg_attr(feature = "serde", serde(default))]
    pub limits: KeyLimits,
    /// The host system's identifier of the person that a session is for, or in whose session the
    /// key was made.
    #[cfg_attr(feature = "serde", serde(default))]
    pub subject: Option<ExternalId>,
}

impl ApiKey {
    /// Creates the record of a key that belongs to no account, does not expire, and may be used
    /// from every address. It has no name and no scopes.
    #[must_use]
    pub fn new(id: KeyId, kind: KeyKind, shown_prefix: ShownPrefix, created_at: Timestamp) -> Self {
        Self {
            id,
            kind,
            account_id: None,
            shown_prefix,
            name: None,
            allowed_networks: AllowedNetworks::default(),
            scopes: ScopeSet::default(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            created_at,
            disabled_at: None,
            limits: KeyLimits::default(),
            subject: None,
        }
    }

    /// Returns whether the key counts towards the maximum of its account's plan at `now`: neither
    /// revoked nor expired.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Returns the bounds of this key.
    #[must_use]
    pub const fn bounds(&self) -> KeyBounds<'_> {
        KeyBounds {
            expires_at: self.expires_at,
            allowed_networks: &self.allowed_networks,
            scopes: &self.scopes,
            limits: &self.limits,
        }
    }

    /// Returns the first bound in which a new key exceeds this one, if this one creates it: the
    /// expiry, then the addresses, the scopes and the limits. `None` if it may create the key.
    ///
    /// What an account's key creates is within its own bounds. A session stands for a person, and a
    /// key that is created in a session outlives it, so only the scopes of a session bound it, if
    /// the session has any. An operator key issues keys to others.
    #[must_use]
    pub fn exceeded_by(&self, new: &KeyBounds<'_>) -> Option<ExceededBound> {
        let lacks_scopes = !self.scopes.covers(new.scopes);
        match self.kind {
            KeyKind::Operator => None,
            KeyKind::Session => {
                (lacks_scopes && !self.scopes.is_empty()).then_some(ExceededBound::Scopes)
            }
            KeyKind::Account => self.bounds().exceeded_by(new),
        }
    }
}

/// The bounds of a key: how long, from where, for what and how often it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a new bound must be compared wherever a key creates a key"
)]
pub struct KeyBounds<'a> {
    /// The first time at which it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// Addresses that may use it.
    pub allowed_networks: &'a AllowedNetworks,
    /// Its scopes.
    pub scopes: &'a ScopeSet,
    /// Its own limits.
    pub limits: &'a KeyLimits,
}

impl KeyBounds<'_> {
    /// Returns the first bound in which `inner` exceeds these: the expiry, then the addresses, the
    /// scopes and the limits.
    #[must_use]
    pub fn exceeded_by(&self, inner: &KeyBounds<'_>) -> Option<ExceededBound> {
        let is_later = self
            .expires_at
            .is_some_and(|limit| inner.expires_at.is_none_or(|wanted| wanted > limit));
        let outside = if inner.allowed_networks.is_unrestricted() {
            (!self.allowed_networks.is_unrestricted()).then_some(0)
        } else {
            inner.allowed_networks.first_outside(self.allowed_networks)
        };
        if is_later {
            Some(ExceededBound::ExpiresAt)
        } else if let Some(index) = outside {
            Some(ExceededBound::AllowedNetworks(index))
        } else if !self.scopes.covers(inner.scopes) {
            Some(ExceededBound::Scopes)
        } else {
            (!self.limits.covers(inner.limits)).then_some(ExceededBound::Limits)
        }
    }
}

/// A bound in which a new key exceeds the key that creates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every surface names each field"
)]
pub enum ExceededBound {
    /// It expires later, or never.
    ExpiresAt,
    /// The entry at this index of its address list, counted from 0, is outside the creator's list.
    /// 0 if it has no list.
    AllowedNetworks(usize),
    /// It has a scope that the creator lacks.
    Scopes,
    /// It has a higher limit, or lacks a limit that the creator has.
    Limits,
}

/// A key with the account that holds it, read together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredKey {
    /// The key.
    pub key: ApiKey,
    /// Its account. `None` for an operator key.
    pub account: Option<Account>,
}

impl StoredKey {
    /// Joins a key and its account.
    #[must_use]
    pub const fn new(key: ApiKey, account: Option<Account>) -> Self {
        Self { key, account }
    }
}
