//! Verification of keys for backends and gateways. Errors of RFC 9457.
//!
//! The fast path: neither the caller nor the verified key costs a query to the database while both
//! are cached.

mod forward_auth;
mod handler;
mod question;
mod verify;
mod verify_batch;
mod view;
mod wire;

use std::rc::Rc;

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, RequestHead, Response, ServiceRequest, ServiceResponse, fn_service};
use actix_web::{Error, web};

use crate::api::Api;
use crate::endpoint::Endpoint;
use crate::problem;
use crate::rejection::Rejection;
use handler::Handler;
use wire::keep_out_of_caches;

/// Serves the routes inside an application. Neither a resource nor extractors are used, because
/// each of their layers allocates for every request.
pub(crate) fn configure(api: &Api, app: &mut web::ServiceConfig) {
    let handler = Rc::new(Handler::new(api));
    for endpoint in Endpoint::ALL {
        let handler = Rc::clone(&handler);
        let service = fn_service(move |request: ServiceRequest| {
            let handler = Rc::clone(&handler);
            async move {
                let (request, payload) = request.into_parts();
                let response = handler.answer(endpoint, request.head(), payload).await;
                Ok::<_, Error>(ServiceResponse::new(request, response.into()))
            }
        });
        app.service(web::service(endpoint.path()).finish(service));
    }
}

impl Handler {
    /// Returns the whole answer to a request of any route.
    async fn answer(
        &self,
        endpoint: Endpoint,
        head: &RequestHead,
        payload: Payload,
    ) -> Response<BoxBody> {
        if let Some(allow) = allow(endpoint)
            && head.method != allow
        {
            let rejection = Rejection::MethodNotAllowed { allow };
            return keep_out_of_caches(rejection.respond(problem::render).into());
        }
        let response = match endpoint {
            Endpoint::Auth => forward_auth::forward_auth(self, head).await,
            Endpoint::Verify => rejected_or(verify::verify(self, head, payload).await),
            Endpoint::VerifyBatch => {
                // Boxed, so that the others, which are much smaller, do not need as much room.
                let answer = Box::pin(verify_batch::verify_batch(self, head, payload));
                rejected_or(answer.await)
            }
        };
        keep_out_of_caches(response)
    }
}

fn rejected_or(result: Result<Response<BoxBody>, Rejection>) -> Response<BoxBody> {
    result.unwrap_or_else(|rejection| rejection.respond(problem::render).into())
}

/// The only method that the route is served by. `None` if it is served by all.
const fn allow(endpoint: Endpoint) -> Option<&'static str> {
    match endpoint {
        Endpoint::Auth => None,
        Endpoint::Verify | Endpoint::VerifyBatch => Some("POST"),
    }
}
