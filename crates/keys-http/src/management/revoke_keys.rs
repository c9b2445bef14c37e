//! `POST /v1/keys/revoke`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{AccountId, CreatedBy, KeyId, Operation, Revocation};
use keys_service::ports::{KeySelection, REVOKED_MAX};
use serde::Deserialize;
use serde_json::Value;

use super::revocation;
use super::shared::manage_keys;
use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::propagation::Wait;
use crate::rejection::Rejection;
use crate::{body, unknown};

const IDS: &str = "ids";
const ACCOUNT_ID: &str = "account_id";
const CREATED_BY: &str = "created_by";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    ids: Option<Value>,
    account_id: Option<Value>,
    created_by: Option<Value>,
    reason: Option<Value>,
    note: Option<Value>,
}

pub(super) async fn revoke_keys(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::Delete, async |actor| {
        unknown::check_query(&request, &["wait"])?;
        let wait = Wait::of(&request)?;
        let body = body::read(request.headers(), payload).await?;
        let (selection, revocation) = wanted(body::parse_strict(&body)?)?;
        let service = api.service();
        let revoked = service.revoke_keys(&actor, selection, revocation).await?;
        Ok(revocation::answer(&api, wait, revoked).await)
    })
    .await
}

fn wanted(members: Members) -> Result<(KeySelection, Revocation), Rejection> {
    let mut faults = Faults::default();
    let ids = faults.note_all(ids(members.ids));
    let account = faults.note(fields::text(ACCOUNT_ID, members.account_id));
    let creator = faults.note(
        fields::text(CREATED_BY, members.created_by).and_then(|text| {
            let parse = |text: String| text.parse::<CreatedBy>();
            let creator = text.map(parse).transpose();
            creator.map_err(|error| FieldError::new(CREATED_BY, error.to_string()))
        }),
    );
    let revocation = revocation::revocation(&mut faults, members.reason, members.note);
    faults.finish()?;
    let selection = match (ids, account, creator) {
        (Some(ids), None, None) => KeySelection::ids(ids),
        (None, Some(account), None) => {
            // A malformed id is treated as one that no account has.
            let account: AccountId = account.parse().map_err(|_| Rejection::AccountNotFound)?;
            KeySelection::of_account(account)
        }
        (None, None, Some(creator)) => KeySelection::created_by(creator),
        (None, None, None) => {
            let message = "is required, or account_id, or created_by";
            return Err(Rejection::field(IDS, message));
        }
        (ids, ..) => {
            let field = if ids.is_some() { IDS } else { ACCOUNT_ID };
            let message = "cannot be combined with another selection";
            return Err(Rejection::field(field, message));
        }
    };
    Ok((selection, revocation))
}

/// Reads a list of identifiers of keys. `null` means the same as a missing field.
fn ids(value: Option<Value>) -> Result<Option<Vec<KeyId>>, Vec<FieldError>> {
    let fault = |message: String| vec![FieldError::new(IDS, message)];
    let entries = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(fault("must be a list of strings".to_owned())),
    };
    if entries.is_empty() || entries.len() > REVOKED_MAX {
        return Err(fault(format!("must have 1 to {REVOKED_MAX} entries")));
    }
    let mut faults = Vec::new();
    let mut ids = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        match entry.as_str().map(str::parse) {
            Some(Ok(id)) => ids.push(id),
            // Never repeats the entry, which may be a key that was pasted by mistake.
            _ => faults.push(FieldError::new(
                format!("{IDS}.{index}"),
                "must be the id of a key, which is not the key itself",
            )),
        }
    }
    if faults.is_empty() {
        Ok(Some(ids))
    } else {
        Err(faults)
    }
}
