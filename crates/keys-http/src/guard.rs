//! The guard that lets requests with the right credential through.

use std::future::{Ready, ready};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::rc::Rc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, RequestHead, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::error::InternalError;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest};
use futures_util::future::LocalBoxFuture;
use keys_core::header::CredentialError;
use keys_core::{KeyKind, LimitName, ScopeSet};
use keys_service::{
    AuthenticateError, Decision, Freshness, Identity, Requirement, VerdictCode, VerifiedKey,
    VerifyRequest,
};

use crate::admission::Refused;
use crate::api::Api;
use crate::client_address::client_address;
use crate::credential::credential;
use crate::refusal::{Refusal, Render};
use crate::{limits, problem};

/// Lets only requests with the right credential through, and says to handlers who sent them.
///
/// Middleware for any actix application: wrap a scope, a resource or a single route in it. Handlers take the sender
/// as an extractor, [`KeyIdentity`]. Each request that is let through counts as a use of its key; each that is not
/// counts against its client address, and once too many have been refused the answer is 429.
///
/// It judges as [`KeyService::verify`](keys_service::KeyService::verify) does, from the cache: a revoked key is refused within the published
/// bound. Without [`KeyService::maintain`](keys_service::KeyService::maintain) on a task of its own every request asks the database.
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
/// let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(b"an example of thirty-two bytes..")?);
/// let service = KeyService::builder(MemoryStore::new(), peppers).build();
/// let api = Api::builder(service).build();
///
/// let reader = RequireKey::new(&api).scopes(ScopeSet::parse(["orders:read"])?);
/// let app = App::new()
///     .service(web::resource("/orders").wrap(reader).get(orders))
///     .configure(|app| api.configure(app)); // leave out where the keys are managed by another process
/// # let _ = app;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RequireKey {
    guard: Rc<Guard>,
}

impl RequireKey {
    /// Asks for an account's API key, on a plan with keys.
    #[must_use]
    pub fn new(api: &Api) -> Self {
        Self {
            guard: Rc::new(Guard::verifying(
                api,
                &[KeyKind::Account],
                ScopeSet::default(),
            )),
        }
    }

    /// As the surfaces of this service do, by the database and for one of `requirement`: whoever manages keys is never judged by
    /// what a cache says. Handlers take an [`Authenticated`].
    pub(crate) fn managing(api: &Api, requirement: Requirement) -> Self {
        Self {
            guard: Rc::new(Guard {
                api: api.clone(),
                check: Check::Database(requirement),
                render: problem::render,
                records: true,
            }),
        }
    }

    /// Leaves it to the handler to say that the key was used, once it has judged the rest.
    pub(crate) fn without_recording(self) -> Self {
        self.with(|guard| guard.records = false)
    }

    /// Asks that the key hold all of `scopes` as well.
    #[must_use]
    pub fn scopes(self, scopes: ScopeSet) -> Self {
        self.with(|guard| match &mut guard.check {
            Check::Cached(check) => check.scopes = scopes,
            Check::Database(requirement) => requirement.scopes = scopes,
        })
    }

    /// Asks for a credential of one of these kinds instead of an account's key. Sessions are judged by their account's plan, too.
    #[must_use]
    pub fn kinds(self, kinds: &[KeyKind]) -> Self {
        self.with(|guard| match &mut guard.check {
            Check::Cached(check) => check.kinds = kinds.to_vec(),
            Check::Database(requirement) => requirement.kinds = kinds.to_vec(),
        })
    }

    /// Counts every request that would be let through against this limit of the account's plan, and refuses what is beyond it.
    ///
    /// # Panics
    /// When no plan has a limit of that name: it would not limit anything.
    #[must_use]
    pub fn limit(self, limit: &LimitName) -> Self {
        self.with(|guard| {
            let known = guard.api.limit(limit.as_str());
            assert!(known.is_some(), "no plan has a limit named {limit}");
            if let Check::Cached(check) = &mut guard.check {
                check.limit = known;
            }
        })
    }

    /// Writes refusals in another dialect than `application/problem+json`.
    #[must_use]
    pub fn render(self, render: Render) -> Self {
        self.with(|guard| guard.render = render)
    }

    fn with(mut self, change: impl FnOnce(&mut Guard)) -> Self {
        change(Rc::make_mut(&mut self.guard));
        self
    }
}

/// Finds out who sent a request, and whether that is enough.
#[derive(Clone)]
pub(crate) struct Guard {
    api: Api,
    check: Check,
    render: Render,
    /// Whether to note the use of a key that was found in the database. The cache notes uses by itself.
    records: bool,
}

#[derive(Clone)]
enum Check {
    Cached(Cached),
    Database(Requirement),
}

#[derive(Clone)]
struct Cached {
    kinds: Vec<KeyKind>,
    scopes: ScopeSet,
    limit: Option<LimitName>,
}

/// Whoever was let through.
pub(crate) enum Admitted {
    Verified(KeyIdentity, Option<Decision>),
    Authenticated(Identity),
}

impl Admitted {
    /// Makes it known to handlers. Returns the limit that the request was counted against.
    fn remember(self, request: &ServiceRequest) -> Option<Decision> {
        let mut extensions = request.extensions_mut();
        match self {
            Self::Verified(identity, decision) => {
                extensions.insert(identity);
                decision
            }
            Self::Authenticated(identity) => {
                extensions.insert(Authenticated(Rc::new(identity)));
                None
            }
        }
    }
}

impl Guard {
    /// Asks for a credential of one of `kinds` that holds `scopes`, judged from the cache.
    pub(crate) fn verifying(api: &Api, kinds: &[KeyKind], scopes: ScopeSet) -> Self {
        Self {
            api: api.clone(),
            check: Check::Cached(Cached {
                kinds: kinds.to_vec(),
                scopes,
                limit: None,
            }),
            render: problem::render,
            records: true,
        }
    }

    /// Lets the request through, or not.
    pub(crate) async fn admit(&self, request: &RequestHead) -> Result<Admitted, Refused> {
        let address = client_address(request, &self.api.inner.trusted_proxies);
        let refusal = match credential(&request.headers) {
            Ok(Some(presented)) => {
                let judged = match &self.check {
                    Check::Cached(check) => self.verify(presented, address, check).await?,
                    Check::Database(requirement) => {
                        Box::pin(self.authenticate(presented, address, requirement)).await?
                    }
                };
                match judged {
                    Ok(admitted) => return Ok(admitted),
                    Err(refusal) => refusal,
                }
            }
            Ok(None) => Refusal::Unauthenticated { presented: false },
            Err(CredentialError::Conflicting) => {
                return Err(Refusal::ConflictingCredentials.into());
            }
            Err(_) => Refusal::Unauthenticated { presented: true },
        };
        // Boxed, and the database above, so that whoever is let through from the cache does not carry it along.
        Err(Box::pin(self.api.refuse(address, refusal)).await)
    }

    async fn verify(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        check: &Cached,
    ) -> Result<Result<Admitted, Refusal>, Refused> {
        let question = VerifyRequest {
            key: presented,
            address,
            scopes: &check.scopes,
            kinds: &check.kinds,
            limit: check.limit.as_ref(),
            cost: NonZeroU32::MIN,
            fresh: false,
        };
        let verdict = self.api.inner.service.verify(&question).await;
        let verdict = verdict.map_err(Refusal::from)?;
        match (verdict.code, verdict.key, verdict.rate_limit) {
            (VerdictCode::Valid, Some(key), decision) => {
                let freshness = verdict.freshness;
                let identity = KeyIdentity { key, freshness };
                Ok(Ok(Admitted::Verified(identity, decision)))
            }
            (VerdictCode::Denied(denial), ..) => Ok(Err(Refusal::denied(denial))),
            // Known and in order: that is no failure of the client's address.
            (VerdictCode::RateLimited, _, Some(decision)) => Err(Refused::limited(decision)),
            // Not a verdict that there is. Nobody is let through by mistake.
            _ => Err(Refusal::Unavailable.into()),
        }
    }

    async fn authenticate(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        requirement: &Requirement,
    ) -> Result<Result<Admitted, Refusal>, Refused> {
        let service = &self.api.inner.service;
        match service.authenticate(presented, address, requirement).await {
            Ok(identity) => {
                if self.records {
                    service.record_success(&identity);
                }
                Ok(Ok(Admitted::Authenticated(identity)))
            }
            Err(AuthenticateError::Denied(denial)) => Ok(Err(Refusal::denied(denial))),
            Err(AuthenticateError::Store(error)) => Err(Refusal::from(error).into()),
            // Nothing is known of the credential, so nothing is said of it.
            Err(_) => Err(Refusal::Unavailable.into()),
        }
    }
}

impl<S, B> Transform<S, ServiceRequest> for RequireKey
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = Guarded<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Guarded {
            service: Rc::new(service),
            guard: Rc::clone(&self.guard),
        }))
    }
}

/// A service behind [`RequireKey`].
pub struct Guarded<S> {
    service: Rc<S>,
    guard: Rc<Guard>,
}

impl<S, B> Service<ServiceRequest> for Guarded<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    actix_web::dev::forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let service = Rc::clone(&self.service);
        let guard = Rc::clone(&self.guard);
        Box::pin(async move {
            match guard.admit(request.head()).await {
                Ok(admitted) => {
                    let decision = admitted.remember(&request);
                    let mut response = service.call(request).await?;
                    if let Some(decision) = decision {
                        limits::show(&decision, response.headers_mut());
                    }
                    Ok(response.map_into_left_body())
                }
                Err(refused) => {
                    let response = refused.respond(guard.render);
                    Ok(request.into_response(response).map_into_right_body())
                }
            }
        })
    }
}

/// Who sent the request: what [`RequireKey`] found out.
///
/// As an extractor it is there in every handler behind the guard: [`VerifiedKey`] has the key's identifier, account, name and scopes.
#[derive(Debug, Clone)]
pub struct KeyIdentity {
    key: VerifiedKey,
    freshness: Freshness,
}

impl KeyIdentity {
    /// How fresh the knowledge is that the request was let through by. Never stale unless the service was built with a grace.
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

impl FromRequest for KeyIdentity {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        remembered(request)
    }
}

/// Who manages keys or accounts, as the database knows them.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(Rc<Identity>);

impl Deref for Authenticated {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl FromRequest for Authenticated {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        remembered(request)
    }
}

fn remembered<T: Clone + 'static>(request: &HttpRequest) -> Ready<Result<T, Error>> {
    let found = request.extensions().get::<T>().cloned();
    ready(found.ok_or_else(|| {
        // Only a route that was never wrapped gets here. Nobody is let through by mistake.
        tracing::error!("a handler takes an identity on a route without its guard");
        let response = Refusal::Unavailable.respond(problem::render);
        InternalError::from_response("not behind RequireKey", response).into()
    }))
}
