//! Log events of requests.

use crate::exchange::{Exchange as _, Request, delete, get, post};
use crate::log;
use crate::rows::FLAT;
use crate::support::{CLIENT, World};

#[actix_web::test]
async fn requests_are_logged_without_anything_a_client_wrote() {
    log::begin();
    let world = World::new();
    let key = world.pro_key().await;
    let secret = &key["sk_live_".len()..];

    let create = post(FLAT).bearer(&key).json(r#"{"name":"canary"}"#);
    let created = world.exchange(create).await.text("/key");
    world.exchange(get(format!("{FLAT}?key={key}"))).await;
    world
        .exchange(delete(format!("{FLAT}/{key}")).bearer(&key))
        .await;
    world.exchange(get(format!("/{key}/canary"))).await;
    let header = Request::new("POST", FLAT).header("X-API-Key", format!("{key}x"));
    world.exchange(header).await;
    let method = Request::new("CANARY", FLAT).bearer(&key);
    world.exchange(method).await;

    world.exchange(get("/v1/auth").bearer(&key)).await;
    world.exchange(get("/v1/auth").bearer("canary")).await;

    let text = log::take();
    for expected in [
        "POST /api/api-keys answered 201 in ",
        "GET /api/api-keys answered 401 in ",
        "DELETE /api/api-keys/{id} answered 404 in ",
        "GET unmatched answered 404 in ",
        "POST /api/api-keys answered 401 in ",
        "OTHER /api/api-keys answered 405 in ",
        "DEBUG keys_http::access_log: GET /v1/auth answered 200 in ",
        "INFO keys_http::access_log: GET /v1/auth answered 401 in ",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    for absent in [secret, &created, "canary", "CANARY", CLIENT] {
        assert!(!text.contains(absent), "{absent:?} in\n{text}");
    }
}
