//! Metrics for Prometheus. Their labels are constants, never input of clients.

pub(crate) mod registry;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpResponse, web};

use crate::api::Api;
use crate::{fallback, problem};

pub(crate) fn configure(api: &Api, app: &mut web::ServiceConfig) {
    app.service(
        fallback::resource("/metrics", "GET, HEAD", problem::render)
            .app_data(web::Data::new(api.clone()))
            .route(fallback::read().to(metrics)),
    );
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
