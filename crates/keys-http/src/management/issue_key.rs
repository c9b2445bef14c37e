//! `POST /v1/accounts/{account_id}/keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{AccountId, KeyLimits, KeyName, KeyPrefix, Metadata, Quota, ScopeSet, Timestamp};
use keys_service::{IssueField, KeyDraft};
use serde::Deserialize;
use serde_json::Value;

use super::shared::{account_id, answer, operator};
use super::update_key::too_many_limits;
use super::version;
use super::view::IssuedView;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults, Networks};
use crate::guard::Authenticated;
use crate::mount::Mount;
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

const PREFIX: &str = "prefix";
const ALLOWED_IPS: &str = "allowed_ips";
const SCOPES: &str = "scopes";
const EXPIRES_AT: &str = "expires_at";
const METADATA: &str = "metadata";
const LIMITS: &str = "limits";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    name: Option<Value>,
    prefix: Option<Value>,
    allowed_ips: Option<Value>,
    scopes: Option<Value>,
    expires_at: Option<Value>,
    metadata: Option<Value>,
    limits: Option<Value>,
}

struct Wanted {
    name: Option<KeyName>,
    prefix: Option<KeyPrefix>,
    networks: Networks,
    scopes: Option<ScopeSet>,
    expires_at: Option<Timestamp>,
    metadata: Metadata,
    limits: KeyLimits,
}

impl TryFrom<Members> for Wanted {
    type Error = Rejection;

    fn try_from(members: Members) -> Result<Self, Rejection> {
        let mut faults = Faults::default();
        let name = fields::text("name", members.name).and_then(|text| {
            let name = text.map(|text| fields::name("name", &text));
            name.transpose()
        });
        let wanted = Self {
            name: faults.note(name),
            prefix: faults.note(fields::prefix(PREFIX, members.prefix)),
            networks: faults.note_all(fields::networks(ALLOWED_IPS, members.allowed_ips)),
            scopes: faults.note_all(fields::scopes(SCOPES, members.scopes)),
            expires_at: faults.note(fields::moment(EXPIRES_AT, members.expires_at)),
            metadata: faults.note_all(metadata(members.metadata)),
            limits: faults.note_all(limits(members.limits)),
        };
        faults.finish()?;
        Ok(wanted)
    }
}

/// Reads metadata. A name that is `null` is the same as a missing one.
fn metadata(value: Option<Value>) -> Result<Metadata, Vec<FieldError>> {
    let value = value.filter(|value| !value.is_null());
    let entries = value.map(|value| fields::metadata(METADATA, value));
    let entries = entries.transpose()?.unwrap_or_default();
    let set = entries.into_iter();
    Metadata::new(set.filter_map(|(name, value)| Some((name, value?))))
        .map_err(|error| vec![FieldError::new(METADATA, fields::invalid_metadata(error))])
}

/// Reads limits. A name that is `null` is the same as a missing one.
fn limits(value: Option<Value>) -> Result<KeyLimits, Vec<FieldError>> {
    let value = value.filter(|value| !value.is_null());
    let quotas = value.map(|value| fields::limits(LIMITS, value));
    let quotas = quotas.transpose()?.unwrap_or_default();
    let mut faults = Vec::new();
    let mut limits = Vec::new();
    for (name, quota) in quotas {
        let Some(quota) = quota else { continue };
        let numbers = quota.requests.zip(quota.period_seconds);
        match numbers.and_then(|(requests, period)| Quota::new(requests.get(), period.get())) {
            Some(quota) => limits.push((name, quota)),
            None => faults.push(FieldError::new(
                format!("{LIMITS}.{name}"),
                fields::INCOMPLETE_LIMIT,
            )),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    KeyLimits::new(limits).map_err(|_| vec![FieldError::new(LIMITS, too_many_limits())])
}

/// Returns the field of the body that the value was read from.
fn member(field: IssueField, networks: &Networks) -> Option<String> {
    match field {
        IssueField::ExpiresAt => Some(EXPIRES_AT.to_owned()),
        IssueField::AllowedNetworks(index) => {
            Some(format!("{ALLOWED_IPS}.{}", networks.position(index)))
        }
        IssueField::Scopes => Some(SCOPES.to_owned()),
        IssueField::Prefix => Some(PREFIX.to_owned()),
        IssueField::Limits => Some(LIMITS.to_owned()),
        // A field of the body that opens a session.
        IssueField::Ttl => None,
    }
}

pub(super) async fn issue_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let issue = async || {
        let account_id = account_id(&request)?;
        unknown::check_query(&request, &["wait"])?;
        let idempotency_key = idempotency::key(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let wanted = Wanted::try_from(body::parse_strict::<Members>(&body)?)?;
        let operation = format!("POST /v1/accounts/{account_id}/keys");
        let idempotent = idempotency::idempotent(idempotency_key, operation, &body);
        let issued = api
            .service()
            .issue_key(
                &operator(&identity)?,
                draft(&api, account_id, &wanted).idempotent(idempotent),
            )
            .await
            .map_err(|error| {
                Rejection::not_issued(error, |field| member(field, &wanted.networks))
            })?;
        let answer = HttpResponse::Created().json(IssuedView::from(&issued));
        Ok(version::show(issued.version(), answer))
    };
    answer(issue().await)
}

/// Returns a draft. Keys that operators create look like those that accounts create, unless another
/// prefix is requested.
fn draft(api: &Api, account_id: AccountId, wanted: &Wanted) -> KeyDraft {
    let usual = || {
        let flat = api.inner.surfaces.flat.clone().unwrap_or_else(Mount::flat);
        flat.key_prefix
    };
    KeyDraft::new(account_id, wanted.prefix.clone().unwrap_or_else(usual))
        .name(wanted.name.clone())
        .allowed_networks(wanted.networks.list.clone())
        .scopes(wanted.scopes.clone())
        .expires_at(wanted.expires_at)
        .metadata(wanted.metadata.clone())
        .limits(wanted.limits.clone())
}
