//! Guards: middleware that lets requests with a valid credential pass.

mod admission;
mod manager;
mod middleware;
mod require_key;

pub(crate) use manager::{Authenticated, RequireManager};
pub use require_key::{KeyIdentity, RequireKey, UnknownLimit};
