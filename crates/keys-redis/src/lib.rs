//! Rate limiter that several instances share, on Redis 5 or later, or Valkey.
//!
//! [`RedisLimiter`] is a [`RateLimiter`](keys_service::ports::RateLimiter) by the generic cell rate
//! algorithm (ITU-T I.371). It gives the same answers as
//! [`LocalLimiter`](keys_service::LocalLimiter), with one atomic script and one round trip. It uses
//! the clock of the server, so the clocks of the instances do not need to agree.
//!
//! # Quotas
//! Unused requests are saved up to the quota, then arrive evenly spaced. After a pause an account
//! may therefore send its whole quota at once, and in addition the requests that arrive meanwhile:
//! up to twice the quota in the first period. From then on every window of one period admits at
//! most the quota, and one more if both its ends fall on an arrival.
//!
//! # If Redis is unavailable
//! No call waits longer than 20 ms. A [`FallbackLimiter`](keys_service::FallbackLimiter) around the
//! limiter decides then, and spares further calls the wait.
//!
//! # Stored data
//! One string for each bucket, `keys:PREFIX:LIMIT:SUBJECT`, that expires when the bucket is full
//! again: ids and client addresses, no secrets.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use keys_redis::RedisLimiter;
//! use keys_service::{FallbackLimiter, OnUnavailable, SystemClock};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let redis = RedisLimiter::builder("redis://127.0.0.1".parse()?)
//!     .key_prefix("production".parse()?)
//!     .build();
//! let limiter = FallbackLimiter::start(redis, OnUnavailable::Local, Arc::new(SystemClock)).await;
//! // KeyService::builder(store, peppers).limiter(Arc::new(limiter))
//! # Ok(())
//! # }
//! ```

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod connection;
mod limiter;
mod script;
mod settings;

pub use limiter::{RedisLimiter, RedisLimiterBuilder};
pub use settings::{InvalidKeyPrefix, InvalidRedisUrl, KeyPrefix, RedisUrl};
