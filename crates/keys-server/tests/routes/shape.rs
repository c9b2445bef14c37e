//! Expected bodies in JSON. A string in angle brackets stands for a value that differs from run to
//! run, and describes its check.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keys_core::{BODY_LEN, Timestamp, check_form};
use keys_service::{Clock as _, SystemClock};
use serde_json::Value;

/// Any identifier: 22 characters, a UUID of version 7.
pub(crate) const ID: &str = "<id>";

/// Any recent time, in the format of both documents.
pub(crate) const NOW: &str = "<now>";

/// A whole key with a valid checksum that starts with `prefix`.
pub(crate) fn whole_key(prefix: &str) -> String {
    format!("<whole key {prefix}>")
}

/// The public part of a key that starts with `prefix`.
pub(crate) fn shown_prefix(prefix: &str) -> String {
    format!("<shown prefix {prefix}>")
}

/// Returns the difference between `actual` and `expected` in fields, order of lists or values.
pub(crate) fn difference(expected: &Value, actual: &Value) -> Option<String> {
    match (expected, actual) {
        (Value::Object(wanted), Value::Object(found)) => {
            let names = |object: &serde_json::Map<_, _>| object.keys().cloned().collect::<Vec<_>>();
            if names(wanted) != names(found) {
                return Some(format!(
                    "members {:?}, not {:?}",
                    names(found),
                    names(wanted)
                ));
            }
            wanted.iter().find_map(|(name, value)| {
                difference(value, &found[name]).map(|fault| format!("{name}: {fault}"))
            })
        }
        (Value::Array(wanted), Value::Array(found)) => {
            if wanted.len() != found.len() {
                return Some(format!("{} entries, not {}", found.len(), wanted.len()));
            }
            let pairs = wanted.iter().zip(found).enumerate();
            pairs.into_iter().find_map(|(index, (wanted, found))| {
                difference(wanted, found).map(|fault| format!("{index}: {fault}"))
            })
        }
        (Value::String(pattern), Value::String(text)) if pattern.starts_with('<') => {
            let matches = is(pattern, text).unwrap_or(pattern == text);
            (!matches).then(|| format!("{text:?} is no {pattern}"))
        }
        _ => (expected != actual).then(|| format!("{actual}, not {expected}")),
    }
}

/// `None` if the pattern is a literal.
fn is(pattern: &str, text: &str) -> Option<bool> {
    let pattern = pattern.strip_prefix('<')?.strip_suffix('>')?;
    match pattern.rsplit_once(' ') {
        None if pattern == "id" => Some(is_id(text)),
        None if pattern == "now" => Some(is_now(text)),
        Some(("whole key", prefix)) => Some(is_whole_key(prefix, text)),
        Some(("shown prefix", prefix)) => Some(is_shown_prefix(prefix, text)),
        _ => None,
    }
}

fn is_id(text: &str) -> bool {
    const VERSION_AT: usize = 6;
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    text.len() == 22 && bytes.len() == 16 && bytes[VERSION_AT] >> 4 == 7
}

/// Returns when the identifier was created, in milliseconds since 1970.
pub(crate) fn millis_of_id(id: &str) -> i64 {
    let bytes = URL_SAFE_NO_PAD.decode(id).unwrap();
    bytes[..6]
        .iter()
        .fold(0, |millis, byte| (millis << 8) | i64::from(*byte))
}

fn is_now(text: &str) -> bool {
    const RECENT_MICROS: i64 = 120_000_000;
    let Ok(moment) = Timestamp::parse_rfc3339(text) else {
        return false;
    };
    let age = SystemClock.now().unix_micros() - moment.unix_micros();
    // Milliseconds and `Z`, nothing else.
    moment.to_string() == text && (0..RECENT_MICROS).contains(&age)
}

fn is_whole_key(prefix: &str, text: &str) -> bool {
    let body = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'));
    body.is_some_and(|body| body.len() == BODY_LEN) && check_form(text).is_ok()
}

fn is_shown_prefix(prefix: &str, text: &str) -> bool {
    const RANDOM_MIN_LEN: usize = 4;
    const USUAL_LEN: usize = 12;
    let body = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'));
    let len = USUAL_LEN.max(prefix.len() + 1 + RANDOM_MIN_LEN);
    text.len() == len
        && body.is_some_and(|body| body.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Returns whether `text` contains a whole key.
pub(crate) fn has_whole_key(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c))
        .any(|word| check_form(word).is_ok())
}

mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_difference_is_found() {
        let key = "sk_live_000000000000000000000000003vSKjy";
        for (expected, actual) in [
            (json!({"a": 1}), json!({"a": 2})),
            (json!({"a": 1}), json!({"a": 1, "b": 1})),
            (json!({"a": null}), json!({})),
            (json!([1, 2]), json!([2, 1])),
            (json!([1]), json!([1, 1])),
            (json!(ID), json!("x")),
            (json!(NOW), json!("2020-01-01T00:00:00.000Z")),
            (
                json!(NOW),
                json!(SystemClock.now().to_string().replace('Z', "+00:00")),
            ),
            (json!(whole_key("xyp")), json!(key)),
            (json!(whole_key("sk_live")), json!(key.replace('v', "w"))),
            (json!(shown_prefix("sk_live")), json!("sk_live_00000")),
        ] {
            assert!(difference(&expected, &actual).is_some(), "{expected}");
        }
        for (expected, actual) in [
            (
                json!({"a": [NOW]}),
                json!({"a": [SystemClock.now().to_string()]}),
            ),
            (json!(whole_key("sk_live")), json!(key)),
            (json!(shown_prefix("sk_live")), json!("sk_live_0000")),
            (json!(shown_prefix("acme_test")), json!("acme_test_0000")),
        ] {
            assert_eq!(difference(&expected, &actual), None);
        }
        assert!(has_whole_key(&format!("[\"{key}\"]")));
    }
}
