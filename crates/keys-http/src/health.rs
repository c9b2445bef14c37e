//! Liveness and readiness of the process.

pub(crate) mod readiness;

use actix_web::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, web};
use keys_service::KeyService;
use keys_service::ports::REVOCATION_BOUND;
use serde::Serialize;

use crate::api::Api;
use crate::{fallback, problem};

#[derive(Default, Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writable: Option<bool>,
    #[serde(flatten)]
    following: Option<Following>,
}

/// State of following the changes of other instances, and of the listener for them. While they are
/// not followed, every verification asks the database, which is slower and still correct. It needs
/// attention, but requests need not be sent elsewhere.
#[derive(Serialize)]
struct Following {
    changes: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_seconds: Option<f64>,
    listener: &'static str,
    /// Reason why changes cannot be followed although the database answers.
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

pub(crate) fn configure(api: &Api, app: &mut web::ServiceConfig) {
    let resource = |path| fallback::resource(path, "GET, HEAD", problem::render);
    app.service(resource("/livez").route(fallback::read().to(live)));
    app.service(
        resource("/readyz")
            .app_data(web::Data::new(api.clone()))
            .route(fallback::read().to(ready)),
    );
}

/// Answers as long as the process runs, because a process without its database must not be killed.
async fn live() -> HttpResponse {
    let health = Health {
        status: "ok",
        ..Health::default()
    };
    HttpResponse::Ok().insert_header(NO_STORE).json(health)
}

async fn ready(api: web::Data<Api>) -> HttpResponse {
    if api.is_draining() {
        // The process stops soon, in any state of its database.
        return unready(Health {
            status: "draining",
            ..Health::default()
        });
    }
    let following = Some(Following::of(api.service()));
    match api.inner.surfaces.prober.ask(api.service()).await {
        Ok(readiness) => HttpResponse::Ok().insert_header(NO_STORE).json(Health {
            status: "ok",
            writable: Some(readiness.is_writable),
            following,
            ..Health::default()
        }),
        Err(fault) => unready(Health {
            status: "unavailable",
            database: Some(fault),
            ..Health::default()
        }),
    }
}

fn unready(health: Health) -> HttpResponse {
    HttpResponse::ServiceUnavailable()
        .insert_header((RETRY_AFTER, HeaderValue::from_static("1")))
        .insert_header(NO_STORE)
        .json(health)
}

const NO_STORE: (HeaderName, HeaderValue) = (CACHE_CONTROL, HeaderValue::from_static("no-store"));
