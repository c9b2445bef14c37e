//! `GET /livez`, `GET /readyz`

use std::time::Duration;

use actix_web::rt::time::sleep;

use crate::exchange::{Exchange as _, get};
use crate::faulty::{Fault, Faulty};
use crate::support::World;

/// Longer than the database is left alone.
const A_WHILE: Duration = Duration::from_millis(300);

const READY: &str = r#"{"status":"ok","writable":true,"changes":"not_followed","listener":"down"}"#;

#[actix_web::test]
async fn missing_database_is_named_and_kills_nobody() {
    for (fault, body) in [
        (
            Fault::Unavailable,
            r#"{"status":"unavailable","database":"unreachable"}"#,
        ),
        (
            Fault::Unexpected,
            r#"{"status":"unavailable","database":"unusable"}"#,
        ),
    ] {
        let store = Faulty::default();
        let world = World::with_store(store.clone());
        get("/readyz").expect(&world, 200, READY).await;
        store.fails_with(fault);
        sleep(A_WHILE).await;
        let answer = get("/readyz").expect(&world, 503, body).await;
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let ok = r#"{"status":"ok"}"#;
        get("/livez").expect(&world, 200, ok).await;
    }
}

#[actix_web::test]
async fn whoever_asks_all_the_time_does_not_ask_the_database() {
    let store = Faulty::default();
    let world = World::with_store(store.clone());
    let before = store.calls();
    for _ in 0..20 {
        get("/readyz").expect(&world, 200, READY).await;
    }
    // On a busy machine twenty requests take a while, too.
    let calls = store.calls() - before;
    assert!((1..=4).contains(&calls), "{calls}");
    sleep(A_WHILE).await;
    let before = store.calls();
    get("/readyz").expect(&world, 200, READY).await;
    assert_eq!(store.calls(), before + 1);
}

#[actix_web::test]
async fn falling_behind_is_reported_and_no_reason_to_be_unready() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    let followed = r#"{"status":"ok","writable":true,"changes":"followed","behind_seconds":0.0,"listener":"up"}"#;
    get("/readyz").expect(&world, 200, followed).await;
    store.feed_fails();
    world.listener_is(false).await;
    let down = r#"{"status":"ok","writable":true,"changes":"followed","behind_seconds":0.0,"listener":"down"}"#;
    get("/readyz").expect(&world, 200, down).await;
    world.clock.advance(Duration::from_millis(2_345));
    let answer = get("/readyz").expect(
        &world,
        200,
        r#"{"status":"ok","writable":true,"changes":"not_followed","behind_seconds":2.345,"listener":"down"}"#,
    );
    assert_eq!(answer.await.header("cache-control"), Some("no-store"));
    assert_eq!(world.exchange(get("/livez")).await.status, 200);
}
