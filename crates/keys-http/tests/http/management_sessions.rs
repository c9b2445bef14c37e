//! `POST /v1/accounts/{account_id}/sessions`

use crate::exchange::{Exchange as _, get, post};
use crate::rows::{FLAT, FLAT_401};
use crate::support::World;

#[actix_web::test]
async fn session_ends_when_it_says() {
    let world = World::new();
    let operator = world.root().await;
    let account = world.account("pro").await;
    let path = format!("/v1/accounts/{}/sessions", account.id);
    let request = post(path).bearer(&operator);
    let opened = request.json(r#"{"ttl_seconds":60}"#).expect(
        &world,
        201,
        r#"{"id":"*","token":"session_*","expires_at":"2026-01-01T12:01:00.000Z"}"#,
    );
    let token = opened.await.text("/token");
    let list = || get(FLAT).bearer(&token);
    world.advance(59);
    list().expect(&world, 200, "[]").await;
    world.advance(1);
    list().expect(&world, 401, FLAT_401).await;
}

#[actix_web::test]
async fn account_without_keys_may_have_sessions() {
    let world = World::new();
    let operator = world.root().await;
    let account = world.account("free").await;
    let path = format!("/v1/accounts/{}/sessions", account.id);
    let request = post(path).bearer(&operator).json(r#"{"ttl_seconds":60}"#);
    assert_eq!(world.exchange(request).await.status, 201);
}
