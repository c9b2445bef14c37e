//! `/v1/auth`, by any method: gateways ask here whether a request of one of their clients may pass.

use std::net::IpAddr;
use std::num::NonZeroU32;

use actix_web::body::BoxBody;
use actix_web::dev::{RequestHead, Response};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use keys_core::header::CredentialError;
use keys_core::{KeyKind, LimitName, Scope, ScopeSet};
use keys_service::{Decision, VerdictCode, VerifiedKey, VerifyRequest};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::desk::Desk;
use super::view::told;
use super::wire::add;
use crate::admission::Refused;
use crate::api::Api;
use crate::client_address::client_address;
use crate::credential::credential;
use crate::field_error::FieldError;
use crate::fields::Faults;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::{limits, problem, unknown};

const X_ACCOUNT_EXTERNAL_ID: HeaderName = HeaderName::from_static("x-account-external-id");
const X_ACCOUNT_ID: HeaderName = HeaderName::from_static("x-account-id");
const X_DENIAL: HeaderName = HeaderName::from_static("x-denial");
const X_KEY_ID: HeaderName = HeaderName::from_static("x-key-id");
const X_KEY_SCOPES: HeaderName = HeaderName::from_static("x-key-scopes");
const X_PLAN: HeaderName = HeaderName::from_static("x-plan");

/// What is percent-encoded in a header: all that could mean something to whatever reads it, or not survive on the way.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'@')
    .remove(b':')
    .remove(b'/');

/// What the gateway asks for, in the query of its own configuration.
#[derive(Default)]
struct Wanted {
    scopes: ScopeSet,
    limit: Option<LimitName>,
    cost: Option<NonZeroU32>,
    /// The gateway knows no status but 2xx, 401 and 403.
    only_403: bool,
}

impl Wanted {
    const PARAMETERS: [&'static str; 4] = ["scope", "limit", "cost", "mode"];

    fn read(query: &str, api: &Api) -> Result<Self, Refusal> {
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
            return Err(Refusal::UnknownLimit { field });
        }
        Ok(wanted)
    }

    fn question<'a>(&'a self, key: &'a str, address: Option<IpAddr>) -> VerifyRequest<'a> {
        VerifyRequest {
            key,
            address,
            scopes: &self.scopes,
            kinds: &[KeyKind::Account],
            limit: self.limit.as_ref(),
            cost: self.cost.unwrap_or(NonZeroU32::MIN),
            // That would be for the gateway's client to say.
            fresh: false,
        }
    }
}

/// All values of `scope`, each of which may have several.
fn scopes(query: &Query) -> Result<ScopeSet, FieldError> {
    let fault = |message: String| FieldError::new("scope", message);
    // Whoever writes `scope=` means something, and it is not that no scope is needed.
    if query
        .all("scope")
        .any(|value| value.trim_ascii().is_empty())
    {
        return Err(fault("must not be empty".to_owned()));
    }
    let names = query.all("scope").flat_map(str::split_ascii_whitespace);
    ScopeSet::parse(names).map_err(|error| fault(format!("is not usable: {error}")))
}

/// Why a request may not pass, with the word for it in `X-Denial`, which tells more than the status.
struct Denied {
    code: Option<&'static str>,
    refused: Refused,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: None,
            refused: refusal.into(),
        }
    }
}

impl Denied {
    fn respond(&self, only_403: bool) -> Response<BoxBody> {
        let is_limit = matches!(self.refused.refusal, Refusal::RateLimited(_));
        let mut response = self.refused.respond(if is_limit && only_403 {
            |refusal| problem::render_as(StatusCode::FORBIDDEN, refusal)
        } else {
            problem::render
        });
        if let Some(code) = self.code {
            let headers = response.headers_mut();
            headers.insert(X_DENIAL, HeaderValue::from_static(code));
        }
        response.into()
    }
}

pub(super) async fn forward_auth(desk: &Desk, head: &RequestHead) -> Response<BoxBody> {
    match Wanted::read(head.uri.query().unwrap_or_default(), &desk.api) {
        Err(refusal) => refusal.respond(problem::render).into(),
        Ok(wanted) => match judge(&desk.api, head, &wanted).await {
            Ok(granted) => granted,
            Err(denied) => denied.respond(wanted.only_403),
        },
    }
}

async fn judge(
    api: &Api,
    head: &RequestHead,
    wanted: &Wanted,
) -> Result<Response<BoxBody>, Denied> {
    let address = client_address(head, &api.inner.trusted_proxies);
    let refused = |presented| Refusal::Unauthenticated { presented };
    let (code, refusal) = match credential(&head.headers) {
        Ok(Some(key)) => {
            let verdict = api.service().verify(&wanted.question(key, address)).await;
            let verdict = verdict.map_err(Refusal::from)?;
            let told = told(&verdict);
            api.count_verdict(told.0);
            match (told, &verdict.rate_limit) {
                ((VerdictCode::Valid, Some(key)), decision) => {
                    return Ok(granted(key, decision.as_ref())?);
                }
                ((VerdictCode::RateLimited, _), Some(decision)) => {
                    return Err(Denied {
                        code: Some(VerdictCode::RateLimited.as_str()),
                        refused: Refused::limited(decision.clone()),
                    });
                }
                ((VerdictCode::Denied(denial), _), _) => (denial.code(), Refusal::denied(denial)),
                // Not a verdict that there is. Nobody is let through by mistake.
                _ => return Err(Refusal::Unavailable.into()),
            }
        }
        Ok(None) => ("missing", refused(false)),
        // Elsewhere that is 400, which some gateways take for a failure of ours.
        Err(CredentialError::Conflicting) => ("conflicting_credentials", refused(true)),
        Err(_) => ("malformed", refused(true)),
    };
    // Boxed, so that whoever may pass does not carry it along.
    let refused = Box::pin(api.refuse(address, refusal)).await;
    let code = match &refused.refusal {
        Refusal::RateLimited(_) => Some(VerdictCode::RateLimited.as_str()),
        Refusal::Unavailable => None,
        _ => Some(code),
    };
    Err(Denied { code, refused })
}

/// Says who it is in headers for the gateway to pass on.
fn granted(key: &VerifiedKey, decision: Option<&Decision>) -> Result<Response<BoxBody>, Refusal> {
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
    if let Some(decision) = decision {
        limits::show(decision, headers);
    }
    Ok(response)
}

fn put<V>(headers: &mut HeaderMap, name: HeaderName, text: V) -> Result<(), Refusal>
where
    HeaderValue: TryFrom<V>,
{
    // Cannot fail, as none of the texts has anything but visible ASCII. If one had, the client's own header must not pass instead.
    let value = HeaderValue::try_from(text).map_err(|_| Refusal::Unavailable)?;
    add(headers, name, value);
    Ok(())
}

/// Scopes with a blank between each two of them.
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
