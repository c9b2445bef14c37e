//! What is logged of requests.

use std::cell::RefCell;
use std::io;

use tracing_subscriber::filter::LevelFilter;

use crate::exchange::{Exchange as _, Request, delete, get, post};
use crate::rows::FLAT;
use crate::support::{CLIENT, World};

thread_local! {
    /// Each test has a thread of its own.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct ToThisThread;

impl io::Write for ToThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[actix_web::test]
async fn requests_are_logged_without_anything_a_client_wrote() {
    // For all threads: whether an event is logged at all is decided once, by whichever thread gets there first.
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(|| ToThisThread)
        .init();
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

    let text = LOGGED.with_borrow(|logged| String::from_utf8_lossy(logged).into_owned());
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
