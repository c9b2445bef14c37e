//! Connections to the real program, over raw sockets: its stop, and the limits of clients.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

#[path = "../support/wire.rs"]
mod wire;

mod limits;
mod maximums;
mod pipelining;
mod signals;
mod stopping;
mod unix;

/// The program.
const BINARY: &str = env!("CARGO_BIN_EXE_keys-server");
