//! The keys that one change revokes.

use keys_core::{AccountId, CreatedBy, KeyId, KeyKind};

use super::changes::Commit;

/// Maximum number of keys that one change revokes.
pub const REVOKED_MAX: usize = 1_000;

/// Maximum number of keys that one change visits while it follows the successors of a leaked key
/// and the keys that they made.
pub const CHAIN_MAX: usize = 10_000;

/// Maximum up to which the keys that remain to be revoked are counted.
pub const REMAINING_MAX: u64 = 100_000;

/// Keys to be revoked together. The filters apply to every selection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct KeySelection {
    /// The keys.
    pub of: Selected,
    /// Selects keys of this kind only. `None` selects keys of any kind.
    pub kind: Option<KeyKind>,
    /// Selects keys of this account only, which must exist.
    pub account: Option<AccountId>,
    /// Whether the change is refused if no usable operator key with `operators:write` would be
    /// left.
    pub keeps_an_operator: bool,
}

/// The keys of a [`KeySelection`], before its filters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every store must decide for each"
)]
pub enum Selected {
    /// These keys, whether they have expired or not.
    Ids(Vec<KeyId>),
    /// The keys of this kind of an account. Sessions that have expired are left out.
    AllOf(AccountId, KeyKind),
    /// The keys of this kind that this party made, or the sessions of this person. Sessions that
    /// have expired are left out.
    CreatedBy(CreatedBy, KeyKind),
}

impl KeySelection {
    /// Selects these keys, of any kind.
    pub fn ids(ids: impl Into<Vec<KeyId>>) -> Self {
        Self::new(Selected::Ids(ids.into()))
    }

    /// Selects all keys of kind [`KeyKind::Account`] of an account.
    pub fn of_account(account: AccountId) -> Self {
        Self::all_of(account, KeyKind::Account)
    }

    /// Selects the keys of kind [`KeyKind::Account`] that this party made.
    pub fn created_by(creator: CreatedBy) -> Self {
        let kind = KeyKind::Account;
        Self::new(Selected::CreatedBy(creator, kind)).of_kind(kind)
    }

    /// Selects all sessions of an account.
    pub fn sessions_of(account: AccountId) -> Self {
        Self::all_of(account, KeyKind::Session)
    }

    fn all_of(account: AccountId, kind: KeyKind) -> Self {
        Self::new(Selected::AllOf(account, kind))
            .of_kind(kind)
            .within(account)
    }

    fn new(of: Selected) -> Self {
        Self {
            of,
            kind: None,
            account: None,
            keeps_an_operator: true,
        }
    }

    /// Selects keys of this kind only.
    pub fn of_kind(mut self, kind: KeyKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Selects keys of this account only.
    pub fn within(mut self, account: AccountId) -> Self {
        self.account = Some(account);
        self
    }

    /// Revokes also the last usable operator key with `operators:write`.
    pub fn even_the_last_operator(mut self) -> Self {
        self.keeps_an_operator = false;
        self
    }
}

/// The result of revoking a [`KeySelection`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RevokedKeys {
    /// The keys that the change revoked, at most [`REVOKED_MAX`].
    pub keys: Vec<KeyId>,
    /// Number of keys that are still to be revoked, up to [`REMAINING_MAX`].
    pub remaining: u64,
    /// The transaction. `None` if it revoked nothing.
    pub commit: Option<Commit>,
}

impl RevokedKeys {
    /// Joins the revoked keys and the transaction.
    #[must_use]
    pub const fn new(keys: Vec<KeyId>, remaining: u64, commit: Option<Commit>) -> Self {
        Self {
            keys,
            remaining,
            commit,
        }
    }
}
