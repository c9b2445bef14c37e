//! `POST /v1/keys/verify-batch`

use crate::exchange::{Exchange as _, Request, post};
use crate::faulty::{Fault, Faulty};
use crate::rows::{NOBODYS_KEY, PROBLEM_401};
use crate::support::World;

const BATCH: &str = "/v1/keys/verify-batch";

fn ask(operator: &str, requests: &str) -> Request {
    let body = format!(r#"{{"requests":{requests}}}"#);
    post(BATCH).bearer(operator).json(body)
}

fn invalid(field: &str, message: &str) -> String {
    format!(
        r#"{{"title":"Bad Request","status":400,"code":"invalid_request","detail":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
    )
}

#[actix_web::test]
async fn strangers_are_not_answered() {
    let world = World::new();
    let request = post(BATCH).json(r#"{"requests":[{"key":"x"}]}"#);
    request.expect(&world, 401, PROBLEM_401).await;
    let manager = world.root().await;
    let answer = world.exchange(ask(&manager, r#"[{"key":"x"}]"#)).await;
    let code = answer.text("/code");
    assert_eq!((answer.status, &*code), (403, "insufficient_scope"));
}

#[actix_web::test]
async fn questions_at_fault_name_their_place() {
    let world = World::new();
    let operator = world.operator(&["keys:verify"]).await;
    let request = post(BATCH).bearer(&operator).json("{}");
    let body = invalid("requests", "is required");
    request.expect(&world, 400, &body).await;
    let one = r#"{"key":"x"}"#;
    let too_many = format!("[{}]", vec![one; 1_001].join(","));
    for (requests, field, message) in [
        ("1", "requests", "must be a list of objects"),
        ("{}", "requests", "must be a list of objects"),
        ("[]", "requests", "must have 1 to 1000 entries"),
        (&*too_many, "requests", "must have 1 to 1000 entries"),
        (r#"[{"key":"x"},1]"#, "requests.1", "must be an object"),
        (r#"[["x"]]"#, "requests.0", "must be an object"),
        (
            r#"[{"key":"x","key":"y"}]"#,
            "requests.0",
            "has a member twice",
        ),
        (r#"[{"key":"x"},{}]"#, "requests.1.key", "is required"),
        (
            r#"[{"key":"x"},{"key":"x"},{"key":"x"},{"key":"x","client_ip":"x"}]"#,
            "requests.3.client_ip",
            "must be an IPv4 or IPv6 address",
        ),
        (
            r#"[{"key":"x","scopes":["a","B"]}]"#,
            "requests.0.scopes.1",
            "must be 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit",
        ),
        (
            r#"[{"key":"x","cost":0}]"#,
            "requests.0.cost",
            "must be a whole number from 1 to 4294967295",
        ),
    ] {
        let body = invalid(field, message);
        ask(&operator, requests).expect(&world, 400, &body).await;
    }
    let unknown = ask(&operator, r#"[{"key":"x"},{"key":"x","limit":"x"}]"#);
    let answer = world.exchange(unknown).await;
    assert_eq!(
        (
            answer.status,
            answer.text("/code"),
            answer.text("/errors/0/field")
        ),
        (400, "unknown_limit".into(), "requests.1.limit".into())
    );
    let long = format!(r#"[{{"key":"{}"}}]"#, "x".repeat(1024 * 1024));
    let answer = world.exchange(ask(&operator, &long)).await;
    assert_eq!(
        (answer.status, &*answer.text("/detail")),
        (413, "The body must not be longer than 1024 KiB")
    );
}

#[actix_web::test]
async fn a_thousand_questions_are_answered_in_order() {
    let world = World::new();
    let operator = world.operator(&["keys:verify"]).await;
    let key = world.pro_key().await;
    let requests: Vec<_> = (0..1_000)
        .map(|index| match index % 3 {
            // About the maximum size of the body.
            0 => format!(r#"{{"key":"{key}"{}}}"#, " ".repeat(900)),
            1 => format!(r#"{{"key":"{NOBODYS_KEY}"}}"#),
            _ => r#"{"key":"nonsense"}"#.to_owned(),
        })
        .collect();
    let answer = ask(&operator, &format!("[{}]", requests.join(",")));
    let answer = world.exchange(answer).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json = answer.json();
    let codes: Vec<_> = json["results"]
        .as_array()
        .expect("results is a list")
        .iter()
        .map(|result| result["code"].as_str().expect("a code is a text"))
        .collect();
    let expected: Vec<_> = ["valid", "not_found", "malformed"]
        .into_iter()
        .cycle()
        .take(1_000)
        .collect();
    assert_eq!(codes, expected);

    let one = ask(&operator, r#"[{"key":"x"}]"#);
    one.expect(
        &world,
        200,
        r#"{"results":[{"valid":false,"code":"malformed","freshness":"current"}]}"#,
    )
    .await;
}

#[actix_web::test]
async fn all_that_is_not_known_is_read_at_once() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    let operator = world.operator(&["keys:verify"]).await;
    let account = world.account("pro").await;
    let mut requests = Vec::new();
    for _ in 0..5 {
        let key = world.key(&account).await;
        requests.push(format!(r#"{{"key":"{key}"}}"#));
    }
    let requests = format!("[{}]", requests.join(","));
    world.exchange(ask(&operator, r#"[{"key":"x"}]"#)).await;

    let before = store.calls();
    let answer = world.exchange(ask(&operator, &requests)).await;
    assert_eq!(answer.text("/results/4/code"), "valid");
    assert_eq!(store.calls(), before + 1);
    let answer = world.exchange(ask(&operator, &requests)).await;
    assert_eq!(answer.text("/results/4/code"), "valid");
    assert_eq!(store.calls(), before + 1);
    let fresh = ask(&operator, &requests).header("Cache-Control", "no-cache");
    let answer = world.exchange(fresh).await;
    assert_eq!(answer.text("/results/4/code"), "valid");
    assert_eq!(store.calls(), before + 2);

    store.fails_with(Fault::Unavailable);
    let known = world.exchange(ask(&operator, &requests)).await;
    assert_eq!(known.status, 200);
    let unknown = format!(r#"[{{"key":"{NOBODYS_KEY}"}}]"#);
    let answer = world.exchange(ask(&operator, &unknown)).await;
    assert_eq!(answer.status, 503);
}
