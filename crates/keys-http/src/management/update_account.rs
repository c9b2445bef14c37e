//! `PATCH /v1/accounts/{account_id}`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_service::ports::AccountPatch;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::shared::{account_id, answer, operator};
use super::view::UpdatedView;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::propagation::{self, Wait};
use crate::rejection::Rejection;
use crate::{body, unknown};

/// The fields that are read. Here `null` differs from a missing field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(default, deserialize_with = "present")]
    plan: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    disabled: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    external_id: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

pub(super) async fn update_account(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let update = async || {
        let id = account_id(&request)?;
        unknown::check_query(&request, &["wait"])?;
        let wait = Wait::of(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let patch = account_patch(body::parse_strict(&body)?)?;
        let actor = operator(&identity)?;
        let updated = api.service().update_account(&actor, id, patch).await?;
        let (account, effective) = updated;
        let by = wait.until(api.service(), effective).await;
        let body = UpdatedView::new(&account, by);
        Ok(propagation::show(by, HttpResponse::Ok().json(body)))
    };
    answer(update().await)
}

fn account_patch(members: Members) -> Result<AccountPatch, Rejection> {
    let mut faults = Faults::default();
    let plan = faults.note(members.plan.as_ref().map(text).transpose());
    let disabled = members.disabled.as_ref();
    let disabled = disabled.map(|value| fields::boolean("disabled", value));
    let disabled = faults.note(disabled.transpose());
    let external_id = members
        .external_id
        .map(|value| fields::external_id("external_id", Some(value)));
    let external_id = faults.note(external_id.transpose());
    faults.finish()?;
    // A name that no plan can have is treated as that of an unknown plan.
    let plan = plan.map(str::parse).transpose();
    let mut patch = AccountPatch::default();
    patch.plan = plan.map_err(|_| Rejection::UnknownPlan)?;
    patch.disabled = disabled;
    patch.external_id = external_id;
    Ok(patch)
}

fn text(plan: &Value) -> Result<&str, FieldError> {
    let text = plan.as_str();
    text.ok_or_else(|| FieldError::new("plan", "must be a string"))
}
