//! One log event for each request.

use std::future::{Ready, ready};
use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::Method;
use futures_util::future::{Either, LocalBoxFuture};

use crate::api::Api;
use crate::metrics;

/// Middleware that logs the method, the pattern of the route, the status and the duration of each request.
///
/// Nothing else: paths, queries, headers, bodies and addresses may hold secrets or say who somebody is. That of
/// [`Api::log_requests`] counts requests as well, for `/metrics`.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    api: Option<Api>,
}

impl AccessLog {
    /// The middleware.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn counting(api: &Api) -> Self {
        let api = api.inner.metrics.is_some().then(|| api.clone());
        Self { api }
    }
}

impl<S, B> Transform<S, ServiceRequest> for AccessLog
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = Logged<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(Logged {
            service,
            api: self.api.clone(),
        }))
    }
}

/// A service whose requests are logged.
#[derive(Debug)]
pub struct Logged<S> {
    service: S,
    api: Option<Api>,
}

impl<S, B> Service<ServiceRequest> for Logged<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = Either<S::Future, LocalBoxFuture<'static, Result<Self::Response, Error>>>;

    actix_web::dev::forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let is_logged = tracing::enabled!(tracing::Level::INFO);
        let api = self.api.clone();
        if !is_logged && api.is_none() {
            return Either::Left(self.service.call(request));
        }
        let method = known(request.method());
        // How long something took is no time of day: no test has to decide it.
        let start = Instant::now();
        let answer = self.service.call(request);
        Either::Right(Box::pin(async move {
            let answer = answer.await;
            let (route, status) = match &answer {
                Ok(response) => (metrics::route(response.request()), response.status()),
                Err(error) => ("unmatched".into(), error.as_response_error().status_code()),
            };
            if let Some(metrics) = api.as_ref().and_then(|api| api.inner.metrics.as_ref()) {
                metrics.count_request(&route, status);
            }
            if is_logged {
                let status = status.as_u16();
                let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
                tracing::info!(
                    http.method = method,
                    http.route = &*route,
                    http.status = status,
                    duration_micros = micros,
                    "{method} {route} answered {status} in {micros} us"
                );
            }
            answer
        }))
    }
}

/// A method may be any word the client likes, so only the usual ones are repeated.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}
