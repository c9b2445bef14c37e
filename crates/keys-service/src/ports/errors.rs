//! Errors of the ports.

use keys_core::{Denial, ExceededBound};

/// Error of a store that could not answer. Says nothing about any key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached or is overloaded. A later attempt may succeed.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its answer should be impossible.
    #[error("the database answered unexpectedly")]
    Unexpected(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Error returned when a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The caller may no longer make it.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// The new key exceeds the caller's key, as it is now, in this limit.
    #[error("a key cannot create a key that may do more than itself")]
    ExceedsCaller(ExceededBound),
    /// The account does not exist.
    #[error("there is no such account")]
    AccountNotFound,
    /// The account would still be unreadable after the change, because of these columns.
    #[error("columns of the stored account cannot be read: {}", .columns.join(", "))]
    AccountUnreadable {
        /// The columns that the change must set as well.
        columns: Vec<&'static str>,
    },
    /// The account may not be given a key.
    #[error("the account was refused")]
    AccountDenied(#[source] Denial),
    /// The account has as many usable keys as it may.
    #[error("the account already has its {max} keys")]
    CapReached {
        /// The maximum.
        max: u32,
    },
    /// Another account has this external identifier.
    #[error("the external id is taken")]
    ExternalIdTaken,
    /// No usable operator key with `operators:write` would be left.
    #[error("this is the last usable operator key with operators:write")]
    LastOperator,
    /// The key is no longer as it was when the change was made up. Read it again.
    #[error("the key has changed meanwhile")]
    KeyChanged,
    /// Another attempt under the same `Idempotency-Key` took over.
    #[error("another attempt took over")]
    Superseded,
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
