//! Rate limiter that several instances share, on Redis 5 or later, or Valkey.
//!
//! [`RedisLimiter`] is a [`RateLimiter`](keys_service::RateLimiter) by the generic cell rate
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
//! No call waits longer than 20 ms. After three failed calls in a row no call waits at all. Until a
//! trial, four times a second, succeeds, each instance decides by a
//! [`LocalLimiter`](keys_service::LocalLimiter) of its own, or refuses to decide
//! ([`OnUnavailable`]). The local limiter starts from the last known state of each bucket in Redis.
//! The begin and the end are logged, and [`state`](keys_service::RateLimiter::state) returns the
//! current state.
//!
//! # Stored data
//! One string for each bucket, `keys:PREFIX:LIMIT:SUBJECT`, that expires when the bucket is full
//! again: ids and client addresses, no secrets.
//!
//! ```no_run
//! use keys_redis::{OnUnavailable, RedisLimiter};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = RedisLimiter::builder("redis://127.0.0.1".parse()?)
//!     .key_prefix("production".parse()?)
//!     .on_unavailable(OnUnavailable::Local)
//!     .connect()
//!     .await;
//! // KeyService::builder(store, peppers).limiter(limiter.clone())
//! # Ok(())
//! # }
//! ```

mod breaker;
mod limiter;
mod script;
mod settings;

pub use limiter::{RedisLimiter, RedisLimiterBuilder};
pub use settings::{InvalidKeyPrefix, InvalidRedisUrl, KeyPrefix, OnUnavailable, RedisUrl};
