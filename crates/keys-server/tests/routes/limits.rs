//! Rate limits: quotas by plan and operation, shared buckets, headers.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::dialect::{ACCOUNT, Dialect, FLAT, NOBODYS_KEY, problem};
use crate::exchange::Answer;
use crate::world::Place;

on_both_databases!(
    request_beyond_the_limit_is_refused_with_the_time_to_wait,
    limits_are_those_of_the_plan_and_the_operation,
    plan_without_keys_limits_sessions_to_ten_of_each,
    bucket_is_shared_by_all_credentials_of_an_account_and_both_dialects,
    bucket_is_shared_by_no_other_account_and_no_other_operation,
    refused_request_counts,
    new_plan_has_its_limits_at_once,
    unauthenticated_failures_have_sixty_a_minute_from_an_address,
    configured_number_of_unauthenticated_failures_holds,
    management_and_health_show_no_limit,
);

const OPERATIONS: [&str; 3] = ["create", "list", "delete"];

/// Returns a request that passes its limit and creates nothing.
fn attempt(
    world: &crate::world::World,
    dialect: Dialect,
    operation: &str,
) -> crate::exchange::Request {
    match operation {
        "create" => world.post(dialect.path()).body("text/plain", "x"),
        "list" => world.get(dialect.path()),
        _ => world.delete(&dialect.path_of("x")),
    }
}

/// Returns the status of `attempt` within the limit.
fn within(operation: &str) -> u16 {
    match operation {
        "create" => 415,
        "list" => 200,
        _ => 404,
    }
}

/// Sends until the limit refuses, asserts that it did so after `quota` requests, and returns the
/// refusal.
async fn exhaust(quota: u32, per_second: f64, mut send: impl AsyncFnMut() -> Answer) -> Answer {
    let start = Instant::now();
    let mut allowed = 0;
    loop {
        let answer = send().await;
        // Meanwhile some become available again.
        let arrived = start.elapsed().as_secs_f64() * per_second;
        if answer.status == 429 {
            assert!(allowed >= quota, "{allowed} of {quota}: {answer:?}");
            return answer;
        }
        allowed += 1;
        assert!(
            f64::from(allowed) <= f64::from(quota) + arrived,
            "{allowed} of {quota} after {arrived} more"
        );
    }
}

fn limit_headers(answer: &Answer) -> (String, String) {
    let header = |name| answer.header(name).unwrap_or_default().to_owned();
    (header("ratelimit-policy"), header("ratelimit"))
}

/// Asserts the headers of a refusal.
fn insist_on_wait(refused: &Answer, operation: &str, quota: u32) {
    let (policy, state) = limit_headers(refused);
    assert_eq!(policy, format!(r#""{operation}";q={quota};w=60"#));
    let reset = state.strip_prefix(&format!(r#""{operation}";r=0;t="#));
    let reset: u32 = reset.and_then(|reset| reset.parse().ok()).unwrap();
    assert!((50..=60).contains(&reset), "{refused:?}");
    let interval = u64::from(60 / quota);
    let retry_after = refused.seconds("retry-after");
    assert!((1..=interval.max(1)).contains(&retry_after), "{refused:?}");
}

async fn request_beyond_the_limit_is_refused_with_the_time_to_wait(place: Place) {
    let world = place.shared().await;
    for dialect in Dialect::BOTH {
        let key = world.key_on("pro").await;
        let send = async || attempt(&world, dialect, "create").bearer(&key).send().await;
        let refused = exhaust(10, 10.0 / 60.0, send).await;
        let refused = refused.is(429, &dialect.rate_limited());
        insist_on_wait(&refused, "create", 10);
        let refused = refused.has("www-authenticate", None);
        // Waiting for the announced time is enough.
        let wait = Duration::from_secs(refused.seconds("retry-after"));
        if wait <= Duration::from_secs(2) {
            tokio::time::sleep(wait).await;
            let answer = attempt(&world, dialect, "create").bearer(&key).send().await;
            assert_eq!(answer.status, 415, "{answer:?}");
        }
    }
}

async fn limits_are_those_of_the_plan_and_the_operation(place: Place) {
    let world = place.shared().await;
    for (plan, quotas) in [("pro", [10, 30, 10]), ("business", [30, 60, 30])] {
        for (operation, quota) in OPERATIONS.into_iter().zip(quotas) {
            let key = world.key_on(plan).await;
            let first = attempt(&world, Dialect::Flat, operation).bearer(&key);
            let first = first.send().await;
            assert_eq!(first.status, within(operation), "{first:?}");
            let policy = format!(r#""{operation}";q={quota};w=60"#);
            let state = format!(r#""{operation}";r={};t={}"#, quota - 1, 60 / quota);
            assert_eq!(limit_headers(&first), (policy, state));
            assert_eq!(first.header("retry-after"), None);
            let send = async || {
                let request = attempt(&world, Dialect::Account, operation);
                request.bearer(&key).send().await
            };
            let refused = exhaust(quota - 1, f64::from(quota) / 60.0, send).await;
            insist_on_wait(&refused, operation, quota);
        }
    }
}

async fn plan_without_keys_limits_sessions_to_ten_of_each(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("free").await).await;
    for (operation, status) in [("create", 403), ("list", 200), ("delete", 404)] {
        let first = attempt(&world, Dialect::Flat, operation).bearer(&session);
        let first = first.send().await;
        assert_eq!(first.status, status, "{first:?}");
        let policy = format!(r#""{operation}";q=10;w=60"#);
        let state = format!(r#""{operation}";r=9;t=6"#);
        assert_eq!(limit_headers(&first), (policy, state));
        let send = async || {
            let request = attempt(&world, Dialect::Account, operation);
            request.bearer(&session).send().await
        };
        let refused = exhaust(9, 10.0 / 60.0, send).await;
        let refused = refused.is(429, &Dialect::Account.rate_limited());
        insist_on_wait(&refused, operation, 10);
    }
}

async fn bucket_is_shared_by_all_credentials_of_an_account_and_both_dialects(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let credentials = [
        world.key(&account).await,
        world.key(&account).await,
        world.session(&account).await,
    ];
    for operation in OPERATIONS {
        let quota = if operation == "list" { 30 } else { 10 };
        let mut turn = 0;
        let send = async || {
            turn += 1;
            let dialect = Dialect::BOTH[turn % 2];
            let credential = &credentials[turn % 3];
            attempt(&world, dialect, operation)
                .bearer(credential)
                .send()
                .await
        };
        exhaust(quota, f64::from(quota) / 60.0, send).await;
        for credential in &credentials {
            for dialect in Dialect::BOTH {
                let request = attempt(&world, dialect, operation).bearer(credential);
                // Only if that takes seconds is it certain that none became available meanwhile.
                if quota == 10 {
                    request.expect(429, &dialect.rate_limited()).await;
                }
            }
        }
    }
}

async fn bucket_is_shared_by_no_other_account_and_no_other_operation(place: Place) {
    let world = place.shared().await;
    let (key, other) = (world.key_on("pro").await, world.key_on("pro").await);
    let send = async || {
        attempt(&world, Dialect::Flat, "create")
            .bearer(&key)
            .send()
            .await
    };
    exhaust(10, 10.0 / 60.0, send).await;
    for (key, operation, quota) in [
        (&key, "list", 30),
        (&key, "delete", 10),
        (&other, "create", 10),
        (&other, "list", 30),
    ] {
        let answer = attempt(&world, Dialect::Flat, operation).bearer(key);
        let answer = answer.send().await;
        assert_eq!(answer.status, within(operation), "{answer:?}");
        let state = format!(r#""{operation}";r={};t={}"#, quota - 1, 60 / quota);
        assert_eq!(limit_headers(&answer).1, state);
    }
}

async fn refused_request_counts(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let start = Instant::now();
    let post = |path| world.post(path).bearer(&key);
    for (request, status) in [
        (post(FLAT).text("{}"), 400),
        (post(ACCOUNT).text(r#"{"memo":1}"#), 400),
        (post(FLAT).text("{"), 400),
        (post(FLAT), 400),
        (post(ACCOUNT).body("text/plain", "x"), 415),
        (post(FLAT).text("x".repeat(70_000)), 413),
        (post(FLAT).text("{}").idempotency_key(""), 400),
        (post(FLAT).text(r#"{"name":"key"}"#), 201),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (request, status))| ((index, request), status))
    {
        let (index, request) = request;
        let answer = request.send().await;
        assert_eq!(answer.status, status, "{answer:?}");
        let (policy, state) = limit_headers(&answer);
        assert_eq!(policy, r#""create";q=10;w=60"#);
        let used = u64::try_from(index).unwrap() + 1;
        let reset = state.strip_prefix(&format!(r#""create";r={};t="#, 10 - used));
        let reset = reset.unwrap_or_else(|| panic!("{answer:?}"));
        let reset: u64 = reset.parse().unwrap();
        let passed = start.elapsed().as_secs() + 1;
        assert!(
            (6 * used - passed..=6 * used).contains(&reset),
            "{answer:?}"
        );
    }
}

async fn new_plan_has_its_limits_at_once(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let send = async || {
        attempt(&world, Dialect::Flat, "delete")
            .bearer(&key)
            .send()
            .await
    };
    exhaust(10, 10.0 / 60.0, send).await;
    world.change_plan(&account, "business").await;
    let answer = attempt(&world, Dialect::Flat, "delete")
        .bearer(&key)
        .send()
        .await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(limit_headers(&answer).0, r#""delete";q=30;w=60"#);
}

async fn unauthenticated_failures_have_sixty_a_minute_from_an_address(place: Place) {
    let world = place.alone().await;
    let key = world.key_on("pro").await;
    let first = world.get(FLAT).send().await;
    let policy = r#""unauthenticated";q=60;w=60"#.to_owned();
    let state = r#""unauthenticated";r=59;t=1"#.to_owned();
    assert_eq!(limit_headers(&first), (policy, state));
    let mut turn = 0;
    // For every failure and every claimed address, because no proxy is trusted here.
    let send = async || {
        turn += 1;
        let request = match turn % 4 {
            0 => world.get(FLAT),
            1 => world.post(ACCOUNT).bearer(NOBODYS_KEY),
            2 => world
                .delete("/api/api-keys/x")
                .header("X-API-Key", "nonsense"),
            _ => world.get("/v1/accounts").bearer(NOBODYS_KEY),
        };
        let address = format!("203.0.113.{turn}");
        let claim = request.header("X-Forwarded-For", &address);
        claim
            .header("Forwarded", format!("for={address}"))
            .send()
            .await
    };
    let refused = exhaust(59, 1.0, send).await;
    assert_eq!(refused.seconds("retry-after"), 1);
    assert_eq!(limit_headers(&refused).1, r#""unauthenticated";r=0;t=60"#);
    // One becomes available each second, so two requests find the next refusal.
    for (path, body) in [
        (FLAT, Dialect::Flat.rate_limited()),
        (ACCOUNT, Dialect::Account.rate_limited()),
        (
            "/v1/accounts",
            problem(429, "rate_limited", "Too many requests"),
        ),
    ] {
        let mut answer = world.get(path).bearer(NOBODYS_KEY).send().await;
        if answer.status == 401 {
            answer = world.get(path).bearer(NOBODYS_KEY).send().await;
        }
        let refused = answer.is(429, &body).has("www-authenticate", None);
        assert_eq!(refused.seconds("retry-after"), 1);
    }
    // A valid credential is not affected.
    assert_eq!(world.status(&key).await, 200);
}

async fn configured_number_of_unauthenticated_failures_holds(place: Place) {
    let world = place
        .with(|server| {
            server
                .env("KEYS_HTTP__UNAUTHENTICATED__REQUESTS", "2")
                .env("KEYS_HTTP__UNAUTHENTICATED__PERIOD_SECONDS", "3600")
        })
        .await;
    for remaining in [1, 0] {
        let answer = world.get(FLAT).bearer(NOBODYS_KEY);
        let answer = answer.expect(401, &Dialect::Flat.unauthorized()).await;
        let (policy, state) = limit_headers(&answer);
        assert_eq!(policy, r#""unauthenticated";q=2;w=3600"#);
        let start = format!(r#""unauthenticated";r={remaining};t="#);
        assert!(state.starts_with(&start), "{answer:?}");
    }
    let refused = world
        .get(FLAT)
        .expect(429, &Dialect::Flat.rate_limited())
        .await;
    let retry_after = refused.seconds("retry-after");
    assert!((1_790..=1_800).contains(&retry_after), "{refused:?}");
    // A known credential of the wrong kind, or from the wrong address, is a failure too.
    let wrong_kind = world.get(FLAT).bearer(world.operator());
    wrong_kind.expect(429, &Dialect::Flat.rate_limited()).await;
    let account = world.account("pro").await;
    let elsewhere = json!({ "allowed_ips": ["192.0.2.1"] });
    let elsewhere = world.issue(&account, &elsewhere).await.text("/key");
    let list = world.get(FLAT).bearer(&elsewhere);
    list.expect(429, &Dialect::Flat.rate_limited()).await;
}

async fn management_and_health_show_no_limit(place: Place) {
    let world = place.shared().await;
    for request in [
        world.get("/v1/accounts?limit=1").bearer(world.operator()),
        world.get("/v1/accounts/x").bearer(world.operator()),
        world.get("/livez"),
        world.get("/nothing"),
    ] {
        let answer = request.send().await;
        assert_eq!(limit_headers(&answer), (String::new(), String::new()));
    }
}
