//! `/v1/auth`

use keys_core::address::TrustedProxies;
use keys_core::{AllowedNetworks, Quota, ScopeSet};
use keys_service::ports::AccountPatch;
use keys_service::{Actor, NewAccount};
use keys_testkit::data::noon_plus;

use crate::exchange::{Answer, Exchange as _, Request, get};
use crate::faulty::{Fault, Faulty};
use crate::rows::{NOBODYS_KEY, PROBLEM_401};
use crate::support::{CLIENT, World, draft};

const AUTH: &str = "/v1/auth";

const IDENTITY: [&str; 5] = [
    "x-key-id",
    "x-account-id",
    "x-account-external-id",
    "x-key-scopes",
    "x-plan",
];

fn is_denied(answer: &Answer, status: u16, denial: &str) {
    assert_eq!(
        (answer.status, answer.header("x-denial")),
        (status, Some(denial)),
        "{}",
        answer.body
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    for name in IDENTITY {
        assert_eq!(answer.header(name), None);
    }
}

#[actix_web::test]
async fn strangers_do_not_pass() {
    let world = World::new();
    let answer = get(AUTH).expect(&world, 401, PROBLEM_401).await;
    is_denied(&answer, 401, "missing");
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
    for empty in [get(AUTH).bearer(""), get(AUTH).header("X-API-Key", "")] {
        let answer = empty.expect(&world, 401, PROBLEM_401).await;
        is_denied(&answer, 401, "missing");
    }

    let account = world.account("pro").await;
    let (session, operator) = (world.session(&account).await, world.root().await);
    for (credential, denial) in [
        ("nonsense", "malformed"),
        (NOBODYS_KEY, "not_found"),
        (&*session, "not_found"),
        (&*operator, "not_found"),
    ] {
        for request in [
            get(AUTH).bearer(credential),
            get(AUTH).header("X-API-Key", credential),
        ] {
            let answer = request.expect(&world, 401, PROBLEM_401).await;
            is_denied(&answer, 401, denial);
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="keys", error="invalid_token""#)
            );
        }
    }
    let key = world.pro_key().await;
    let both = get(AUTH).bearer(&key).header("X-API-Key", NOBODYS_KEY);
    let answer = both.expect(&world, 401, PROBLEM_401).await;
    is_denied(&answer, 401, "conflicting_credentials");
    let in_query = world.exchange(get(format!("{AUTH}?api_key={key}"))).await;
    assert_eq!(in_query.status, 400);
    assert!(!in_query.body.contains(&key));
}

#[actix_web::test]
async fn known_keys_that_may_not_are_refused_by_their_code() {
    let world = World::new();
    let account = world.account("pro").await;
    let system = Actor::system();
    let revoked = world.issue(draft(account.id)).await;
    let revoke = world.service.revoke_key(&system, None, revoked.key.id);
    let _ = revoke.await.unwrap().unwrap();
    let answer = get(AUTH).bearer(revoked.secret.expose());
    is_denied(&world.exchange(answer).await, 401, "revoked");

    let expired = draft(account.id).expires_at(Some(noon_plus(1)));
    let expired = world.issue(expired).await;
    world.advance(1);
    let answer = get(AUTH).bearer(expired.secret.expose());
    is_denied(&world.exchange(answer).await, 401, "expired");

    let elsewhere =
        draft(account.id).allowed_networks(AllowedNetworks::parse(["198.51.100.1"]).unwrap());
    let elsewhere = world.issue(elsewhere).await;
    let auth = || get(AUTH).bearer(elsewhere.secret.expose());
    let answer = world.exchange(auth()).await;
    is_denied(&answer, 403, "ip_not_allowed");
    assert_eq!(answer.header("www-authenticate"), None);
    let there = world.from("198.51.100.1").exchange(auth()).await;
    assert_eq!(there.status, 200);

    let key = world.key(&account).await;
    let answer = get(format!("{AUTH}?scope=orders:read")).bearer(&key);
    let answer = answer
        .expect(
            &world,
            403,
            r#"{"title":"Forbidden","status":403,"code":"insufficient_scope","detail":"This API key lacks a required scope"}"#,
        )
        .await;
    is_denied(&answer, 403, "insufficient_scope");
    assert_eq!(
        answer.header("www-authenticate"),
        Some(r#"Bearer realm="keys", error="insufficient_scope""#)
    );

    for (patch, denial) in [
        (
            AccountPatch::default().plan("free".parse().unwrap()),
            "plan_forbidden",
        ),
        (AccountPatch::default().disabled(true), "account_disabled"),
    ] {
        let update = world.service.update_account(&system, account.id, patch);
        let _ = update.await.unwrap();
        let answer = world.exchange(get(AUTH).bearer(&key)).await;
        is_denied(&answer, 403, denial);
    }
}

#[actix_web::test]
async fn gateway_that_asks_for_something_strange_is_told() {
    let world = World::new();
    let key = world.pro_key().await;
    for (query, field, message) in [
        ("scope=", "scope", "must not be empty"),
        ("scope=a&scope=%20", "scope", "must not be empty"),
        (
            "scope=A",
            "scope",
            "is not usable: a scope is 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit",
        ),
        (
            "scopes=a",
            "scopes",
            "is not known here; did you mean scope?",
        ),
        (
            "scope=a&path=/x",
            "path",
            "is not known here; known are scope, limit, cost, mode",
        ),
        (
            "cost=0",
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            "cost=4294967296",
            "cost",
            "must be a whole number from 1 to 4294967295",
        ),
        ("mode=apache", "mode", "must be nginx"),
        ("mode=nginx&mode=nginx", "mode", "must be given once"),
    ] {
        let body = format!(
            r#"{{"title":"Bad Request","status":400,"code":"invalid_request","detail":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
        );
        let request = get(format!("{AUTH}?{query}")).bearer(&key);
        let answer = request.expect(&world, 400, &body).await;
        assert_eq!(answer.header("x-denial"), None);
    }
    let answer = world.exchange(get(format!("{AUTH}?limit=x")).bearer(&key));
    assert_eq!(answer.await.text("/code"), "unknown_limit");
}

#[actix_web::test]
async fn whoever_passes_is_named_in_headers() {
    let world = World::new();
    let system = Actor::system();
    let new = NewAccount::new("pro".parse().unwrap())
        .external_id(Some("org/7: J\u{f6}rg, 100%\u{1f511}".parse().unwrap()));
    let account = world.service.create_account(&system, new);
    let account = account.await.unwrap();
    let key = draft(account.id).scopes(Some(ScopeSet::parse(["b", "a", "c"]).unwrap()));
    let key = world.issue(key).await;
    let secret = key.secret.expose();
    for query in [
        "",
        "?scope=a",
        "?scope=a&scope=c",
        "?scope=a+c&scope=b",
        "?scope=a%20%20b",
        "?mode=nginx",
        "?cost=7",
    ] {
        for method in ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"] {
            let request = Request::new(method, format!("{AUTH}{query}"))
                .bearer(secret)
                // Identity headers of the client are not trusted.
                .header("X-Key-Id", "forged")
                .header("X-Plan", "forged");
            let answer = world.exchange(request).await;
            assert_eq!(
                (answer.status, &*answer.body),
                (200, ""),
                "{method} {query}"
            );
            for (name, value) in [
                ("x-key-id", Some(&*key.key.id.to_string())),
                ("x-account-id", Some(&*account.id.to_string())),
                (
                    "x-account-external-id",
                    Some("org/7:%20J%C3%B6rg%2C%20100%25%F0%9F%94%91"),
                ),
                ("x-key-scopes", Some("a b c")),
                ("x-plan", Some("pro")),
                ("x-denial", None),
                ("cache-control", Some("no-store")),
                ("ratelimit", None),
            ] {
                assert_eq!(answer.header(name), value, "{name}");
            }
        }
    }
    let plain = world.pro_key().await;
    let answer = world.exchange(get(AUTH).header("X-API-Key", &plain)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-account-external-id"), None);
    assert_eq!(answer.header("x-key-scopes"), Some(""));
}

#[actix_web::test]
async fn limits_are_429_and_for_nginx_403() {
    let world = World::new();
    let key = world.pro_key().await;
    let auth = |query: &str| get(format!("{AUTH}?limit=create&{query}")).bearer(&key);
    let policy = Some(r#""create";q=10;w=60"#);

    let answer = world.exchange(auth("cost=9")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("ratelimit-policy"), policy);
    assert_eq!(answer.header("ratelimit"), Some(r#""create";r=1;t=54"#));
    let refused = auth("cost=2")
        .expect(
            &world,
            429,
            r#"{"title":"Too Many Requests","status":429,"code":"rate_limited","detail":"Too many requests"}"#,
        )
        .await;
    is_denied(&refused, 429, "rate_limited");
    let for_nginx = auth("cost=2&mode=nginx")
        .expect(
            &world,
            403,
            r#"{"title":"Forbidden","status":403,"code":"rate_limited","detail":"Too many requests"}"#,
        )
        .await;
    is_denied(&for_nginx, 403, "rate_limited");
    for answer in [refused, for_nginx] {
        assert_eq!(answer.header("retry-after"), Some("6"));
        assert_eq!(answer.header("ratelimit-policy"), policy);
        assert_eq!(answer.header("ratelimit"), Some(r#""create";r=1;t=54"#));
    }
    // A limit of a plan does not count against an address.
    let stranger = world.exchange(get(AUTH)).await;
    let state = stranger.header("ratelimit");
    assert_eq!(state, Some(r#""unauthenticated";r=59;t=1"#));
}

#[actix_web::test]
async fn failures_count_against_the_client_behind_a_trusted_gateway() {
    let world = World::with_api(|api| {
        let gateway = "10.0.0.1/32".parse().expect("the network is legal");
        api.trusted_proxies(TrustedProxies::new([gateway]))
            .unauthenticated_quota(Quota::per_minute(1).unwrap())
    });
    let gateway = world.from("10.0.0.1");
    let auth = |client: &str| get(AUTH).header("X-Forwarded-For", client);
    let answer = gateway.exchange(auth(CLIENT)).await;
    is_denied(&answer, 401, "missing");
    let answer = gateway.exchange(auth(CLIENT)).await;
    is_denied(&answer, 429, "rate_limited");
    assert_eq!(answer.header("retry-after"), Some("60"));
    let mut for_nginx = auth(CLIENT);
    for_nginx.path.push_str("?mode=nginx");
    is_denied(&gateway.exchange(for_nginx).await, 403, "rate_limited");
    let other = gateway.exchange(auth("198.51.100.1")).await;
    is_denied(&other, 401, "missing");
    // A valid key passes, from that address too.
    let key = world.pro_key().await;
    let valid = gateway.exchange(auth(CLIENT).bearer(&key)).await;
    assert_eq!(valid.status, 200);
}

#[actix_web::test]
async fn warm_cache_asks_the_store_for_nothing() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    let key = world.pro_key().await;
    let auth = || get(AUTH).bearer(&key);
    assert_eq!(world.exchange(auth()).await.status, 200);
    let before = store.calls();
    for _ in 0..3 {
        // A client cannot choose how its key is looked up.
        let request = auth().header("Cache-Control", "no-cache");
        assert_eq!(world.exchange(request).await.status, 200);
    }
    assert_eq!(store.calls(), before);

    store.fails_with(Fault::Unavailable);
    assert_eq!(world.exchange(auth()).await.status, 200);
    let unknown = world.exchange(get(AUTH).bearer(NOBODYS_KEY)).await;
    assert_eq!((unknown.status, unknown.header("x-denial")), (503, None));
    assert_eq!(unknown.header("retry-after"), Some("1"));
}

#[actix_web::test]
async fn verification_may_be_left_out() {
    let world = World::with_api(|api| api.verification(false));
    for path in [AUTH, "/v1/keys/verify", "/v1/keys/verify-batch"] {
        let answer = world.exchange(get(path)).await;
        assert_eq!((answer.status, &*answer.text("/code")), (404, "not_found"));
    }
    let world = World::with_api(|api| api.management(false));
    assert_eq!(world.exchange(get(AUTH)).await.status, 401);
}
