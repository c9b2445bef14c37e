//! Stores keys and accounts in PostgreSQL or in an embedded SQLite, behind the port
//! [`KeyStore`](keys_service::ports::KeyStore).
//!
//! Every query is written once. SQL types of our own name the meaning of a value, and each database
//! stores them natively. Real differences, such as row locks and connections, have one module for
//! each database.

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod accounts;
mod audit;
mod authority;
mod changes;
mod check;
mod connection;
mod error;
mod feed;
mod health;
mod idempotency;
mod keys;
mod life;
mod load;
mod migrate;
mod opening;
mod options;
mod postgres;
mod rows;
mod schema;
mod sqlite;
mod store;
mod sweep;
mod tls;
mod types;
mod url;
mod wake;

pub use check::RowFault;
pub use migrate::{MigrateError, SchemaError};
pub use options::StoreOptions;
pub use sqlite::{FileLost, UnsafeFile};
pub use store::{ConnectionsShort, OpenError, Store};
pub use tls::TlsError;
pub use url::{DatabaseUrl, InvalidUrl};

/// Compiles the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
