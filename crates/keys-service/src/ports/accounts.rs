//! Accounts as a store returns and takes them.

use keys_core::{Account, AccountId, ExternalId, PlanName, Timestamp};

/// An account as listed: the account, or the readable part of a row that cannot be read as one.
pub type AccountEntry = Result<Account, UnreadableAccount>;

/// A stored account that cannot be read. Its keys are refused until it is mended by
/// [`KeyStore::update_account`] or by SQL.
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
