//! Rejections of all surfaces. Each surface writes them in its own form.

mod error;

use std::borrow::Cow;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use keys_core::{Denial, KeyId};
use keys_service::ports::Decision;

use crate::field_error::FieldError;
use crate::limits::{self, whole_seconds};

/// Writes a rejection in the form of a surface: status and body. Headers that all forms share are
/// added to it.
pub type Render = fn(&Rejection) -> HttpResponse;

/// Reason why a request is refused, in any form.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rejection {
    /// Nothing is served at this path.
    UnknownPath,
    /// The path does not have this method.
    MethodNotAllowed {
        /// Methods of the path, as in the header `Allow`.
        allow: &'static str,
    },
    /// Two different credentials were presented.
    ConflictingCredentials,
    /// No credential, or none that is known, unexpired and not revoked.
    Unauthenticated {
        /// The fault of the credential.
        fault: CredentialFault,
        /// The limit of failed authentications that this one was counted against.
        failures: Option<Decision>,
    },
    /// The caller is known, and the request is forbidden.
    Denied {
        /// The rule that forbids it.
        denial: Denial,
        /// The limit of failed authentications that this one was counted against.
        failures: Option<Decision>,
    },
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
    /// A filter of a list could only be answered by reading the keys of all accounts.
    FilterUnbounded {
        /// The parameter.
        field: &'static str,
        /// What it needs, without its name.
        message: &'static str,
    },
    /// No plan has the name in the body.
    UnknownPlan,
    /// No plan has a limit of the given name.
    UnknownLimit {
        /// The field or parameter with the name.
        field: String,
    },
    /// The account has no such key.
    KeyNotFound,
    /// The account has no such session.
    SessionNotFound,
    /// The record has none of the versions in `If-Match`.
    PreconditionFailed,
    /// The account does not exist.
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
    /// No usable operator key with `operators:write` would be left.
    LastOperatorKey,
    /// The key may do more than the credential of its account that was presented.
    ExceedsCaller,
    /// The key was revoked or has expired.
    KeyEnded,
    /// The key is disabled.
    KeyDisabled,
    /// The key was rotated before.
    KeyRotated {
        /// The key that replaced it.
        successor: KeyId,
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

/// The fault of a credential that is answered with 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CredentialFault {
    /// No credential was presented.
    Missing,
    /// Two different credentials were presented where that is not 400.
    Conflicting,
    /// The credential was denied.
    Denied(Denial),
}

impl Rejection {
    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status_and_code().0
    }

    /// Returns the stable code; `docs/api/errors.md` lists all codes.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.status_and_code().1
    }

    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnknownPath => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::ConflictingCredentials => (StatusCode::BAD_REQUEST, "conflicting_credentials"),
            Self::Unauthenticated { .. } => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Denied { denial, .. } => (StatusCode::FORBIDDEN, denial.code()),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::InvalidIdempotencyKey => (StatusCode::BAD_REQUEST, "invalid_idempotency_key"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
            }
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::MalformedBody(_) => (StatusCode::BAD_REQUEST, "malformed_body"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::FilterUnbounded { .. } => (StatusCode::BAD_REQUEST, "filter_unbounded"),
            Self::UnknownPlan => (StatusCode::BAD_REQUEST, "unknown_plan"),
            Self::UnknownLimit { .. } => (StatusCode::BAD_REQUEST, "unknown_limit"),
            Self::KeyNotFound => (StatusCode::NOT_FOUND, "key_not_found"),
            Self::SessionNotFound => (StatusCode::NOT_FOUND, "session_not_found"),
            Self::AccountNotFound => (StatusCode::NOT_FOUND, "account_not_found"),
            Self::AccountUnreadable { .. } => (StatusCode::CONFLICT, "account_unreadable"),
            Self::ExternalIdTaken => (StatusCode::CONFLICT, "external_id_taken"),
            Self::LastOperatorKey => (StatusCode::CONFLICT, "last_operator_key"),
            Self::KeyLimitReached { .. } => (StatusCode::FORBIDDEN, "key_limit_reached"),
            Self::ExceedsCaller => (StatusCode::FORBIDDEN, "exceeds_caller"),
            Self::KeyEnded => (StatusCode::CONFLICT, "key_ended"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Self::KeyDisabled => (StatusCode::CONFLICT, "key_disabled"),
            Self::KeyRotated { .. } => (StatusCode::CONFLICT, "key_rotated"),
            Self::IdempotencyBodyDiffers => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_body_differs")
            }
            Self::IdempotencyInFlight { .. } => (StatusCode::CONFLICT, "idempotency_in_flight"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
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
            Self::Denied { denial, .. } => denial_message(*denial),
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
            Self::FilterUnbounded { field, message } => {
                return format!("{field} {message}").into();
            }
            Self::UnknownPlan => "plan is not the name of a plan",
            Self::UnknownLimit { .. } => "No plan has a limit of this name",
            Self::KeyNotFound => "API key not found",
            Self::SessionNotFound => "Session not found",
            Self::PreconditionFailed => "The record was changed since the version in If-Match",
            Self::AccountNotFound => "Account not found",
            Self::AccountUnreadable { columns } => {
                return format!(
                    "The stored account cannot be read; set these members as well: {}",
                    columns.join(", ")
                )
                .into();
            }
            Self::ExternalIdTaken => "Another account has this external_id",
            Self::LastOperatorKey => "This is the last usable operator key with operators:write",
            Self::KeyLimitReached { max } => {
                return format!("Maximum {max} API keys per account").into();
            }
            Self::ExceedsCaller => "The API key may do more than the credential that was presented",
            Self::KeyEnded => "The API key was revoked or has expired",
            Self::KeyDisabled => "The API key is disabled",
            Self::KeyRotated { successor } => {
                return format!("The API key was rotated already, its successor is {successor}")
                    .into();
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
            Self::FilterUnbounded { field, message } => {
                vec![FieldError::new(*field, *message)].into()
            }
            Self::UnknownPlan => vec![FieldError::new("plan", "is not the name of a plan")].into(),
            Self::UnknownLimit { field } => vec![FieldError::new(
                field,
                "is not the name of a limit of any plan",
            )]
            .into(),
            _ => Cow::Borrowed(&[]),
        }
    }

    /// Returns the key that replaced the one of the request, if that is why it is refused.
    #[must_use]
    pub fn successor(&self) -> Option<KeyId> {
        match self {
            Self::KeyRotated { successor } => Some(*successor),
            _ => None,
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
        if let Some(decision) = self.rate_limit() {
            limits::show(decision, headers);
        }
    }

    /// Returns the challenge with its error, or `None` if no credential was presented (RFC 6750,
    /// section 3).
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::Unauthenticated {
                fault: CredentialFault::Missing,
                ..
            } => Some(r#"Bearer realm="keys""#),
            Self::Unauthenticated { .. } => Some(r#"Bearer realm="keys", error="invalid_token""#),
            Self::Denied {
                denial: Denial::InsufficientScope,
                ..
            } => Some(r#"Bearer realm="keys", error="insufficient_scope""#),
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

    /// Returns the limit that the request was counted against.
    fn rate_limit(&self) -> Option<&Decision> {
        match self {
            Self::RateLimited(decision) => Some(decision),
            Self::Unauthenticated { failures, .. } | Self::Denied { failures, .. } => {
                failures.as_ref()
            }
            _ => None,
        }
    }

    /// Returns the rejection of a denied credential: an unknown one is 401, a known and forbidden
    /// one is 403.
    pub(crate) fn denied(denial: Denial) -> Self {
        if denial.is_unauthenticated() {
            Self::unauthenticated(CredentialFault::Denied(denial))
        } else {
            Self::forbidden(denial)
        }
    }

    pub(crate) fn unauthenticated(fault: CredentialFault) -> Self {
        Self::Unauthenticated {
            fault,
            failures: None,
        }
    }

    fn forbidden(denial: Denial) -> Self {
        Self::Denied {
            denial,
            failures: None,
        }
    }

    /// Adds the limit of failed authentications that the credential was counted against.
    pub(crate) fn counted_against(mut self, decision: Decision) -> Self {
        if let Self::Unauthenticated { failures, .. } | Self::Denied { failures, .. } = &mut self {
            *failures = Some(decision);
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;
    use keys_core::Quota;
    use std::collections::BTreeSet;

    fn all() -> Vec<Rejection> {
        let quota = Quota::per_minute(10).unwrap();
        let mut decision = Decision::allowed("create".parse().unwrap(), quota);
        decision.allowed = false;
        decision.remaining = 0;
        decision.reset = Duration::from_mins(1);
        let mut all = vec![
            Rejection::UnknownPath,
            Rejection::MethodNotAllowed { allow: "GET" },
            Rejection::ConflictingCredentials,
            Rejection::unauthenticated(CredentialFault::Missing),
            Rejection::RateLimited(decision),
            Rejection::InvalidIdempotencyKey,
            Rejection::UnsupportedMediaType,
            Rejection::BodyTooLarge { kib_max: 64 },
            Rejection::BodyTimeout,
            Rejection::MalformedBody("says what, and where".into()),
            Rejection::Invalid(vec![FieldError::new("names", "the first field at fault")]),
            Rejection::FilterUnbounded {
                field: "name",
                message: "needs account_id or external_id",
            },
            Rejection::UnknownPlan,
            Rejection::UnknownLimit {
                field: "limit".into(),
            },
            Rejection::KeyNotFound,
            Rejection::SessionNotFound,
            Rejection::PreconditionFailed,
            Rejection::AccountNotFound,
            Rejection::AccountUnreadable {
                columns: vec!["plan"],
            },
            Rejection::ExternalIdTaken,
            Rejection::LastOperatorKey,
            Rejection::KeyLimitReached { max: 10 },
            Rejection::ExceedsCaller,
            Rejection::KeyEnded,
            Rejection::KeyDisabled,
            Rejection::KeyRotated {
                successor: "AZt5bdYAcqeCoRtJcgohFA".parse().unwrap(),
            },
            Rejection::IdempotencyBodyDiffers,
            Rejection::IdempotencyInFlight {
                retry_after: Duration::ZERO,
            },
            Rejection::Unavailable,
        ];
        let denials = Denial::ALL.into_iter().map(Rejection::denied);
        all.extend(denials.filter(|rejection| matches!(rejection, Rejection::Denied { .. })));
        all
    }

    #[test]
    fn every_code_is_documented_once() {
        let document = include_str!("../../../docs/api/errors.md");
        let rows = document.lines().filter(|line| line.starts_with("| `"));
        let rows: BTreeSet<_> = rows.map(str::to_owned).collect();
        let all = all();
        for rejection in &all {
            let (code, status) = (rejection.code(), rejection.status().as_u16());
            let row = format!("| `{code}` | {status} | {} |", rejection.message());
            let documented = rows.iter().filter(|line| line.starts_with(&row));
            assert_eq!(documented.count(), 1, "{row}");
        }
        assert_eq!(rows.len(), all.len());
    }

    #[test]
    fn waiting_is_at_least_a_second_and_rounded_up() {
        for rejection in all() {
            let seconds = rejection.retry_after_seconds();
            assert!(seconds.is_none_or(|seconds| seconds >= 1), "{rejection:?}");
        }
        assert_eq!(whole_seconds(Duration::from_millis(5_001)), 6);
        assert_eq!(whole_seconds(Duration::from_secs(5)), 5);
    }
}
