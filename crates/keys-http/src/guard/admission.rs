//! The steps that all guards share.

use std::future::{Ready, ready};
use std::net::IpAddr;

use actix_web::dev::RequestHead;
use actix_web::error::InternalError;
use actix_web::{Error, HttpMessage as _, HttpRequest};
use keys_core::Denial;
use keys_core::header::CredentialError;

use crate::api::Api;
use crate::client_address::client_address;
use crate::credential::credential;
use crate::problem;
use crate::rejection::{CredentialFault, Rejection};

/// Lets a request pass if `judge` accepts its credential. A denial counts as a failed
/// authentication of the client address.
pub(crate) async fn admit<T>(
    api: &Api,
    head: &RequestHead,
    judge: impl AsyncFnOnce(&str, Option<IpAddr>) -> Result<Result<T, Denial>, Rejection>,
) -> Result<T, Rejection> {
    let address = client_address(head, &api.inner.trusted_proxies);
    let rejection = match credential(&head.headers) {
        Ok(Some(presented)) => match judge(presented, address).await? {
            Ok(granted) => return Ok(granted),
            Err(denial) => Rejection::denied(denial),
        },
        Ok(None) => Rejection::unauthenticated(CredentialFault::Missing),
        Err(CredentialError::Conflicting) => return Err(Rejection::ConflictingCredentials),
        Err(_) => Rejection::unauthenticated(CredentialFault::Denied(Denial::Malformed)),
    };
    // Boxed, so that the future of a request that passes stays small.
    Err(Box::pin(api.count_failure(address, rejection)).await)
}

impl Api {
    /// Counts a failed authentication against the client address. Once too many were counted,
    /// returns the rejection by that limit instead.
    pub(crate) async fn count_failure(
        &self,
        address: Option<IpAddr>,
        rejection: Rejection,
    ) -> Rejection {
        let quota = self.inner.unauthenticated_quota;
        match self.inner.service.count_failure(address, quota).await {
            Ok(decision) if decision.allowed => rejection.counted_against(decision),
            Ok(decision) => Rejection::RateLimited(decision),
            Err(error) => error.into(),
        }
    }
}

/// Returns the identity that a guard has stored for the handler.
pub(super) fn identity<T: Clone + 'static>(request: &HttpRequest) -> Ready<Result<T, Error>> {
    let found = request.extensions().get::<T>().cloned();
    ready(found.ok_or_else(|| {
        // Reached only on a route that was never wrapped in a guard. The route must fail closed.
        tracing::error!("a handler takes an identity on a route without its guard");
        let response = Rejection::Unavailable.respond(problem::render);
        InternalError::from_response("not behind a guard", response).into()
    }))
}
