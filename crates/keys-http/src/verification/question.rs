//! The fields of a verification request.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use keys_core::{LimitName, ScopeSet};
use keys_service::VerifyRequest;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::Api;
use crate::body;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::rejection::Rejection;

/// The fields that are read, in place: texts are not copied out of the body unless they have
/// escapes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Members<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    client_ip: Option<&'a RawValue>,
    scopes: Option<Value>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
    cost: Option<Value>,
}

/// A request to verify one key.
pub(super) struct Question<'a> {
    key: Cow<'a, str>,
    address: Option<IpAddr>,
    scopes: ScopeSet,
    limit: Option<LimitName>,
    cost: NonZeroU32,
}

/// The most frequent question: a key and nothing else.
pub(super) struct OnlyKey<'a>(&'a str);

impl<'de: 'a, 'a> Deserialize<'de> for OnlyKey<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = OnlyKey<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a key and nothing else")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<OnlyKey<'de>, A::Error> {
                match (map.next_entry()?, map.next_key::<IgnoredAny>()?) {
                    (Some(("key", key)), None) => Ok(OnlyKey(key)),
                    _ => Err(A::Error::custom("more than a key")),
                }
            }
        }

        // Unlike a derived struct, this is not read from an array.
        deserializer.deserialize_map(Object)
    }
}

impl<'a> From<OnlyKey<'a>> for Question<'a> {
    fn from(OnlyKey(key): OnlyKey<'a>) -> Self {
        Self {
            key: Cow::Borrowed(key),
            address: None,
            scopes: ScopeSet::default(),
            limit: None,
            cost: NonZeroU32::MIN,
        }
    }
}

impl<'a> Question<'a> {
    /// Reads a whole body.
    pub(super) fn parse(body: &'a [u8], api: &Api) -> Result<Self, Rejection> {
        if let Ok(only) = serde_json::from_slice::<OnlyKey<'_>>(body) {
            return Ok(only.into());
        }
        Self::read(body::parse_strict(body)?, "", api)
    }

    /// Reads the fields; `path` is the prefix of their names in errors, such as `requests.3.`.
    pub(super) fn read(members: Members<'a>, path: &str, api: &Api) -> Result<Self, Rejection> {
        let name = |member: &str| format!("{path}{member}");
        let fault = |member: &str, message: &str| FieldError::new(name(member), message);
        let text = |member: &str, raw: Option<&'a RawValue>| match raw {
            None => Ok(None),
            Some(raw) => match serde_json::from_str(raw.get()) {
                Ok(Text(text)) => Ok(Some(text)),
                Err(_) => Err(fault(member, "must be a string")),
            },
        };
        let mut faults = Faults::default();
        let key =
            text("key", members.key).and_then(|key| key.ok_or_else(|| fault("key", "is required")));
        let address = text("client_ip", members.client_ip).and_then(|text| {
            let address = text.map(|text| text.parse::<IpAddr>()).transpose();
            address.map_err(|_| fault("client_ip", "must be an IPv4 or IPv6 address"))
        });
        let scopes = match members.scopes {
            None => Ok(None),
            Some(scopes) => fields::scopes(&name("scopes"), Some(scopes)),
        };
        let cost = match members.cost {
            None => Ok(None),
            Some(cost) => cost
                .as_u64()
                .and_then(|cost| NonZeroU32::new(u32::try_from(cost).ok()?))
                .map(Some)
                .ok_or_else(|| fault("cost", "must be a whole number from 1 to 4294967295")),
        };
        let limit = faults.note(text("limit", members.limit));
        let question = Self {
            key: faults.note(key),
            address: faults.note(address).map(|address| address.to_canonical()),
            scopes: faults.note_all(scopes).unwrap_or_default(),
            limit: limit.as_deref().and_then(|limit| api.limit(limit)),
            cost: faults.note(cost).unwrap_or(NonZeroU32::MIN),
        };
        faults.finish()?;
        if limit.is_some() && question.limit.is_none() {
            let field = name("limit");
            return Err(Rejection::UnknownLimit { field });
        }
        Ok(question)
    }

    pub(super) fn request(&self, fresh: bool) -> VerifyRequest<'_> {
        VerifyRequest::new(&self.key)
            .address(self.address)
            .scopes(&self.scopes)
            .limit(self.limit.as_ref())
            .cost(self.cost)
            .fresh(fresh)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
