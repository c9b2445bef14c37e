//! Fields and parameters that a route does not know.

use crate::exchange::{Exchange as _, Request, get, post};
use crate::rows::{ACCOUNT, FLAT};
use crate::support::World;

const ACCOUNTS: &str = "/v1/accounts";

async fn refused(world: &World, request: Request, field: &str, nearest: &str) {
    let what = format!("{request:?}");
    let answer = world.exchange(request).await;
    assert_eq!(answer.status, 400, "{what}: {}", answer.body);
    assert_eq!(answer.text("/code"), "invalid_request", "{what}");
    assert_eq!(answer.text("/errors/0/field"), field, "{what}");
    let message = answer.text("/errors/0/message");
    assert!(message.ends_with(nearest), "{what}: {message}");
}

#[actix_web::test]
async fn misspelt_members_are_refused_under_v1_with_the_name_that_was_meant() {
    let world = World::new();
    let all = [
        "accounts:read",
        "accounts:write",
        "keys:read",
        "keys:write",
        "keys:verify",
    ];
    let operator = world.operator(&all).await;
    let created = post(ACCOUNTS).bearer(&operator).json(r#"{"plan":"pro"}"#);
    let account = world.exchange(created).await.text("/id");
    let account = format!("{ACCOUNTS}/{account}");
    let verify = "/v1/keys/verify";
    for (method, path, body, field, nearest) in [
        (
            "POST",
            verify,
            r#"{"key":"x","scope":["a"]}"#,
            "scope",
            "did you mean scopes?",
        ),
        (
            "POST",
            verify,
            r#"{"key":"x","Scopes":["a"]}"#,
            "Scopes",
            "did you mean scopes?",
        ),
        (
            "POST",
            verify,
            r#"{"key":"x","clientIp":"::1"}"#,
            "clientIp",
            "did you mean client_ip?",
        ),
        (
            "POST",
            verify,
            r#"{"apiKey":"x"}"#,
            "apiKey",
            "known are key, client_ip, scopes, limit, cost",
        ),
        (
            "POST",
            "/v1/keys/verify-batch",
            r#"{"requests":[{"key":"x"},{"key":"x","scope":["a"]}]}"#,
            "requests.1.scope",
            "did you mean scopes?",
        ),
        (
            "POST",
            "/v1/keys/verify-batch",
            r#"{"request":[]}"#,
            "request",
            "did you mean requests?",
        ),
        (
            "POST",
            ACCOUNTS,
            r#"{"plan":"pro","externalId":"x"}"#,
            "externalId",
            "did you mean external_id?",
        ),
        (
            "PATCH",
            &account,
            r#"{"disable":true}"#,
            "disable",
            "did you mean disabled?",
        ),
        (
            "POST",
            &format!("{account}/keys"),
            r#"{"name":"x","allowedIps":["::1"]}"#,
            "allowedIps",
            "did you mean allowed_ips?",
        ),
        (
            "POST",
            &format!("{account}/sessions"),
            r#"{"ttl_seconds":60,"ttl":60}"#,
            "ttl",
            "known are ttl_seconds, subject, scopes",
        ),
    ] {
        let request = Request::new(method, path).bearer(&operator).json(body);
        refused(&world, request, field, nearest).await;
    }
    for (method, path, field, nearest) in [
        (
            "GET",
            format!("{ACCOUNTS}?external-id=x"),
            "external-id",
            "did you mean external_id?",
        ),
        ("GET", format!("{account}?x=1"), "x", "there are none"),
        (
            "PATCH",
            format!("{account}?wiat=global"),
            "wiat",
            "did you mean wait?",
        ),
        (
            "POST",
            format!("{verify}?scopes=a"),
            "scopes",
            "there are none",
        ),
        (
            "POST",
            "/v1/keys/verify-batch?x=1".to_owned(),
            "x",
            "there are none",
        ),
        ("POST", format!("{account}/keys?x=1"), "x", "known are wait"),
    ] {
        let request = Request::new(method, path)
            .bearer(&operator)
            .json(r#"{"key":"x"}"#);
        refused(&world, request, field, nearest).await;
    }
}

#[actix_web::test]
async fn contracts_ignore_members_that_they_do_not_know() {
    let world = World::new();
    let key = world.pro_key().await;
    for (path, body) in [
        (FLAT, r#"{"name":"x","nmae":"y"}"#),
        (ACCOUNT, r#"{"memo":"x","mem":"y"}"#),
    ] {
        let created = world.exchange(post(path).bearer(&key).json(body)).await;
        assert_eq!(created.status, 201, "{}", created.body);
        let listed = world
            .exchange(get(format!("{path}?x=1")).bearer(&key))
            .await;
        assert_eq!(listed.status, 200, "{}", listed.body);
    }
}

#[actix_web::test]
async fn names_that_cannot_be_seen_are_refused_wherever_one_is_written() {
    let world = World::new();
    let operator = world
        .operator(&["accounts:read", "accounts:write", "keys:write"])
        .await;
    let key = world.pro_key().await;
    let created = post(ACCOUNTS).bearer(&operator).json(r#"{"plan":"pro"}"#);
    let account = world.exchange(created).await.text("/id");
    let account = format!("{ACCOUNTS}/{account}");
    for (name, message) in [
        ("\u{200b}", "must contain a visible character"),
        ("\u{3164}\u{2800}", "must contain a visible character"),
        (
            "\u{202e}yek noitcudorp",
            "must not contain bidirectional overrides",
        ),
        ("a\u{2067}b", "must not contain bidirectional overrides"),
    ] {
        for (method, path, member, bearer) in [
            ("POST", FLAT, "name", &key),
            ("POST", ACCOUNT, "memo", &key),
            ("POST", &*format!("{account}/keys"), "name", &operator),
            ("POST", ACCOUNTS, "external_id", &operator),
            ("PATCH", &account, "external_id", &operator),
        ] {
            let body = format!(r#"{{"plan":"pro","{member}":"{name}"}}"#);
            let body = if member == "external_id" {
                body
            } else {
                body.replace(r#""plan":"pro","#, "")
            };
            let request = Request::new(method, path).bearer(bearer).json(body);
            let answer = world.exchange(request).await;
            assert_eq!(answer.status, 400, "{path}: {}", answer.body);
            assert!(answer.body.contains(message), "{path}: {}", answer.body);
        }
        // An older account may have it.
        let found = get(format!("{ACCOUNTS}?external_id=%E2%80%8B")).bearer(&operator);
        assert_eq!(world.exchange(found).await.status, 200);
    }
    let created = post(FLAT)
        .bearer(&key)
        .json("{\"name\":\"\u{1f469}\u{200d}\u{1f4bb}\"}");
    assert_eq!(world.exchange(created).await.status, 201);
}
