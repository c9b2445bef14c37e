//! Errors of the service as rejections.

use std::error::Error;

use keys_core::{Denial, chain};
use keys_service::ports::{LimiterError, StoreError, UnboundedFilter};
use keys_service::{
    AccountError, EntropyError, FindKeysError, IdempotencyError, IssueError, RevokeError,
    RotateError, UpdateKeyError, VerifyError,
};

use super::Rejection;
use crate::field_error::{FieldError, GRACE};

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

impl From<RotateError> for Rejection {
    fn from(error: RotateError) -> Self {
        let (field, message) = match error {
            RotateError::GraceTooLong => ("grace_seconds", GRACE),
            RotateError::GraceTooShort => (
                "grace_seconds",
                "must be at least 60 for a key that rotates itself",
            ),
            RotateError::ExpiryNotInFuture => ("expires_at", "must be in the future"),
            RotateError::ExpiryTooLate => {
                ("expires_at", "must not be later than the expiry of the key")
            }
            RotateError::ExceedsCaller(_) => return Self::ExceedsCaller,
            RotateError::CallerDenied(denial) => return Self::denied(denial),
            RotateError::NotFound => return Self::KeyNotFound,
            RotateError::Unreadable => return Self::forbidden(Denial::Unreadable),
            RotateError::Ended => return Self::KeyEnded,
            RotateError::Disabled => return Self::KeyDisabled,
            RotateError::Rotated { successor } => return Self::KeyRotated { successor },
            RotateError::AccountDenied(denial) => return Self::forbidden(denial),
            RotateError::Idempotency(error) => return error.into(),
            RotateError::Entropy(error) => return error.into(),
            RotateError::Store(error) => return error.into(),
            error => return unexpected(&error),
        };
        Self::Invalid(vec![FieldError::new(field, message)])
    }
}

/// Errors about fields of the body are converted by the route, which knows their names.
impl From<UpdateKeyError> for Rejection {
    fn from(error: UpdateKeyError) -> Self {
        match error {
            UpdateKeyError::NotFound => Self::KeyNotFound,
            UpdateKeyError::Unreadable => Self::forbidden(Denial::Unreadable),
            UpdateKeyError::Ended => Self::KeyEnded,
            UpdateKeyError::VersionDiffers => Self::PreconditionFailed,
            UpdateKeyError::CallerDenied(denial) => Self::denied(denial),
            UpdateKeyError::Entropy(error) => error.into(),
            UpdateKeyError::Store(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

impl From<FindKeysError> for Rejection {
    fn from(error: FindKeysError) -> Self {
        const ACCOUNT: &str = "needs account_id or external_id";
        let (field, message) = match error {
            FindKeysError::AccountNotFound => return Self::AccountNotFound,
            FindKeysError::CallerDenied(denial) => return Self::denied(denial),
            FindKeysError::Store(error) => return error.into(),
            FindKeysError::Cursor(_) => {
                let message = "belongs to a list with other filters or another sort";
                return Self::Invalid(vec![FieldError::new("cursor", message)]);
            }
            FindKeysError::Unbounded(filter) => match filter {
                UnboundedFilter::Name => ("name", ACCOUNT),
                UnboundedFilter::Metadata => ("metadata", ACCOUNT),
                UnboundedFilter::Kind => {
                    let message = "session needs account_id, external_id or created_by=subject:..";
                    ("kind", message)
                }
                UnboundedFilter::Sort => {
                    let message = "must be created_at or -created_at, except for keys of accounts";
                    ("sort", message)
                }
                UnboundedFilter::Status => {
                    let message = "must not have revoked unless sort is created_at or -created_at";
                    ("status", message)
                }
                UnboundedFilter::AccountTooLarge => {
                    let message = "must be created_at or -created_at for an account with more than 10000 keys";
                    ("sort", message)
                }
                error => return unexpected(&error),
            },
            error => return unexpected(&error),
        };
        Self::FilterUnbounded { field, message }
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
fn unexpected(error: &(dyn Error + 'static)) -> Rejection {
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
