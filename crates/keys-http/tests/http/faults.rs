//! Answers while a dependency of the service is unavailable: to try again, never that a key is
//! wrong.

use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use keys_core::Quota;
use keys_service::MemoryStore;
use keys_service::ports::{Bucket, Decision, LimiterError, RateLimiter};

use crate::exchange::{Request, delete, get, patch, post};
use crate::faulty::{Fault, Faulty};
use crate::rows::{ACCOUNT, FLAT};
use crate::support::World;

const FLAT_503: &str =
    r#"{"message":"The service is temporarily unavailable","code":"unavailable"}"#;
pub(crate) const ACCOUNT_503: &str =
    r#"{"statusCode":503,"message":"The service is temporarily unavailable","errors":[]}"#;
const PROBLEM_503: &str = r#"{"title":"Service Unavailable","status":503,"code":"unavailable","detail":"The service is temporarily unavailable"}"#;

fn every_route() -> Vec<(Request, &'static str)> {
    let account = "/v1/accounts/AAAAAAAAAAAAAAAAAAAAAA";
    vec![
        (post(FLAT).json(r#"{"name":"a"}"#), FLAT_503),
        (get(FLAT), FLAT_503),
        (delete(format!("{FLAT}/x")), FLAT_503),
        (post(ACCOUNT).json("{}"), ACCOUNT_503),
        (get(ACCOUNT), ACCOUNT_503),
        (delete(format!("{ACCOUNT}/x")), ACCOUNT_503),
        (post("/v1/accounts").json(r#"{"plan":"pro"}"#), PROBLEM_503),
        (get("/v1/accounts"), PROBLEM_503),
        (get(account), PROBLEM_503),
        (patch(account).json("{}"), PROBLEM_503),
        (
            post(format!("{account}/sessions")).json(r#"{"ttl_seconds":1}"#),
            PROBLEM_503,
        ),
        (post(format!("{account}/keys")).json("{}"), PROBLEM_503),
        (post("/v1/keys/verify").json(r#"{"key":"x"}"#), PROBLEM_503),
        (
            post("/v1/keys/verify-batch").json(r#"{"requests":[{"key":"x"}]}"#),
            PROBLEM_503,
        ),
        (get("/v1/auth"), PROBLEM_503),
    ]
}

#[actix_web::test]
async fn no_route_blames_the_key_for_a_missing_database() {
    for fault in [Fault::Unavailable, Fault::Unexpected] {
        let store = Faulty::default();
        let world = World::with_store(store.clone());
        let (key, operator) = (world.pro_key().await, world.root().await);
        store.fails_with(fault);
        for (request, body) in every_route() {
            let credential = if body == PROBLEM_503 { &operator } else { &key };
            let request = request.bearer(credential);
            let answer = request.expect(&world, 503, body).await;
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert_eq!(answer.header("www-authenticate"), None);
        }
    }
}

/// A limiter that cannot be reached.
struct Away;

#[async_trait]
impl RateLimiter for Away {
    async fn take(&self, _: &Bucket, _: Quota, _: NonZeroU32) -> Result<Decision, LimiterError> {
        Err(LimiterError::Unavailable("connection refused".into()))
    }
}

#[actix_web::test]
async fn nothing_is_done_uncounted() {
    let world = World::with(
        MemoryStore::new(),
        |service| service.limiter(Arc::new(Away)),
        |api| api,
    );
    let key = world.pro_key().await;
    for request in [get(FLAT).bearer(&key), get(FLAT)] {
        let answer = request.expect(&world, 503, FLAT_503).await;
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}
