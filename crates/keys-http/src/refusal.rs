//! Refusals of all surfaces. Each surface writes them in its own form.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use keys_core::Denial;
use keys_service::entropy::EntropyError;
use keys_service::{
    AccountError, Decision, IdempotencyError, IssueError, IssueField, LimiterError, RevokeError,
    StoreError, VerifyError,
};

use crate::field_error::FieldError;

/// Writes a refusal in the form of a surface: status and body. Headers that all forms share are
/// added to it.
pub type Render = fn(&Refusal) -> HttpResponse;

/// Reason why a request is refused, in any form.
#[derive(Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing is served at this path.
    UnknownPath,
    /// The path does not have this method.
    MethodNotAllowed {
        /// Methods of the path, as in the header `Allow`.
        allow: &'static str,
    },
    /// Two different credentials were presented.
    ConflictingCredentials,
    /// No credential, or one that is unknown, revoked or expired.
    Unauthenticated {
        /// Whether a credential was presented.
        presented: bool,
    },
    /// The caller is known and not allowed.
    Denied(Denial),
    /// Too many requests.
    RateLimited(Decision),
    /// The `Idempotency-Key` is invalid, or there are several.
    InvalidIdempotencyKey,
    /// The body, or its type, is not JSON in UTF-8 without content coding.
    UnsupportedMediaType,
    /// The body is longer than the maximum.
    BodyTooLarge {
        /// The maximum, in KiB.
        kib_max: usize,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is not a JSON object.
    MalformedBody(Cow<'static, str>),
    /// Fields of the body, or parameters of the query, are invalid.
    Invalid(Vec<FieldError>),
    /// No plan has the name in the body.
    UnknownPlan,
    /// No plan has a limit of the given name.
    UnknownLimit {
        /// The field or parameter with the name.
        field: String,
    },
    /// The account has no such key.
    KeyNotFound,
    /// There is no such account.
    AccountNotFound,
    /// The stored account cannot be read, and the body does not set each column at fault.
    AccountUnreadable {
        /// The columns that the body must set as well.
        columns: Vec<&'static str>,
    },
    /// Another account has the external id in the body.
    ExternalIdTaken,
    /// The account has as many usable keys as its plan allows.
    KeyLimitReached {
        /// The maximum.
        max: u32,
    },
    /// The `Idempotency-Key` was used with another body.
    IdempotencyBodyDiffers,
    /// The first request with this `Idempotency-Key` is still under way.
    IdempotencyInFlight {
        /// Time until a repetition may take over.
        retry_after: Duration,
    },
    /// A dependency of the service is unavailable. Says nothing about any key.
    Unavailable,
}

impl Refusal {
    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ConflictingCredentials
            | Self::InvalidIdempotencyKey
            | Self::MalformedBody(_)
            | Self::Invalid(_)
            | Self::UnknownPlan
            | Self::UnknownLimit { .. } => StatusCode::BAD_REQUEST,
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Denied(_) | Self::KeyLimitReached { .. } => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::KeyNotFound | Self::AccountNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::AccountUnreadable { .. }
            | Self::ExternalIdTaken
            | Self::IdempotencyInFlight { .. } => StatusCode::CONFLICT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::IdempotencyBodyDiffers => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the stable name of this refusal; `docs/api/errors.md` lists all of them.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownPath => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::ConflictingCredentials => "conflicting_credentials",
            Self::Unauthenticated { .. } => "unauthorized",
            Self::Denied(denial) => denial.code(),
            Self::RateLimited(_) => "rate_limited",
            Self::InvalidIdempotencyKey => "invalid_idempotency_key",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::MalformedBody(_) => "malformed_body",
            Self::Invalid(_) => "invalid_request",
            Self::UnknownPlan => "unknown_plan",
            Self::UnknownLimit { .. } => "unknown_limit",
            Self::KeyNotFound => "key_not_found",
            Self::AccountNotFound => "account_not_found",
            Self::AccountUnreadable { .. } => "account_unreadable",
            Self::ExternalIdTaken => "external_id_taken",
            Self::KeyLimitReached { .. } => "key_limit_reached",
            Self::IdempotencyBodyDiffers => "idempotency_body_differs",
            Self::IdempotencyInFlight { .. } => "idempotency_in_flight",
            Self::Unavailable => "unavailable",
        }
    }

    /// Returns the message for people.
    #[must_use]
    pub fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::UnknownPath => "Not found",
            Self::MethodNotAllowed { .. } => "Method not allowed",
            Self::ConflictingCredentials => "Two different credentials were presented",
            Self::Unauthenticated { .. } => "Unauthorized",
            Self::Denied(denial) => denial_message(*denial),
            Self::RateLimited(_) => "Too many requests",
            Self::InvalidIdempotencyKey => {
                "Idempotency-Key must be one value of 1 to 255 visible ASCII characters"
            }
            Self::UnsupportedMediaType => "The body must be sent as application/json",
            Self::BodyTooLarge { kib_max } => {
                return format!("The body must not be longer than {kib_max} KiB").into();
            }
            Self::BodyTimeout => "The body did not arrive in time",
            Self::MalformedBody(message) => return message.clone(),
            Self::Invalid(fields) => {
                return fields.first().map_or("Invalid request".into(), |first| {
                    format!("{} {}", first.field, first.message).into()
                });
            }
            Self::UnknownPlan => "plan is not the name of a plan",
            Self::UnknownLimit { .. } => "No plan has a limit of this name",
            Self::KeyNotFound => "API key not found",
            Self::AccountNotFound => "Account not found",
            Self::AccountUnreadable { columns } => {
                return format!(
                    "The stored account cannot be read; set these members as well: {}",
                    columns.join(", ")
                )
                .into();
            }
            Self::ExternalIdTaken => "Another account has this external_id",
            Self::KeyLimitReached { max } => {
                return format!("Maximum {max} API keys per account").into();
            }
            Self::IdempotencyBodyDiffers => "This Idempotency-Key was used with another body",
            Self::IdempotencyInFlight { .. } => {
                "A request with this Idempotency-Key is still in flight"
            }
            Self::Unavailable => "The service is temporarily unavailable",
        })
    }

    /// Returns the invalid fields of the body or query, if any.
    #[must_use]
    pub fn fields(&self) -> Cow<'_, [FieldError]> {
        match self {
            Self::Invalid(fields) => Cow::Borrowed(fields),
            Self::UnknownPlan => vec![FieldError::new("plan", "is not the name of a plan")].into(),
            Self::UnknownLimit { field } => vec![FieldError::new(
                field,
                "is not the name of a limit of any plan",
            )]
            .into(),
            _ => Cow::Borrowed(&[]),
        }
    }

    /// Returns the whole answer: in the form of the surface, with the headers that all forms share.
    #[must_use]
    pub fn respond(&self, render: Render) -> HttpResponse {
        let mut response = render(self);
        self.put_headers(response.headers_mut());
        response
    }

    fn put_headers(&self, headers: &mut HeaderMap) {
        if let Some(challenge) = self.challenge() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Self::MethodNotAllowed { allow } = self {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
    }

    /// Returns the error of the challenge (RFC 6750, section 3), or `None` if no credential was
    /// presented.
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated { presented: false } => Some(r#"Bearer realm="keys""#),
            Self::Unauthenticated { presented: true } => {
                Some(r#"Bearer realm="keys", error="invalid_token""#)
            }
            Self::Denied(Denial::InsufficientScope) => {
                Some(r#"Bearer realm="keys", error="insufficient_scope""#)
            }
            _ => None,
        }
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::RateLimited(decision) => Some(whole_seconds(decision.retry_after).max(1)),
            Self::IdempotencyInFlight { retry_after } => Some(whole_seconds(*retry_after).max(1)),
            Self::Unavailable => Some(1),
            _ => None,
        }
    }

    /// Returns the refusal of a credential: unknown is 401, known and forbidden is 403.
    pub(crate) fn denied(denial: Denial) -> Self {
        if denial.is_unauthenticated() {
            Self::Unauthenticated { presented: true }
        } else {
            Self::Denied(denial)
        }
    }

    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }

    /// Converts the error of a key or session that was not issued. `name` returns the field of the
    /// request's body that a value was read from, or `None` if the contract has no such field.
    pub(crate) fn not_issued(
        error: IssueError,
        name: impl FnOnce(IssueField) -> Option<String>,
    ) -> Self {
        let message = match error {
            IssueError::ExpiryNotInFuture => "must be in the future",
            IssueError::SessionTtl => "must be a whole number from 1 to 86400",
            IssueError::ReservedPrefix => "is reserved for another kind of credential",
            IssueError::ExceedsCreator(IssueField::ExpiresAt) => {
                "must not be later than the expiry of the key that creates it"
            }
            IssueError::ExceedsCreator(IssueField::AllowedNetworks(_)) => {
                "must be within the addresses of the key that creates it"
            }
            IssueError::ExceedsCreator(_) => "must be held by the key that creates it",
            error => return error.into(),
        };
        match error.field().and_then(name) {
            Some(field) => Self::field(field, message),
            None => error.into(),
        }
    }
}

fn denial_message(denial: Denial) -> &'static str {
    match denial {
        Denial::KindNotAllowed => "This kind of credential cannot be used here",
        Denial::AccountDisabled => "The account is disabled",
        Denial::PlanForbidden => "API keys not available on your plan",
        Denial::IpNotAllowed => "This API key cannot be used from this address",
        Denial::InsufficientScope => "This API key lacks a required scope",
        Denial::Unreadable => "The stored record of this API key or its account cannot be read",
        _ => "Forbidden",
    }
}

/// Rounds up, so that a client that waits that long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}

// The conversions below are where errors end: each is logged here, once, with its causes.

impl From<StoreError> for Refusal {
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

impl From<LimiterError> for Refusal {
    fn from(error: LimiterError) -> Self {
        tracing::warn!(error = chain(&error), "the rate limiter is not available");
        Self::Unavailable
    }
}

impl From<VerifyError> for Refusal {
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

impl From<EntropyError> for Refusal {
    fn from(error: EntropyError) -> Self {
        unexpected(&error)
    }
}

impl From<IdempotencyError> for Refusal {
    fn from(error: IdempotencyError) -> Self {
        match error {
            IdempotencyError::BodyDiffers => Self::IdempotencyBodyDiffers,
            IdempotencyError::InFlight { retry_after } => Self::IdempotencyInFlight { retry_after },
            error => unexpected(&error),
        }
    }
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::CallerDenied(denial) => Self::denied(denial),
            IssueError::AccountNotFound => Self::AccountNotFound,
            IssueError::AccountDenied(denial) => Self::Denied(denial),
            IssueError::CapReached { max } => Self::KeyLimitReached { max },
            IssueError::Idempotency(error) => error.into(),
            IssueError::Entropy(error) => error.into(),
            IssueError::Store(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

impl From<RevokeError> for Refusal {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::CallerDenied(denial) => Self::denied(denial),
            RevokeError::Entropy(error) => error.into(),
            RevokeError::Store(error) => error.into(),
            error => unexpected(&error),
        }
    }
}

impl From<AccountError> for Refusal {
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
fn unexpected(error: &(dyn Error + 'static)) -> Refusal {
    tracing::error!(error = chain(error), "a request failed unexpectedly");
    Refusal::Unavailable
}

/// Returns an error with its causes in one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_core::Quota;
    use std::collections::BTreeSet;

    fn all() -> Vec<Refusal> {
        let decision = Decision {
            limit: "create".parse().unwrap(),
            quota: Quota::per_minute(10.try_into().unwrap()),
            allowed: false,
            remaining: 0,
            reset: Duration::from_mins(1),
            retry_after: Duration::ZERO,
        };
        let mut all = vec![
            Refusal::UnknownPath,
            Refusal::MethodNotAllowed { allow: "GET" },
            Refusal::ConflictingCredentials,
            Refusal::Unauthenticated { presented: true },
            Refusal::RateLimited(decision),
            Refusal::InvalidIdempotencyKey,
            Refusal::UnsupportedMediaType,
            Refusal::BodyTooLarge { kib_max: 64 },
            Refusal::BodyTimeout,
            Refusal::MalformedBody("says what, and where".into()),
            Refusal::field("names", "the first field at fault"),
            Refusal::UnknownPlan,
            Refusal::UnknownLimit {
                field: "limit".into(),
            },
            Refusal::KeyNotFound,
            Refusal::AccountNotFound,
            Refusal::AccountUnreadable {
                columns: vec!["plan"],
            },
            Refusal::ExternalIdTaken,
            Refusal::KeyLimitReached { max: 10 },
            Refusal::IdempotencyBodyDiffers,
            Refusal::IdempotencyInFlight {
                retry_after: Duration::ZERO,
            },
            Refusal::Unavailable,
        ];
        let denials = Denial::ALL.into_iter().map(Refusal::denied);
        all.extend(denials.filter(|refusal| matches!(refusal, Refusal::Denied(_))));
        all
    }

    #[test]
    fn every_code_is_documented_once() {
        let document = include_str!("../../../docs/api/errors.md");
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        let rows: BTreeSet<_> = rows.map(str::to_owned).collect();
        let all = all();
        for refusal in &all {
            let (code, status) = (refusal.code(), refusal.status().as_u16());
            let row = format!("| `{code}` | {status} | {} |", refusal.message());
            let documented = rows.iter().filter(|line| line.starts_with(&row));
            assert_eq!(documented.count(), 1, "{row}");
        }
        assert_eq!(rows.len(), all.len());
    }

    #[test]
    fn waiting_is_at_least_a_second_and_rounded_up() {
        for refusal in all() {
            let seconds = refusal.retry_after_seconds();
            assert!(seconds.is_none_or(|seconds| seconds >= 1), "{refusal:?}");
        }
        assert_eq!(whole_seconds(Duration::from_millis(5_001)), 6);
        assert_eq!(whole_seconds(Duration::from_secs(5)), 5);
    }
}
