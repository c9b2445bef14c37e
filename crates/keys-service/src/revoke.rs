//! Revoking keys for a reason, one or many, and ending sessions.

use std::collections::HashSet;

use keys_core::{AccountId, CreatedBy, ExternalId, KeyId, KeyKind, Revocation, RevocationReason};

use crate::actor::Actor;
use crate::everywhere::Effective;
use crate::manage::RevokeError;
use crate::ports::{KeyOwner, KeySelection, RevokedKeys, Selected};
use crate::service::KeyService;

/// The keys that one call revoked.
#[derive(Debug, Clone, Default)]
#[must_use]
#[non_exhaustive]
pub struct Revoked {
    /// The keys: at most [`REVOKED_MAX`](crate::ports::REVOKED_MAX), or a whole chain if the call
    /// named one leaked key.
    pub keys: Vec<KeyId>,
    /// Number of selected keys that are still to be revoked, counted up to
    /// [`REMAINING_MAX`](crate::ports::REMAINING_MAX). Call again until it is 0.
    pub remaining: u64,
    /// When the revocations have propagated to all instances. `None` if nothing was revoked.
    pub effective: Option<Effective>,
}

impl KeyService {
    /// Revokes a key of an account for a reason. `None` if there is none to revoke. An operator may
    /// revoke the keys of all accounts. To the key or session of an account, keys of other accounts
    /// are unknown.
    ///
    /// With reason [`Leaked`](RevocationReason::Leaked) it also revokes the successors of the key
    /// and the keys that they made, as [`revoke_keys`](Self::revoke_keys) does.
    ///
    /// # Errors
    /// See [`RevokeError`].
    ///
    /// ```
    /// # use keys_core::{Pepper, PepperRing};
    /// # use keys_service::{KeyDraft, MemoryStore, NewAccount};
    /// use keys_core::{Revocation, RevocationReason};
    /// use keys_service::{Actor, KeyService};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(&[7; 32])?);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service.create_account(&system, NewAccount::new("pro".parse()?)).await?;
    /// # let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// # let issued = service.issue_key(&system, draft).await?;
    /// let because = Revocation::new(Some(RevocationReason::Offboarded));
    /// let revoked = service
    ///     .revoke_account_key(&system, issued.key.id, because)
    ///     .await?
    ///     .ok_or("there is no such key")?;
    /// assert_eq!(revoked.keys, [issued.key.id]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn revoke_account_key(
        &self,
        by: &Actor,
        id: KeyId,
        revocation: Revocation,
    ) -> Result<Option<Revoked>, RevokeError> {
        let is_leaked = revocation.reason == Some(RevocationReason::Leaked);
        let account = match by.own_account() {
            Some(own) if !is_leaked => Some(own),
            own => match self.inner.store.find_key(id).await? {
                Some(Ok(details)) if own.is_none_or(|own| details.key.account_id == Some(own)) => {
                    details.key.account_id
                }
                // A key that cannot be read can be revoked.
                Some(Err(_)) => None,
                Some(Ok(_)) | None => return Ok(None),
            },
        };
        if let Some(account) = account
            && !is_leaked
        {
            let owner = Some(KeyOwner::Account(account));
            let effective = self.revoke_one(by, owner, id, revocation).await?;
            return Ok(effective.map(|effective| Revoked {
                keys: vec![id],
                remaining: 0,
                effective: Some(effective),
            }));
        }
        let mut selection = KeySelection::ids([id]).of_kind(KeyKind::Account);
        selection.account = by.own_account();
        self.revoke_living(by, id, selection, revocation).await
    }

    /// Revokes the selected keys in one transaction, at most
    /// [`REVOKED_MAX`](crate::ports::REVOKED_MAX). Call it again while keys remain.
    ///
    /// An operator revokes keys of accounts, or of the kind that the selection names. The key or
    /// session of an account revokes keys of its own account only. Other keys are unknown to it.
    ///
    /// With reason [`Leaked`](RevocationReason::Leaked) it also revokes every successor of the
    /// selected keys and every key that one of these keys made, transitively: at most
    /// [`CHAIN_MAX`](crate::ports::CHAIN_MAX) keys are visited in a call. For a leaked operator key
    /// these are the keys that it made for accounts.
    ///
    /// # Errors
    /// See [`RevokeError`].
    ///
    /// ```
    /// # use keys_core::{Pepper, PepperRing};
    /// # use keys_service::{KeyDraft, MemoryStore, NewAccount};
    /// use keys_core::{Revocation, RevocationReason};
    /// use keys_service::ports::KeySelection;
    /// use keys_service::{Actor, KeyService};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(&[7; 32])?);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service.create_account(&system, NewAccount::new("pro".parse()?)).await?;
    /// # for _ in 0..3 {
    /// #     let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// #     service.issue_key(&system, draft).await?;
    /// # }
    /// let because = Revocation::new(Some(RevocationReason::Offboarded));
    /// loop {
    ///     let selection = KeySelection::of_account(account.id);
    ///     let revoked = service.revoke_keys(&system, selection, because.clone()).await?;
    ///     if revoked.remaining == 0 || revoked.keys.is_empty() {
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn revoke_keys(
        &self,
        by: &Actor,
        mut selection: KeySelection,
        revocation: Revocation,
    ) -> Result<Revoked, RevokeError> {
        if !by.is_trusted() && selection.kind.is_none() {
            selection.kind = Some(KeyKind::Account);
        }
        if let Some(own) = by.own_account() {
            if selection.account.is_some_and(|account| account != own) {
                return Err(RevokeError::AccountNotFound);
            }
            if selection.kind != Some(KeyKind::Account) {
                return Ok(Revoked::default());
            }
            selection.account = Some(own);
        }
        self.revoke_selected(by, selection, revocation).await
    }

    /// Ends a session. `None` if the account has no such session, or it was ended before. For
    /// operators.
    ///
    /// # Errors
    /// See [`RevokeError`].
    pub async fn end_session(
        &self,
        by: &Actor,
        account: AccountId,
        id: KeyId,
        revocation: Revocation,
    ) -> Result<Option<Revoked>, RevokeError> {
        if !by.may_administer() {
            return Ok(None);
        }
        let selection = KeySelection::ids([id])
            .of_kind(KeyKind::Session)
            .within(account);
        match self.revoke_living(by, id, selection, revocation).await {
            // It has no sessions.
            Err(RevokeError::AccountNotFound) => Ok(None),
            outcome => outcome,
        }
    }

    /// Ends the sessions of an account, all or those of one person, at most
    /// [`REVOKED_MAX`](crate::ports::REVOKED_MAX) in a call. Sessions that have expired are left
    /// out. For operators.
    ///
    /// # Errors
    /// See [`RevokeError`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use keys_core::{Pepper, PepperRing, Revocation};
    /// # use keys_service::{MemoryStore, NewAccount};
    /// use keys_service::{Actor, KeyService, SessionDraft};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(&[7; 32])?);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service.create_account(&system, NewAccount::new("pro".parse()?)).await?;
    /// let person = Some("user-17".parse()?);
    /// let draft = SessionDraft::new(account.id, Duration::from_mins(15)).subject(person.clone());
    /// let session = service.open_session(&system, draft).await?;
    ///
    /// // The person signs out.
    /// let ended = service
    ///     .end_sessions(&system, account.id, person, Revocation::default())
    ///     .await?;
    /// assert_eq!(ended.keys, [session.key.id]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn end_sessions(
        &self,
        by: &Actor,
        account: AccountId,
        subject: Option<ExternalId>,
        revocation: Revocation,
    ) -> Result<Revoked, RevokeError> {
        if !by.may_administer() {
            return Err(RevokeError::AccountNotFound);
        }
        let mut selection = KeySelection::sessions_of(account);
        if let Some(subject) = subject {
            selection.of = Selected::CreatedBy(CreatedBy::Subject(subject), KeyKind::Session);
        }
        self.revoke_selected(by, selection, revocation).await
    }

    /// Revokes a selection that consists of one key. `None`, and no key is revoked, if that one is
    /// revoked already, so that what it made is not touched a second time. A chain longer than one
    /// transaction takes is revoked to its end by the service itself, because the key of the caller
    /// may be in it.
    pub(crate) async fn revoke_living(
        &self,
        by: &Actor,
        id: KeyId,
        selection: KeySelection,
        revocation: Revocation,
    ) -> Result<Option<Revoked>, RevokeError> {
        let is_living = match self.inner.store.find_key(id).await? {
            Some(Ok(details)) => details.key.revoked_at.is_none(),
            Some(Err(unreadable)) => !unreadable.is_revoked,
            None => false,
        };
        if !is_living {
            return Ok(None);
        }
        let first = self.revoke_selected(by, selection.clone(), revocation.clone());
        let mut revoked = first.await?;
        if !revoked.keys.contains(&id) {
            // A concurrent call has revoked it.
            return Ok(None);
        }
        let rest = Actor::system();
        while revoked.remaining > 0 {
            let more = self.revoke_selected(&rest, selection.clone(), revocation.clone());
            let more = more.await?;
            revoked.remaining = more.remaining;
            if more.keys.is_empty() {
                break;
            }
            revoked.keys.extend(more.keys);
            revoked.effective = more.effective.or(revoked.effective);
        }
        Ok(Some(revoked))
    }

    pub(crate) async fn revoke_one(
        &self,
        by: &Actor,
        owner: Option<KeyOwner>,
        id: KeyId,
        revocation: Revocation,
    ) -> Result<Option<Effective>, RevokeError> {
        let reason = revocation.reason;
        let mut change = self.change(by, self.now(), None)?;
        change.reason = reason.map(RevocationReason::as_str);
        let store = &self.inner.store;
        let Some(commit) = store.revoke_key(owner, id, revocation, change).await? else {
            // An earlier attempt may have revoked it without receiving the answer.
            self.inner.cache.key_changed(id);
            return Ok(None);
        };
        let effective = self.effective(commit);
        self.inner.cache.key_revoked_here(id, reason);
        Ok(Some(effective))
    }

    pub(crate) async fn revoke_selected(
        &self,
        by: &Actor,
        selection: KeySelection,
        revocation: Revocation,
    ) -> Result<Revoked, RevokeError> {
        let reason = revocation.reason;
        let mut change = self.change(by, self.now(), None)?;
        change.reason = reason.map(RevocationReason::as_str);
        let named: HashSet<KeyId> = match &selection.of {
            Selected::Ids(ids) => ids.iter().copied().collect(),
            Selected::AllOf(..) | Selected::CreatedBy(..) => HashSet::new(),
        };
        let store = &self.inner.store;
        let RevokedKeys {
            keys,
            remaining,
            commit,
        } = store.revoke_keys(selection, revocation, change).await?;
        let effective = commit.map(|commit| self.effective(commit));
        for id in &keys {
            self.inner.cache.key_revoked_here(*id, reason);
        }
        let revoked: HashSet<KeyId> = keys.iter().copied().collect();
        for id in named.difference(&revoked) {
            // An earlier attempt may have revoked it without receiving the answer.
            self.inner.cache.key_changed(*id);
        }
        Ok(Revoked {
            keys,
            remaining,
            effective,
        })
    }
}
