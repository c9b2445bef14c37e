//! The headers of a limit (draft-ietf-httpapi-ratelimit-headers).

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use keys_service::ports::Decision;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Adds `RateLimit-Policy: "create";q=10;w=60` and `RateLimit: "create";r=7;t=18`.
pub(crate) fn show(decision: &Decision, headers: &mut HeaderMap) {
    let Decision {
        limit,
        quota,
        remaining,
        reset,
        ..
    } = decision;
    let (requests, seconds) = (quota.requests, quota.period_seconds);
    let policy = format!(r#""{limit}";q={requests};w={seconds}"#);
    let state = format!(r#""{limit}";r={remaining};t={}"#, whole_seconds(*reset));
    for (name, value) in [(RATELIMIT_POLICY, policy), (RATELIMIT, state)] {
        // Names of limits are lower-case letters, digits, `-` and `_`, so this never fails.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// Rounds up, so that a client that waits that long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_add(u64::from(duration.subsec_nanos() > 0))
}
