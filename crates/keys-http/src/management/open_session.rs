//! `POST /v1/accounts/{account_id}/sessions`

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{ExternalId, ScopeSet};
use keys_service::{IssueField, SessionDraft};
use serde::Deserialize;
use serde_json::Value;

use super::shared::{account_id, answer, operator};
use super::view::SessionView;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

const TTL_SECONDS: &str = "ttl_seconds";
const SUBJECT: &str = "subject";
const SCOPES: &str = "scopes";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    ttl_seconds: Option<Value>,
    subject: Option<Value>,
    scopes: Option<Value>,
}

struct Wanted {
    ttl: Duration,
    subject: Option<ExternalId>,
    scopes: ScopeSet,
}

impl TryFrom<Members> for Wanted {
    type Error = Rejection;

    fn try_from(members: Members) -> Result<Self, Rejection> {
        let mut faults = Faults::default();
        let wanted = Self {
            ttl: faults.note(ttl(members.ttl_seconds.as_ref())),
            subject: faults.note(fields::external_id(SUBJECT, members.subject)),
            scopes: faults
                .note_all(fields::scopes(SCOPES, members.scopes))
                .unwrap_or_default(),
        };
        faults.finish()?;
        Ok(wanted)
    }
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
        let wanted = Wanted::try_from(body::parse_strict::<Members>(&body)?)?;
        let operation = format!("POST /v1/accounts/{account_id}/sessions");
        let idempotent = idempotency::idempotent(idempotency_key, operation, &body);
        let issued = api
            .service()
            .open_session(
                &operator(&identity)?,
                SessionDraft::new(account_id, wanted.ttl)
                    .subject(wanted.subject)
                    .scopes(wanted.scopes)
                    .idempotent(idempotent),
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
        IssueField::Scopes => Some(SCOPES.to_owned()),
        // The body that opens a session has no such fields.
        IssueField::ExpiresAt
        | IssueField::AllowedNetworks(_)
        | IssueField::Limits
        | IssueField::Prefix => None,
    }
}

/// Reads any whole number. The service checks the maximum.
fn ttl(value: Option<&Value>) -> Result<Duration, FieldError> {
    let seconds = match value {
        None | Some(Value::Null) => Err("is required"),
        Some(value) => value
            .as_u64()
            .ok_or("must be a whole number from 1 to 86400"),
    };
    seconds
        .map(Duration::from_secs)
        .map_err(|message| FieldError::new(TTL_SECONDS, message))
}
