//! What the handlers of this surface share.

use actix_web::{HttpRequest, HttpResponse};
use keys_core::AccountId;
use keys_service::{Actor, Identity};

use crate::problem;
use crate::rejection::Rejection;

pub(super) fn answer(result: Result<HttpResponse, Rejection>) -> HttpResponse {
    result.unwrap_or_else(|rejection| rejection.respond(problem::render))
}

/// In whose name something is changed here.
pub(super) fn operator(identity: &Identity) -> Result<Actor, Rejection> {
    Actor::operator(identity).map_err(Rejection::denied)
}

/// The account in the path. A malformed id is one that no account has.
pub(super) fn account_id(request: &HttpRequest) -> Result<AccountId, Rejection> {
    let id = request.match_info().query("account_id");
    id.parse().map_err(|_| Rejection::AccountNotFound)
}
