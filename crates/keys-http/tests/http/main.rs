//! The surfaces as clients see them. One file per route and surface; refusals first.

mod exchange;
mod faulty;
mod log;
mod rows;
#[expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]
mod support;

mod access_log;
mod account_create;
mod account_delete;
mod account_list;
mod client_address;
#[expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]
mod connections;
mod contract;
mod credentials;
mod faults;
mod flat_create;
mod flat_delete;
mod flat_list;
mod forward_auth;
mod guard;
mod health;
mod idempotency;
mod limits;
mod management_accounts;
mod management_keys;
mod management_sessions;
mod metrics;
mod unknown;
mod verify;
mod verify_batch;
mod wait;
