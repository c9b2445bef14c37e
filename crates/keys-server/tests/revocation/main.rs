//! Revoked keys against the clock: real servers, and one client that stamps every request and every answer.
//!
//! The promise is that no server accepts a key any more when its revocation was answered, and no other server when two
//! seconds have passed since. When a server made up its mind is not to be seen from outside, only that it was after the
//! request was sent. So an acceptance breaks the promise for certain if its request was sent after the bound, which is counted
//! from when the client had read the revocation's answer; and only those are counted. How long a revocation takes to get about
//! is told by when the last request that was accepted was sent.
//!
//! Some seconds long by default. The full size:
//!
//! ```sh
//! KEYS_TEST_FULL=1 cargo test --release -p keys-server --test revocation -- --nocapture --test-threads 1
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

#[expect(
    dead_code,
    reason = "the proof of failovers, `ha_main.rs`, uses the rest"
)]
mod campaign;
mod common;
mod customers;
mod fleet;
#[expect(
    dead_code,
    reason = "its tests run here, and `ha_main.rs` uses the rest"
)]
mod patroni;
mod trial;

mod database_away;
mod everywhere;
mod failover;
mod same_instance;

use common::{BINARY, BOUND, Millis, Times, between, dice, end_the_line, millis, now};
