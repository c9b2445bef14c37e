//! Limits of accounts in answers.

use crate::exchange::{Exchange as _, Request, delete, get, post};
use crate::rows::{ACCOUNT, FLAT};
use crate::support::World;

fn create() -> Request {
    post(FLAT).body("text/plain", "x")
}

fn list() -> Request {
    get(ACCOUNT)
}

fn remove() -> Request {
    delete(format!("{FLAT}/x"))
}

#[actix_web::test]
async fn every_plan_has_its_documented_limits() {
    for (plan, request, name, requests) in [
        ("pro", create as fn() -> Request, "create", 10),
        ("pro", list, "list", 30),
        ("pro", remove, "delete", 10),
        ("business", create, "create", 30),
        ("business", list, "list", 60),
        ("business", remove, "delete", 30),
        ("free", create, "create", 10),
        ("free", list, "list", 10),
        ("free", remove, "delete", 10),
    ] {
        let world = World::new();
        let account = world.account(plan).await;
        let session = world.session(&account).await;
        let policy = format!(r#""{name}";q={requests};w=60"#);
        for number in 1..=requests {
            let answer = world.exchange(request().bearer(&session)).await;
            assert_ne!(answer.status, 429, "{plan} {name} {number}");
            assert_eq!(answer.header("ratelimit-policy"), Some(&*policy));
            let left = requests - number;
            let seconds = 60 * number / requests;
            let state = format!(r#""{name}";r={left};t={seconds}"#);
            assert_eq!(answer.header("ratelimit"), Some(&*state));
            assert_eq!(answer.header("retry-after"), None);
        }
        let refused = world.exchange(request().bearer(&session)).await;
        let wait = 60 / requests;
        assert_eq!(refused.status, 429, "{plan} {name}");
        let retry_after = refused.header("retry-after");
        assert_eq!(retry_after, Some(&*wait.to_string()));
        let state = format!(r#""{name}";r=0;t=60"#);
        assert_eq!(refused.header("ratelimit"), Some(&*state));

        world.advance(wait - 1);
        let early = world.exchange(request().bearer(&session)).await;
        assert_eq!(early.status, 429, "{plan} {name}");
        assert_eq!(early.header("retry-after"), Some("1"));
        world.advance(1);
        let later = world.exchange(request().bearer(&session)).await;
        assert_ne!(later.status, 429, "{plan} {name}");
    }
}

#[actix_web::test]
async fn buckets_are_per_account_and_not_per_key() {
    let world = World::new();
    let account = world.account("pro").await;
    let (first, second) = (world.key(&account).await, world.key(&account).await);
    for _ in 0..10 {
        world.exchange(create().bearer(&first)).await;
    }
    let same = world.exchange(create().bearer(&second)).await;
    assert_eq!(same.status, 429);
    let other = world
        .exchange(create().bearer(&world.pro_key().await))
        .await;
    assert_eq!(other.status, 415);
}

#[actix_web::test]
async fn limit_is_judged_before_the_plan() {
    let world = World::new();
    let account = world.account("free").await;
    let session = world.session(&account).await;
    for _ in 0..10 {
        let answer = world.exchange(create().bearer(&session)).await;
        assert_eq!(answer.status, 403);
    }
    let answer = world.exchange(create().bearer(&session)).await;
    assert_eq!(answer.status, 429);
}
