//! Verification: may this key do this, from there, now? Errors as RFC 9457 has them.
//!
//! The hot path: neither whoever asks nor the key that is asked about costs a look into the database while the cache knows them.
//! [`Desk::answer`] knows requests and answers as they are on the wire and nothing of applications: inside one the routes of
//! [`configure`] ask it, and before one [`Front`](crate::Front) does.

mod forward_auth;
mod question;
mod verify;
mod verify_batch;
mod view;

use std::rc::Rc;

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, RequestHead, Response, ServiceRequest, ServiceResponse, fn_service};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use actix_web::{Error, web};
use keys_core::{Denial, KeyKind, ScopeSet};
use keys_service::{Verdict, VerdictCode, VerifiedKey};
use serde::Serialize;

use crate::admission::Refused;
use crate::api::Api;
use crate::guard::Guard;
use crate::problem;
use crate::refusal::Refusal;

/// A route of verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Auth,
    Verify,
    VerifyBatch,
}

impl Endpoint {
    /// In the order in which they are tried, which is that of their numbers.
    pub(crate) const ALL: [Self; 3] = [Self::Auth, Self::Verify, Self::VerifyBatch];

    /// Its place in [`ALL`](Self::ALL).
    pub(crate) const fn number(self) -> usize {
        self as usize
    }

    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Auth => "/v1/auth",
            Self::Verify => "/v1/keys/verify",
            Self::VerifyBatch => "/v1/keys/verify-batch",
        }
    }

    /// The route whose path this is, byte for byte.
    pub(crate) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.path() == path)
    }

    /// The only method it is served by, if there is one.
    const fn allow(self) -> Option<&'static str> {
        match self {
            Self::Auth => None,
            Self::Verify | Self::VerifyBatch => Some("POST"),
        }
    }
}

const _: () = {
    let mut place = 0;
    while place < Endpoint::ALL.len() {
        assert!(Endpoint::ALL[place].number() == place);
        place += 1;
    }
    assert!(Endpoint::ALL.len() == Endpoint::VerifyBatch.number() + 1);
};

/// Answers whatever is asked about keys.
pub(crate) struct Desk {
    pub(crate) api: Api,
    operators: Guard,
}

/// Serves the routes inside an application. Neither a resource nor extractors are in between, because each of their layers
/// allocates for every request.
pub(crate) fn configure(api: &Api, app: &mut web::ServiceConfig) {
    let desk = Rc::new(Desk::new(api));
    for endpoint in Endpoint::ALL {
        let desk = Rc::clone(&desk);
        let service = fn_service(move |request: ServiceRequest| {
            let desk = Rc::clone(&desk);
            async move {
                let (request, payload) = request.into_parts();
                let response = desk.answer(endpoint, request.head(), payload).await;
                Ok::<_, Error>(ServiceResponse::new(request, response.into()))
            }
        });
        app.service(web::service(endpoint.path()).finish(service));
    }
}

impl Desk {
    pub(crate) fn new(api: &Api) -> Self {
        let scopes = ScopeSet::parse(["keys:verify"]).expect("the scope of operators is legal");
        Self {
            api: api.clone(),
            operators: Guard::verifying(api, &[KeyKind::Operator], scopes),
        }
    }

    /// The whole answer, whatever was asked.
    pub(crate) async fn answer(
        &self,
        endpoint: Endpoint,
        head: &RequestHead,
        payload: Payload,
    ) -> Response<BoxBody> {
        if let Some(allow) = endpoint.allow()
            && head.method != allow
        {
            let refusal = Refusal::MethodNotAllowed { allow };
            return keep_out_of_caches(refusal.respond(problem::render).into());
        }
        let response = match endpoint {
            Endpoint::Auth => forward_auth::forward_auth(self, head).await,
            Endpoint::Verify => refused_or(verify::verify(self, head, payload).await),
            Endpoint::VerifyBatch => {
                // Boxed, so that the others, which are much smaller, do not take its room.
                let answer = Box::pin(verify_batch::verify_batch(self, head, payload));
                refused_or(answer.await)
            }
        };
        keep_out_of_caches(response)
    }

    /// Lets operators through.
    async fn admit(&self, head: &RequestHead) -> Result<(), Refused> {
        self.operators.admit(head).await.map(|_| ())
    }
}

fn refused_or(result: Result<Response<BoxBody>, Refused>) -> Response<BoxBody> {
    result.unwrap_or_else(|refused| refused.respond(problem::render).into())
}

/// A body as JSON. The usual one fits into what is set aside for it at first.
fn json(view: &impl Serialize) -> Result<Response<BoxBody>, Refusal> {
    let mut body = Vec::with_capacity(512);
    // Cannot fail: no view has a map, and memory does not refuse to be written to.
    serde_json::to_writer(&mut body, view).map_err(|_| Refusal::Unavailable)?;
    let mut response = Response::with_body(StatusCode::OK, BoxBody::new(body));
    let content_type = HeaderValue::from_static("application/json");
    add(response.headers_mut(), CONTENT_TYPE, content_type);
    Ok(response)
}

fn keep_out_of_caches(mut response: Response<BoxBody>) -> Response<BoxBody> {
    let no_store = HeaderValue::from_static("no-store");
    add(response.headers_mut(), CACHE_CONTROL, no_store);
    response
}

/// Adds a header that is not there yet. To insert it would move room for four values about, for the sake of what it replaces.
fn add(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    debug_assert!(!headers.contains_key(&name), "{name} is there already");
    headers.append(name, value);
}

/// Whether the sender wants the database asked, whatever the cache says.
fn wants_fresh(headers: &HeaderMap) -> bool {
    headers
        .get_all(CACHE_CONTROL)
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-cache"))
}

/// What may be told of a verdict. A credential of another kind, which has no business here, is one that nobody has.
fn told(verdict: &Verdict) -> (VerdictCode, Option<&VerifiedKey>) {
    const NOT_FOUND: VerdictCode = VerdictCode::Denied(Denial::NotFound);
    match (verdict.code, &verdict.key) {
        (VerdictCode::Denied(Denial::KindNotAllowed), _) => (NOT_FOUND, None),
        // Of another kind and refused before that was looked at, such as an expired session.
        (_, Some(key)) if key.kind() != KeyKind::Account => (NOT_FOUND, None),
        (code, key) => (code, key.as_ref()),
    }
}
