//! Fixtures for the tests of all crates. Not published, and never a normal dependency of a
//! published crate.
//!
//! | Module | Holds |
//! |---|---|
//! | [`data`] | builders of test data with sane defaults |
//! | [`clock`], [`rng`] | time and randomness that tests control |
//! | [`contract`] | the contract of every store; see [`store_contract!`] |
//! | [`fault_proxy`] | a network that fails on request |
//! | [`gateway`] | throw-away gateways: [`nginx`], [`traefik`] and [`envoy`] |
//! | [`haproxy`] | a throw-away HAProxy |
//! | [`many`] | large numbers of keys |
//! | [`pgbouncer`] | a throw-away PgBouncer |
//! | [`postgres`] | a throw-away PostgreSQL, a database per test |
//! | [`redis`] | a throw-away Redis, which can be killed, stopped and flushed |
//! | [`report`] | figures that proofs and benchmarks measure |
//! | [`store`] | a store whose methods a test overrides one by one |
//! | [`server`] | a running server, and requests to it |
//! | [`wire`] | requests as bytes, for measuring |
//! | [`process`] | processes that must end with their parent |
#![expect(
    clippy::missing_panics_doc,
    reason = "fixtures panic: that is how a test fails"
)]

pub mod clock;
pub mod contract;
pub mod data;
pub mod envoy;
pub mod error;
pub mod fault_proxy;
pub mod gateway;
pub mod haproxy;
pub mod many;
pub mod nginx;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod report;
pub mod rng;
pub mod server;
pub mod store;
pub mod traefik;
pub mod wire;
