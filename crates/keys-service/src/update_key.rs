//! Changing, disabling and enabling keys.

use keys_core::{Denial, ExceededBound, KeyDetails, KeyId, KeyKind};

use crate::actor::Actor;
use crate::entropy::EntropyError;
use crate::everywhere::Effective;
use crate::ports::{ChangeError, InvalidKeyPatch, KeyOwner, KeyPatch, StoreError};
use crate::service::KeyService;

/// Error returned when a key was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateKeyError {
    /// The key does not exist, or the caller may not know of it.
    #[error("there is no such key")]
    NotFound,
    /// The stored key cannot be read.
    #[error("the stored key cannot be read")]
    Unreadable,
    /// The key is revoked or has expired.
    #[error("the key has ended, and can no longer be changed")]
    Ended,
    /// The key has none of the requested versions.
    #[error("the key was changed meanwhile")]
    VersionDiffers,
    /// The key would break a rule.
    #[error(transparent)]
    Invalid(InvalidKeyPatch),
    /// The key would be wider than the caller's key in this bound.
    #[error("a key cannot widen a key beyond itself")]
    ExceedsCaller(ExceededBound),
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

impl From<ChangeError> for UpdateKeyError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::CallerDenied(denial) => Self::CallerDenied(denial),
            ChangeError::KeyEnded => Self::Ended,
            ChangeError::KeyChanged => Self::VersionDiffers,
            ChangeError::KeyInvalid(error) => Self::Invalid(error),
            ChangeError::ExceedsCaller(limit) => Self::ExceedsCaller(limit),
            ChangeError::Store(error) => Self::Store(error),
            error => Self::Store(StoreError::Unexpected(error.into())),
        }
    }
}

impl KeyService {
    /// Changes a key, and returns it with the time by which the change has propagated to all
    /// instances. This instance applies it from the next request on.
    ///
    /// An account's key or session may change the keys of its account, and never makes one wider
    /// than itself.
    ///
    /// ```
    /// use keys_core::ScopeSet;
    /// use keys_service::ports::KeyPatch;
    /// # use keys_core::{Pepper, PepperRing};
    /// # use keys_service::{Actor, KeyDraft, KeyService, MemoryStore, NewAccount};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
    /// # let peppers = PepperRing::new("p1".parse()?, pepper);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service.create_account(&system, NewAccount::new("pro".parse()?)).await?;
    /// # let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// # let issued = service.issue_key(&system, draft).await?;
    /// let Some(Ok(found)) = service.find_key(&system, issued.key.id).await? else {
    ///     return Err("there is no such key".into());
    /// };
    /// // Refused if another caller has changed the key since it was read.
    /// let patch = KeyPatch::default()
    ///     .scopes(ScopeSet::parse(["orders:read"])?)
    ///     .if_version([found.version()]);
    /// let (changed, effective) = service.update_key(&system, issued.key.id, patch).await?;
    /// assert_ne!(changed.version(), found.version());
    /// service.everywhere(effective).await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`UpdateKeyError`].
    pub async fn update_key(
        &self,
        by: &Actor,
        id: KeyId,
        patch: KeyPatch,
    ) -> Result<(KeyDetails, Effective), UpdateKeyError> {
        if let Some(limits) = &patch.limits
            && let Some(name) = self.unknown_limit(limits.names())
        {
            return Err(UpdateKeyError::Invalid(InvalidKeyPatch::UnknownLimit(name)));
        }
        // The kind and the account of a key never change, so they may be read before.
        let key = match self.find_key(by, id).await? {
            Some(Ok(details)) if by.may_manage(&details.key) => details.key,
            Some(Err(_)) => return Err(UpdateKeyError::Unreadable),
            _ => return Err(UpdateKeyError::NotFound),
        };
        if key.kind == KeyKind::Operator && patch.scopes.is_some() {
            return Err(UpdateKeyError::Invalid(InvalidKeyPatch::OperatorScopes));
        }
        let owner = key
            .account_id
            .map_or(KeyOwner::Operators, KeyOwner::Account);
        let change = self.change(by, self.now(), None)?;
        let updated = self
            .inner
            .store
            .update_key(owner, id, patch, change)
            .await?;
        let (details, commit) = updated.ok_or(UpdateKeyError::NotFound)?;
        let effective = self.effective(commit);
        // Before the answer: from then on this instance must judge by the new state.
        self.inner.cache.key_changed(id);
        Ok((details, effective))
    }

    /// Disables a key: it is refused until it is enabled again. Returns it with the time by which
    /// all instances refuse it. This instance refuses it from the next request on. A key that is
    /// disabled already stays so.
    ///
    /// ```
    /// # use keys_core::{Denial, Pepper, PepperRing};
    /// # use keys_service::{Actor, KeyDraft, KeyService, MemoryStore, NewAccount};
    /// use keys_service::{VerdictCode, VerifyRequest};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
    /// # let peppers = PepperRing::new("p1".parse()?, pepper);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service.create_account(&system, NewAccount::new("pro".parse()?)).await?;
    /// # let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// # let issued = service.issue_key(&system, draft).await?;
    /// let request = VerifyRequest::new(issued.secret.expose());
    /// let _ = service.disable_key(&system, issued.key.id).await?;
    /// let verdict = service.verify(&request).await?;
    /// assert_eq!(verdict.code, VerdictCode::Denied(Denial::Disabled));
    ///
    /// let _ = service.enable_key(&system, issued.key.id).await?;
    /// assert!(service.verify(&request).await?.is_valid());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`UpdateKeyError`].
    pub async fn disable_key(
        &self,
        by: &Actor,
        id: KeyId,
    ) -> Result<(KeyDetails, Effective), UpdateKeyError> {
        self.update_key(by, id, KeyPatch::default().disabled(true))
            .await
    }

    /// Enables a key again, as [`disable_key`](Self::disable_key) shows. A key that is not disabled
    /// stays so. An account's key enables only keys within its own bounds.
    ///
    /// # Errors
    /// See [`UpdateKeyError`].
    pub async fn enable_key(
        &self,
        by: &Actor,
        id: KeyId,
    ) -> Result<(KeyDetails, Effective), UpdateKeyError> {
        self.update_key(by, id, KeyPatch::default().disabled(false))
            .await
    }
}
