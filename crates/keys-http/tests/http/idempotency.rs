//! `Idempotency-Key` on creates.

use crate::exchange::{Exchange as _, Request, post};
use crate::faulty::{Fault, Faulty};
use crate::rows::{ACCOUNT, FLAT};
use crate::support::World;

fn create(key: &str) -> Request {
    post(FLAT)
        .bearer(key)
        .header("Idempotency-Key", "one")
        .json(r#"{"name":"a"}"#)
}

#[actix_web::test]
async fn repetition_of_a_request_in_flight_has_to_wait() {
    let store = Faulty::default();
    let world = World::with_store(store.clone());
    let (key, operator) = (world.pro_key().await, world.root().await);
    let account = world.account("pro").await.id;
    store.fails_with(Fault::InFlight);
    let flat = r#"{"message":"A request with this Idempotency-Key is still in flight","code":"idempotency_in_flight"}"#;
    let problem = r#"{"title":"Conflict","status":409,"code":"idempotency_in_flight","detail":"A request with this Idempotency-Key is still in flight"}"#;
    let post = |path: &str, body: &str| {
        let request = post(path).bearer(&operator);
        request.header("Idempotency-Key", "one").json(body)
    };
    for (request, body) in [
        (create(&key), flat),
        (post("/v1/accounts", r#"{"plan":"pro"}"#), problem),
        (post(&format!("/v1/accounts/{account}/keys"), "{}"), problem),
        (
            post(
                &format!("/v1/accounts/{account}/sessions"),
                r#"{"ttl_seconds":1}"#,
            ),
            problem,
        ),
    ] {
        let answer = request.expect(&world, 409, body).await;
        // The rest of the time of the other attempt, rounded up.
        assert_eq!(answer.header("retry-after"), Some("17"));
    }
}

#[actix_web::test]
async fn answer_is_kept_for_ten_minutes() {
    let world = World::new();
    let key = world.pro_key().await;
    let first = world.exchange(create(&key)).await;
    assert_eq!(first.status, 201);
    world.advance(599);
    let repeated = world.exchange(create(&key)).await;
    assert_eq!((repeated.status, &repeated.body), (201, &first.body));
    assert_eq!(repeated.header("cache-control"), Some("no-store"));
    world.advance(1);
    let later = world.exchange(create(&key)).await;
    assert_eq!(later.status, 201);
    assert_ne!(later.body, first.body);
}

#[actix_web::test]
async fn repetition_at_the_cap_is_still_answered() {
    let world = World::new();
    let account = world.account("business").await;
    let key = world.key(&account).await;
    for _ in 0..8 {
        world.key(&account).await;
    }
    let last = world.exchange(create(&key)).await;
    assert_eq!(last.status, 201);
    assert_eq!(world.exchange(create(&key)).await.body, last.body);
}

#[actix_web::test]
async fn refusal_leaves_the_name_free_for_a_corrected_request() {
    let world = World::new();
    let key = world.pro_key().await;
    let wrong = post(ACCOUNT).bearer(&key).header("Idempotency-Key", "one");
    let wrong = wrong.json(r#"{"expiresAt":"2020-01-01T00:00:00Z"}"#);
    assert_eq!(world.exchange(wrong).await.status, 400);
    let right = post(ACCOUNT).bearer(&key).header("Idempotency-Key", "one");
    assert_eq!(world.exchange(right.json("{}")).await.status, 201);
}

#[actix_web::test]
async fn same_name_of_another_owner_or_operation_is_another_request() {
    let world = World::new();
    let (mine, theirs) = (world.pro_key().await, world.pro_key().await);
    let first = world.exchange(create(&mine)).await;
    let other_owner = world.exchange(create(&theirs)).await;
    assert_eq!(other_owner.status, 201);
    assert_ne!(other_owner.text("/key"), first.text("/key"));
    let other_operation = post(ACCOUNT).bearer(&mine).header("Idempotency-Key", "one");
    let other_operation = other_operation.json(r#"{"name":"a"}"#);
    assert_eq!(world.exchange(other_operation).await.status, 201);
}

#[actix_web::test]
async fn another_key_of_the_account_does_not_get_what_the_first_was_given() {
    let world = World::new();
    let account = world.account("pro").await;
    let (first, second) = (world.key(&account).await, world.key(&account).await);
    let answers = [
        world.exchange(create(&first)).await.body,
        world
            .exchange(create(&second).header("Idempotency-Key", "one"))
            .await
            .body,
    ];
    assert_ne!(answers[0], answers[1]);
}
