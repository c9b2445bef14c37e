//! Serde for the types of this crate, with the feature `serde`.
//!
//! A value is a string in the form that its `FromStr` reads: identifiers in base64, times as in RFC
//! 3339 with microseconds. Lists are sequences of strings. Reading applies every rule that
//! `FromStr` applies, so every deserialized value is valid. Names and external ids are read by the
//! rules for stored ones, so that every value can be read back. Secrets and digests have no serde
//! on purpose.
//!
//! ```
//! use keys_core::{Plan, Plans, Scope};
//!
//! let scope: Scope = serde_json::from_str(r#""orders:read""#)?;
//! assert_eq!(serde_json::to_string(&scope)?, r#""orders:read""#);
//! assert!(serde_json::from_str::<Scope>(r#""Orders""#).is_err());
//!
//! let plans: Plans = serde_json::from_str(
//!     r#"{"pro": {
//!         "keys": true,
//!         "keys_max": 10,
//!         "limits": {"orders": {"requests": 100, "period_seconds": 60, "per": "key"}}
//!     }}"#,
//! )?;
//! assert_eq!(plans.find(&"pro".parse()?).map(|plan| plan.keys_max), Some(10));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::account::ExternalId;
use crate::id::{AccountId, EventId, KeyId};
use crate::key_format::{KeyPrefix, ShownPrefix};
use crate::name::{InvalidName, KeyName};
use crate::network::{AllowedNetworks, Network};
use crate::pepper::PepperId;
use crate::plan::{LimitName, PlanName};
use crate::scope::{Scope, ScopeSet};
use crate::timestamp::Timestamp;

/// Reads a string by `parse`. The error quotes the string.
fn text<'de, D, T, E>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(|error| Error::custom(format_args!("{text:?}: {error}")))
}

/// Reads a sequence of strings of at most `max` elements, so that no input can be longer than a
/// list that is valid.
struct Texts {
    max: usize,
}

impl<'de> Visitor<'de> for Texts {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of at most {} strings", self.max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<String>, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = sequence.next_element()? {
            if texts.len() == self.max {
                return Err(A::Error::invalid_length(self.max + 1, &self));
            }
            texts.push(text);
        }
        Ok(texts)
    }
}

macro_rules! as_text {
    ($($type:ty: $parse:expr;)*) => {
        $(
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_str(self)
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    text(deserializer, $parse)
                }
            }
        )*
    };
}

as_text! {
    AccountId: Self::from_str;
    EventId: Self::from_str;
    ExternalId: Self::from_stored;
    KeyId: Self::from_str;
    KeyName: |text| Self::from_stored(text)?.ok_or(InvalidName::Empty);
    KeyPrefix: Self::from_str;
    LimitName: Self::from_str;
    Network: Self::from_str;
    PepperId: Self::from_str;
    PlanName: Self::from_str;
    Scope: Self::from_str;
    ShownPrefix: |text| Self::from_stored(text.to_owned());
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Microseconds, so that a time is read back as it was.
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, Self::parse_rfc3339)
    }
}

macro_rules! as_texts {
    ($($type:ty: $elements:ident;)*) => {
        $(
            impl Serialize for $type {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.collect_seq(self.$elements())
                }
            }

            impl<'de> Deserialize<'de> for $type {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let max = Self::MAX_LEN;
                    Self::parse(deserializer.deserialize_seq(Texts { max })?).map_err(Error::custom)
                }
            }
        )*
    };
}

as_texts! {
    AllowedNetworks: as_slice;
    ScopeSet: iter;
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::de::DeserializeOwned;

    use super::*;
    use crate::plan::{LimitPer, Plans};
    use crate::{KeyKind, Operation};

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
        assert_eq!(serde_json::to_string(value).unwrap(), json);
        assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value, "{json}");
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        round_trip(
            &KeyId::from_uuid(uuid::Uuid::nil()),
            r#""AAAAAAAAAAAAAAAAAAAAAA""#,
        );
        round_trip::<KeyPrefix>(&"sk_live".parse().unwrap(), r#""sk_live""#);
        round_trip::<PlanName>(&"pro".parse().unwrap(), r#""pro""#);
        round_trip(&KeyName::from_name("a\"b").unwrap(), r#""a\"b""#);
        round_trip::<Network>(&"10.1.2.3/8".parse().unwrap(), r#""10.0.0.0/8""#);
        let time = Timestamp::from_unix_micros(1_767_268_800_123_456);
        round_trip(&time, r#""2026-01-01T12:00:00.123456Z""#);
        round_trip(&ScopeSet::parse(["b", "a"]).unwrap(), r#"["a","b"]"#);
        round_trip(&AllowedNetworks::parse(["::1"]).unwrap(), r#"["::1"]"#);
        round_trip(&KeyKind::Account, r#""account""#);
        round_trip(&LimitPer::Key, r#""key""#);
        round_trip(&Operation::Delete, r#""delete""#);
        let plans = Plans::documented();
        round_trip(&plans, &serde_json::to_string(&plans).unwrap());
    }

    #[test]
    fn values_outside_the_grammar_are_refused() {
        fn refused<T: DeserializeOwned + Debug>(json: &str) -> String {
            serde_json::from_str::<T>(json).unwrap_err().to_string()
        }
        let error = refused::<Scope>(r#""Orders""#);
        assert!(error.starts_with(r#""Orders": a scope is "#), "{error}");
        refused::<KeyName>("\"\"");
        refused::<KeyId>("17");
        refused::<Timestamp>(r#""2026-01-01""#);
        refused::<AllowedNetworks>(r#"["localhost"]"#);
        refused::<Plans>(r#"{"pro": {"keys": true, "keys_max": 1, "limits": {}, "other": 1}}"#);
        let long = serde_json::to_string(&vec!["a"; ScopeSet::MAX_LEN + 1]).unwrap();
        assert!(refused::<ScopeSet>(&long).contains("at most 64"));
    }
}
