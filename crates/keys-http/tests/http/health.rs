//! `GET /livez`, `GET /readyz`

use std::time::Duration;

use actix_web::rt::time::sleep;

use crate::exchange::{Exchange as _, get};
use crate::faulty::{Fault, Faulty};
use crate::support::World;

/// Longer than an answer of the database is cached.
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

/// Repeats the request until this is the answer, which takes a poll of the feed.
async fn comes_to(world: &World, body: &str) {
    const ATTEMPTS: usize = 1_000;
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        let answer = world.exchange(get("/readyz")).await;
        assert_eq!(answer.status, 200);
        said = answer.body;
        if said == body {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("{said}, not {body}");
}

#[actix_web::test]
async fn reason_why_changes_cannot_be_followed_is_told_until_they_can() {
    const FOLLOWED: &str = r#"{"status":"ok","writable":true,"changes":"followed","behind_seconds":0.0,"listener":"up"}"#;
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    comes_to(&world, FOLLOWED).await;
    store.feed_has(Some("a \"trigger\" is disabled"));
    // At once, without waiting for the bound, because the log may have missed changes.
    comes_to(
        &world,
        r#"{"status":"ok","writable":true,"changes":"not_followed","listener":"up","reason":"the database answered unexpectedly: a \"trigger\" is disabled"}"#,
    )
    .await;
    // A store that is unavailable is not such a reason.
    store.feed_has(None);
    comes_to(&world, FOLLOWED).await;
    store.feed_fails();
    world.listener_is(false).await;
    let answer = world.exchange(get("/readyz")).await;
    assert!(!answer.body.contains("reason"), "{}", answer.body);
}

#[actix_web::test]
async fn asynchronous_replication_is_reported_for_as_long_as_it_lasts() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    let synchronous = r#"{"status":"ok","writable":true,"changes":"followed","behind_seconds":0.0,"listener":"up"}"#;
    comes_to(&world, synchronous).await;
    store.replicates_asynchronously(true);
    let asynchronous = r#"{"status":"ok","writable":true,"changes":"followed","behind_seconds":0.0,"listener":"up","replication":"asynchronous"}"#;
    comes_to(&world, asynchronous).await;
    let metrics = world.exchange(get("/metrics")).await.body;
    assert!(
        metrics.contains("\nkeys_replication_asynchronous 1\n"),
        "{metrics}"
    );
    store.replicates_asynchronously(false);
    comes_to(&world, synchronous).await;
}
