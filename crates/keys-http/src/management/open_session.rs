//! `POST /v1/accounts/{account_id}/sessions`

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use keys_service::{IssueField, SessionDraft};
use serde::Deserialize;
use serde_json::Value;

use super::shared::{account_id, answer, operator};
use super::view::SessionView;
use crate::api::Api;
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

const TTL_SECONDS: &str = "ttl_seconds";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    ttl_seconds: Option<Value>,
}

pub(super) async fn open_session(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let open = async || {
        let account_id = account_id(&request)?;
        unknown::check_query(&request, &["wait"])?;
        let idempotency_key = idempotency::key(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let ttl = ttl(&body::parse_strict(&body)?)?;
        let operation = format!("POST /v1/accounts/{account_id}/sessions");
        let idempotent = idempotency::idempotent(idempotency_key, operation, &body);
        let issued = api
            .service()
            .open_session(
                &operator(&identity)?,
                SessionDraft::new(account_id, ttl).idempotent(idempotent),
            )
            .await
            .map_err(|error| Rejection::not_issued(error, member))?;
        Ok(HttpResponse::Created().json(SessionView::from(&issued)))
    };
    answer(open().await)
}

/// Returns the field of the body that the value was read from.
fn member(field: IssueField) -> Option<String> {
    match field {
        IssueField::Ttl => Some(TTL_SECONDS.to_owned()),
        // The body that opens a session has no such fields.
        IssueField::ExpiresAt
        | IssueField::AllowedNetworks(_)
        | IssueField::Scopes
        | IssueField::Limits
        | IssueField::Prefix => None,
    }
}

/// Reads any whole number. The service checks the maximum.
fn ttl(members: &Members) -> Result<Duration, Rejection> {
    let seconds = match &members.ttl_seconds {
        None | Some(Value::Null) => Err("is required"),
        Some(value) => value
            .as_u64()
            .ok_or("must be a whole number from 1 to 86400"),
    };
    seconds
        .map(Duration::from_secs)
        .map_err(|message| Rejection::field(TTL_SECONDS, message))
}
