//! Guards: middleware that lets requests with a valid credential pass.

mod admission;
#[cfg(feature = "surfaces")]
mod manager;
mod middleware;
mod require_key;

#[cfg(feature = "surfaces")]
pub(crate) use admission::admit;
#[cfg(feature = "surfaces")]
pub(crate) use manager::{Authenticated, RequireManager};
pub use require_key::{KeyIdentity, RequireKey, UnknownLimit};
