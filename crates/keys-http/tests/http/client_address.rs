//! The client's address of a request.

use keys_core::AllowedNetworks;
use keys_core::address::TrustedProxies;

use crate::exchange::{Exchange as _, Request, get};
use crate::rows::FLAT;
use crate::support::{CLIENT, World, draft};

const PROXY: &str = "10.0.0.1";

/// A world behind proxies in 10.0.0.0/8, and a key that is valid from [`CLIENT`] only.
async fn behind_a_proxy() -> (World, impl Fn() -> Request) {
    let world = World::with_api(|api| {
        let network = "10.0.0.0/8".parse().expect("the network is legal");
        api.trusted_proxies(TrustedProxies::new([network]))
    });
    let account = world.account("business").await;
    let allowed_networks = AllowedNetworks::parse([CLIENT]).expect("the address is legal");
    let key = world
        .issue(draft(account.id).allowed_networks(allowed_networks))
        .await;
    (world, move || get(FLAT).bearer(key.secret.expose()))
}

#[actix_web::test]
async fn strangers_are_not_believed() {
    let (world, list) = behind_a_proxy().await;
    let claimed = list().header("X-Forwarded-For", CLIENT);
    let answer = world.from("198.51.100.1").exchange(claimed).await;
    assert_eq!(answer.status, 403);
    let forged = list().header("X-Forwarded-For", format!("{CLIENT}, 198.51.100.1"));
    let answer = world.from(PROXY).exchange(forged).await;
    assert_eq!(answer.status, 403);
}

#[actix_web::test]
async fn unreadable_address_is_in_no_list() {
    let (world, list) = behind_a_proxy().await;
    let proxy = world.from(PROXY);
    for value in ["unknown", "", "203.0.113.5:x", "_hidden", "203.0.113.5 x"] {
        let request = list().header("X-Forwarded-For", value);
        assert_eq!(proxy.exchange(request).await.status, 403, "{value}");
    }
    let unreadable = list().header("X-Forwarded-For", b"\xff");
    assert_eq!(proxy.exchange(unreadable).await.status, 403);
    // Without a peer there is no address.
    assert_eq!(world.from("").exchange(list()).await.status, 403);
}

#[actix_web::test]
async fn trusted_proxies_are_believed() {
    let (world, list) = behind_a_proxy().await;
    let proxy = world.from(PROXY);
    for request in [
        list().header("X-Forwarded-For", CLIENT),
        list().header("X-Forwarded-For", "198.51.100.1, 203.0.113.5, 10.9.9.9"),
        list()
            .header("X-Forwarded-For", "203.0.113.5")
            .header("X-Forwarded-For", "10.9.9.9"),
        list().header("X-Forwarded-For", "::ffff:203.0.113.5"),
        list().header("Forwarded", "for=203.0.113.5;proto=https"),
        list().header(
            "Forwarded",
            r#"for=x, For="203.0.113.5:1234", for=10.9.9.9"#,
        ),
    ] {
        let shown = format!("{:?}", request.headers);
        assert_eq!(proxy.exchange(request).await.status, 200, "{shown}");
    }
    // Directly, too.
    assert_eq!(world.exchange(list()).await.status, 200);
}
