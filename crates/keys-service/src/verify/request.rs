//! Requests to verify a key.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use keys_core::{KeyKind, LimitName, ScopeSet};

use crate::setters::setters;

/// A request to verify one presented key.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct VerifyRequest<'a> {
    /// The key as it was presented.
    pub key: &'a str,
    /// Address of the client, if it is known.
    pub address: Option<IpAddr>,
    /// Scopes that the request needs.
    pub scopes: &'a ScopeSet,
    /// Accepted kinds of credentials.
    pub kinds: &'a [KeyKind],
    /// Limit of the account's plan to count against.
    pub limit: Option<&'a LimitName>,
    /// Amount to count.
    pub cost: NonZeroU32,
    /// Whether to read the key from the database even if it is cached.
    pub fresh: bool,
}

impl<'a> VerifyRequest<'a> {
    /// Creates a request for an account's key, without an address, a scope or a limit.
    pub fn new(key: &'a str) -> Self {
        static NO_SCOPES: LazyLock<ScopeSet> = LazyLock::new(ScopeSet::default);
        Self {
            key,
            address: None,
            scopes: &NO_SCOPES,
            kinds: &[KeyKind::Account],
            limit: None,
            cost: NonZeroU32::MIN,
            fresh: false,
        }
    }

    setters! {
        /// Sets the address of the client. `None` is an unknown address.
        address: Option<IpAddr>,
        /// Requires all of `scopes`.
        scopes: &'a ScopeSet,
        /// Accepts these kinds of credentials.
        kinds: &'a [KeyKind],
        /// Counts against this limit of the account's plan. `None` counts against none.
        limit: Option<&'a LimitName>,
        /// Sets the amount to count.
        cost: NonZeroU32,
        /// Reads the key from the database even if it is cached.
        fresh: bool,
    }
}
