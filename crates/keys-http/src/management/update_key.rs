//! `PATCH /v1/keys/{key_id}`

use std::collections::BTreeMap;
use std::fmt;

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{AllowedNetworks, ExceededBound, KeyLimits, Metadata, Operation, Timestamp};
use keys_service::UpdateKeyError;
use keys_service::ports::{InvalidKeyPatch, KeyPatch, LimitsPatch, MetadataPatch};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::key_view::{KeyView, UpdatedKeyView};
use super::shared::{key_id, manage_keys};
use super::version;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults, Networks};
use crate::guard::Authenticated;
use crate::propagation::{self, Wait};
use crate::rejection::Rejection;
use crate::{body, unknown};

const NAME: &str = "name";
const ALLOWED_IPS: &str = "allowed_ips";
const SCOPES: &str = "scopes";
const EXPIRES_AT: &str = "expires_at";
const DISABLED: &str = "disabled";
const LIMITS: &str = "limits";
const METADATA: &str = "metadata";

pub(super) async fn update_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    // It counts as the other operation on existing keys.
    manage_keys(&api, &identity, Operation::Delete, async |actor| {
        let id = key_id(&request)?;
        unknown::check_query(&request, &["wait"])?;
        let wait = Wait::of(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let members: Members = body::parse(&body)?;
        let service = api.service();
        let before = match service.find_key(&actor, id).await? {
            Some(Ok(before)) => before,
            Some(Err(_)) => return Err(UpdateKeyError::Unreadable.into()),
            None => return Err(Rejection::KeyNotFound),
        };
        let shown = shown(&KeyView::new(&before, service.now()))?;
        let mut wanted = Wanted::read(members, &shown)?;
        wanted.patch.if_version = version::if_match(&request);
        let updated = service.update_key(&actor, id, wanted.patch).await;
        let (details, effective) = updated.map_err(|error| not_updated(error, &wanted.networks))?;
        let by = wait.until(service, effective).await;
        let view = UpdatedKeyView {
            key: KeyView::new(&details, service.now()),
            effective_everywhere_by: by.to_string(),
        };
        let answer = propagation::show(by, HttpResponse::Ok().json(view));
        Ok(version::show(details.version(), answer))
    })
    .await
}

/// Returns the key as it is shown, by its members.
fn shown(view: &KeyView<'_>) -> Result<Map<String, Value>, Rejection> {
    match serde_json::to_value(view) {
        Ok(Value::Object(members)) => Ok(members),
        // Unreachable: a view is an object.
        Ok(_) | Err(_) => Err(Rejection::Unavailable),
    }
}

/// The members of a merge patch (RFC 7396). Here `null` differs from a missing member.
struct Members(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a member twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A patch, and the address list in it.
struct Wanted {
    patch: KeyPatch,
    networks: Networks,
}

impl Wanted {
    /// Reads the members. Those that cannot be changed must be as they are `shown`.
    fn read(Members(mut members): Members, shown: &Map<String, Value>) -> Result<Self, Rejection> {
        let known: Vec<&str> = shown.keys().map(String::as_str).collect();
        let names = members.keys().map(String::as_str);
        if let Some(faults) = unknown::faults("", names, &known) {
            return Err(Rejection::Invalid(faults));
        }
        // A time is shown without its microseconds, and a limit may be one that no plan has any
        // more. Sent back as they are shown, they are not to be changed.
        for name in [EXPIRES_AT, LIMITS] {
            if members.get(name) == shown.get(name) {
                members.remove(name);
            }
        }
        let mut faults = Faults::default();
        let mut patch = KeyPatch::default();
        let mut networks = None;
        if let Some(value) = members.remove(NAME) {
            let name = fields::text(NAME, Some(value)).and_then(|text| {
                let name = text.map(|text| fields::name(NAME, &text));
                name.transpose()
            });
            patch.name = Some(faults.note(name));
        }
        if let Some(value) = members.remove(ALLOWED_IPS) {
            networks = Some(faults.note_all(list(value)));
        }
        if let Some(value) = members.remove(SCOPES) {
            let scopes = faults.note_all(fields::scopes(SCOPES, Some(value)));
            patch.scopes = Some(scopes.unwrap_or_default());
        }
        if let Some(value) = members.remove(EXPIRES_AT) {
            patch.expires_at = Some(faults.note(fields::moment(EXPIRES_AT, Some(value))));
        }
        if let Some(value) = members.remove(DISABLED) {
            patch.disabled = Some(faults.note(fields::boolean(DISABLED, &value)));
        }
        patch.limits = members.remove(LIMITS).map(|value| match value {
            Value::Null => LimitsPatch::Replace(KeyLimits::default()),
            value => LimitsPatch::Merge(faults.note_all(fields::limits(LIMITS, value))),
        });
        patch.metadata = members.remove(METADATA).map(|value| match value {
            Value::Null => MetadataPatch::Replace(Metadata::default()),
            value => MetadataPatch::Merge(faults.note_all(fields::metadata(METADATA, value))),
        });
        for (name, value) in &members {
            faults.note(unchanged(name, value, shown));
        }
        faults.finish()?;
        patch.allowed_networks = networks.as_ref().map(|networks| networks.list.clone());
        Ok(Self {
            patch,
            networks: networks.unwrap_or_default(),
        })
    }
}

/// Reads an address list. The empty one is refused, because a program that removes one address
/// after the other would open the key to all addresses with the last one.
fn list(value: Value) -> Result<Networks, Vec<FieldError>> {
    if value.as_array().is_some_and(Vec::is_empty) {
        let message = "must not be empty; null removes the list, and allows every address";
        return Err(vec![FieldError::new(ALLOWED_IPS, message)]);
    }
    fields::networks(ALLOWED_IPS, Some(value))
}

/// Checks that a member that cannot be changed is sent as it is shown. The members about uses may
/// also be those of an earlier answer, because a key is used at any time.
fn unchanged(name: &str, value: &Value, shown: &Map<String, Value>) -> Result<(), FieldError> {
    let current = shown.get(name).unwrap_or(&Value::Null);
    let was_shown = match name {
        "use_count" => value.as_u64() <= current.as_u64() && value.is_u64(),
        "last_used_at" => {
            let time = |value: &Value| Timestamp::parse_rfc3339(value.as_str()?).ok();
            value.is_null() || (time(value).is_some() && time(value) <= time(current))
        }
        "last_used_ip" => value.is_null(),
        _ => false,
    };
    if was_shown || value == current {
        Ok(())
    } else {
        Err(FieldError::new(name, "cannot be changed"))
    }
}

fn not_updated(error: UpdateKeyError, networks: &Networks) -> Rejection {
    match error {
        UpdateKeyError::Invalid(error) => invalid(error),
        UpdateKeyError::ExceedsCaller(limit) => exceeds_caller(limit, networks),
        error => error.into(),
    }
}

fn invalid(error: InvalidKeyPatch) -> Rejection {
    let limit = |name| format!("{LIMITS}.{name}");
    match error {
        InvalidKeyPatch::ExpiryNotInFuture => Rejection::field(EXPIRES_AT, "must be in the future"),
        InvalidKeyPatch::Metadata(error) => {
            Rejection::field(METADATA, fields::invalid_metadata(error))
        }
        InvalidKeyPatch::IncompleteLimit(name) => {
            Rejection::field(limit(name), fields::INCOMPLETE_LIMIT)
        }
        InvalidKeyPatch::UnknownLimit(name) => Rejection::field(limit(name), fields::UNKNOWN_LIMIT),
        InvalidKeyPatch::TooManyLimits(_) => Rejection::field(LIMITS, too_many_limits()),
        error => UpdateKeyError::Invalid(error).into(),
    }
}

/// Returns the message about more limits than a key may have.
pub(super) fn too_many_limits() -> String {
    format!("must have at most {} entries", KeyLimits::MAX_LEN)
}

/// Names the bound in which the key would exceed the caller. It may be one that the body does not
/// change.
fn exceeds_caller(limit: ExceededBound, networks: &Networks) -> Rejection {
    let is_list = networks.list != AllowedNetworks::default();
    match limit {
        ExceededBound::ExpiresAt => Rejection::field(
            EXPIRES_AT,
            "must not be later than the expiry of the key that changes it",
        ),
        ExceededBound::AllowedNetworks(index) => {
            let message = "must be within the addresses of the key that changes it";
            let field = if is_list {
                format!("{ALLOWED_IPS}.{}", networks.position(index))
            } else {
                ALLOWED_IPS.to_owned()
            };
            Rejection::field(field, message)
        }
        ExceededBound::Scopes => {
            Rejection::field(SCOPES, "must be held by the key that changes it")
        }
        ExceededBound::Limits => Rejection::field(
            LIMITS,
            "must not be higher than the limits of the key that changes it",
        ),
    }
}
