//! Limiters: inside this process, and shared with a fallback.

mod breaker;
mod fallback;
mod local;

pub use fallback::{FallbackLimiter, OnUnavailable, SharedLimiter};
pub use local::LocalLimiter;
