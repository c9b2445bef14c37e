//! Measures revocations against the clock: real servers, and one client that stamps every request
//! and every answer.
//!
//! The promise is that the server that answers a revocation no longer accepts the key, and no other
//! server does two seconds later. The time of a server's decision is not visible from outside, only
//! that it was after the request was sent. So an acceptance certainly breaks the promise if its
//! request was sent after the bound, counted from when the client had read the revocation's answer,
//! and only such acceptances are counted. The propagation of a revocation is measured by the time
//! at which the last accepted request was sent.
//!
//! Some seconds long by default. In full:
//!
//! ```sh
//! KEYS_TEST_FULL=1 cargo test --profile dist -p keys-server --test revocation -- \
//!   --nocapture --test-threads 1
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
