//! Listing and revoking keys.

use keys_core::{Denial, KeyId};

use crate::actor::Actor;
use crate::cache::lease::nanos;
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
    /// are unknown.
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
        let change = self.change(by, self.now(), None)?;
        let Some(commit) = self.inner.store.revoke_key(owner, id, change).await? else {
            // An earlier attempt may have revoked it without receiving the answer.
            self.inner.cache.key_changed(id);
            return Ok(None);
        };
        let effective = self.effective(commit);
        let now = nanos(self.inner.clock.elapsed());
        self.inner.acknowledged.note(now, id);
        // Before the answer: from then on this instance must refuse the key.
        self.inner.cache.key_revoked(id);
        Ok(Some(effective))
    }
}
