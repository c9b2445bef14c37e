//! The port to stored accounts.

use async_trait::async_trait;
use keys_core::{Account, AccountId, ExternalId, PlanName, Timestamp};

use super::change::Change;
use super::changes::Commit;
use super::errors::{ChangeError, StoreError};
use crate::setters::setters;

/// Finds, adds and changes accounts.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// Returns the account with that identifier. Fails with [`StoreError::Unexpected`] if its row
    /// cannot be read; see [`account_entry`](Self::account_entry).
    async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError>;

    /// Returns accounts in order of identifier. Leaves out rows that cannot be read; see
    /// [`account_entries`](Self::account_entries).
    async fn accounts(&self, query: AccountQuery) -> Result<Vec<Account>, StoreError>;

    /// Returns the account with that identifier, also if its row cannot be read. Defaults to
    /// [`find_account`](Self::find_account).
    async fn account_entry(&self, id: AccountId) -> Result<Option<AccountEntry>, StoreError> {
        Ok(self.find_account(id).await?.map(Ok))
    }

    /// Returns accounts in order of identifier, including rows that cannot be read. Defaults to
    /// [`accounts`](Self::accounts).
    async fn account_entries(&self, query: AccountQuery) -> Result<Vec<AccountEntry>, StoreError> {
        Ok(self.accounts(query).await?.into_iter().map(Ok).collect())
    }

    /// Adds an account. Audit action `account.created`.
    async fn insert_account(&self, account: Account, change: Change) -> Result<(), ChangeError>;

    /// Changes an account and returns it after the change, with the transaction. Audit action
    /// `account.updated`. An account that cannot be read is repaired if `patch` sets each invalid
    /// column.
    async fn update_account(
        &self,
        id: AccountId,
        patch: AccountPatch,
        change: Change,
    ) -> Result<(Account, Commit), ChangeError>;
}

/// An account as listed: the account, or the readable part of a row that cannot be read as one.
pub type AccountEntry = Result<Account, UnreadableAccount>;

/// A stored account that cannot be read. Its keys are refused until it is mended by
/// [`Accounts::update_account`] or by SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnreadableAccount {
    /// The identifier.
    pub id: AccountId,
    /// The columns that cannot be read, in the order of the table.
    pub columns: Vec<&'static str>,
    /// The external identifier as it is stored, legal or not. `None` if there is none, or if it is
    /// not a text.
    pub external_id: Option<String>,
    /// The plan as it is stored, legal or not. `None` if it is not a text.
    pub plan: Option<String>,
    /// Whether the account is disabled. `true` if that cannot be read.
    pub disabled: bool,
    /// Time of creation. `None` if that cannot be read.
    pub created_at: Option<Timestamp>,
}

impl UnreadableAccount {
    /// Creates an account of which only the identifier can be read.
    #[must_use]
    pub const fn new(id: AccountId, columns: Vec<&'static str>) -> Self {
        Self {
            id,
            columns,
            external_id: None,
            plan: None,
            disabled: true,
            created_at: None,
        }
    }
}

/// Changes of an account. `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct AccountPatch {
    /// The new plan.
    pub plan: Option<PlanName>,
    /// Disables or enables the account.
    pub disabled: Option<bool>,
    /// The new external identifier. `Some(None)` removes it.
    pub external_id: Option<Option<ExternalId>>,
}

impl AccountPatch {
    setters! {
        /// Changes the plan.
        plan: PlanName,
        /// Disables or enables the account.
        disabled: bool,
        /// Changes the external identifier. `None` removes it.
        external_id: Option<ExternalId>,
    }
}

/// A query of accounts, ordered by identifier, which is by time of creation, oldest first.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct AccountQuery {
    /// Only the account with this external identifier.
    pub external_id: Option<ExternalId>,
    /// Only accounts after this one.
    pub after: Option<AccountId>,
    /// Maximum number of accounts.
    pub limit: u32,
}

impl AccountQuery {
    /// Returns a query of the first `limit` accounts.
    pub const fn new(limit: u32) -> Self {
        Self {
            external_id: None,
            after: None,
            limit,
        }
    }

    setters! {
        /// Selects the account with this external identifier. `None` selects all.
        external_id: Option<ExternalId>,
        /// Selects the accounts after this one. `None` starts with the first.
        after: Option<AccountId>,
    }
}
