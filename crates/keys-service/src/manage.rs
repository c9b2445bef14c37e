//! Listing and revoking keys.

use keys_core::{Denial, KeyId, Revocation};

use crate::actor::Actor;
use crate::entropy::EntropyError;
use crate::everywhere::Effective;
use crate::ports::{ChangeError, KeyOwner, KeyPage, StoreError};
use crate::service::KeyService;

/// Error returned when a key was not revoked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// The caller is no longer authorized.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// The account does not exist.
    #[error("there is no such account")]
    AccountNotFound,
    /// No usable operator key with `operators:write` would be left.
    #[error("this is the last usable operator key with operators:write")]
    LastOperator,
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ChangeError> for RevokeError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::CallerDenied(denial) => Self::CallerDenied(denial),
            ChangeError::AccountNotFound => Self::AccountNotFound,
            ChangeError::LastOperator => Self::LastOperator,
            ChangeError::Store(error) => Self::Store(error),
            error => Self::Store(StoreError::Unexpected(error.into())),
        }
    }
}

impl KeyService {
    /// Returns one page of keys, newest first, ties by id. Revoked keys are not listed; expired
    /// ones are.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn list_keys(
        &self,
        owner: KeyOwner,
        offset: u64,
        limit: u32,
    ) -> Result<KeyPage, StoreError> {
        self.inner.store.keys(owner, offset, limit).await
    }

    /// Revokes a key, and returns when the revocation has propagated to all instances. `None` if
    /// there was none to revoke. With an `owner`, only a key of that owner is revoked, and others
    /// are unknown. Revokes no other key, and also the last operator key: see
    /// [`revoke_account_key`](Self::revoke_account_key) and
    /// [`revoke_operator_key`](Self::revoke_operator_key).
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub async fn revoke_key(
        &self,
        by: &Actor,
        owner: Option<KeyOwner>,
        id: KeyId,
    ) -> Result<Option<Effective>, RevokeError> {
        let is_own = match owner {
            Some(KeyOwner::Account(account)) => by.may_act_for(account),
            Some(KeyOwner::Operators) | None => by.may_administer(),
        };
        if !is_own {
            // A key of another owner is unknown.
            return Ok(None);
        }
        self.revoke_one(by, owner, id, Revocation::default()).await
    }
}
