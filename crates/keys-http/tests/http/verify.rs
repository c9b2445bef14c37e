//! `POST /v1/keys/verify`

use keys_core::{AllowedNetworks, KeyName, ScopeSet};
use keys_service::ports::AccountPatch;
use keys_service::{Actor, MemoryStore, NewAccount};
use keys_testkit::data::noon_plus;

use crate::exchange::{Answer, Exchange as _, Request, post};
use crate::faulty::{Fault, Faulty};
use crate::rows::{NOBODYS_KEY, PROBLEM_401};
use crate::support::{World, draft, limited_plans};

const VERIFY: &str = "/v1/keys/verify";

/// A world, and an operator that may verify in it.
struct Desk {
    world: World,
    operator: String,
}

impl Desk {
    async fn open() -> Self {
        Self::in_world(World::new()).await
    }

    async fn in_world(world: World) -> Self {
        let operator = world.operator(&["keys:verify"]).await;
        Self { world, operator }
    }

    fn ask(&self, body: impl Into<Vec<u8>>) -> Request {
        post(VERIFY).bearer(&self.operator).json(body)
    }

    async fn hears(&self, body: impl Into<Vec<u8>>, template: &str) -> Answer {
        let answer = self.ask(body).expect(&self.world, 200, template).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer
    }

    async fn code(&self, key: &str) -> String {
        let answer = self.world.exchange(self.ask(question(key))).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.json()["valid"], answer.text("/code") == "valid");
        answer.text("/code")
    }
}

fn question(key: &str) -> String {
    format!(r#"{{"key":"{key}"}}"#)
}

fn invalid(field: &str, message: &str) -> String {
    format!(
        r#"{{"title":"Bad Request","status":400,"code":"invalid_request","detail":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
    )
}

#[actix_web::test]
async fn only_operators_that_may_verify_are_answered() {
    let desk = Desk::open().await;
    let world = &desk.world;
    let key = world.pro_key().await;
    let ask = || post(VERIFY).json(question(&key));
    let answer = ask().expect(world, 401, PROBLEM_401).await;
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    for stranger in ["nonsense", NOBODYS_KEY] {
        let refused = ask().bearer(stranger);
        refused.expect(world, 401, PROBLEM_401).await;
    }
    // A key cannot verify itself.
    let answer = world.exchange(ask().bearer(&key)).await;
    let code = answer.text("/code");
    assert_eq!((answer.status, &*code), (403, "kind_not_allowed"));
    let manager = world.root().await;
    let answer = world.exchange(ask().bearer(&manager)).await;
    let code = answer.text("/code");
    assert_eq!((answer.status, &*code), (403, "insufficient_scope"));
    // An unauthorized caller gets no details about the request.
    let answer = world.exchange(post(VERIFY).body("text/plain", "x")).await;
    assert_eq!(answer.status, 401);
}

#[actix_web::test]
async fn questions_at_fault_name_the_member() {
    let desk = Desk::open().await;
    for (body, field, message) in [
        ("{}", "key", "is required"),
        (r#"{"key":null}"#, "key", "is required"),
        (r#"{"key":1}"#, "key", "must be a string"),
        (r#"{"key":["a"]}"#, "key", "must be a string"),
        (
            r#"{"key":"x","client_ip":"nowhere"}"#,
            "client_ip",
            "must be an IPv4 or IPv6 address",
        ),
        (
            r#"{"key":"x","client_ip":""}"#,
            "client_ip",
            "must be an IPv4 or IPv6 address",
        ),
        (
            r#"{"key":"x","client_ip":"203.0.113.5:80"}"#,
            "client_ip",
            "must be an IPv4 or IPv6 address",
        ),
        (
            r#"{"key":"x","client_ip":1}"#,
            "client_ip",
            "must be a string",
        ),
        (
            r#"{"key":"x","scopes":"a"}"#,
            "scopes",
            "must be a list of strings",
        ),
        (
            r#"{"key":"x","scopes":["a",1]}"#,
            "scopes.1",
            "must be a string",
        ),
        (r#"{"key":"x","limit":1}"#, "limit", "must be a string"),
        (
            r#"{"key":"x","cost":0}"#,
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            r#"{"key":"x","cost":-1}"#,
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            r#"{"key":"x","cost":1.5}"#,
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            r#"{"key":"x","cost":4294967296}"#,
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            r#"{"key":"x","cost":"1"}"#,
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
    ] {
        let template = invalid(field, message);
        let answer = desk.ask(body).expect(&desk.world, 400, &template).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for limit in ["unheard-of", "", "No Limit"] {
        let body = format!(r#"{{"key":"x","limit":"{limit}"}}"#);
        desk.ask(body)
            .expect(
                &desk.world,
                400,
                r#"{"title":"Bad Request","status":400,"code":"unknown_limit","detail":"No plan has a limit of this name","errors":[{"field":"limit","message":"is not the name of a limit of any plan"}]}"#,
            )
            .await;
    }
    for body in ["", "[]", "x", r#"{"key":"a","key":"b"}"#] {
        let answer = desk.world.exchange(desk.ask(body)).await;
        let code = answer.text("/code");
        assert_eq!((answer.status, &*code), (400, "malformed_body"), "{body}");
    }
    let answer = desk
        .world
        .exchange(desk.ask(vec![b' '; 64 * 1024 + 1]))
        .await;
    assert_eq!(
        (answer.status, &*answer.text("/detail")),
        (413, "The body must not be longer than 64 KiB")
    );
}

#[actix_web::test]
async fn strangers_garbage_gets_its_code_and_nothing_else() {
    let desk = Desk::open().await;
    let world = &desk.world;
    let account = world.account("pro").await;
    let expired = draft(account.id).expires_at(Some(noon_plus(1)));
    world.issue(expired).await;
    for malformed in ["", "nonsense", " ", "sk_live_", &"x".repeat(10_000)] {
        desk.hears(
            question(malformed),
            r#"{"valid":false,"code":"malformed","freshness":"current"}"#,
        )
        .await;
    }
    let (session, operator) = (world.session(&account).await, world.root().await);
    let not_found = r#"{"valid":false,"code":"not_found","freshness":"current"}"#;
    for unknown in [NOBODYS_KEY, &session, &operator, &desk.operator] {
        desk.hears(question(unknown), not_found).await;
    }
    // Nor does it learn that another kind of credential has expired.
    world.advance(60);
    desk.hears(question(&session), not_found).await;
}

#[actix_web::test]
async fn every_refusal_has_its_code() {
    let desk = Desk::open().await;
    let world = &desk.world;
    let account = world.account("pro").await;

    let revoked = world.issue(draft(account.id)).await;
    let system = Actor::system();
    let revoke = world.service.revoke_key(&system, None, revoked.key.id);
    let _ = revoke.await.unwrap().unwrap();
    assert_eq!(desk.code(revoked.secret.expose()).await, "revoked");

    let expiring = draft(account.id).expires_at(Some(noon_plus(1)));
    let expiring = world.issue(expiring).await;
    assert_eq!(desk.code(expiring.secret.expose()).await, "valid");
    world.advance(1);
    assert_eq!(desk.code(expiring.secret.expose()).await, "expired");

    let restricted = draft(account.id)
        .allowed_networks(AllowedNetworks::parse(["203.0.113.0/24"]).unwrap())
        .scopes(Some(ScopeSet::parse(["orders:read"]).unwrap()));
    let restricted = world.issue(restricted).await;
    let key = restricted.secret.expose();
    assert_eq!(desk.code(key).await, "ip_not_allowed");
    for (members, code) in [
        (r#""client_ip":null"#, "ip_not_allowed"),
        (r#""client_ip":"198.51.100.1""#, "ip_not_allowed"),
        (
            r#""client_ip":"198.51.100.1","scopes":["x"]"#,
            "ip_not_allowed",
        ),
        (
            r#""client_ip":"203.0.113.9","scopes":["orders:write"]"#,
            "insufficient_scope",
        ),
        (
            r#""client_ip":"203.0.113.9","scopes":["orders:read"]"#,
            "valid",
        ),
        (r#""client_ip":"::ffff:203.0.113.9","scopes":[]"#, "valid"),
        (
            r#""client_ip":"203.0.113.9","scopes":null,"cost":null,"limit":null"#,
            "valid",
        ),
    ] {
        let body = format!(r#"{{"key":"{key}",{members}}}"#);
        let answer = world.exchange(desk.ask(body)).await;
        assert_eq!(answer.text("/code"), code, "{members}");
        assert_eq!(answer.text("/key/id"), restricted.key.id.to_string());
    }

    let plain = world.key(&account).await;
    for (patch, code) in [
        (
            AccountPatch::default().plan("free".parse().unwrap()),
            "plan_forbidden",
        ),
        (AccountPatch::default().disabled(true), "account_disabled"),
    ] {
        let update = world.service.update_account(&system, account.id, patch);
        let _ = update.await.unwrap();
        assert_eq!(desk.code(&plain).await, code);
    }
}

#[actix_web::test]
async fn valid_key_is_told_with_its_account() {
    let desk = Desk::open().await;
    let world = &desk.world;
    let system = Actor::system();
    let new =
        NewAccount::new("pro".parse().unwrap()).external_id(Some("user \"17\"".parse().unwrap()));
    let account = world.service.create_account(&system, new);
    let account = account.await.unwrap();
    let named = draft(account.id)
        .name(Some(KeyName::from_name("CI \u{e9}").unwrap()))
        .scopes(Some(ScopeSet::parse(["b", "a"]).unwrap()))
        .expires_at(Some(noon_plus(3600)));
    let named = world.issue(named).await;
    let (key, id, account_id) = (named.secret.expose(), named.key.id, account.id);
    desk.hears(
        question(key),
        &format!(r#"{{"valid":true,"code":"valid","key":{{"id":"{id}","account_id":"{account_id}","external_id":"user \"17\"","name":"CI é","plan":"pro","scopes":["a","b"],"expires_at":"2026-01-01T13:00:00.000Z"}},"freshness":"current"}}"#),
    )
    .await;
    // A text with escapes is the same text.
    let escaped = format!(r#"{{"key":"\u00{:x}{}"}}"#, key.as_bytes()[0], &key[1..]);
    let answer = world.exchange(desk.ask(escaped)).await;
    assert_eq!(answer.text("/code"), "valid");

    let plain = world.issue(draft(world.account("pro").await.id)).await;
    let key = plain.secret.expose();
    desk.hears(
        question(key),
        &format!(r#"{{"valid":true,"code":"valid","key":{{"id":"{}","account_id":"*","external_id":null,"name":null,"plan":"pro","scopes":[],"expires_at":null}},"freshness":"current"}}"#, plain.key.id),
    )
    .await;
}

#[actix_web::test]
async fn limit_of_the_plan_is_taken_from_last() {
    let store = MemoryStore::new();
    let world = World::with(store, |service| service.plans(limited_plans()), |api| api);
    let desk = Desk::in_world(world).await;
    let world = &desk.world;
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let take = |cost: u32| format!(r#"{{"key":"{key}","limit":"requests","cost":{cost}}}"#);
    let limit = |answer: &Answer| answer.json()["rate_limit"].to_string();

    // A refused key does not use up the limit.
    let scope = format!(r#"{{"key":"{key}","limit":"requests","cost":3,"scopes":["x"]}}"#);
    let refused = world.exchange(desk.ask(scope)).await;
    assert_eq!(refused.text("/code"), "insufficient_scope");
    assert!(refused.json().get("rate_limit").is_none());

    let first = world.exchange(desk.ask(take(2))).await;
    assert_eq!(first.text("/code"), "valid");
    let shown = r#"{"limit":3,"remaining":1,"reset_seconds":40}"#;
    assert_eq!(limit(&first), shown);
    let second = world.exchange(desk.ask(take(2))).await;
    assert_eq!(second.text("/code"), "rate_limited");
    assert_eq!(limit(&second), shown);
    assert_eq!(second.text("/key/plan"), "pro");
    assert_eq!(second.header("retry-after"), None);
    let third = world.exchange(desk.ask(take(1))).await;
    let shown = r#"{"limit":3,"remaining":0,"reset_seconds":60}"#;
    assert_eq!((&*third.text("/code"), &*limit(&third)), ("valid", shown));
    world.advance(20);
    assert_eq!(
        world.exchange(desk.ask(take(1))).await.text("/code"),
        "valid"
    );

    // If the plan lacks the limit, nothing is limited.
    let other = world.key(&world.account("business").await).await;
    let body = format!(r#"{{"key":"{other}","limit":"requests"}}"#);
    let answer = world.exchange(desk.ask(body)).await;
    assert_eq!(answer.text("/code"), "valid");
    assert!(answer.json().get("rate_limit").is_none());
}

#[actix_web::test]
async fn warm_cache_asks_the_store_for_nothing_unless_told_to() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    let desk = Desk::in_world(world).await;
    let key = desk.world.pro_key().await;
    assert_eq!(desk.code(&key).await, "valid");

    let before = store.calls();
    for _ in 0..3 {
        assert_eq!(desk.code(&key).await, "valid");
        assert_eq!(desk.code("nonsense").await, "malformed");
    }
    assert_eq!(store.calls(), before);
    for directive in ["no-cache", "max-age=0, No-Cache"] {
        let fresh = desk.ask(question(&key)).header("Cache-Control", directive);
        let before = store.calls();
        assert_eq!(desk.world.exchange(fresh).await.text("/code"), "valid");
        // That of the key; the caller is still cached.
        assert_eq!(store.calls(), before + 1);
    }
    let other = desk
        .ask(question(&key))
        .header("Cache-Control", "no-transform");
    let before = store.calls();
    assert_eq!(desk.world.exchange(other).await.text("/code"), "valid");
    assert_eq!(store.calls(), before);

    store.fails_with(Fault::Unavailable);
    assert_eq!(desk.code(&key).await, "valid");
    let unavailable = r#"{"title":"Service Unavailable","status":503,"code":"unavailable","detail":"The service is temporarily unavailable"}"#;
    let answer = desk
        .ask(question(NOBODYS_KEY))
        .expect(&desk.world, 503, unavailable);
    assert_eq!(answer.await.header("retry-after"), Some("1"));
    let fresh = desk.ask(question(&key)).header("Cache-Control", "no-cache");
    fresh.expect(&desk.world, 503, unavailable).await;
}

#[actix_web::test]
async fn answers_within_the_grace_say_that_they_are_stale() {
    let store = Faulty::default();
    let grace = std::time::Duration::from_mins(1);
    let world = World::with(store.clone(), |service| service.grace(grace), |api| api);
    let desk = Desk::in_world(world.followed().await).await;
    let key = desk.world.pro_key().await;
    assert_eq!(desk.code(&key).await, "valid");
    store.fails_with(Fault::Unavailable);
    desk.world.advance(30);
    let answer = desk.world.exchange(desk.ask(question(&key))).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.text("/freshness"), "stale");
    // It is over.
    desk.world.advance(30);
    let answer = desk.world.exchange(desk.ask(question(&key))).await;
    assert_eq!(answer.status, 503);
}
