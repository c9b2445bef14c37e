//! One struct for each section of the settings, deserialized directly.

mod cache;
mod database;
mod http;
mod limits;
mod log;
mod peppers;
pub(crate) mod plans;
mod single;
mod verification;

pub(crate) use cache::Cache;
pub(crate) use database::Database;
pub(crate) use http::{Http, Mount};
pub(crate) use limits::Limits;
pub(crate) use log::{Log, LogFormat};
pub(crate) use peppers::Peppers;
pub(crate) use verification::Verification;
