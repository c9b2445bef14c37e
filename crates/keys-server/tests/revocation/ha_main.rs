//! Failovers of PostgreSQL under Patroni. They take ten minutes for each way to connect, need root
//! and the packages that `cargo xtask prove ha` installs. So they are not among the tests of the
//! workspace and run only by name.
//!
//! ```sh
//! KEYS_TEST_FULL=1 cargo test --profile dist -p keys-server --bench ha -- \
//!   --nocapture --test-threads 1 ha::
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

#[expect(dead_code, reason = "`main.rs` uses the rest")]
mod campaign;
mod common;
mod customers;
#[expect(dead_code, reason = "`main.rs` uses the rest")]
mod fleet;
mod ha;
mod patroni;
mod trial;

use common::{BINARY, BOUND, Millis, Times, between, dice, end_the_line, millis, now};
