//! Whether the process is up, and whether it can do its work.

use std::time::{Duration, Instant};

use actix_web::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, web};
use keys_service::feed::REVOCATION_BOUND;
use keys_service::{KeyService, StoreError};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::api::Api;
use crate::refusal::chain;
use crate::{fallback, problem};

/// How often the database is asked at most: whoever else wants to know within this time hears the same.
const DATABASE_ASKED_EVERY: Duration = Duration::from_millis(250);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'static str>,
    #[serde(flatten)]
    following: Option<Following>,
}

/// Whether the changes of other instances are followed, and whether the listener for them is up. While they are not, every
/// verification asks the database, which is slow and right: reason to look into it, none to send requests elsewhere.
#[derive(Serialize)]
struct Following {
    changes: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_seconds: Option<f64>,
    listener: &'static str,
    /// Why changes cannot be followed although the database answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// `asynchronous` if a failover would lose the last changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    replication: Option<&'static str>,
}

impl Following {
    fn of(service: &KeyService) -> Self {
        let state = service.cache_state();
        let behind = state.behind;
        let is_followed = behind.is_some_and(|behind| behind < REVOCATION_BOUND);
        Self {
            changes: if is_followed {
                "followed"
            } else {
                "not_followed"
            },
            // To the millisecond.
            behind_seconds: behind.map(|behind| (behind.as_secs_f64() * 1_000.0).round() / 1_000.0),
            listener: if state.is_listening { "up" } else { "down" },
            reason: service.following_fault(),
            replication: state.is_replicated_asynchronously.then_some("asynchronous"),
        }
    }
}

/// What the database said the last time it was asked, and when that was.
#[derive(Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<(Instant, Result<(), &'static str>)>>,
}

impl Readiness {
    /// Whether the database can be used, and what is wrong with it if not. Those who come while it is asked wait for its answer.
    async fn database(&self, service: &KeyService) -> Result<(), &'static str> {
        let mut last = self.last.lock().await;
        if let Some((at, said)) = *last
            && at.elapsed() < DATABASE_ASKED_EVERY
        {
            return said;
        }
        let said = service.ready().await.map_err(|error| {
            tracing::warn!(error = chain(&error), "not ready: the database is missing");
            match error {
                StoreError::Unavailable(_) => "unreachable",
                _ => "unusable",
            }
        });
        *last = Some((Instant::now(), said));
        said
    }
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
            following: None,
        })
}

/// The process stops soon, whatever its database does.
fn draining() -> HttpResponse {
    HttpResponse::ServiceUnavailable()
        .insert_header((RETRY_AFTER, HeaderValue::from_static("1")))
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .json(Health {
            status: "draining",
            database: None,
            following: None,
        })
}

async fn ready(api: web::Data<Api>) -> HttpResponse {
    if api.is_draining() {
        return draining();
    }
    let following = Some(Following::of(api.service()));
    let database = api.inner.readiness.database(api.service()).await;
    let mut response = match database {
        Ok(()) => HttpResponse::Ok().json(Health {
            status: "ok",
            database: None,
            following,
        }),
        Err(fault) => HttpResponse::ServiceUnavailable()
            .insert_header((RETRY_AFTER, HeaderValue::from_static("1")))
            .json(Health {
                status: "unavailable",
                database: Some(fault),
                following: None,
            }),
    };
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    response
}
