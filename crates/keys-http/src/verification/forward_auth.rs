//! `/v1/auth`, by any method: tells gateways whether a request of their client may pass.

use std::net::IpAddr;
use std::num::NonZeroU32;

use actix_web::body::BoxBody;
use actix_web::dev::{RequestHead, Response};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use keys_core::{LimitName, Scope, ScopeSet};
use keys_service::ports::Decision;
use keys_service::{VerdictCode, VerifiedKey, VerifyRequest};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::handler::Handler;
use super::view::disclosed;
use super::wire::add;
use crate::api::Api;
use crate::client_address::client_address;
use crate::field_error::FieldError;
use crate::fields::Faults;
use crate::guard::admit;
use crate::key_expires::KEY_EXPIRES;
use crate::query::Query;
use crate::rejection::{CredentialFault, Rejection};
use crate::{limits, problem, unknown};

const X_ACCOUNT_EXTERNAL_ID: HeaderName = HeaderName::from_static("x-account-external-id");
const X_ACCOUNT_ID: HeaderName = HeaderName::from_static("x-account-id");
const X_DENIAL: HeaderName = HeaderName::from_static("x-denial");
const X_KEY_ID: HeaderName = HeaderName::from_static("x-key-id");
const X_KEY_SCOPES: HeaderName = HeaderName::from_static("x-key-scopes");
const X_PLAN: HeaderName = HeaderName::from_static("x-plan");

/// Characters that are percent-encoded in a header, because they could have a meaning to a reader,
/// or be lost in transit.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@')
    .remove(b':')
    .remove(b'/');

/// The conditions of the gateway, in the query of its own configuration.
#[derive(Default)]
struct Wanted {
    scopes: ScopeSet,
    limit: Option<LimitName>,
    cost: Option<NonZeroU32>,
    /// Whether the gateway supports no status but 2xx, 401 and 403.
    only_403: bool,
}

impl Wanted {
    const PARAMETERS: [&'static str; 4] = ["scope", "limit", "cost", "mode"];

    fn read(query: &str, api: &Api) -> Result<Self, Rejection> {
        if query.is_empty() {
            return Ok(Self::default());
        }
        unknown::check_query_string(query, &Self::PARAMETERS)?;
        let query = Query::parse(query);
        let mut faults = Faults::default();
        let limit = faults.note(query.one("limit"));
        let cost = faults.note(query.number("cost", 1, u32::MAX.into()));
        let wanted = Self {
            scopes: faults.note(scopes(&query)),
            limit: limit.and_then(|limit| api.limit(limit)),
            cost: u32::try_from(cost).ok().and_then(NonZeroU32::new),
            only_403: match faults.note(query.one("mode")) {
                None => false,
                Some("nginx") => true,
                Some(_) => faults.note(Err(FieldError::new("mode", "must be nginx"))),
            },
        };
        faults.finish()?;
        if limit.is_some() && wanted.limit.is_none() {
            let field = "limit".to_owned();
            return Err(Rejection::UnknownLimit { field });
        }
        Ok(wanted)
    }

    fn question<'a>(&'a self, key: &'a str, address: Option<IpAddr>) -> VerifyRequest<'a> {
        VerifyRequest::new(key)
            .address(address)
            .scopes(&self.scopes)
            .limit(self.limit.as_ref())
            .cost(self.cost.unwrap_or(NonZeroU32::MIN))
    }
}

/// Returns all values of `scope`, each of which may contain several.
fn scopes(query: &Query) -> Result<ScopeSet, FieldError> {
    let fault = |message: String| FieldError::new("scope", message);
    // `scope=` is a mistake, and must not mean that no scope is needed.
    if query
        .all("scope")
        .any(|value| value.trim_ascii().is_empty())
    {
        return Err(fault("must not be empty".to_owned()));
    }
    let names = query.all("scope").flat_map(str::split_ascii_whitespace);
    ScopeSet::parse(names).map_err(|error| fault(format!("is not usable: {error}")))
}

/// The word for the fault of the credential. `None` if the request was rejected for another reason.
fn denial(rejection: &Rejection) -> Option<&'static str> {
    match rejection {
        Rejection::Unauthenticated { fault, .. } => Some(match fault {
            CredentialFault::Missing => "missing",
            CredentialFault::Conflicting => "conflicting_credentials",
            CredentialFault::Denied(denial) => denial.code(),
        }),
        Rejection::Denied { denial, .. } => Some(denial.code()),
        Rejection::RateLimited(_) => Some(VerdictCode::RateLimited.as_str()),
        _ => None,
    }
}

/// Adds the header `X-Denial`, which says more than the status.
fn respond(rejection: &Rejection, only_403: bool) -> Response<BoxBody> {
    let is_limit = matches!(rejection, Rejection::RateLimited(_));
    let mut response = rejection.respond(if is_limit && only_403 {
        |rejection| problem::render_as(StatusCode::FORBIDDEN, rejection)
    } else {
        problem::render
    });
    if let Some(code) = denial(rejection) {
        let headers = response.headers_mut();
        headers.insert(X_DENIAL, HeaderValue::from_static(code));
    }
    response.into()
}

pub(super) async fn forward_auth(handler: &Handler, head: &RequestHead) -> Response<BoxBody> {
    match Wanted::read(head.uri.query().unwrap_or_default(), &handler.api) {
        Err(rejection) => rejection.respond(problem::render).into(),
        Ok(wanted) => match judge(&handler.api, head, &wanted).await {
            Ok(granted) => granted,
            Err(rejection) => respond(&rejection, wanted.only_403),
        },
    }
}

async fn judge(
    api: &Api,
    head: &RequestHead,
    wanted: &Wanted,
) -> Result<Response<BoxBody>, Rejection> {
    let judged = admit(api, head, async |key, address| {
        let verdict = api.service().verify(&wanted.question(key, address)).await?;
        let (code, key) = disclosed(&verdict);
        api.count_verdict(code);
        match (code, key, &verdict.rate_limit) {
            (VerdictCode::Valid, Some(key), decision) => granted(key, decision.as_ref()).map(Ok),
            (VerdictCode::RateLimited, _, Some(decision)) => {
                Err(Rejection::RateLimited(decision.clone()))
            }
            (VerdictCode::Denied(denial), ..) => Ok(Err(denial)),
            // Unreachable today. A new verdict code must fail closed.
            _ => Err(Rejection::Unavailable),
        }
    });
    match judged.await {
        // On other routes it is 400, which some gateways treat as a failure of this service.
        Err(Rejection::ConflictingCredentials) => {
            let address = client_address(head, &api.inner.trusted_proxies);
            let rejection = Rejection::unauthenticated(CredentialFault::Conflicting);
            Err(Box::pin(api.count_failure(address, rejection)).await)
        }
        judged => judged,
    }
}

/// Adds the identity headers for the gateway to forward.
fn granted(key: &VerifiedKey, decision: Option<&Decision>) -> Result<Response<BoxBody>, Rejection> {
    let mut response = Response::new(StatusCode::OK);
    let headers = response.headers_mut();
    put(headers, X_KEY_ID, key.id().to_string())?;
    put(headers, X_KEY_SCOPES, joined(key.scopes()))?;
    if let Some(account) = key.account() {
        put(headers, X_ACCOUNT_ID, account.id.to_string())?;
        put(headers, X_PLAN, account.plan.as_str())?;
        if let Some(external_id) = account.external_id {
            let encoded = utf8_percent_encode(external_id.as_str(), UNSAFE);
            put(headers, X_ACCOUNT_EXTERNAL_ID, encoded.to_string())?;
        }
    }
    if let Some(expires_at) = key.expires_at() {
        put(headers, KEY_EXPIRES, expires_at.to_http_date())?;
    }
    if let Some(decision) = decision {
        limits::show(decision, headers);
    }
    Ok(response)
}

fn put<V>(headers: &mut HeaderMap, name: HeaderName, text: V) -> Result<(), Rejection>
where
    HeaderValue: TryFrom<V>,
{
    // Cannot fail, because all texts are visible ASCII. If one were not, the client's own header
    // must not pass instead.
    let value = HeaderValue::try_from(text).map_err(|_| Rejection::Unavailable)?;
    add(headers, name, value);
    Ok(())
}

/// Joins scopes with blanks.
fn joined(scopes: &ScopeSet) -> String {
    let mut text = String::new();
    for scope in scopes.iter().map(Scope::as_str) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(scope);
    }
    text
}
