//! The credential that a request presents.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use keys_core::header::CredentialError;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Returns the only credential in the headers, borrowed from them so that it is not copied.
pub(crate) fn credential(headers: &HeaderMap) -> Result<Option<&str>, CredentialError> {
    keys_core::header::credential(
        headers.get_all(AUTHORIZATION).map(HeaderValue::as_bytes),
        headers.get_all(X_API_KEY).map(HeaderValue::as_bytes),
    )
}
