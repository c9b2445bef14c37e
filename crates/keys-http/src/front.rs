//! Verification before an application.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::{ConnectionType, Request};
use actix_service::IntoServiceFactory;
use actix_web::Error;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Response, Service, ServiceFactory, ServiceResponse};
use futures_util::future::LocalBoxFuture;
use pin_project_lite::pin_project;

use crate::access_log::Entry;
use crate::api::Api;
use crate::metrics::registry::Route;
use crate::verification::Handler;
use crate::verification::endpoint::Endpoint;

/// An application with verification before it: what [`Api::front`] makes, for `HttpServer::new`.
pub struct Front<A> {
    api: Api,
    app: A,
}

impl Api {
    /// Puts verification before an application, for servers that are asked about keys more often than anything else.
    ///
    /// Requests for `/v1/keys/verify`, `/v1/keys/verify-batch` and `/v1/auth` are answered before the application sees them,
    /// without its routing and its middleware. All others go to the application. So do those three where verification is
    /// [not served](crate::ApiBuilder::verification) or the path is written in any other way, such as percent-encoded:
    /// [`configure`](Self::configure) the application nonetheless.
    ///
    /// An answer has the same status, headers and body as from within the application, and is logged and counted as by
    /// [`log_requests`](Self::log_requests), also where that is not used. Nothing else of the application has a part in it: middleware
    /// for cross-origin requests, request identifiers or addresses does not see these requests, the paths are those of the root
    /// wherever the surfaces are put into the application, and a route of its own under one of them is never asked. Where that
    /// matters, serve the application alone.
    ///
    /// ```no_run
    /// use actix_web::{App, HttpServer};
    /// use keys_core::{Pepper, PepperRing};
    /// use keys_http::Api;
    /// use keys_service::{KeyService, MemoryStore};
    ///
    /// # #[actix_web::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let peppers = PepperRing::new("p1".parse()?, Pepper::from_bytes(b"an example of thirty-two bytes..")?);
    /// let service = KeyService::builder(MemoryStore::new(), peppers).build();
    /// let api = Api::builder(service).build();
    /// let server = HttpServer::new(move || {
    ///     let app = App::new().wrap(api.log_requests()).configure(|app| api.configure(app));
    ///     api.front(app)
    /// });
    /// server.bind("127.0.0.1:8080")?.run().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn front<A>(&self, app: impl IntoServiceFactory<A, Request>) -> Front<A>
    where
        A: ServiceFactory<Request, Config = AppConfig>,
    {
        Front {
            api: self.clone(),
            app: app.into_factory(),
        }
    }
}

impl<A> fmt::Debug for Front<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}

impl<A, B> ServiceFactory<Request> for Front<A>
where
    A: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error>,
    A::Future: 'static,
    B: MessageBody + 'static,
{
    type Response = Response<BoxBody>;
    type Error = Error;
    type Config = AppConfig;
    type Service = Fronted<A::Service>;
    type InitError = A::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, config: AppConfig) -> Self::Future {
        let api = self.api.clone();
        let app = self.app.new_service(config);
        Box::pin(async move {
            let app = app.await?;
            let handler = api
                .serves_verification()
                .then(|| Rc::new(Handler::new(&api)));
            Ok(Fronted {
                api: Rc::new(api),
                handler,
                app,
            })
        })
    }
}

/// A service with verification before it.
pub struct Fronted<S> {
    /// Shared with the requests under way, all of which are on this thread.
    api: Rc<Api>,
    handler: Option<Rc<Handler>>,
    app: S,
}

impl<S, B> Service<Request> for Fronted<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    type Response = Response<BoxBody>;
    type Error = Error;
    type Future = FrontedFuture<S::Future>;

    actix_web::dev::forward_ready!(app);

    fn call(&self, request: Request) -> Self::Future {
        if let Some(handler) = &self.handler
            && let Some(endpoint) = Endpoint::of(request.path())
        {
            let answer = verification(Rc::clone(handler), endpoint, request);
            // Boxed, because a connection has room for the largest future there is, and moves it for each request.
            return FrontedFuture {
                way: Way::Verification {
                    answer: Box::pin(answer),
                },
                api: Rc::clone(&self.api),
            };
        }
        FrontedFuture {
            way: Way::App {
                answer: self.app.call(request),
            },
            api: Rc::clone(&self.api),
        }
    }
}

async fn verification(
    handler: Rc<Handler>,
    endpoint: Endpoint,
    request: Request,
) -> Response<BoxBody> {
    let entry = Entry::begin(request.method());
    let (head, payload) = request.into_parts();
    let response = handler.answer(endpoint, &head, payload).await;
    entry.end(Some(&handler.api), &Route::Hot(endpoint), response.status());
    response
}

pin_project! {
    /// A request under way.
    pub struct FrontedFuture<F> {
        #[pin]
        way: Way<F>,
        api: Rc<Api>,
    }
}

pin_project! {
    #[project = ProjectedWay]
    enum Way<F> {
        // It is answered before the application.
        Verification { answer: LocalBoxFuture<'static, Response<BoxBody>> },
        // The application answers it.
        App { #[pin] answer: F },
    }
}

impl<F, B> Future for FrontedFuture<F>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
    B: MessageBody + 'static,
{
    type Output = Result<Response<BoxBody>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.way.project() {
            ProjectedWay::Verification { answer } => ready!(answer.as_mut().poll(context)),
            ProjectedWay::App { answer } => match ready!(answer.poll(context)) {
                Ok(answer) => Response::from(answer).map_into_boxed_body(),
                Err(error) => return Poll::Ready(Err(error)),
            },
        };
        if this.api.is_draining() {
            let head = response.head_mut();
            head.set_connection_type(ConnectionType::Close);
        }
        Poll::Ready(Ok(response))
    }
}
