//! Reads and changes of keys, for management.

use async_trait::async_trait;
use keys_core::{KeyDetails, KeyId, Revocation, ScopeSet};

use super::change::Change;
use super::changes::Commit;
use super::errors::{ChangeError, StoreError};
use super::key_patch::KeyPatch;
use super::keys::{KeyOwner, UnreadableKey};
use super::lists::{KeyListing, ListedKeys};
use super::revocations::{KeySelection, RevokedKeys};
use super::rotation::KeyRotation;

/// Keys as management sees them, with everything that is stored about them.
#[async_trait]
pub trait KeyManagement: Send + Sync + 'static {
    /// Returns the key of any kind, also if it has ended. `None` if there is none.
    ///
    /// # Errors
    /// If the store cannot answer.
    async fn find_key(
        &self,
        id: KeyId,
    ) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError>;

    /// Returns one page of keys. Keyset positions make its cost independent of how many pages came
    /// before, and keep pages stable while rows come and go.
    ///
    /// The query was [checked](super::KeyQuery::check) and has no external identifier. An account
    /// that is not sorted by creation has at most [`EXAMINED_MAX`](super::EXAMINED_MAX) keys. At
    /// most that many rows are examined; then the page ends, also if it is not full.
    ///
    /// # Errors
    /// If the store cannot answer.
    async fn list_keys(&self, listing: KeyListing) -> Result<ListedKeys, StoreError>;

    /// Revokes the selected keys that are not revoked yet in one transaction, at most
    /// [`REVOKED_MAX`](super::REVOKED_MAX), the newest first. Audit action `key.revoked`, one event
    /// for each key.
    ///
    /// With reason [`Leaked`](keys_core::RevocationReason::Leaked), once none of the selected keys
    /// is left, it also revokes every successor of them and every key that one of these keys made,
    /// transitively, the nearest first. It starts from selected keys that are revoked already as
    /// well, so a later call goes on where an earlier one reached its maximum. One call visits at
    /// most [`CHAIN_MAX`](super::CHAIN_MAX) keys of the chains, including the selected ones.
    ///
    /// # Errors
    /// [`ChangeError::AccountNotFound`] if the account of the selection does not exist.
    /// [`ChangeError::LastOperator`] if no usable operator key with `operators:write` would be
    /// left.
    async fn revoke_keys(
        &self,
        selection: KeySelection,
        revocation: Revocation,
        change: Change,
    ) -> Result<RevokedKeys, ChangeError>;

    /// Replaces the scopes of an operator key, and returns the transaction. `None` if there is no
    /// such operator key, or it is revoked. Audit action `key.updated`.
    ///
    /// # Errors
    /// With `keeps_an_operator`, [`ChangeError::LastOperator`] if no usable operator key with
    /// `operators:write` would be left.
    async fn set_operator_scopes(
        &self,
        id: KeyId,
        scopes: ScopeSet,
        keeps_an_operator: bool,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError>;

    /// Replaces a key by a new one, as [`KeyRotation`] says, in one transaction: the account is
    /// locked and admitted, the new key is added, the old one gets its end and its successor, and
    /// the oldest key of the chain is revoked if it is still usable at `change.at`. The cap does
    /// not apply. Audit actions `key.rotated` for the old key, `key.created` for the new one, and
    /// `key.revoked` for the oldest one. Returns the oldest key if it was revoked.
    ///
    /// # Errors
    /// [`ChangeError::KeyChanged`] if the old key does not have the given version, among the errors
    /// of other changes. Nothing is changed then.
    async fn rotate_key(
        &self,
        rotation: KeyRotation,
        change: Change,
    ) -> Result<(Option<KeyId>, Commit), ChangeError>;

    /// Changes a key of `owner` as [`KeyPatch::apply`] says, with the rows as the transaction sees
    /// them, and returns the key after the change with the transaction. `None` if `owner` has no
    /// such key. Audit action as [`KeyPatch::action`] says. A patch that changes nothing leaves no
    /// event, and is answered like one that does.
    ///
    /// # Errors
    /// Those of [`KeyPatch::apply`], if the caller is refused, or if the store cannot answer.
    async fn update_key(
        &self,
        owner: KeyOwner,
        id: KeyId,
        patch: KeyPatch,
        change: Change,
    ) -> Result<Option<(KeyDetails, Commit)>, ChangeError>;
}
