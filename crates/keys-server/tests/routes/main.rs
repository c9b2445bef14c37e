//! Every row of both contracts and of the management surface, on the real server over sockets, on
//! SQLite and on PostgreSQL. One file per route and surface, then one per rule that applies across
//! routes; refusals first.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

/// Turns each function into two tests of its name, one for each database.
macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                Box::pin(super::$name($crate::world::Place::Sqlite)).await;
            })+
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $name() {
                Box::pin(super::$name($crate::world::Place::Postgres)).await;
            })+
        }
    };
}

mod dialect;
mod exchange;
mod shape;
mod world;

mod account_create;
mod account_delete;
mod account_list;
mod flat_create;
mod flat_delete;
mod flat_list;
mod health;
mod management_accounts;
mod management_key_update;
mod management_keys;
mod management_lists;
mod management_operators;
mod management_revocations;
mod management_scopes;
mod management_sessions;
mod rotate;
mod whoami;

mod at_rest;
mod bodies;
mod cap;
mod client_address;
mod credentials;
mod expiry;
mod idempotency;
mod last_used;
mod limits;
mod narrowing;
mod order;
mod outage;
mod paths;
mod plans;
mod restart;
mod unreadable;
