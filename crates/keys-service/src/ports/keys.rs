//! The port to stored keys.

use std::sync::Arc;

use async_trait::async_trait;
use keys_core::{
    Account, AccountId, ApiKey, Denial, IssuePolicy, KeyDetails, KeyId, KeyKind, Metadata,
    PepperedDigest, Plans, Revocation, StoredKey, judge_account,
};

use super::change::Change;
use super::changes::Commit;
use super::errors::{ChangeError, StoreError};

/// Finds, adds and revokes keys of every kind.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// Returns the keys stored under any of `digests` (digest and pepper both equal), with their
    /// accounts, each once and in no particular order. Revoked keys are found too. One round trip
    /// for any number of digests: a thousand are fine.
    async fn find_by_digests(
        &self,
        digests: Vec<PepperedDigest>,
    ) -> Result<Vec<FoundKey>, StoreError>;

    /// Returns one page of keys, skipping `offset`.
    async fn keys(&self, owner: KeyOwner, offset: u64, limit: u32) -> Result<KeyPage, StoreError>;

    /// Adds a key. Audit action `key.created`. With an account: it is locked, admitted, its usable
    /// keys of kind [`KeyKind::Account`](keys_core::KeyKind::Account) are counted (not revoked, and
    /// not expired at `change.at`) and compared with the cap, all in one transaction. The cap
    /// applies to keys of that kind only. With a caller, the key must be within the limits of the
    /// caller's key as the transaction sees it: see [`NewKey::check_caller`].
    async fn insert_key(&self, key: NewKey, change: Change) -> Result<(), ChangeError>;

    /// Revokes a key and returns the transaction. `None` if there was none to revoke. Audit action
    /// `key.revoked`. With an `owner`, only a key that [`keys`](Self::keys) would list for it;
    /// without, a key of any kind. Revokes no other key, whatever the reason:
    /// [`KeyManagement::revoke_keys`](super::KeyManagement::revoke_keys) follows leaked keys.
    async fn revoke_key(
        &self,
        owner: Option<KeyOwner>,
        id: KeyId,
        revocation: Revocation,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError>;
}

/// A key that a look-up found, and the digest that found it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundKey {
    /// The requested digest that it is stored under.
    pub digest: PepperedDigest,
    /// The key, or the reason why its row cannot be read. An unreadable row refuses its own key and
    /// no other.
    pub stored: Result<StoredKey, UnreadableKey>,
}

impl FoundKey {
    /// Joins a digest and the key that it found.
    #[must_use]
    pub const fn new(digest: PepperedDigest, stored: Result<StoredKey, UnreadableKey>) -> Self {
        Self { digest, stored }
    }
}

/// A stored key that cannot be read, because its row or that of its account breaks a rule of this
/// program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableKey {
    /// The key. `None` if even its identifier cannot be read.
    pub id: Option<KeyId>,
    /// Whether the row marks the key as revoked.
    pub is_revoked: bool,
}

impl UnreadableKey {
    /// Creates the mark of a key that cannot be read.
    #[must_use]
    pub const fn new(id: Option<KeyId>, is_revoked: bool) -> Self {
        Self { id, is_revoked }
    }

    /// Returns the reason why the key is refused.
    #[must_use]
    pub fn denial(&self) -> Denial {
        if self.is_revoked {
            Denial::Revoked
        } else {
            Denial::Unreadable
        }
    }
}

/// A key about to be stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewKey {
    /// The record; not revoked, not yet used.
    pub key: ApiKey,
    /// The digest of its look-up.
    pub digest: PepperedDigest,
    /// Requirements on its account, checked on the locked account.
    pub admission: Admission,
    /// Names and values of the host system.
    pub metadata: Metadata,
    /// The key that it replaces by rotation.
    pub predecessor: Option<KeyId>,
}

impl NewKey {
    /// Joins a key, its digest and the requirements on its account.
    #[must_use]
    pub fn new(key: ApiKey, digest: PepperedDigest, admission: Admission) -> Self {
        Self {
            key,
            digest,
            admission,
            metadata: Metadata::default(),
            predecessor: None,
        }
    }

    /// Sets names and values of the host system.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Sets the key that it replaces by rotation.
    #[must_use]
    pub fn predecessor(mut self, predecessor: Option<KeyId>) -> Self {
        self.predecessor = predecessor;
        self
    }

    /// Returns everything that is stored about the key once `change` has created it.
    #[must_use]
    pub fn details(&self, change: &Change) -> KeyDetails {
        let mut details = KeyDetails::new(self.key.clone());
        details.created_by = Some(change.actor());
        details.metadata.clone_from(&self.metadata);
        details.predecessor = self.predecessor;
        details
    }

    /// Checks the key against the bounds of the caller's key, as the transaction sees it.
    ///
    /// The bounds of the new key were derived from the caller's key as it was when the caller was
    /// accepted. If the caller was restricted since, the new key must not keep the former bounds.
    ///
    /// # Errors
    /// [`ChangeError::ExceedsCaller`] if the new key [exceeds](ApiKey::exceeded_by) the caller's.
    pub fn check_caller(&self, caller: &ApiKey) -> Result<(), ChangeError> {
        match caller.exceeded_by(&self.key.bounds()) {
            Some(bound) => Err(ChangeError::ExceedsCaller(bound)),
            None => Ok(()),
        }
    }
}

/// Requirements on an account for a new key. Checked inside the transaction, on the locked account.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Admission {
    /// The configured plans.
    pub plans: Arc<Plans>,
    /// The requirements beside that of an enabled account.
    pub policy: IssuePolicy,
}

impl Admission {
    /// Joins the configured plans and the requirements.
    #[must_use]
    pub const fn new(plans: Arc<Plans>, policy: IssuePolicy) -> Self {
        Self { plans, policy }
    }

    /// Returns the maximum number of usable keys of `account`, counted without the new one. `None`
    /// is no maximum.
    ///
    /// # Errors
    /// If the account may not have keys at all.
    pub fn keys_max(&self, account: &Account) -> Result<Option<u32>, Denial> {
        judge_account(account, self.policy.plan_gate.then_some(&*self.plans))?;
        Ok(self.policy.cap.then(|| self.plans.keys_max(account)))
    }
}

/// The keys to list. Revoked keys are never listed; expired ones are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every store must decide for each"
)]
pub enum KeyOwner {
    /// The keys of kind [`KeyKind::Account`](keys_core::KeyKind::Account) of this account.
    Account(AccountId),
    /// The operator keys.
    Operators,
}

impl KeyOwner {
    /// Returns whether the key belongs to this owner.
    #[must_use]
    pub fn owns(self, key: &ApiKey) -> bool {
        match self {
            Self::Account(id) => key.kind == KeyKind::Account && key.account_id == Some(id),
            Self::Operators => key.kind == KeyKind::Operator,
        }
    }
}

/// One page of keys, newest first, ties by id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<ApiKey>,
    /// Those of `keys` whose rows cannot be read. Such an entry has the columns that can be read,
    /// and a harmless value in place of each other one. Its key is always refused.
    pub unreadable: Vec<KeyId>,
    /// Number of keys on all pages.
    pub total: u64,
}

impl KeyPage {
    /// Creates a page without unreadable keys.
    #[must_use]
    pub const fn new(keys: Vec<ApiKey>, total: u64) -> Self {
        Self {
            keys,
            unreadable: Vec::new(),
            total,
        }
    }

    /// Returns whether the row of `id` cannot be read.
    #[must_use]
    pub fn is_unreadable(&self, id: KeyId) -> bool {
        self.unreadable.contains(&id)
    }
}
