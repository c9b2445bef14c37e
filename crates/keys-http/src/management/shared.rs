//! Code that the handlers of this surface share.

use actix_web::{HttpRequest, HttpResponse};
use keys_core::AccountId;
use keys_service::{Actor, Identity};

use crate::problem;
use crate::rejection::Rejection;

pub(super) fn answer(result: Result<HttpResponse, Rejection>) -> HttpResponse {
    result.unwrap_or_else(|rejection| rejection.respond(problem::render))
}

/// Returns the actor of changes on this surface.
pub(super) fn operator(identity: &Identity) -> Result<Actor, Rejection> {
    Actor::operator(identity).map_err(Rejection::denied)
}

/// Returns the account in the path. A malformed id is treated as one that no account has.
pub(super) fn account_id(request: &HttpRequest) -> Result<AccountId, Rejection> {
    let id = request.match_info().query("account_id");
    id.parse().map_err(|_| Rejection::AccountNotFound)
}
