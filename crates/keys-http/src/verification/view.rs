//! Verdicts as they are shown to callers.
//!
//! The JSON is written by hand. A serializer of structs escapes the name of each member each time,
//! which takes two thirds of the time of a whole verdict.

use std::io::Write as _;

use keys_core::{Denial, ExternalId, KeyKind, Scope};
use keys_service::{Verdict, VerdictCode, VerifiedKey};

use crate::limits::whole_seconds;

/// Usual length of a verdict with its key, rounded up.
pub(super) const USUAL_LEN: usize = 384;

/// Appends a verdict as JSON.
pub(super) fn write_verdict(body: &mut Vec<u8>, verdict: &Verdict) {
    let (code, key) = disclosed(verdict);
    let valid = code == VerdictCode::Valid;
    let code = code.as_str();
    write(body, format_args!(r#"{{"valid":{valid},"code":"{code}""#));
    if let Some(key) = key {
        write_key(body, key);
    }
    if let Some(decision) = &verdict.rate_limit {
        let (limit, remaining) = (decision.quota.requests, decision.remaining);
        let reset = whole_seconds(decision.reset);
        write(
            body,
            format_args!(
                r#","rate_limit":{{"limit":{limit},"remaining":{remaining},"reset_seconds":{reset}}}"#
            ),
        );
    }
    let freshness = verdict.freshness.as_str();
    write(body, format_args!(r#","freshness":"{freshness}"}}"#));
}

fn write_key(body: &mut Vec<u8>, key: &VerifiedKey) {
    let account = key.account();
    write(
        body,
        format_args!(r#","key":{{"id":"{}","account_id":"#, key.id()),
    );
    match account {
        Some(account) => write(body, format_args!(r#""{}""#, account.id)),
        None => body.extend_from_slice(b"null"),
    }
    body.extend_from_slice(br#","external_id":"#);
    let external_id = account.and_then(|account| account.external_id);
    write_text(body, external_id.map(ExternalId::as_str));
    body.extend_from_slice(br#","name":"#);
    write_text(body, key.name());
    body.extend_from_slice(br#","plan":"#);
    write_text(body, account.map(|account| account.plan.as_str()));
    body.extend_from_slice(br#","scopes":["#);
    for (index, scope) in key.scopes().iter().map(Scope::as_str).enumerate() {
        // A scope has no character that JSON escapes.
        let comma = if index > 0 { "," } else { "" };
        write(body, format_args!(r#"{comma}"{scope}""#));
    }
    body.extend_from_slice(br#"],"expires_at":"#);
    match key.expires_at() {
        Some(expires_at) => write(body, format_args!(r#""{expires_at}"}}"#)),
        None => body.extend_from_slice(b"null}"),
    }
}

fn write(body: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    body.write_fmt(text).expect(WRITABLE);
}

/// Appends a text that may need escapes.
fn write_text(body: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => serde_json::to_writer(body, text).expect(WRITABLE),
        None => body.extend_from_slice(b"null"),
    }
}

const WRITABLE: &str = "memory can always be written to";

/// The code and the key that are disclosed to the caller. Keys of other kinds than account keys are
/// shown as unknown keys.
pub(super) fn disclosed(verdict: &Verdict) -> (VerdictCode, Option<&VerifiedKey>) {
    const NOT_FOUND: VerdictCode = VerdictCode::Denied(Denial::NotFound);
    match (verdict.code, &verdict.key) {
        (VerdictCode::Denied(Denial::KindNotAllowed), _) => (NOT_FOUND, None),
        // Of another kind and refused before that was checked, such as an expired session.
        (_, Some(key)) if key.kind() != KeyKind::Account => (NOT_FOUND, None),
        (code, key) => (code, key.as_ref()),
    }
}
