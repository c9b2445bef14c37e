//! `POST /api/account/api-keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyName, Operation, Timestamp};
use keys_service::{IssueField, KeyDraft};
use serde::Deserialize;
use serde_json::Value;

use super::view::CreatedView;
use crate::fields::{self, Faults, Networks};
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::surface::Surface;
use crate::{body, idempotency};

/// The fields that are read. Other fields of the body are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members {
    memo: Option<Value>,
    allowed_ips: Option<Value>,
    expires_at: Option<Value>,
}

const ALLOWED_IPS: &str = "allowedIps";
const EXPIRES_AT: &str = "expiresAt";

struct Wanted {
    name: Option<KeyName>,
    networks: Networks,
    expires_at: Option<Timestamp>,
}

impl TryFrom<Members> for Wanted {
    type Error = Rejection;

    fn try_from(members: Members) -> Result<Self, Rejection> {
        let mut faults = Faults::default();
        let wanted = Self {
            name: faults.note(fields::memo("memo", members.memo)),
            networks: faults.note_all(fields::networks(ALLOWED_IPS, members.allowed_ips)),
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
        // Bodies of this contract have no such fields.
        IssueField::Scopes | IssueField::Limits | IssueField::Prefix | IssueField::Ttl => None,
    }
}

pub(super) async fn create(
    surface: web::Data<Surface>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    surface
        .manage(&identity, Operation::Create, async |manager| {
            let idempotency_key = idempotency::key(&request)?;
            let body = body::read(request.headers(), payload).await?;
            let wanted = Wanted::try_from(body::parse::<Members>(&body)?)?;
            let draft = KeyDraft::new(manager.account_id, surface.mount.key_prefix.clone())
                .name(wanted.name)
                .allowed_networks(wanted.networks.list.clone())
                .expires_at(wanted.expires_at)
                .policy(surface.policy.issue);
            let operation = format!("POST {}", surface.mount.path);
            let idempotent = idempotency::idempotent(idempotency_key, operation, &body);
            let issued = surface
                .service
                .issue_key(&manager.actor, draft.idempotent(idempotent))
                .await
                .map_err(|error| {
                    Rejection::not_issued(error, |field| member(field, &wanted.networks))
                })?;
            Ok(HttpResponse::Created().json(CreatedView::from(&issued)))
        })
        .await
}
