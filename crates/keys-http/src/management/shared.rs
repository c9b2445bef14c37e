//! What the handlers of this surface share.

use actix_web::{HttpRequest, HttpResponse};
use keys_core::AccountId;
use keys_service::{Actor, Identity};

use crate::problem;
use crate::refusal::Refusal;

pub(super) fn answer(result: Result<HttpResponse, Refusal>) -> HttpResponse {
    result.unwrap_or_else(|refusal| refusal.respond(problem::render))
}

/// In whose name something is changed here.
pub(super) fn operator(identity: &Identity) -> Result<Actor, Refusal> {
    Actor::operator(identity).map_err(Refusal::denied)
}

/// The account in the path. A malformed id is one that no account has.
pub(super) fn account_id(request: &HttpRequest) -> Result<AccountId, Refusal> {
    let id = request.match_info().query("account_id");
    id.parse().map_err(|_| Refusal::AccountNotFound)
}
