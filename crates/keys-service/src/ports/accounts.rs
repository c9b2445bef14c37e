//! The port to stored accounts.

use async_trait::async_trait;
use keys_core::{Account, AccountId, ExternalId, PlanName, Timestamp};

use super::change::Change;
use super::changes::Commit;
use super::errors::{ChangeError, StoreError};

/// Finds, adds and changes accounts.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// The account of that identifier. Fails with [`StoreError::Unexpected`] if its row cannot be read; see
    /// [`account_entry`](Self::account_entry).
    async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError>;

    /// Accounts in order of identifier. Leaves out rows that cannot be read; see
    /// [`account_entries`](Self::account_entries).
    async fn accounts(&self, query: AccountQuery) -> Result<Vec<Account>, StoreError>;

    /// The account of that identifier, also if its row cannot be read. By default as
    /// [`find_account`](Self::find_account).
    async fn account_entry(&self, id: AccountId) -> Result<Option<AccountEntry>, StoreError> {
        Ok(self.find_account(id).await?.map(Ok))
    }

    /// Accounts in order of identifier, rows that cannot be read among them. By default as
    /// [`accounts`](Self::accounts).
    async fn account_entries(&self, query: AccountQuery) -> Result<Vec<AccountEntry>, StoreError> {
        Ok(self.accounts(query).await?.into_iter().map(Ok).collect())
    }

    /// Adds an account. Audit action `account.created`.
    async fn insert_account(&self, account: Account, change: Change) -> Result<(), ChangeError>;

    /// Changes an account and returns it as it is then, with the transaction. Audit action `account.updated`. An
    /// account that cannot be read is mended if `patch` sets each column at fault.
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
pub struct UnreadableAccount {
    /// The identifier.
    pub id: AccountId,
    /// The columns that cannot be read, in the order of the table.
    pub columns: Vec<&'static str>,
    /// The external identifier as it is stored, legal or not. `None` if there is none, or if it is no text.
    pub external_id: Option<String>,
    /// The plan as it is stored, legal or not. `None` if it is no text.
    pub plan: Option<String>,
    /// Whether the account is disabled; `true` if that cannot be read.
    pub disabled: bool,
    /// When it was created. `None` if that cannot be read.
    pub created_at: Option<Timestamp>,
}

/// What is to change of an account. `None` leaves a member as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountPatch {
    /// The new plan.
    pub plan: Option<PlanName>,
    /// Disable or enable.
    pub disabled: Option<bool>,
    /// The new external identifier; `Some(None)` removes it.
    pub external_id: Option<Option<ExternalId>>,
}

/// Which accounts to list: ordered by identifier, which is by time of creation, oldest first.
#[derive(Debug, Clone)]
pub struct AccountQuery {
    /// Only the account with this external identifier.
    pub external_id: Option<ExternalId>,
    /// Only accounts after this one.
    pub after: Option<AccountId>,
    /// At most this many.
    pub limit: u32,
}
