//! Verification: may this key do this, from there, now? Errors as RFC 9457 has them.
//!
//! The hot path: neither whoever asks nor the key that is asked about costs a look into the database while the cache knows them.

mod forward_auth;
mod question;
mod verify;
mod verify_batch;
mod view;

use std::rc::Rc;

use actix_web::http::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{Denial, KeyKind, ScopeSet};
use keys_service::{Verdict, VerdictCode, VerifiedKey};

use crate::admission::Refused;
use crate::api::Api;
use crate::guard::Guard;
use crate::{fallback, problem};

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
    // Handlers hold what they need: to have it handed to them as data would be a search in each request.
    let auth = {
        let desk = Rc::clone(&desk);
        move |request| forward_auth::forward_auth(Rc::clone(&desk), request)
    };
    let verify = {
        let desk = Rc::clone(&desk);
        move |request, payload| verify::verify(Rc::clone(&desk), request, payload)
    };
    let verify_batch =
        move |request, payload| verify_batch::verify_batch(Rc::clone(&desk), request, payload);
    let resource = |path| fallback::resource(path, "POST", problem::render);
    // In the order in which they are tried.
    app.service(web::resource("/v1/auth").to(auth));
    app.service(resource("/v1/keys/verify").route(web::post().to(verify)));
    app.service(resource("/v1/keys/verify-batch").route(web::post().to(verify_batch)));
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
