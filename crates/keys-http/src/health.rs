//! Whether the process is up, and whether it can do its work.

use actix_web::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, web};
use keys_service::StoreError;
use serde::Serialize;

use crate::api::Api;
use crate::refusal::chain;
use crate::{fallback, problem};

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'static str>,
}

pub(crate) fn configure(api: &Api, app: &mut web::ServiceConfig) {
    let resource = |path| fallback::resource(path, "GET", problem::render);
    app.service(resource("/livez").get(live));
    app.service(
        resource("/readyz")
            .app_data(web::Data::new(api.clone()))
            .get(ready),
    );
}

/// Answers as long as the process runs. A process without its database must not be killed for it.
async fn live() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .json(Health {
            status: "ok",
            database: None,
        })
}

async fn ready(api: web::Data<Api>) -> HttpResponse {
    let database = match api.service().ready().await {
        Ok(()) => return live().await,
        Err(error) => {
            tracing::warn!(error = chain(&error), "not ready: the database is missing");
            match error {
                StoreError::Unavailable(_) => "unreachable",
                _ => "unusable",
            }
        }
    };
    HttpResponse::ServiceUnavailable()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((RETRY_AFTER, HeaderValue::from_static("1")))
        .json(Health {
            status: "unavailable",
            database: Some(database),
        })
}
