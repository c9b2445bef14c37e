//! The HTTP side of the API-key service, on actix-web.
//!
//! [`Api`] puts the surfaces into an application; [`RequireKey`] guards the routes of any other
//! one.
//!
//! | Surface | Where | Errors |
//! |---|---|---|
//! | flat | `/api/api-keys` | `{"message","code"}` |
//! | account | `/api/account/api-keys` | `{"statusCode","message","errors"}` |
//! | management | `/v1/accounts`, `/v1/keys`, .. | `application/problem+json` (RFC 9457) |
//! | verification | `/v1/keys/verify`, `/v1/keys/verify-batch`, `/v1/auth` | as management |
//! | health | `/livez`, `/readyz`, `/metrics` | as management |
//!
//! The first two are contracts over the same keys. Each is a thin translation: a handler reads the
//! request, calls [`KeyService`](keys_service::KeyService) and writes a view. Management checks
//! credentials with the database; verification and [`RequireKey`] check them from the cache.
//!
//! # Features
//!
//! Both are on by default. Without them the crate is the guard, the access log and the limits of
//! connections.
//!
//! | Feature | Adds |
//! |---|---|
//! | `surfaces` | the surfaces of the table and `Api::configure` |
//! | `metrics` | metrics for Prometheus, and `Api::configure_metrics` to serve them |
//!
//! ```
//! use actix_web::App;
//! use keys_core::{Pepper, PepperRing};
//! use keys_http::Api;
//! use keys_service::{KeyService, MemoryStore};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
//! let peppers = PepperRing::new("p1".parse()?, pepper);
//! let service = KeyService::builder(MemoryStore::new(), peppers).build();
//! let api = Api::builder(service).build();
//! let app = App::new().wrap(api.log_requests()).configure(|app| api.configure(app));
//! # let _ = app;
//! # Ok(())
//! # }
//! ```

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod access_log;
#[cfg(feature = "surfaces")]
mod account;
mod api;
#[cfg(feature = "surfaces")]
mod body;
mod client_address;
mod connection;
mod credential;
#[cfg(feature = "surfaces")]
mod delete;
mod endpoint;
#[cfg(any(feature = "surfaces", feature = "metrics"))]
mod fallback;
mod field_error;
#[cfg(feature = "surfaces")]
mod fields;
#[cfg(feature = "surfaces")]
mod flat;
mod guard;
#[cfg(feature = "surfaces")]
mod health;
#[cfg(feature = "surfaces")]
mod idempotency;
#[cfg(feature = "surfaces")]
mod key_expires;
mod limits;
#[cfg(feature = "surfaces")]
mod management;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "surfaces")]
mod mount;
mod problem;
#[cfg(feature = "surfaces")]
mod propagation;
#[cfg(feature = "surfaces")]
mod query;
mod rejection;
mod route_label;
#[cfg(feature = "surfaces")]
mod settings;
#[cfg(feature = "surfaces")]
mod surface;
#[cfg(feature = "surfaces")]
mod surfaces;
#[cfg(feature = "surfaces")]
mod unknown;
#[cfg(feature = "surfaces")]
mod verification;

pub use access_log::AccessLog;
pub use api::{Api, ApiBuilder};
pub use connection::{BODY_BYTES_MAX, Guarded, HEAD_BYTES_MAX, HeadRefusal};
pub use field_error::FieldError;
pub use guard::{KeyIdentity, RequireKey, UnknownLimit};
#[cfg(feature = "surfaces")]
pub use mount::{InvalidMountPath, Mount, MountPath, ReservedPrefix};
pub use rejection::{CredentialFault, Rejection, Render};

/// Compiles the examples of the page about the guard.
#[cfg(all(doctest, feature = "surfaces"))]
#[doc = include_str!("../../../docs/api/guard.md")]
struct GuardPage;
