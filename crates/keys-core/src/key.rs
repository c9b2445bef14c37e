//! The record of a key.

use std::fmt;

use crate::account::Account;
use crate::id::{AccountId, KeyId};
use crate::key_format::ShownPrefix;
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
        }
    }

    /// Returns whether the key counts towards the maximum of its account's plan at `now`: neither
    /// revoked nor expired.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// Returns whether the keys that this one creates are limited to its own expiry, addresses and
    /// scopes.
    ///
    /// Those of an account's key are. A session stands for a person, and a key that is created in a
    /// session outlives it. An operator key issues keys to others.
    #[must_use]
    pub const fn limits_what_it_creates(&self) -> bool {
        matches!(self.kind, KeyKind::Account)
    }

    /// Returns the limits of this key, for keys that it creates.
    #[must_use]
    pub const fn limits(&self) -> KeyLimits<'_> {
        KeyLimits {
            expires_at: self.expires_at,
            allowed_networks: &self.allowed_networks,
            scopes: &self.scopes,
        }
    }
}

/// The limits of a key: how long, from where and for what it may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a new limit must be compared wherever a key creates a key"
)]
pub struct KeyLimits<'a> {
    /// The first time at which it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// Addresses that may use it.
    pub allowed_networks: &'a AllowedNetworks,
    /// Its scopes.
    pub scopes: &'a ScopeSet,
}

impl KeyLimits<'_> {
    /// Returns the first limit that is wider than that of `creator`: the expiry, then the
    /// addresses, then the scopes. `None` if a key with `creator`'s limits may create a key with
    /// these.
    #[must_use]
    pub fn first_excess(&self, creator: &KeyLimits<'_>) -> Option<ExceededLimit> {
        let is_later = match (self.expires_at, creator.expires_at) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(own), Some(limit)) => own > limit,
        };
        if is_later {
            return Some(ExceededLimit::ExpiresAt);
        }
        let outside = if self.allowed_networks.is_unrestricted() {
            (!creator.allowed_networks.is_unrestricted()).then_some(0)
        } else {
            self.allowed_networks
                .first_outside(creator.allowed_networks)
        };
        if let Some(index) = outside {
            return Some(ExceededLimit::AllowedNetworks(index));
        }
        (!creator.scopes.covers(self.scopes)).then_some(ExceededLimit::Scopes)
    }
}

/// A limit in which a new key exceeds the key that creates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every surface names each field"
)]
pub enum ExceededLimit {
    /// It expires later, or never.
    ExpiresAt,
    /// The entry at this index of its address list, counted from 0, is outside the creator's list.
    /// 0 if it has no list.
    AllowedNetworks(usize),
    /// It has a scope that the creator lacks.
    Scopes,
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
