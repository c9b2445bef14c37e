//! One log event for each request.

use std::future::{self, Future, Ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::{ConnectionType, Method, StatusCode};
use pin_project_lite::pin_project;

use crate::api::Api;
use crate::route_label::{self, Route};

/// Middleware that logs the method, the pattern of the route, the status and the duration of each
/// request.
///
/// It logs nothing else, because paths, queries, headers, bodies and addresses may contain secrets
/// or identify a person. That of [`Api::log_requests`] also counts requests for `/metrics`.
///
/// Events have the level `INFO`, with two exceptions that have `DEBUG`. Verifications that were
/// answered 200 are as frequent as all requests to the protected application, and writing a line
/// costs more than verifying a key. An answer of 503 already has an event with its cause.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    api: Option<Api>,
}

impl AccessLog {
    /// Creates the middleware.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Api {
    /// Returns middleware that writes one log event for each request, and counts it. After
    /// [`start_draining`](Self::start_draining), it closes the connection of each answer. Wrap the
    /// whole application in it.
    #[must_use]
    pub fn log_requests(&self) -> AccessLog {
        AccessLog {
            api: Some(self.clone()),
        }
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
        future::ready(Ok(Logged {
            service,
            api: Rc::new(self.api.clone()),
        }))
    }
}

/// A service whose requests are logged.
#[derive(Debug)]
pub struct Logged<S> {
    service: S,
    /// Shared with the requests under way, all of which are on this thread.
    api: Rc<Option<Api>>,
}

impl<S, B> Service<ServiceRequest> for Logged<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = LoggedFuture<S::Future>;

    actix_web::dev::forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        LoggedFuture {
            api: Rc::clone(&self.api),
            entry: Entry::begin(request.method()),
            answer: self.service.call(request),
        }
    }
}

/// A macro, because the level of an event has to be known at compile time.
macro_rules! log {
    ($level:ident, $method:expr, $route:expr, $status:expr, $start:expr) => {{
        if tracing::enabled!(tracing::Level::$level) {
            let (method, route, status) = ($method, $route, $status.as_u16());
            let micros = u64::try_from($start.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::event!(
                tracing::Level::$level,
                http.method = method,
                http.route = route,
                http.status = status,
                duration_micros = micros,
                "{method} {route} answered {status} in {micros} us"
            );
        }
    }};
}

/// The entry of one request, which is written once the request was answered.
#[derive(Debug)]
struct Entry {
    method: &'static str,
    start: Instant,
}

impl Entry {
    fn begin(method: &Method) -> Self {
        Self {
            method: known(method),
            // A duration is not a time of day, so tests do not need to control it.
            start: Instant::now(),
        }
    }

    /// Writes the event, and counts the request if `api` keeps metrics.
    fn end(&self, api: Option<&Api>, route: &Route, status: StatusCode) {
        if let Some(api) = api {
            api.count_request(route, status);
        }
        let is_common = route.is_hot() && status == StatusCode::OK;
        if is_common || status == StatusCode::SERVICE_UNAVAILABLE {
            log!(DEBUG, self.method, route.pattern(), status, self.start);
        } else {
            log!(INFO, self.method, route.pattern(), status, self.start);
        }
    }
}

pin_project! {
    /// A request under way. Not boxed, unlike most middleware, because this is on the path of every
    /// verification.
    #[derive(Debug)]
    pub struct LoggedFuture<F> {
        api: Rc<Option<Api>>,
        entry: Entry,
        #[pin]
        answer: F,
    }
}

impl<F, B> Future for LoggedFuture<F>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = ready!(this.answer.poll(context));
        let api = Option::as_ref(this.api);
        if let Ok(response) = &mut answer
            && api.is_some_and(Api::is_draining)
        {
            let head = response.response_mut().head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        let (route, status) = match &answer {
            Ok(response) => (route_label::route(response.request()), response.status()),
            Err(error) => (
                Route::Other("unmatched".into()),
                error.as_response_error().status_code(),
            ),
        };
        this.entry.end(api, &route, status);
        Poll::Ready(answer)
    }
}

/// Returns the method if it is a usual one. A client may send any word as a method, which must not
/// be repeated.
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
