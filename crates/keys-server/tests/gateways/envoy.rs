//! Envoy.

use keys_testkit::envoy::Envoy;

use crate::{Kind, replace_addresses, scenarios};

const CONFIG: &str = include_str!("../../../../docs/gateways/envoy.yaml");

const ENVOY: Kind = Kind {
    start: |addresses| {
        // All are on 127.0.0.1, the documented ones and the real ones.
        let port = |port: u16| format!("127.0.0.1, port_value: {port} }}");
        Envoy::start(|listens_on| {
            let real = [
                (&*port(8080), port(addresses.keys.port())),
                (&*port(3000), port(addresses.application.port())),
                (&*port(8000), port(listens_on)),
            ];
            replace_addresses(CONFIG, real)
        })
    },
    unreachable: (503, None),
    passes_empty_headers: true,
    shows_every_api_key: || true,
};

scenarios::hold_to_all!(super::ENVOY);

#[tokio::test(flavor = "multi_thread")]
async fn server_that_does_not_answer_lets_nobody_through() {
    scenarios::server_that_does_not_answer_lets_nobody_through(ENVOY).await;
}
