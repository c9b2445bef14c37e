//! The record of a key.

use std::fmt;

use crate::account::Account;
use crate::id::{AccountId, KeyId};
use crate::name::KeyName;
use crate::network::AllowedNetworks;
use crate::scope::ScopeSet;
use crate::secret::ShownPrefix;
use crate::timestamp::Timestamp;

/// What a credential is. Decided when it is made, never inferred from what it may do.
///
/// The list is complete on purpose: code that decides by kind must decide for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(::serde::Serialize, ::serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum KeyKind {
    /// Of whoever runs the service. Belongs to no account; its scopes say what it may manage.
    Operator,
    /// An account's API key: listed, counted, limited by the plan.
    Account,
    /// A signed-in person, for at most a day. Belongs to an account, is not listed and not counted.
    Session,
}

impl KeyKind {
    /// The name used in logs and in the audit trail.
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

/// What is known of a key. Neither its secret nor its digest is part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The identifier.
    pub id: KeyId,
    /// What it is.
    pub kind: KeyKind,
    /// The account it belongs to; none exactly for [`KeyKind::Operator`].
    pub account_id: Option<AccountId>,
    /// What may be shown of the secret.
    pub shown_prefix: ShownPrefix,
    /// What its owner calls it.
    pub name: Option<KeyName>,
    /// Where it may be used from.
    pub allowed_networks: AllowedNetworks,
    /// What it may be used for.
    pub scopes: ScopeSet,
    /// The first moment it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The last successful use; may lag by the flush interval.
    pub last_used_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl ApiKey {
    /// Whether the key counts towards the maximum of its account's plan at `now`: neither revoked
    /// nor expired.
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// A key with the account that holds it, read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub key: ApiKey,
    /// Its account. `None` only for an operator's key.
    pub account: Option<Account>,
}
