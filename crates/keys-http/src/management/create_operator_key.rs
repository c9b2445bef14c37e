//! `POST /v1/operator-keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{OperatorScope, ScopeSet};
use keys_service::{IssueField, OperatorKeyDraft};
use serde::Deserialize;
use serde_json::Value;

use super::shared::{answer, operator};
use super::view::IssuedView;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults, Networks};
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

const NAME: &str = "name";
const ALLOWED_IPS: &str = "allowed_ips";
const SCOPES: &str = "scopes";
const EXPIRES_AT: &str = "expires_at";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    name: Option<Value>,
    allowed_ips: Option<Value>,
    scopes: Option<Value>,
    expires_at: Option<Value>,
}

pub(super) async fn create_operator_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let create = async || {
        unknown::check_query(&request, &["wait"])?;
        let idempotency_key = idempotency::key(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let (draft, networks) = draft(body::parse_strict(&body)?)?;
        let idempotent = idempotency::idempotent(idempotency_key, "POST /v1/operator-keys", &body);
        let actor = operator(&identity)?;
        let issued = api
            .service()
            .issue_operator_key(&actor, draft.idempotent(idempotent))
            .await
            .map_err(|error| Rejection::not_issued(error, |field| member(field, &networks)))?;
        Ok(HttpResponse::Created().json(IssuedView::from(&issued)))
    };
    answer(create().await)
}

fn draft(members: Members) -> Result<(OperatorKeyDraft, Networks), Rejection> {
    let mut faults = Faults::default();
    let name = faults.note(match fields::text(NAME, members.name) {
        Ok(Some(text)) => fields::name(NAME, &text).map(Some),
        Ok(None) => Err(FieldError::new(NAME, "is required")),
        Err(fault) => Err(fault),
    });
    let networks = faults.note_all(fields::networks(ALLOWED_IPS, members.allowed_ips));
    let scopes = faults.note_all(scopes(members.scopes));
    let expires_at = faults.note(fields::moment(EXPIRES_AT, members.expires_at));
    faults.finish()?;
    let name = name.ok_or_else(|| Rejection::field(NAME, "is required"))?;
    let draft = OperatorKeyDraft::new(name)
        .allowed_networks(networks.list.clone())
        .scopes(scopes)
        .expires_at(expires_at);
    Ok((draft, networks))
}

/// Reads the scopes of an operator key.
fn scopes(value: Option<Value>) -> Result<ScopeSet, Vec<FieldError>> {
    let Some(scopes) = fields::scopes(SCOPES, value)? else {
        return Err(vec![FieldError::new(SCOPES, "is required")]);
    };
    let is_unknown = |scope: &keys_core::Scope| scope.as_str().parse::<OperatorScope>().is_err();
    if scopes.iter().any(is_unknown) {
        let known = OperatorScope::ALL.map(OperatorScope::as_str).join(", ");
        let message = format!("must be scopes of operators: {known}");
        return Err(vec![FieldError::new(SCOPES, message)]);
    }
    Ok(scopes)
}

/// Returns the field of the body that the value was read from.
fn member(field: IssueField, networks: &Networks) -> Option<String> {
    match field {
        IssueField::ExpiresAt => Some(EXPIRES_AT.to_owned()),
        IssueField::AllowedNetworks(index) => {
            Some(format!("{ALLOWED_IPS}.{}", networks.position(index)))
        }
        IssueField::Scopes => Some(SCOPES.to_owned()),
        // The body has no such fields.
        IssueField::Prefix | IssueField::Limits | IssueField::Ttl => None,
    }
}
