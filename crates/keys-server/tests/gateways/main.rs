//! The unchanged configurations in `docs/gateways`, in real gateways in front of a real server. All
//! run the same scenarios.

#![expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]

mod answers;
mod application;
mod envoy;
mod nginx;
mod scenarios;
mod traefik;
mod world;

use std::net::SocketAddr;

use keys_testkit::gateway::Gateway;

/// A gateway, and its differences from the others.
#[derive(Clone, Copy)]
struct Kind {
    /// Runs its documented configuration in front of keys-server and an application.
    start: fn(Addresses) -> Gateway,
    /// Its answer while keys-server cannot be reached: the status, and `Retry-After` if it has one.
    unreachable: (u16, Option<&'static str>),
    /// Whether it forwards a header without a value.
    passes_empty_headers: bool,
    /// Whether it forwards all `X-API-Key` of a request to keys-server.
    shows_every_api_key: fn() -> bool,
}

/// Addresses around a gateway.
#[derive(Clone, Copy)]
struct Addresses {
    keys: SocketAddr,
    application: SocketAddr,
}

/// Returns a configuration with the documented addresses replaced, and otherwise unchanged.
fn replace_addresses<const N: usize>(config: &str, addresses: [(&str, String); N]) -> String {
    let mut config = config.to_owned();
    for (documented, real) in addresses {
        assert!(config.contains(documented), "{documented}");
        config = config.replace(documented, &real);
    }
    config
}
