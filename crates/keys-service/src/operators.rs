//! Operator keys: reading, scopes, revocation.

use keys_core::{KeyDetails, KeyId, KeyKind, Revocation, ScopeSet};

use crate::actor::Actor;
use crate::everywhere::Effective;
use crate::manage::RevokeError;
use crate::ports::{KeySelection, StoreError};
use crate::revoke::Revoked;
use crate::service::KeyService;

/// Whether the last usable operator key with `operators:write` may lose that scope, or be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LastOperator {
    /// It may not: the change is refused.
    #[default]
    Keep,
    /// It may. Afterwards only the command line creates operator keys.
    LetGo,
}

impl KeyService {
    /// Returns an operator key with everything that is stored about it, also if it has ended.
    /// `None` if there is none, or its row cannot be read.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn operator_key(&self, id: KeyId) -> Result<Option<KeyDetails>, StoreError> {
        let found = self.inner.store.find_key(id).await?;
        Ok(found
            .and_then(Result::ok)
            .filter(|details| details.key.kind == KeyKind::Operator))
    }

    /// Revokes an operator key. `None` if there is none to revoke. For operators.
    ///
    /// With reason [`Leaked`](keys_core::RevocationReason::Leaked) it also revokes every key that
    /// the operator key made, as [`revoke_keys`](Self::revoke_keys) does: other operator keys,
    /// sessions and keys of accounts.
    ///
    /// # Errors
    /// [`RevokeError::LastOperator`] if no usable operator key with `operators:write` would be left
    /// and `last` does not permit that. See [`RevokeError`].
    ///
    /// ```
    /// # use keys_core::{KeyName, OperatorScope, Pepper, PepperRing, Revocation};
    /// # use keys_service::MemoryStore;
    /// use keys_service::{Actor, KeyService, LastOperator, OperatorKeyDraft, RevokeError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(&[7; 32])?);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// let draft = OperatorKeyDraft::new(KeyName::from_name("billing")?)
    ///     .scopes([OperatorScope::OperatorsWrite].into_iter().collect());
    /// let id = service.issue_operator_key(&system, draft).await?.key.id;
    /// let because = Revocation::default();
    ///
    /// let refused = service
    ///     .revoke_operator_key(&system, id, because.clone(), LastOperator::Keep)
    ///     .await;
    /// assert!(matches!(refused, Err(RevokeError::LastOperator)));
    /// let revoked = service
    ///     .revoke_operator_key(&system, id, because, LastOperator::LetGo)
    ///     .await?;
    /// assert!(revoked.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn revoke_operator_key(
        &self,
        by: &Actor,
        id: KeyId,
        revocation: Revocation,
        last: LastOperator,
    ) -> Result<Option<Revoked>, RevokeError> {
        if !by.may_administer() {
            return Ok(None);
        }
        let mut selection = KeySelection::ids([id]).of_kind(KeyKind::Operator);
        if last == LastOperator::LetGo {
            selection = selection.even_the_last_operator();
        }
        self.revoke_living(by, id, selection, revocation).await
    }

    /// Replaces the scopes of an operator key. `None` if there is no such operator key, or it is
    /// revoked. For operators, who give no scope that their own key lacks.
    ///
    /// # Errors
    /// [`RevokeError::LastOperator`] if no usable operator key with `operators:write` would be left
    /// and `last` does not permit that. [`RevokeError::CallerDenied`] if the caller lacks one of
    /// the scopes. See [`RevokeError`].
    ///
    /// ```
    /// # use keys_core::{KeyName, OperatorScope, Pepper, PepperRing};
    /// # use keys_service::{MemoryStore, OperatorKeyDraft};
    /// use keys_service::{Actor, KeyService, LastOperator};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(&[7; 32])?);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let draft = OperatorKeyDraft::new(KeyName::from_name("billing")?);
    /// # let id = service.issue_operator_key(&system, draft).await?.key.id;
    /// let scopes = [OperatorScope::KeysRead, OperatorScope::EventsRead];
    /// let scopes = scopes.into_iter().collect();
    /// let changed = service
    ///     .set_operator_scopes(&system, id, scopes, LastOperator::Keep)
    ///     .await?;
    /// assert!(changed.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn set_operator_scopes(
        &self,
        by: &Actor,
        id: KeyId,
        scopes: ScopeSet,
        last: LastOperator,
    ) -> Result<Option<Effective>, RevokeError> {
        if !by.may_administer() {
            return Ok(None);
        }
        let by = by.giving(&scopes);
        let change = self.change(&by, self.now(), None)?;
        let keeps = last == LastOperator::Keep;
        let store = &self.inner.store;
        let commit = store.set_operator_scopes(id, scopes, keeps, change).await?;
        let effective = commit.map(|commit| self.effective(commit));
        self.inner.cache.key_changed(id);
        Ok(effective)
    }
}
