//! The configurations in `docs/gateways`, as they stand, in real gateways in front of a real server. All are held to the same.

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

/// A gateway, and in what it differs from the others.
#[derive(Clone, Copy)]
struct Kind {
    /// Runs its documented configuration in front of keys-server and an application.
    start: fn(Addresses) -> Gateway,
    /// Its answer while keys-server cannot be reached: the status, and how long to wait if it says that.
    unreachable: (u16, Option<&'static str>),
    /// Passes a header on that has no value.
    passes_empty_headers: bool,
    /// Passes all `X-API-Key` of a request to keys-server.
    shows_every_api_key: fn() -> bool,
}

/// What a gateway stands between.
#[derive(Clone, Copy)]
struct Addresses {
    keys: SocketAddr,
    application: SocketAddr,
}

/// A configuration with other addresses in place of the documented ones, and otherwise as it stands.
fn replace_addresses<const N: usize>(config: &str, addresses: [(&str, String); N]) -> String {
    let mut config = config.to_owned();
    for (documented, real) in addresses {
        assert!(config.contains(documented), "{documented}");
        config = config.replace(documented, &real);
    }
    config
}
