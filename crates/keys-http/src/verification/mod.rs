//! Verification: may this key do this, from there, now? Errors as RFC 9457 has them.
//!
//! The hot path: neither whoever asks nor the key that is asked about costs a look into the database while the cache knows them.

mod forward_auth;
mod question;
mod verify;
mod verify_batch;
mod view;

use std::rc::Rc;

use actix_web::dev::{Payload, ServiceRequest, ServiceResponse, fn_service};
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use actix_web::{Error, HttpRequest, HttpResponse, web};
use keys_core::{Denial, KeyKind, ScopeSet};
use keys_service::{Verdict, VerdictCode, VerifiedKey};
use serde::Serialize;

use crate::admission::Refused;
use crate::api::Api;
use crate::guard::Guard;
use crate::problem;
use crate::refusal::Refusal;

const POST: Option<&str> = Some("POST");

/// What the routes share.
struct Desk {
    api: Api,
    operators: Guard,
}

pub(crate) fn configure(api: &Api, app: &mut web::ServiceConfig) {
    let scopes = ScopeSet::parse(["keys:verify"]).expect("the scope of operators is legal");
    let desk = Rc::new(Desk {
        api: api.clone(),
        operators: Guard::verifying(api, &[KeyKind::Operator], scopes),
    });
    // In the order in which they are tried.
    serve(app, &desk, "/v1/auth", None, forward_auth::forward_auth);
    serve(app, &desk, "/v1/keys/verify", POST, verify::verify);
    serve(
        app,
        &desk,
        "/v1/keys/verify-batch",
        POST,
        verify_batch::verify_batch,
    );
}

/// Serves a path, by the methods `allow` if that says any. Neither a resource nor extractors are in between, because each
/// of their layers allocates for every request.
fn serve(
    app: &mut web::ServiceConfig,
    desk: &Rc<Desk>,
    path: &str,
    allow: Option<&'static str>,
    handler: impl AsyncFn(&Desk, &HttpRequest, Payload) -> HttpResponse + Clone + 'static,
) {
    let desk = Rc::clone(desk);
    let service = fn_service(move |request: ServiceRequest| {
        let (desk, handler) = (Rc::clone(&desk), handler.clone());
        async move {
            let (request, payload) = request.into_parts();
            let response = match allow {
                Some(allow) if request.method() != allow => {
                    Refusal::MethodNotAllowed { allow }.respond(problem::render)
                }
                _ => handler(&desk, &request, payload).await,
            };
            Ok::<_, Error>(ServiceResponse::new(request, response))
        }
    });
    app.service(web::service(path).finish(service));
}

impl Desk {
    /// Does `work` if an operator asks for it.
    async fn answer(
        &self,
        request: &HttpRequest,
        work: impl AsyncFnOnce() -> Result<HttpResponse, Refused>,
    ) -> HttpResponse {
        let result = match self.operators.admit(request).await {
            Ok(_) => work().await,
            Err(refused) => Err(refused),
        };
        keep_out_of_caches(result.unwrap_or_else(|refused| refused.respond(problem::render)))
    }
}

/// A body as JSON. The usual one fits into what is set aside for it at first.
fn json(view: &impl Serialize) -> Result<HttpResponse, Refusal> {
    let mut body = Vec::with_capacity(512);
    // Cannot fail: no view has a map, and memory does not refuse to be written to.
    serde_json::to_writer(&mut body, view).map_err(|_| Refusal::Unavailable)?;
    let content_type = HeaderValue::from_static("application/json");
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, content_type))
        .body(body))
}

fn keep_out_of_caches(mut response: HttpResponse) -> HttpResponse {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
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
