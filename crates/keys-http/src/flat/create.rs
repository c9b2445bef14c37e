//! `POST /api/api-keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyName, Operation};
use keys_service::KeyDraft;
use serde::Deserialize;
use serde_json::Value;

use super::view::CreatedView;
use crate::field_error::FieldError;
use crate::fields;
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::surface::Surface;
use crate::{body, idempotency};

/// The fields that are read. Other fields of the body are ignored.
#[derive(Deserialize)]
struct Members {
    name: Option<Value>,
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
            let draft = KeyDraft::new(manager.account_id, surface.mount.key_prefix.clone())
                .name(Some(name(body::parse(&body)?)?))
                .policy(surface.policy.issue);
            let operation = format!("POST {}", surface.mount.path);
            let idempotent = idempotency::idempotent(idempotency_key, operation, &body);
            let issued = surface
                .service
                .issue_key(&manager.actor, draft.idempotent(idempotent))
                .await?;
            Ok(HttpResponse::Created().json(CreatedView::from(&issued)))
        })
        .await
}

fn name(members: Members) -> Result<KeyName, Rejection> {
    let read = fields::text("name", members.name).and_then(|text| match text {
        Some(text) => fields::name("name", &text),
        None => Err(FieldError::new("name", "is required")),
    });
    read.map_err(|fault| Rejection::Invalid(vec![fault]))
}
