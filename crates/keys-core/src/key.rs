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
