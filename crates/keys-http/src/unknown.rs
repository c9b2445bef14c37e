//! Unknown fields of a body and parameters of a query.
//!
//! Under `/v1` they are refused, because a misspelt `scopes` in a verification would let every key
//! pass.

use std::borrow::Cow;
use std::fmt;

use actix_web::HttpRequest;
use keys_core::suggestion::nearest;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::field_error::FieldError;
use crate::query::Query;
use crate::rejection::Rejection;

/// Maximum number of unknown names in an answer.
const FAULTS_MAX: usize = 10;

/// Maximum length of a name that is repeated in an answer. Every key is longer, so a key that is
/// sent as a name by mistake is not repeated.
const SHOWN_MAX_CHARS: usize = 32;

/// Returns the fields of the object `text` that `T` does not have, with `path` before their names.
///
/// `None` if there are none, or if `text` is not an object.
pub(crate) fn members<'de, T: Deserialize<'de>>(
    text: &'de str,
    path: &str,
) -> Option<Vec<FieldError>> {
    let Names(names) = serde_json::from_str(text).ok()?;
    let known = known_members::<T>();
    faults(path, names.iter().map(|name| &**name), known)
}

/// Refuses parameters in the request's query other than `known`.
pub(crate) fn check_query(request: &HttpRequest, known: &[&str]) -> Result<(), Rejection> {
    check_query_string(request.query_string(), known)
}

/// The same, but lets each parameter pass whose name begins with `prefix`.
pub(crate) fn check_query_but(
    request: &HttpRequest,
    known: &[&str],
    prefix: &str,
) -> Result<(), Rejection> {
    if request.query_string().is_empty() {
        return Ok(());
    }
    let query = Query::parse(request.query_string());
    let names = query.names().filter(|name| !name.starts_with(prefix));
    match faults("", names, known) {
        Some(faults) => Err(Rejection::Invalid(faults)),
        None => Ok(()),
    }
}

/// The same, for the query of an address.
pub(crate) fn check_query_string(query: &str, known: &[&str]) -> Result<(), Rejection> {
    if query.is_empty() {
        return Ok(());
    }
    match faults("", Query::parse(query).names(), known) {
        Some(faults) => Err(Rejection::Invalid(faults)),
        None => Ok(()),
    }
}

/// Returns the faults of the names that are not among `known`, with `path` before them. `None` if
/// there are none.
pub(crate) fn faults<'a>(
    path: &str,
    names: impl Iterator<Item = &'a str>,
    known: &[&str],
) -> Option<Vec<FieldError>> {
    let mut faults = Vec::new();
    for name in names.filter(|name| !known.contains(name)) {
        let fault = FieldError::new(format!("{path}{}", shown(name)), message(name, known));
        if faults.len() < FAULTS_MAX && !faults.contains(&fault) {
            faults.push(fault);
        }
    }
    (!faults.is_empty()).then_some(faults)
}

fn message(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(nearest) => format!("is not known here; did you mean {nearest}?"),
        None if known.is_empty() => "is not known here; there are none".to_owned(),
        None => format!("is not known here; known are {}", known.join(", ")),
    }
}

/// Returns the name as it may be repeated.
pub(crate) fn shown(name: &str) -> Cow<'_, str> {
    let length = name.chars().count();
    if length > SHOWN_MAX_CHARS {
        return format!("(a name of {length} characters)").into();
    }
    if name.is_empty() {
        return "(the empty name)".into();
    }
    keys_core::escaped(name)
}

/// The names of an object's fields.
struct Names<'a>(Vec<Cow<'a, str>>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Names<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Names<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some((Name(name), IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Returns the names of the fields of `T`.
fn known_members<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut known: &[&str] = &[];
    // The probe always ends with an error.
    let _ = T::deserialize(Probe(&mut known));
    known
}

/// A deserializer that records the fields that a struct requests.
struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        members: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = members;
        Err(Self::Error::custom("only the names are asked for"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Members {
        #[expect(dead_code, reason = "only its name matters")]
        client_ip: Option<String>,
        #[expect(dead_code, reason = "only its name matters")]
        scopes: Option<String>,
    }

    fn told(text: &str) -> Vec<String> {
        let faults = members::<Members>(text, "requests.3.").unwrap_or_default();
        let told = faults.iter();
        told.map(|fault| format!("{} {}", fault.field, fault.message))
            .collect()
    }

    #[test]
    fn unknown_members_are_named_with_the_nearest_known_one() {
        for (name, nearest) in [
            ("scope", "scopes"),
            ("Scopes", "scopes"),
            ("scpoes", "scopes"),
            ("s\\u0063ope", "scopes"),
            ("clientIp", "client_ip"),
            ("client-ip", "client_ip"),
            ("CLIENT_IP", "client_ip"),
        ] {
            let [told] = &told(&format!(r#"{{"{name}": [1, {{"x": 2}}]}}"#))[..] else {
                panic!("{name}");
            };
            assert!(told.starts_with("requests.3."), "{told}");
            assert!(
                told.ends_with(&format!("did you mean {nearest}?")),
                "{told}"
            );
        }
        assert_eq!(
            told(r#"{"scopes":1,"permissions":2,"permissions":3}"#),
            ["requests.3.permissions is not known here; known are client_ip, scopes"]
        );
        assert!(told(r#"{"scopes":1,"client_ip":2}"#).is_empty());
        assert!(told("[]").is_empty());
    }

    #[test]
    fn names_that_may_be_secrets_or_garble_a_terminal_are_not_repeated() {
        let key = format!("sk_live_{}", "a".repeat(32));
        let text = format!(r#"{{"{key}":1}}"#);
        assert!(!told(&text)[0].contains("sk_live"), "{text}");
        assert!(!told("{\"a\u{202e}b\":1}")[0].contains('\u{202e}'));
        let many: Vec<String> = (0..5_000).map(|n| format!(r#""x{n}":1"#)).collect();
        assert_eq!(told(&format!("{{{}}}", many.join(","))).len(), FAULTS_MAX);
    }

    #[test]
    fn parameters_of_a_query_are_held_to_the_same() {
        assert!(check_query_string("", &[]).is_ok());
        assert!(check_query_string("wait=global", &["wait"]).is_ok());
        for query in ["wiat=global", "Wait=global", "wait=global&x", "%77ait2=1"] {
            assert!(check_query_string(query, &["wait"]).is_err(), "{query}");
        }
    }
}
