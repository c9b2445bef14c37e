//! Reason and note of a revocation, and the answer to one.

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{Denial, OperatorScope, Revocation, RevocationNote, RevocationReason, Scope};
use keys_service::{Identity, Revoked};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Api;
use crate::field_error::FieldError;
use crate::fields::{self, Faults};
use crate::propagation::{self, Wait};
use crate::query::Query;
use crate::rejection::Rejection;
use crate::{body, unknown};

const REASON: &str = "reason";
const NOTE: &str = "note";

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    reason: Option<Value>,
    note: Option<Value>,
}

/// Reads the reason in the query, or reason and note in the body, of a request that may have no
/// body. `known` are the other parameters of the query.
pub(super) async fn read(
    request: &HttpRequest,
    payload: web::Payload,
    known: &[&str],
) -> Result<Revocation, Rejection> {
    unknown::check_query(request, &[known, &[REASON, "wait"]].concat())?;
    let query = Query::parse(request.query_string());
    let members = match body::read_optional(request.headers(), payload).await? {
        Some(body) => body::parse_strict::<Members>(&body)?,
        None => Members::default(),
    };
    let mut faults = Faults::default();
    let in_query = faults.note(query.one(REASON));
    let reason = match (in_query, members.reason) {
        (Some(_), Some(_)) => {
            let message = "must be given once, in the query or in the body";
            faults.note::<()>(Err(FieldError::new(REASON, message)));
            None
        }
        (Some(text), None) => Some(Value::from(text)),
        (None, reason) => reason,
    };
    let revocation = revocation(&mut faults, reason, members.note);
    faults.finish()?;
    Ok(revocation)
}

/// Reads reason and note from the fields of a body.
pub(super) fn revocation(
    faults: &mut Faults,
    reason: Option<Value>,
    note: Option<Value>,
) -> Revocation {
    let reason = faults.note(fields::text(REASON, reason).and_then(|text| {
        let parse = |text: String| text.parse::<RevocationReason>();
        let reason = text.map(parse).transpose();
        reason.map_err(|_| FieldError::new(REASON, expectation()))
    }));
    let note = faults.note(fields::text(NOTE, note).and_then(|text| {
        let parse = |text: String| text.parse::<RevocationNote>();
        let note = text.map(parse).transpose();
        note.map_err(|error| FieldError::new(NOTE, error.to_string()))
    }));
    Revocation::new(reason).note(note)
}

fn expectation() -> String {
    let reasons = RevocationReason::ALL.map(RevocationReason::as_str);
    format!("must be one of {}", reasons.join(", "))
}

/// Checks that an operator may revoke for this reason: a leaked session or operator key takes the
/// keys of accounts with it that it made.
pub(super) fn check_scope(identity: &Identity, revocation: &Revocation) -> Result<(), Rejection> {
    let needed = Scope::from(OperatorScope::KeysWrite);
    if revocation.reason == Some(RevocationReason::Leaked) && !identity.key.scopes.contains(&needed)
    {
        return Err(Rejection::denied(Denial::InsufficientScope));
    }
    Ok(())
}

/// The number of keys that were revoked, and of those that are still to be.
#[derive(Serialize)]
struct RevokedView {
    revoked: usize,
    remaining: u64,
    effective_everywhere_by: Option<String>,
}

/// Returns the answer to a revocation, after its propagation if the request waits for that.
pub(super) async fn answer(api: &Api, wait: Wait, revoked: Revoked) -> HttpResponse {
    let by = match revoked.effective {
        Some(effective) => Some(wait.until(api.service(), effective).await),
        None => None,
    };
    let response = HttpResponse::Ok().json(RevokedView {
        revoked: revoked.keys.len(),
        remaining: revoked.remaining,
        effective_everywhere_by: by.map(|by| by.to_string()),
    });
    match by {
        Some(by) => propagation::show(by, response),
        None => response,
    }
}
