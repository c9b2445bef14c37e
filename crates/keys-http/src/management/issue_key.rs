//! `POST /v1/accounts/{account_id}/keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{AccountId, KeyName, KeyPrefix, ScopeSet, Timestamp};
use keys_service::{IssueField, KeyDraft};
use serde::Deserialize;
use serde_json::Value;

use super::shared::{account_id, answer, operator};
use super::view::IssuedView;
use crate::api::Api;
use crate::fields::{self, Faults, Networks};
use crate::guard::Authenticated;
use crate::mount::Mount;
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

const PREFIX: &str = "prefix";
const ALLOWED_IPS: &str = "allowed_ips";
const SCOPES: &str = "scopes";
const EXPIRES_AT: &str = "expires_at";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    name: Option<Value>,
    prefix: Option<Value>,
    allowed_ips: Option<Value>,
    scopes: Option<Value>,
    expires_at: Option<Value>,
}

struct Wanted {
    name: Option<KeyName>,
    prefix: Option<KeyPrefix>,
    networks: Networks,
    scopes: Option<ScopeSet>,
    expires_at: Option<Timestamp>,
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
        };
        faults.finish()?;
        Ok(wanted)
    }
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
        // A field of the body that opens a session.
        // A request cannot set limits yet.
        IssueField::Limits | IssueField::Ttl => None,
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
        Ok(HttpResponse::Created().json(IssuedView::from(&issued)))
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
}
