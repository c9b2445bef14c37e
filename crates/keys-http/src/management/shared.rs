//! Code that the handlers of this surface share.

use actix_web::{HttpRequest, HttpResponse};
use keys_core::{AccountId, IssuePolicy, KeyId, KeyKind, Operation};
use keys_service::{Actor, Identity, ManagementPolicy};

use crate::api::Api;
use crate::limits;
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

/// Returns the key in the path. A malformed id is treated as one that no key has.
pub(super) fn key_id(request: &HttpRequest) -> Result<KeyId, Rejection> {
    let id = request.match_info().query("key_id");
    id.parse().map_err(|_| Rejection::KeyNotFound)
}

/// Runs `work` for an operator, or for an account's key or session if the limit, the plan and the
/// kind of credential permit the operation as on the two contracts. The answer to the latter has
/// the headers of the limit in both cases.
pub(super) async fn manage(
    api: &Api,
    identity: &Identity,
    operation: Operation,
    work: impl AsyncFnOnce(Actor) -> Result<HttpResponse, Rejection>,
) -> HttpResponse {
    let service = api.service();
    if identity.key.kind == KeyKind::Operator {
        service.record_success(identity);
        return answer(match operator(identity) {
            Ok(actor) => work(actor).await,
            Err(rejection) => Err(rejection),
        });
    }
    let decision = match service.count_operation(identity, operation).await {
        Ok(decision) => decision,
        Err(error) => return answer(Err(error.into())),
    };
    let policy = ManagementPolicy::new(IssuePolicy::default(), api.inner.surfaces.key_management);
    let result = match &decision {
        Some(decision) if !decision.allowed => Err(Rejection::RateLimited(decision.clone())),
        _ => match service.manager(identity, operation, &policy) {
            Ok(actor) => {
                service.record_success(identity);
                work(actor).await
            }
            Err(denial) => Err(Rejection::denied(denial)),
        },
    };
    let mut response = answer(result);
    if let Some(decision) = &decision {
        limits::show(decision, response.headers_mut());
    }
    response
}
