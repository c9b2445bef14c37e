//! Creating, finding and changing accounts.

use std::time::Duration;

use keys_core::{Account, AccountId, Denial, ExternalId, PlanName};

use crate::actor::Actor;
use crate::answer;
use crate::entropy::EntropyError;
use crate::everywhere::Effective;
use crate::idempotency::{Attempt, IdempotencyError, Idempotent, ReserveError};
use crate::ports::{AccountEntry, AccountPatch, AccountQuery, ChangeError, StoreError};
use crate::service::KeyService;
use crate::setters::setters;

/// An account to be created.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct NewAccount {
    /// The host system's identifier.
    pub external_id: Option<ExternalId>,
    /// The plan.
    pub plan: PlanName,
    /// Identifies a repetition of the request. `None` creates an account in any case.
    pub idempotent: Option<Idempotent>,
}

impl NewAccount {
    /// Creates a request for an account on this plan.
    pub const fn new(plan: PlanName) -> Self {
        Self {
            external_id: None,
            plan,
            idempotent: None,
        }
    }

    setters! {
        /// Sets the host system's identifier.
        external_id: Option<ExternalId>,
        /// Returns the first answer again if the request is a repetition.
        idempotent: Option<Idempotent>,
    }
}

/// Error returned when an account was not created or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// No plan has this name.
    #[error("there is no plan of that name")]
    UnknownPlan,
    /// The account does not exist.
    #[error("there is no such account")]
    NotFound,
    /// The stored account cannot be read, and the change does not set each column at fault.
    #[error("columns of the stored account cannot be read, set them as well: {}", .columns.join(", "))]
    Unreadable {
        /// The columns that the change must set as well.
        columns: Vec<&'static str>,
    },
    /// Another account has the external identifier.
    #[error("another account has this external id")]
    ExternalIdTaken,
    /// The caller is no longer authorized.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// The request is a repetition that cannot be answered.
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ChangeError> for AccountError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::CallerDenied(denial) => Self::CallerDenied(denial),
            ChangeError::AccountNotFound => Self::NotFound,
            ChangeError::AccountUnreadable { columns } => Self::Unreadable { columns },
            ChangeError::ExternalIdTaken => Self::ExternalIdTaken,
            ChangeError::Superseded => Self::Idempotency(IdempotencyError::InFlight {
                retry_after: Duration::ZERO,
            }),
            ChangeError::Store(error) => Self::Store(error),
            error => Self::Store(StoreError::Unexpected(error.into())),
        }
    }
}

impl From<ReserveError> for AccountError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Idempotency(error) => Self::Idempotency(error),
            ReserveError::Store(error) => Self::Store(error),
        }
    }
}

/// One page of accounts, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountPage {
    /// The accounts. Each may be a row that cannot be read.
    pub accounts: Vec<AccountEntry>,
    /// The last of them, if there are more.
    pub next: Option<AccountId>,
}

impl KeyService {
    /// Creates an account.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn create_account(
        &self,
        by: &Actor,
        new: NewAccount,
    ) -> Result<Account, AccountError> {
        if !by.may_administer() {
            return Err(AccountError::CallerDenied(Denial::KindNotAllowed));
        }
        if self.inner.plans.find(&new.plan).is_none() {
            return Err(AccountError::UnknownPlan);
        }
        let at = self.now();
        let id = AccountId::generate(at, &mut self.entropy())?;
        let mut account = Account::new(id, new.plan, at);
        account.external_id = new.external_id;
        let insert = async |account: &Account, completion| {
            let change = self.change(by, at, completion)?;
            let inserted = self
                .inner
                .store
                .insert_account(account.clone(), change)
                .await;
            Ok::<_, AccountError>(inserted?)
        };
        let Some(idempotent) = new.idempotent else {
            insert(&account, None).await?;
            return Ok(account);
        };
        let attempt = Attempt::new(idempotent, by, &self.inner.peppers, self.event_id(at)?);
        if let Some(answer) = self.reserve(&attempt, at).await? {
            return Ok(answer::read(&answer)?);
        }
        let result = async {
            let answer = answer::write(&account)?;
            let peppers = &self.inner.peppers;
            let completion = attempt.seal(peppers, &answer, at, &mut self.entropy())?;
            insert(&account, Some(completion)).await
        }
        .await;
        if result.is_err() {
            self.release(&attempt).await;
        }
        result.map(|()| account)
    }

    /// Returns the account with that identifier, also if its row cannot be read.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn account_entry(&self, id: AccountId) -> Result<Option<AccountEntry>, StoreError> {
        self.inner.store.account_entry(id).await
    }

    /// Returns the account with that identifier.
    ///
    /// # Errors
    /// If the store cannot answer, or the row of the account cannot be read.
    pub async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.inner.store.find_account(id).await
    }

    /// Returns one page of accounts.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn list_accounts(&self, query: AccountQuery) -> Result<AccountPage, StoreError> {
        let limit = query.limit as usize;
        // One more than requested shows whether there is a next page.
        let query = AccountQuery {
            limit: query.limit.saturating_add(1),
            ..query
        };
        let mut accounts = self.inner.store.account_entries(query).await?;
        let more = accounts.len() > limit;
        accounts.truncate(limit);
        let next = accounts.last().filter(|_| more);
        let next = next.map(|entry| match entry {
            Ok(account) => account.id,
            Err(unreadable) => unreadable.id,
        });
        Ok(AccountPage { accounts, next })
    }

    /// Changes an account, and returns when the change has propagated to all instances. This
    /// instance applies it from the next request on.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn update_account(
        &self,
        by: &Actor,
        id: AccountId,
        patch: AccountPatch,
    ) -> Result<(Account, Effective), AccountError> {
        if !by.may_administer() {
            return Err(AccountError::CallerDenied(Denial::KindNotAllowed));
        }
        if let Some(plan) = &patch.plan
            && self.inner.plans.find(plan).is_none()
        {
            return Err(AccountError::UnknownPlan);
        }
        let change = self.change(by, self.now(), None)?;
        let (account, commit) = self.inner.store.update_account(id, patch, change).await?;
        let effective = self.effective(commit);
        // Before the answer: from then on this instance must judge by the new state.
        self.inner.cache.account_changed(id);
        Ok((account, effective))
    }
}
