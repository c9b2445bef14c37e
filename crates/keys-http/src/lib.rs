//! The HTTP side of the API-key service, on actix-web.
//!
//! [`Api`] puts the surfaces into an application; [`RequireKey`] guards the routes of any other
//! one.
//!
//! | Surface | Where | Errors |
//! |---|---|---|
//! | flat | `/api/api-keys` | `{"message","code"}` |
//! | account | `/api/account/api-keys` | `{"statusCode","message","errors"}` |
//! | management | `/v1/accounts` | `application/problem+json` (RFC 9457) |
//! | verification | `/v1/keys/verify`, `/v1/keys/verify-batch`, `/v1/auth` | as management |
//! | health | `/livez`, `/readyz`, `/metrics` | as management |
//!
//! The first two are contracts over the same keys. Each is a thin translation: a handler reads the
//! request, calls [`KeyService`](keys_service::KeyService) and writes a view. Management checks
//! credentials with the database; verification and [`RequireKey`] check them from the cache.
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

mod access_log;
mod account;
mod api;
mod body;
mod client_address;
mod connection;
mod credential;
mod endpoint;
mod fallback;
mod field_error;
mod fields;
mod flat;
mod guard;
mod health;
mod idempotency;
mod limits;
mod management;
mod metrics;
mod mount;
mod problem;
mod propagation;
mod query;
mod rejection;
mod route;
mod surface;
mod surfaces;
mod unknown;
mod verification;

pub use access_log::AccessLog;
pub use api::{Api, ApiBuilder};
pub use connection::{BODY_BYTES_MAX, Guarded, HEAD_BYTES_MAX, HeadRefusal};
pub use field_error::FieldError;
pub use guard::{KeyIdentity, RequireKey, UnknownLimit};
pub use mount::{InvalidMountPath, Mount, MountPath, ReservedPrefix};
pub use rejection::{CredentialFault, Rejection, Render};

/// Compiles the examples of the page about the guard.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/api/guard.md")]
struct GuardPage;
