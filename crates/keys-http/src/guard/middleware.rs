//! The middleware that calls a guard before a service.

use std::future::{Future, Ready, ready};
use std::rc::Rc;

use actix_web::Error;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use futures_util::future::LocalBoxFuture;
use keys_service::ports::Decision;

use crate::limits;
use crate::rejection::{Rejection, Render};

/// A guard, as its middleware sees it.
pub trait Guard: Clone + 'static {
    /// Checks the request and stores the identity of its sender for the handler. Returns the limit
    /// that the request was counted against.
    fn check(
        &self,
        request: &ServiceRequest,
    ) -> impl Future<Output = Result<Option<Decision>, Rejection>>;

    /// Returns the form of rejections.
    fn render(&self) -> Render;
}

/// Makes a [`Guard`] middleware, and the identity that it stores an extractor.
macro_rules! middleware {
    ($guard:ty, $identity:ty) => {
        const _: () = {
            use std::future::Ready;

            use actix_web::body::{EitherBody, MessageBody};
            use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform};
            use actix_web::{Error, FromRequest, HttpRequest};

            use $crate::guard::admission::identity;
            use $crate::guard::middleware::Guarded;

            impl<S, B> Transform<S, ServiceRequest> for $guard
            where
                S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
                B: MessageBody + 'static,
            {
                type Response = ServiceResponse<EitherBody<B>>;
                type Error = Error;
                type Transform = Guarded<S, Self>;
                type InitError = ();
                type Future = Ready<Result<Self::Transform, ()>>;

                fn new_transform(&self, service: S) -> Self::Future {
                    Guarded::new(service, self)
                }
            }

            impl FromRequest for $identity {
                type Error = Error;
                type Future = Ready<Result<Self, Error>>;

                fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                    identity(request)
                }
            }
        };
    };
}
pub(super) use middleware;

/// A service behind a guard.
#[derive(Debug)]
pub struct Guarded<S, G> {
    service: Rc<S>,
    guard: Rc<G>,
}

impl<S, G: Guard> Guarded<S, G> {
    pub(super) fn new<E>(service: S, guard: &G) -> Ready<Result<Self, E>> {
        ready(Ok(Self {
            service: Rc::new(service),
            guard: Rc::new(guard.clone()),
        }))
    }
}

impl<S, B, G> Service<ServiceRequest> for Guarded<S, G>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
    G: Guard,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Error>>;

    actix_web::dev::forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let service = Rc::clone(&self.service);
        let guard = Rc::clone(&self.guard);
        Box::pin(async move {
            match guard.check(&request).await {
                Ok(decision) => {
                    let mut response = service.call(request).await?;
                    if let Some(decision) = decision {
                        limits::show(&decision, response.headers_mut());
                    }
                    Ok(response.map_into_left_body())
                }
                Err(rejection) => {
                    let response = rejection.respond(guard.render());
                    Ok(request.into_response(response).map_into_right_body())
                }
            }
        })
    }
}
