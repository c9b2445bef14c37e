//! Stores keys and accounts in PostgreSQL or in an embedded SQLite, behind the port
//! [`KeyStore`](keys_service::ports::KeyStore).
//!
//! Every query is written once. SQL types of our own name the meaning of a value, and each database
//! stores them natively. Real differences, such as row locks and connections, have one module for
//! each database.
//!
//! # Features
//!
//! Both are on by default, and at least one is needed. The URL of a database that is not compiled
//! in is refused.
//!
//! | Feature | Adds |
//! |---|---|
//! | `postgres` | the store on PostgreSQL, with TLS |
//! | `sqlite` | the store in a SQLite file, with SQLite itself |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]
// With one database, what the other one needs of the shared code is unused.
#![cfg_attr(
    not(all(feature = "postgres", feature = "sqlite")),
    allow(
        dead_code,
        unused_imports,
        unused_variables,
        irrefutable_let_patterns,
        unreachable_patterns,
        clippy::unnecessary_wraps,
        clippy::unused_async,
        clippy::unused_self
    )
)]

#[cfg(not(any(feature = "postgres", feature = "sqlite")))]
compile_error!("keys-store needs a database: enable its feature `postgres` or `sqlite`, or both");

mod accounts;
mod audit;
mod authority;
mod changes;
mod check;
mod connection;
mod databases;
mod error;
mod feed;
mod health;
mod idempotency;
mod keys;
mod life;
mod lists;
mod load;
mod management;
mod migrate;
mod opening;
mod options;
#[cfg(feature = "postgres")]
mod postgres;
mod purpose;
mod revocations;
mod rotation;
mod rows;
mod scan;
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod sweep;
#[cfg(feature = "postgres")]
mod tls;
mod types;
mod url;
#[cfg(feature = "postgres")]
mod wake;

pub use check::RowFault;
pub use migrate::{MigrateError, SchemaError};
pub use options::{InvalidOptions, StoreOptions};
#[cfg(feature = "sqlite")]
pub use sqlite::{FileLost, UnsafeFile};
#[cfg(feature = "postgres")]
pub use store::ConnectionsShort;
pub use store::{OpenError, Store};
#[cfg(feature = "postgres")]
pub use tls::TlsError;
pub use url::{DatabaseUrl, InvalidUrl};

/// Compiles the program in the README.
#[cfg(all(doctest, feature = "sqlite"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
