//! Questions about presented keys.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use keys_core::{KeyKind, LimitName, ScopeSet};

/// A question about one presented key.
#[derive(Debug, Clone)]
pub struct VerifyRequest<'a> {
    /// The key as it was presented.
    pub key: &'a str,
    /// Where it is used from, if that is known.
    pub address: Option<IpAddr>,
    /// What it is used for.
    pub scopes: &'a ScopeSet,
    /// Kinds of credentials that may be used for that.
    pub kinds: &'a [KeyKind],
    /// The limit of the account's plan to take from.
    pub limit: Option<&'a LimitName>,
    /// How much to take.
    pub cost: NonZeroU32,
    /// Whether the database is to be asked even if the cache knows.
    pub fresh: bool,
}

impl<'a> VerifyRequest<'a> {
    /// Asks whether an account's key may be used at all: without an address, a scope or a limit.
    #[must_use]
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
}
