//! `POST /v1/accounts`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_service::NewAccount;
use serde::Deserialize;
use serde_json::Value;

use super::shared::{answer, operator};
use super::view::AccountView;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::{body, idempotency, unknown};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    external_id: Option<Value>,
    plan: Option<Value>,
}

pub(super) async fn create_account(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let create = async || {
        unknown::check_query(&request, &["wait"])?;
        let idempotency_key = idempotency::key(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let new = new_account(body::parse_strict(&body)?)?;
        let idempotent = idempotency::idempotent(idempotency_key, "POST /v1/accounts", &body);
        let actor = operator(&identity)?;
        let account = api
            .service()
            .create_account(&actor, new.idempotent(idempotent))
            .await?;
        Ok(HttpResponse::Created().json(AccountView::from(&account)))
    };
    answer(create().await)
}

fn new_account(members: Members) -> Result<NewAccount, Rejection> {
    let mut faults = Faults::default();
    let external_id = faults.note(fields::external_id("external_id", members.external_id));
    let plan = faults.note(
        fields::text("plan", members.plan).and_then(|plan| match plan {
            Some(plan) => Ok(plan),
            None => Err(FieldError::new("plan", "is required")),
        }),
    );
    faults.finish()?;
    // A name that no plan can have is treated as that of an unknown plan.
    let plan = plan.parse().map_err(|_| Rejection::UnknownPlan)?;
    Ok(NewAccount::new(plan).external_id(external_id))
}
