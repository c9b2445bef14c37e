//! Errors of the ports.

use keys_core::{Denial, ExceededBound, InvalidMetadata, LimitName, TooManyLimits};

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
    /// The key would exceed the caller's key, as it is now, in this bound.
    #[error("a key cannot make a key that may do more than itself")]
    ExceedsCaller(ExceededBound),
    /// The key is revoked or has expired.
    #[error("the key has ended")]
    KeyEnded,
    /// The key would break a rule.
    #[error(transparent)]
    KeyInvalid(InvalidKeyPatch),
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
    /// The key has another version than the change is for. Read it again.
    #[error("the key has changed meanwhile")]
    KeyChanged,
    /// Another attempt under the same `Idempotency-Key` took over.
    #[error("another attempt took over")]
    Superseded,
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Rule that a key would break after a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKeyPatch {
    /// It would be expired already.
    #[error("the expiry is not in the future")]
    ExpiryNotInFuture,
    /// Its metadata would be refused.
    #[error(transparent)]
    Metadata(InvalidMetadata),
    /// It does not have this limit yet, and the patch has only one of its two numbers.
    #[error("limit {0} needs a number of requests and a period")]
    IncompleteLimit(LimitName),
    /// No plan has a limit of this name, so it would have no effect.
    #[error("no plan has a limit named {0}")]
    UnknownLimit(LimitName),
    /// It would have too many limits.
    #[error(transparent)]
    TooManyLimits(TooManyLimits),
    /// It is an operator key, whose scopes are granted in another way.
    #[error("the scopes of an operator key cannot be changed like those of other keys")]
    OperatorScopes,
}

impl From<InvalidKeyPatch> for ChangeError {
    fn from(error: InvalidKeyPatch) -> Self {
        Self::KeyInvalid(error)
    }
}
