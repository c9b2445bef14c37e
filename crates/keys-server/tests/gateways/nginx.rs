//! nginx.

use keys_testkit::nginx::Nginx;

use crate::world::World;
use crate::{Kind, replace_addresses, scenarios};

const CONFIG: &str = include_str!("../../../../docs/gateways/nginx.conf");

const NGINX: Kind = Kind {
    start: |addresses| {
        Nginx::start(|port| {
            let real = [
                ("127.0.0.1:8080", addresses.keys.to_string()),
                ("127.0.0.1:3000", addresses.application.to_string()),
                ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
            ];
            replace_addresses(CONFIG, real)
        })
    },
    unreachable: (503, Some("1")),
    passes_empty_headers: false,
    // Before 1.23 it does not, and some systems still have those.
    shows_every_api_key: false,
};

scenarios::hold_to_all!(super::NGINX);

#[tokio::test(flavor = "multi_thread")]
async fn question_is_not_for_clients_to_ask() {
    let world = World::open(NGINX).await;
    world.expect(world.get("/_auth"), 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_does_not_answer_lets_nobody_through() {
    scenarios::server_that_does_not_answer_lets_nobody_through(NGINX).await;
}
