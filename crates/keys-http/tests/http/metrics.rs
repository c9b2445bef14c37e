//! `GET /metrics`

use crate::exchange::{Exchange as _, Request, get, post};
use crate::faulty::Faulty;
use crate::rows::{FLAT, NOBODYS_KEY};
use crate::support::World;

async fn figures(world: &World) -> String {
    let answer = world.exchange(get("/metrics")).await;
    assert_eq!(answer.status, 200);
    let content_type = answer.header("content-type");
    assert_eq!(
        content_type,
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.body
}

#[track_caller]
fn has(figures: &str, line: &str) {
    assert!(figures.lines().any(|known| known == line), "{figures}");
}

#[actix_web::test]
async fn figures_may_be_left_out() {
    let world = World::with_api(|api| api.metrics(false));
    let answer = world.exchange(get("/metrics")).await;
    assert_eq!((answer.status, &*answer.text("/code")), (404, "not_found"));
    let world = World::new();
    let head = world.exchange(Request::new("HEAD", "/metrics")).await;
    assert_eq!(head.status, 200);
    let answer = world.exchange(post("/metrics")).await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, Some("GET, HEAD"))
    );
}

#[actix_web::test]
async fn verdicts_and_requests_are_counted() {
    let world = World::new();
    let fresh = figures(&world).await;
    has(&fresh, r#"keys_verdicts_total{code="valid"} 0"#);
    has(&fresh, "keys_cache_entries 0");
    has(&fresh, "# TYPE keys_verdicts_total counter");

    let operator = world.operator(&["keys:verify"]).await;
    let account = world.account("pro").await;
    let (key, session) = (world.key(&account).await, world.session(&account).await);
    for key in [&*key, NOBODYS_KEY, &session, "nonsense"] {
        let body = format!(r#"{{"key":"{key}"}}"#);
        let verify = post("/v1/keys/verify").bearer(&operator).json(&*body);
        assert_eq!(world.exchange(verify).await.status, 200);
        let body = format!(r#"{{"requests":[{body}]}}"#);
        let verify = post("/v1/keys/verify-batch").bearer(&operator).json(body);
        assert_eq!(world.exchange(verify).await.status, 200);
        world.exchange(get("/v1/auth").bearer(key)).await;
    }
    world.exchange(get(FLAT).bearer(&key)).await;
    world.exchange(get(format!("{FLAT}/x"))).await;
    world.exchange(get("/nothing?at=all")).await;
    let counted = figures(&world).await;
    for line in [
        r#"keys_verdicts_total{code="valid"} 3"#,
        r#"keys_verdicts_total{code="not_found"} 6"#,
        r#"keys_verdicts_total{code="malformed"} 3"#,
        r#"keys_verdicts_total{code="revoked"} 0"#,
        r#"keys_http_requests_total{route="/v1/keys/verify",status="200"} 4"#,
        r#"keys_http_requests_total{route="/v1/keys/verify-batch",status="200"} 4"#,
        r#"keys_http_requests_total{route="/v1/auth",status="200"} 1"#,
        r#"keys_http_requests_total{route="/v1/auth",status="401"} 3"#,
        r#"keys_http_requests_total{route="/api/api-keys",status="200"} 1"#,
        r#"keys_http_requests_total{route="/api/api-keys/{id}",status="405"} 1"#,
        r#"keys_http_requests_total{route="unmatched",status="404"} 1"#,
        r#"keys_http_requests_total{route="/metrics",status="200"} 1"#,
    ] {
        has(&counted, line);
    }
}

#[actix_web::test]
async fn nothing_that_came_from_outside_is_shown() {
    let world = World::new();
    let key = world.pro_key().await;
    for path in [
        format!("/{key}"),
        format!("{FLAT}/{key}"),
        format!("/v1/accounts/{key}"),
        format!("/v1/{key}?{key}={key}"),
    ] {
        for method in ["GET", "POST", "SECRET"] {
            let request = Request::new(method, &path).bearer(&key);
            world.exchange(request).await;
        }
    }
    let figures = figures(&world).await;
    assert!(!figures.contains(&key), "{figures}");
    assert!(!figures.contains("SECRET"), "{figures}");
    assert!(figures.lines().count() < 90, "{figures}");
}

#[actix_web::test]
async fn cache_is_told_of() {
    let world = World::new();
    let never = figures(&world).await;
    has(&never, "keys_changes_behind_seconds inf");
    has(&never, "keys_changes_listener 0");
    let world = world.followed().await;
    let key = world.pro_key().await;
    world.exchange(get("/v1/auth").bearer(&key)).await;
    let figures = figures(&world).await;
    has(&figures, "keys_changes_behind_seconds 0");
    has(&figures, "keys_cache_entries 1");
}

#[actix_web::test]
async fn listener_that_is_down_is_told_of() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    has(&figures(&world).await, "keys_changes_listener 1");
    store.feed_fails();
    world.listener_is(false).await;
    has(&figures(&world).await, "keys_changes_listener 0");
}

#[actix_web::test]
async fn reads_that_the_cache_could_not_spare_are_counted() {
    let world = World::new().followed().await;
    let operator = world.operator(&["keys:verify"]).await;
    let key = world.pro_key().await;
    for _ in 0..2 {
        for key in [&*key, NOBODYS_KEY] {
            world.exchange(get("/v1/auth").bearer(key)).await;
        }
        // A text that does not have the form of a key is not looked up.
        world.exchange(get("/v1/auth").bearer("nonsense")).await;
    }
    let before = figures(&world).await;
    has(&before, "keys_store_reads_total 2");
    has(&before, "keys_store_keys_read_total 2");
    has(&before, "keys_store_reads_under_way 0");
    has(&before, "keys_store_reads_waited_for 0");

    let account = world.account("pro").await;
    let (first, second) = (world.key(&account).await, world.key(&account).await);
    let body = format!(r#"{{"requests":[{{"key":"{first}"}},{{"key":"{second}"}}]}}"#);
    let verify = post("/v1/keys/verify-batch").bearer(&operator).json(body);
    assert_eq!(world.exchange(verify).await.status, 200);
    let after = figures(&world).await;
    // The keys of both, and the caller.
    has(&after, "keys_store_reads_total 4");
    has(&after, "keys_store_keys_read_total 5");
}

#[actix_web::test]
async fn whoever_counts_limits_is_told_of() {
    let figures = figures(&World::new()).await;
    has(&figures, r#"keys_limiter{state="shared"} 0"#);
    has(&figures, r#"keys_limiter{state="local"} 1"#);
    has(&figures, r#"keys_limiter{state="denying"} 0"#);
    has(&figures, "keys_limiter_undecided_total 0");
}
