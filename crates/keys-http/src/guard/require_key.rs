//! The guard for the routes of any application.

use std::ops::Deref;

use actix_web::HttpMessage as _;
use actix_web::dev::{RequestHead, ServiceRequest};
use keys_core::{KeyKind, LimitName, ScopeSet};
use keys_service::ports::Decision;
use keys_service::{Freshness, VerdictCode, VerifiedKey, VerifyRequest};

use super::admission::admit;
use super::middleware::{Guard, middleware};
use crate::api::Api;
use crate::problem;
use crate::rejection::{Rejection, Render};

/// Lets only requests with a valid credential pass, and tells handlers who sent them.
///
/// Middleware for any actix application: wrap a scope, a resource or a single route in it. Handlers
/// take the sender as an extractor, [`KeyIdentity`]. Each request that passes counts as a use of
/// its key. Each that is refused counts against its client address, and once too many have been
/// refused the answer is 429.
///
/// It decides as [`KeyService::verify`](keys_service::KeyService::verify) does, from the cache: a
/// revoked key is refused within the published bound. Without
/// [`KeyService::maintain`](keys_service::KeyService::maintain) on a task of its own every request
/// asks the database.
///
/// ```
/// use actix_web::{App, HttpResponse, web};
/// use keys_core::{Pepper, PepperRing, ScopeSet};
/// use keys_http::{Api, KeyIdentity, RequireKey};
/// use keys_service::{KeyService, MemoryStore};
///
/// async fn orders(identity: KeyIdentity) -> HttpResponse {
///     HttpResponse::Ok().body(format!("orders, as seen by key {}", identity.id()))
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
/// let peppers = PepperRing::new("p1".parse()?, pepper);
/// let service = KeyService::builder(MemoryStore::new(), peppers).build();
/// let api = Api::builder(service).build();
///
/// let reader = RequireKey::new(&api).scopes(ScopeSet::parse(["orders:read"])?);
/// let app = App::new().service(web::resource("/orders").wrap(reader).get(orders));
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct RequireKey {
    api: Api,
    kinds: Vec<KeyKind>,
    scopes: ScopeSet,
    limit: Option<LimitName>,
    render: Render,
}

impl RequireKey {
    /// Requires an API key of an account on a plan with keys.
    pub fn new(api: &Api) -> Self {
        Self {
            api: api.clone(),
            kinds: vec![KeyKind::Account],
            scopes: ScopeSet::default(),
            limit: None,
            render: problem::render,
        }
    }

    /// Also requires all of `scopes`.
    pub fn scopes(self, scopes: ScopeSet) -> Self {
        Self { scopes, ..self }
    }

    /// Requires a credential of one of these kinds instead of an account's key. Sessions also need
    /// an account on a plan with keys.
    pub fn kinds(self, kinds: &[KeyKind]) -> Self {
        Self {
            kinds: kinds.to_vec(),
            ..self
        }
    }

    /// Counts every request that would pass against this limit of the account's plan, and refuses
    /// requests beyond it.
    ///
    /// # Errors
    /// Returns [`UnknownLimit`] if no plan has a limit of that name, because it would have no
    /// effect.
    pub fn limit(self, limit: &LimitName) -> Result<Self, UnknownLimit> {
        let known = self.api.limit(limit.as_str());
        Ok(Self {
            limit: Some(known.ok_or_else(|| UnknownLimit(limit.clone()))?),
            ..self
        })
    }

    /// Writes rejections in another form than `application/problem+json`.
    pub fn render(self, render: Render) -> Self {
        Self { render, ..self }
    }

    /// Checks whether the request may pass. Also returns the limit that it was counted against.
    pub(crate) async fn admit(
        &self,
        head: &RequestHead,
    ) -> Result<(KeyIdentity, Option<Decision>), Rejection> {
        admit(&self.api, head, async |presented, address| {
            let question = VerifyRequest::new(presented)
                .address(address)
                .scopes(&self.scopes)
                .kinds(&self.kinds)
                .limit(self.limit.as_ref());
            let verdict = self.api.inner.service.verify(&question).await?;
            match (verdict.code, verdict.key, verdict.rate_limit) {
                (VerdictCode::Valid, Some(key), decision) => {
                    let freshness = verdict.freshness;
                    Ok(Ok((KeyIdentity { key, freshness }, decision)))
                }
                (VerdictCode::Denied(denial), ..) => Ok(Err(denial)),
                // The key is known and valid, so this is not a failure of the client's address.
                (VerdictCode::RateLimited, _, Some(decision)) => {
                    Err(Rejection::RateLimited(decision))
                }
                // Unreachable today. A new verdict code must fail closed.
                _ => Err(Rejection::Unavailable),
            }
        })
        .await
    }
}

impl Guard for RequireKey {
    async fn check(&self, request: &ServiceRequest) -> Result<Option<Decision>, Rejection> {
        let (identity, decision) = self.admit(request.head()).await?;
        request.extensions_mut().insert(identity);
        Ok(decision)
    }

    fn render(&self) -> Render {
        self.render
    }
}

middleware!(RequireKey, KeyIdentity);

/// Error returned when no configured plan has a limit of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no plan has a limit named {0}")]
pub struct UnknownLimit(LimitName);

/// The sender of a request, as [`RequireKey`] has verified it.
///
/// Every handler behind the guard can take it as an extractor: [`VerifiedKey`] has the key's
/// identifier, account, name and scopes.
#[derive(Debug, Clone)]
pub struct KeyIdentity {
    key: VerifiedKey,
    freshness: Freshness,
}

impl KeyIdentity {
    /// Returns the freshness of the cached record. Never stale unless the service was built with a
    /// grace.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }
}

impl Deref for KeyIdentity {
    type Target = VerifiedKey;

    fn deref(&self) -> &VerifiedKey {
        &self.key
    }
}
