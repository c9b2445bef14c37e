//! `POST /v1/keys/{key_id}/rotate` and `POST /v1/whoami/rotate`

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyId, Operation, Timestamp};
use keys_service::{Rotated, Rotation};
use serde::Deserialize;
use serde_json::Value;

use super::shared::{key_id, manage_keys};
use super::view::RotatedView;
use crate::api::Api;
use crate::field_error::{FieldError, GRACE};
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::propagation::{self, Wait};
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    grace_seconds: Option<Value>,
    expires_at: Option<Value>,
}

struct Wanted {
    grace: Option<Duration>,
    expires_at: Option<Timestamp>,
}

impl TryFrom<Members> for Wanted {
    type Error = Rejection;

    fn try_from(members: Members) -> Result<Self, Rejection> {
        let mut faults = Faults::default();
        let wanted = Self {
            grace: faults.note(grace(members.grace_seconds)),
            expires_at: faults.note(fields::moment("expires_at", members.expires_at)),
        };
        faults.finish()?;
        Ok(wanted)
    }
}

/// Reads any whole number. The service checks the maximum.
fn grace(value: Option<Value>) -> Result<Option<Duration>, FieldError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => Err(FieldError::new("grace_seconds", GRACE)),
        },
    }
}

/// A request to rotate a key.
struct Wish {
    rotation: Rotation,
    wait: Wait,
}

impl Wish {
    async fn read(
        request: &HttpRequest,
        payload: web::Payload,
        id: KeyId,
        operation: String,
    ) -> Result<Self, Rejection> {
        unknown::check_query(request, &["wait"])?;
        let wait = Wait::of(request)?;
        let idempotency_key = idempotency::key(request)?;
        let body = body::read(request.headers(), payload).await?;
        let wanted = Wanted::try_from(body::parse_strict::<Members>(&body)?)?;
        let idempotent = idempotency::idempotent(idempotency_key, operation, &body);
        let rotation = Rotation::new(id)
            .grace(wanted.grace.unwrap_or(Rotation::GRACE_DEFAULT))
            .expires_at(wanted.expires_at)
            .idempotent(idempotent);
        Ok(Self { rotation, wait })
    }
}

async fn respond(api: &Api, wait: Wait, rotated: &Rotated) -> HttpResponse {
    let by = wait.until(api.service(), rotated.effective).await;
    // The body does not contain that time, because a repetition gets the very same one.
    let body = RotatedView::from(rotated);
    propagation::show(by, HttpResponse::Created().json(body))
}

pub(super) async fn rotate_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::Create, async |actor| {
        let id = key_id(&request)?;
        let operation = format!("POST /v1/keys/{id}/rotate");
        let wish = Wish::read(&request, payload, id, operation).await?;
        let rotated = api.service().rotate_key(&actor, wish.rotation).await?;
        Ok(respond(&api, wish.wait, &rotated).await)
    })
    .await
}

/// Rotates the key of the request.
pub(super) async fn rotate_own_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::Create, async |actor| {
        let operation = "POST /v1/whoami/rotate".to_owned();
        let wish = Wish::read(&request, payload, identity.key.id, operation).await?;
        let rotated = api.service().rotate_key(&actor, wish.rotation).await?;
        Ok(respond(&api, wish.wait, &rotated).await)
    })
    .await
}
