//! Metrics for Prometheus. Their labels are constants, never input of clients.

pub(crate) mod registry;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpResponse, web};

use crate::api::{Api, ApiBuilder};
use crate::{fallback, problem};
use registry::{Extra, ExtraKind, Metrics};

impl Api {
    /// Adds `/metrics` to an application. `configure`, which the feature `surfaces` adds, does so
    /// too.
    pub fn configure_metrics(&self, app: &mut web::ServiceConfig) {
        if self.inner.metrics.is_some() {
            app.service(
                fallback::resource("/metrics", "GET, HEAD", problem::render)
                    .app_data(web::Data::new(self.clone()))
                    .route(fallback::read().to(metrics)),
            );
        }
    }
}

async fn metrics(api: web::Data<Api>) -> HttpResponse {
    let Some(metrics) = &api.inner.metrics else {
        return fallback::unknown_path().await;
    };
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(metrics.render(api.service(), &api.inner.extra_metrics))
}

impl ApiBuilder {
    /// Sets whether metrics are kept and served at `/metrics`. Defaults to `true`. They contain no
    /// secrets, but tell how many keys and requests there are.
    pub fn metrics(mut self, served: bool) -> Self {
        self.inner.metrics = served.then(Metrics::default);
        self
    }

    /// Adds a counter of the application's own to `/metrics`. `value` is called for each answer and
    /// must not block; the count must never go down.
    pub fn counter(
        self,
        name: &'static str,
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.extra(ExtraKind::Counter, name, None, description, value)
    }

    /// Adds a counter with a label, a name and a value. Otherwise like [`counter`](Self::counter).
    pub fn labelled_counter(
        self,
        name: &'static str,
        label: (&'static str, &'static str),
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.extra(ExtraKind::Counter, name, Some(label), description, value)
    }

    /// Adds a gauge, which may go up and down. Otherwise like [`counter`](Self::counter).
    pub fn gauge(
        self,
        name: &'static str,
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.extra(ExtraKind::Gauge, name, None, description, value)
    }

    fn extra(
        mut self,
        kind: ExtraKind,
        name: &'static str,
        label: Option<(&'static str, &'static str)>,
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.inner.extra_metrics.push(Extra {
            kind,
            name,
            label,
            description,
            value: Box::new(value),
        });
        self
    }
}
