//! The guard that lets requests with the right credential through.

use std::future::{Ready, ready};
use std::ops::Deref;
use std::rc::Rc;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::error::InternalError;
use actix_web::{Error, FromRequest, HttpMessage, HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;
use keys_core::ScopeSet;
use keys_core::header::CredentialError;
use keys_service::{AuthenticateError, Decision, Identity, Requirement};

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
/// ```
/// use actix_web::{App, HttpResponse, web};
/// use keys_core::{Pepper, PepperRing, ScopeSet};
/// use keys_http::{Api, KeyIdentity, RequireKey};
/// use keys_service::{KeyService, MemoryStore};
///
/// async fn orders(identity: KeyIdentity) -> HttpResponse {
///     HttpResponse::Ok().body(format!("orders, as seen by key {}", identity.key.id))
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
    check: Rc<Check>,
}

#[derive(Clone)]
struct Check {
    api: Api,
    requirement: Requirement,
    render: Render,
    records: bool,
}

impl RequireKey {
    /// Asks for an account's API key, on a plan with keys.
    #[must_use]
    pub fn new(api: &Api) -> Self {
        Self {
            check: Rc::new(Check {
                api: api.clone(),
                requirement: Requirement::account_key(),
                render: problem::render,
                records: true,
            }),
        }
    }

    /// Asks that the key hold all of `scopes` as well.
    #[must_use]
    pub fn scopes(self, scopes: ScopeSet) -> Self {
        self.with(|check| check.requirement.scopes = scopes)
    }

    /// Asks for something else altogether, such as an operator's key.
    #[must_use]
    pub fn requirement(self, requirement: Requirement) -> Self {
        self.with(|check| check.requirement = requirement)
    }

    /// Writes refusals in another dialect than `application/problem+json`.
    #[must_use]
    pub fn render(self, render: Render) -> Self {
        self.with(|check| check.render = render)
    }

    /// Leaves it to the handler to say that the key was used, once it has judged the rest.
    #[must_use]
    pub(crate) fn without_recording(self) -> Self {
        self.with(|check| check.records = false)
    }

    fn with(mut self, change: impl FnOnce(&mut Check)) -> Self {
        change(Rc::make_mut(&mut self.check));
        self
    }
}

/// A refusal, and the limit that it was counted against.
struct Refused {
    refusal: Refusal,
    decision: Option<Decision>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            decision: None,
        }
    }
}

impl Check {
    async fn admit(&self, request: &HttpRequest) -> Result<Identity, Refused> {
        let inner = &self.api.inner;
        let address = client_address(request, &inner.trusted_proxies);
        let refusal = match credential(request.headers()) {
            Ok(Some(presented)) => {
                let service = &inner.service;
                match service
                    .authenticate(presented, address, &self.requirement)
                    .await
                {
                    Ok(identity) => return Ok(identity),
                    Err(AuthenticateError::Denied(denial)) => Refusal::denied(denial),
                    Err(AuthenticateError::Store(error)) => return Err(Refusal::from(error).into()),
                    // Nothing is known of the credential, so nothing is said of it.
                    Err(_) => return Err(Refusal::Unavailable.into()),
                }
            }
            Ok(None) => Refusal::Unauthenticated { presented: false },
            Err(CredentialError::Conflicting) => {
                return Err(Refusal::ConflictingCredentials.into());
            }
            Err(_) => Refusal::Unauthenticated { presented: true },
        };
        let counted = inner
            .service
            .count_failure(address, inner.unauthenticated_quota)
            .await;
        let decision = counted.map_err(Refusal::from)?;
        Err(Refused {
            refusal: if decision.allowed {
                refusal
            } else {
                Refusal::RateLimited(decision.clone())
            },
            decision: Some(decision),
        })
    }

    fn respond(&self, refused: &Refused) -> HttpResponse {
        let mut response = refused.refusal.respond(self.render);
        if let Some(decision) = &refused.decision {
            limits::show(decision, response.headers_mut());
        }
        response
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
            check: Rc::clone(&self.check),
        }))
    }
}

/// A service behind [`RequireKey`].
pub struct Guarded<S> {
    service: Rc<S>,
    check: Rc<Check>,
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
        let check = Rc::clone(&self.check);
        Box::pin(async move {
            match check.admit(request.request()).await {
                Ok(identity) => {
                    if check.records {
                        check.api.inner.service.record_success(&identity);
                    }
                    let identity = KeyIdentity(Rc::new(identity));
                    request.extensions_mut().insert(identity);
                    let response = service.call(request).await?;
                    Ok(response.map_into_left_body())
                }
                Err(refused) => {
                    let response = check.respond(&refused);
                    Ok(request.into_response(response).map_into_right_body())
                }
            }
        })
    }
}

/// Who sent the request: what [`RequireKey`] found out.
///
/// As an extractor it is there in every handler behind the guard.
#[derive(Debug, Clone)]
pub struct KeyIdentity(Rc<Identity>);

impl Deref for KeyIdentity {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

impl FromRequest for KeyIdentity {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let found = request.extensions().get::<Self>().cloned();
        ready(found.ok_or_else(|| {
            // Only a route that was never wrapped gets here. Nobody is let through by mistake.
            tracing::error!("a handler takes a KeyIdentity on a route without RequireKey");
            let response = Refusal::Unavailable.respond(problem::render);
            InternalError::from_response("not behind RequireKey", response).into()
        }))
    }
}
