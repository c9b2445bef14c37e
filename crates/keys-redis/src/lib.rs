//! The rate limiter that several instances share, on Redis 5 or later, or Valkey.
//!
//! [`RedisLimiter`] is a [`RateLimiter`](keys_service::RateLimiter) by the generic cell rate algorithm (ITU-T I.371),
//! as [`LocalLimiter`](keys_service::LocalLimiter) is, and gives the same answers: one atomic script, one round trip,
//! on the server's own clock, so that the clocks of the instances do not matter.
//!
//! # What a quota means
//! Unused requests are saved up to the quota, then arrive evenly spaced. After a pause an account may therefore make
//! its whole quota of requests at once and those that arrive in the meantime on top: up to twice the quota in the first
//! period. From then on every window of one period admits at most the quota, and one more where both its ends fall
//! on an arrival.
//!
//! # When Redis is away
//! No call waits longer than 20 ms. After three calls in a row that failed, none waits at all: until a trial four times
//! a second succeeds, each instance decides by a [`LocalLimiter`](keys_service::LocalLimiter) of its own, or refuses to
//! decide ([`OnUnavailable`]). It goes on from what it last saw of each bucket in Redis. That is logged when it begins
//! and when it ends, and [`state`](keys_service::RateLimiter::state) tells it.
//!
//! # What is stored
//! One string a bucket, `keys:PREFIX:LIMIT:SUBJECT`, that expires when the bucket is full again: ids and client
//! addresses, and nothing secret.
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
