//! Errors of the service as rejections.

use std::error::Error;

use keys_core::chain;
use keys_service::ports::{LimiterError, StoreError};
use keys_service::{
    AccountError, EntropyError, IdempotencyError, IssueError, RevokeError, VerifyError,
};

use super::Rejection;

// The conversions below are where errors end: each is logged here, once, with its causes.

impl From<StoreError> for Rejection {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(error = chain(&error), "the database is not available");
                Self::Unavailable
            }
            error => unexpected(&error),
        }
    }
}

impl From<LimiterError> for Rejection {
    fn from(error: LimiterError) -> Self {
        tracing::warn!(error = chain(&error), "the rate limiter is not available");
        Self::Unavailable
    }
}

impl From<VerifyError> for Rejection {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::UnknownLimit => Self::UnknownLimit {
                field: "limit".into(),
            },
            VerifyError::Store(error) => error.into(),
            VerifyError::Limiter(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

impl From<EntropyError> for Rejection {
    fn from(error: EntropyError) -> Self {
        unexpected(&error)
    }
}

impl From<IdempotencyError> for Rejection {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::BodyDiffers => Self::IdempotencyBodyDiffers,
            IdempotencyError::InFlight { retry_after } => Self::IdempotencyInFlight { retry_after },
            IdempotencyError::NewerFormat => {
                tracing::warn!(
                    "a repeated request was answered by a newer version: upgrade this instance"
                );
                Self::Unavailable
            }
            error => unexpected(&error),
        }
    }
}

impl From<IssueError> for Rejection {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::CallerDenied(denial) => Self::denied(denial),
            IssueError::AccountNotFound => Self::AccountNotFound,
            IssueError::AccountDenied(denial) => Self::forbidden(denial),
            IssueError::CapReached { max } => Self::KeyLimitReached { max },
            // A limit that bodies of the contract cannot set is inherited as well.
            IssueError::CreatorRestricted | IssueError::ExceedsCreator(_) => {
                tracing::info!("a key was restricted while it created another one");
                Self::Unavailable
            }
            IssueError::Idempotency(error) => error.into(),
            IssueError::Entropy(error) => error.into(),
            IssueError::Store(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

impl From<RevokeError> for Rejection {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::CallerDenied(denial) => Self::denied(denial),
            RevokeError::AccountNotFound => Self::AccountNotFound,
            RevokeError::LastOperator => Self::LastOperatorKey,
            RevokeError::Entropy(error) => error.into(),
            RevokeError::Store(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

impl From<AccountError> for Rejection {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::UnknownPlan => Self::UnknownPlan,
            AccountError::NotFound => Self::AccountNotFound,
            AccountError::Unreadable { columns } => Self::AccountUnreadable { columns },
            AccountError::ExternalIdTaken => Self::ExternalIdTaken,
            AccountError::CallerDenied(denial) => Self::denied(denial),
            AccountError::Idempotency(error) => error.into(),
            AccountError::Entropy(error) => error.into(),
            AccountError::Store(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

/// Logs an error that should be impossible. The client can only try again.
pub(crate) fn unexpected(error: &(dyn Error + 'static)) -> Rejection {
    tracing::error!(error = chain(error), "a request failed unexpectedly");
    Rejection::Unavailable
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client repeats a 503, and another instance may know the format.
    #[test]
    fn answer_of_a_newer_version_is_unavailable() {
        for rejection in [
            Rejection::from(IssueError::from(IdempotencyError::NewerFormat)),
            Rejection::from(AccountError::from(IdempotencyError::NewerFormat)),
        ] {
            assert!(matches!(rejection, Rejection::Unavailable));
        }
    }
}
