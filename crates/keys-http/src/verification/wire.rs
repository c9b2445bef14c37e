//! Requests and answers of HTTP.

use actix_web::body::BoxBody;
use actix_web::dev::Response;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

/// Returns the answer with this JSON.
pub(super) fn json(body: Vec<u8>) -> Response<BoxBody> {
    let mut response = Response::with_body(StatusCode::OK, BoxBody::new(body));
    let content_type = HeaderValue::from_static("application/json");
    add(response.headers_mut(), CONTENT_TYPE, content_type);
    response
}

pub(super) fn keep_out_of_caches(mut response: Response<BoxBody>) -> Response<BoxBody> {
    let no_store = HeaderValue::from_static("no-store");
    add(response.headers_mut(), CACHE_CONTROL, no_store);
    response
}

/// Adds a header that is not present yet. Inserting would move room for four values, only to return
/// the one it replaces.
pub(super) fn add(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    debug_assert!(!headers.contains_key(&name), "{name} is there already");
    headers.append(name, value);
}

/// Returns whether the sender requests a read from the database, even if the key is cached.
pub(super) fn wants_fresh(headers: &HeaderMap) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
}
