//! Requests to verify a key.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use keys_core::{KeyKind, LimitName, ScopeSet};

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

    /// Sets the address of the client. `None` is an unknown address.
    pub fn address(mut self, address: Option<IpAddr>) -> Self {
        self.address = address;
        self
    }

    /// Requires all of `scopes`.
    pub fn scopes(mut self, scopes: &'a ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// Accepts these kinds of credentials.
    pub fn kinds(mut self, kinds: &'a [KeyKind]) -> Self {
        self.kinds = kinds;
        self
    }

    /// Counts against this limit of the account's plan. `None` counts against none.
    pub fn limit(mut self, limit: Option<&'a LimitName>) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the amount to count.
    pub fn cost(mut self, cost: NonZeroU32) -> Self {
        self.cost = cost;
        self
    }

    /// Reads the key from the database even if it is cached.
    pub fn fresh(mut self, fresh: bool) -> Self {
        self.fresh = fresh;
        self
    }
}
