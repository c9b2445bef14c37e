//! `POST /v1/accounts/{account_id}/keys`

use keys_http::Mount;

use crate::exchange::{Exchange as _, get, post};
use crate::rows::FLAT;
use crate::support::World;

#[actix_web::test]
async fn key_made_by_an_operator_is_the_accounts_own() {
    let world = World::new();
    let operator = world.root().await;
    let account = world.account("pro").await;
    let path = format!("/v1/accounts/{}/keys", account.id);
    let request = post(path).bearer(&operator).json(r#"{"name":"CI"}"#);
    let issued = world.exchange(request).await;
    assert_eq!(issued.status, 201);
    assert_eq!(issued.text("/created_at"), "2026-01-01T12:00:00.000Z");
    let listed = get(FLAT).bearer(&issued.text("/key"));
    let listed = world.exchange(listed).await;
    assert_eq!(listed.text("/0/id"), issued.text("/id"));
    assert_eq!(listed.text("/0/name"), "CI");
}

#[actix_web::test]
async fn usual_prefix_is_that_of_the_flat_contract() {
    let mount = Mount::new("/keys".parse().unwrap(), "acme".parse().unwrap());
    for (flat, prefix) in [(Some(mount.unwrap()), "acme_"), (None, "sk_live_")] {
        let world = World::with_api(|api| api.flat(flat));
        let operator = world.root().await;
        let path = format!("/v1/accounts/{}/keys", world.account("pro").await.id);
        let request = post(path).bearer(&operator).json("{}");
        let key = world.exchange(request).await.text("/key");
        assert!(key.starts_with(prefix), "{prefix}");
    }
}

#[actix_web::test]
async fn plan_and_its_maximum_hold_for_operators_too() {
    let world = World::new();
    let operator = world.root().await;
    for (plan, most, code) in [
        ("free", 0, "plan_forbidden"),
        ("pro", 10, "key_limit_reached"),
    ] {
        let path = format!("/v1/accounts/{}/keys", world.account(plan).await.id);
        let request = || post(&path).bearer(&operator).json("{}");
        for _ in 0..most {
            assert_eq!(world.exchange(request()).await.status, 201);
        }
        let refused = world.exchange(request()).await;
        assert_eq!((refused.status, &*refused.text("/code")), (403, code));
    }
}
