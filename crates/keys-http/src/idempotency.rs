//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).

use actix_web::HttpRequest;
use actix_web::http::header::HeaderName;
use keys_service::{IdempotencyKey, Idempotent};

use crate::rejection::Rejection;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Returns the request's idempotency key, if it has one. The same value twice counts as one.
pub(crate) fn key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Rejection> {
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(first) = values.next() else {
        return Ok(None);
    };
    if values.any(|other| other != first) {
        return Err(Rejection::InvalidIdempotencyKey);
    }
    let text = first.to_str().ok();
    let key = text.and_then(|text| text.parse().ok());
    key.map(Some).ok_or(Rejection::InvalidIdempotencyKey)
}

/// Returns the data by which a repetition of this request is recognised, if it has an idempotency
/// key.
pub(crate) fn idempotent(
    key: Option<IdempotencyKey>,
    operation: impl Into<String>,
    body: &[u8],
) -> Option<Idempotent> {
    Some(Idempotent::new(key?, operation, body))
}
