//! Code that the handlers of this surface share.

use actix_web::{HttpRequest, HttpResponse};
use keys_core::{AccountId, IssuePolicy, KeyId, KeyKind, Operation};
use keys_service::{Actor, Identity, ManagementPolicy};

use crate::api::Api;
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::{limits, problem};

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

/// Runs `work` if the caller may manage keys: an operator, or the holder of an account within the
/// limit of the plan for this operation. The answer has the headers of that limit in both cases.
pub(super) async fn manage_keys(
    api: &Api,
    identity: &Authenticated,
    operation: Operation,
    work: impl AsyncFnOnce(Actor) -> Result<HttpResponse, Rejection>,
) -> HttpResponse {
    counted(api, identity, operation, async || {
        work(key_manager(api, identity, operation)?).await
    })
    .await
}

/// Runs `work` if the limit of the account for `operation` permits it. The answer has the headers
/// of the limit in both cases. Operators have no limit.
pub(super) async fn counted(
    api: &Api,
    identity: &Identity,
    operation: Operation,
    work: impl AsyncFnOnce() -> Result<HttpResponse, Rejection>,
) -> HttpResponse {
    let decision = match api.service().count_operation(identity, operation).await {
        Ok(decision) => decision,
        Err(error) => return answer(Err(error.into())),
    };
    let mut response = answer(match &decision {
        Some(decision) if !decision.allowed => Err(Rejection::RateLimited(decision.clone())),
        _ => work().await,
    });
    if let Some(decision) = &decision {
        limits::show(decision, response.headers_mut());
    }
    response
}

fn key_manager(
    api: &Api,
    identity: &Authenticated,
    operation: Operation,
) -> Result<Actor, Rejection> {
    let service = api.service();
    let actor = if identity.key.kind == KeyKind::Operator {
        Actor::operator(identity)
    } else {
        let management = api.inner.surfaces.key_management;
        let policy = ManagementPolicy::new(IssuePolicy::default(), management);
        service.manager(identity, operation, &policy)
    };
    let actor = actor.map_err(Rejection::denied)?;
    service.record_success(identity);
    Ok(actor)
}
