//! The header `Key-Expires`: the end of the key of a request.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use keys_core::Timestamp;

pub(crate) const KEY_EXPIRES: HeaderName = HeaderName::from_static("key-expires");

/// Adds the time as an HTTP-date. Adds nothing for a key that never expires.
pub(crate) fn show(expires_at: Option<Timestamp>, headers: &mut HeaderMap) {
    let date = expires_at.map(Timestamp::to_http_date);
    // A date is plain ASCII, so this never fails.
    if let Some(Ok(value)) = date.map(HeaderValue::try_from) {
        headers.insert(KEY_EXPIRES, value);
    }
}
