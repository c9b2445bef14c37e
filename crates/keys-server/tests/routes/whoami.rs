//! `/v1/whoami`, `/v1/whoami/rotate` and the header `Key-Expires`.

use keys_core::Timestamp;
use serde_json::{Value, json};

use crate::dialect::{Dialect, NOBODYS_KEY, problem, problem_fault};
use crate::shape::{ID, NOW, shown_prefix};
use crate::world::{Place, World};

on_both_databases!(
    unknown_credential_is_refused,
    parameters_and_bodies_at_fault_are_refused,
    only_keys_of_accounts_rotate_themselves,
    key_is_told_what_it_may_do,
    other_kinds_are_told_what_they_may_do,
    nothing_is_taken_from_limits,
    credential_revokes_itself,
    possession_is_enough_to_look_and_revoke,
    repetition_gets_the_very_same_answer,
    keys_that_expire_are_told_when,
);

async fn unknown_credential_is_refused(place: Place) {
    let world = place.shared().await;
    let unauthorized = problem(401, "unauthorized", "Unauthorized");
    let disabled = world.account("pro").await;
    let key = world.key(&disabled).await;
    world.change(&disabled, &json!({ "disabled": true })).await;
    let refused = problem(403, "account_disabled", "The account is disabled");
    for (method, path) in [
        ("GET", "/v1/whoami"),
        ("DELETE", "/v1/whoami"),
        ("POST", "/v1/whoami/rotate"),
    ] {
        let request = world.request(method, path);
        request.expect(401, &unauthorized).await;
        let request = world.request(method, path).bearer(NOBODYS_KEY);
        request.expect(401, &unauthorized).await;
        let request = world.request(method, path).bearer(&key);
        request.expect(403, &refused).await;
    }
    world.change(&disabled, &json!({ "disabled": false })).await;
    assert_eq!(world.status(&key).await, 200);
}

async fn parameters_and_bodies_at_fault_are_refused(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let query = world.get("/v1/whoami?x=1").bearer(&key);
    let message = "is not known here; there are none";
    query.expect(400, &problem_fault("x", message)).await;
    let query = world.delete("/v1/whoami?wait=x").bearer(&key);
    query
        .expect(400, &problem_fault("wait", "must be global"))
        .await;
    let short = "must be at least 60 for a key that rotates itself";
    for (body, message) in [
        (json!({ "grace_seconds": 59 }), short),
        (json!({ "grace_seconds": 0 }), short),
        (
            json!({ "grace_seconds": 604_801 }),
            "must be a whole number from 0 to 604800",
        ),
    ] {
        let rotate = world.post("/v1/whoami/rotate").bearer(&key).json(&body);
        rotate
            .expect(400, &problem_fault("grace_seconds", message))
            .await;
    }
    assert_eq!(world.status(&key).await, 200);
}

async fn only_keys_of_accounts_rotate_themselves(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("roomy").await).await;
    let message = "This kind of credential cannot be used here";
    let refused = problem(403, "kind_not_allowed", message);
    for credential in [&session, world.operator()] {
        let rotate = world.post("/v1/whoami/rotate").bearer(credential);
        rotate.text("{}").expect(403, &refused).await;
    }
}

/// Returns the limits in an answer by name: the account or the key that they are counted for, the
/// quota, and what remains.
fn limits(answer: &Value) -> Vec<Value> {
    let limits = answer["limits"].as_array().unwrap();
    limits
        .iter()
        .map(|limit| {
            json!([
                limit["name"],
                limit["per"],
                limit["requests"],
                limit["remaining"]
            ])
        })
        .collect()
}

async fn key_is_told_what_it_may_do(place: Place) {
    let world = place.shared().await;
    let created = world
        .post("/v1/accounts")
        .bearer(world.operator())
        .json(&json!({ "plan": "pro", "external_id": format!("whoami {place:?}") }));
    let account = created.send().await.text("/id");
    let draft = json!({
        "name": "CI",
        "prefix": "acme",
        "allowed_ips": ["127.0.0.0/8"],
        "scopes": ["b", "a"],
        "expires_at": "2125-01-01T00:00:00Z",
    });
    let issued = world.issue(&account, &draft).await;
    let limit = |name: &str, requests: u32| {
        json!({
            "name": name,
            "source": "plan",
            "per": "account",
            "requests": requests,
            "period_seconds": 60,
            "remaining": requests,
            "reset_seconds": 0,
        })
    };
    let expected = json!({
        "id": issued.text("/id"),
        "kind": "account",
        "account_id": account,
        "external_id": format!("whoami {place:?}"),
        "plan": "pro",
        "name": "CI",
        "key_prefix": issued.text("/key_prefix"),
        "allowed_ips": ["127.0.0.0/8"],
        "scopes": ["a", "b"],
        "expires_at": "2125-01-01T00:00:00.000Z",
        "created_at": NOW,
        "limits": [limit("create", 10), limit("delete", 10), limit("list", 30)],
    });
    let key = issued.text("/key");
    let whoami = || world.get("/v1/whoami").bearer(&key);
    let answer = whoami().expect(200, &expected).await;
    answer
        .has("cache-control", "no-store")
        .has("ratelimit", None);
    // On a plan without keys it still learns why it does not work.
    world.change_plan(&account, "free").await;
    let answer = whoami().send().await;
    assert_eq!((answer.status, answer.text("/plan")), (200, "free".into()));
}

async fn other_kinds_are_told_what_they_may_do(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    let answer = world.get("/v1/whoami").bearer(&session).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let view = answer.json();
    assert_eq!(view["kind"], "session");
    assert_eq!(view["account_id"], *account);
    assert_eq!(view["external_id"], json!(null));
    assert_eq!(limits(&view).len(), 3);

    let operator = world.command(&[
        "operator-key",
        "create",
        "--name",
        "ops",
        "--scope",
        "keys:read",
    ]);
    let expected = json!({
        "id": ID,
        "kind": "operator",
        "account_id": null,
        "external_id": null,
        "plan": null,
        "name": "ops",
        "key_prefix": shown_prefix("operator"),
        "allowed_ips": [],
        "scopes": ["keys:read"],
        "expires_at": null,
        "created_at": NOW,
        "limits": [],
    });
    let answer = world.get("/v1/whoami").bearer(&operator);
    answer.expect(200, &expected).await;
}

async fn nothing_is_taken_from_limits(place: Place) {
    let world = place
        .with(|server| {
            server.config(
                r#"
[plans.pro]
keys = true
keys_max = 10
[plans.pro.limits]
create = { requests = 10, period_seconds = 60 }
list = { requests = 30, period_seconds = 3600 }
delete = { requests = 10, period_seconds = 60 }
calls = { requests = 5, period_seconds = 3600, per = "key" }
"#,
            )
        })
        .await;
    let account = world.account("pro").await;
    let (key, other) = (world.key(&account).await, world.key(&account).await);
    let told = async |key: &str| {
        let answer = world.get("/v1/whoami").bearer(key).send().await;
        limits(&answer.json())
    };
    for (path, times) in [(Dialect::Flat.path(), 4), ("/v1/auth?limit=calls", 2)] {
        for _ in 0..times {
            assert_eq!(world.get(path).bearer(&key).send().await.status, 200);
        }
    }
    let per_account = [
        json!(["create", "account", 10, 10]),
        json!(["delete", "account", 10, 10]),
        json!(["list", "account", 30, 26]),
    ];
    let with = |calls: Value| {
        let mut all = vec![calls];
        all.extend(per_account.clone());
        all
    };
    for _ in 0..12 {
        assert_eq!(told(&key).await, with(json!(["calls", "key", 5, 3])));
        assert_eq!(told(&other).await, with(json!(["calls", "key", 5, 5])));
    }
}

async fn credential_revokes_itself(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let operator = world.command(&["operator-key", "create", "--name", "ops"]);
    let credentials = [
        world.key(&account).await,
        world.session(&account).await,
        operator,
    ];
    for (credential, path) in
        credentials
            .iter()
            .zip(["/v1/whoami", "/v1/whoami?wait=global", "/v1/whoami"])
    {
        let whoami = world.get("/v1/whoami").bearer(credential).send().await;
        let revoke = world.delete(path).bearer(credential).send().await;
        assert_eq!(revoke.status, 200, "{revoke:?}");
        let by = revoke.text("/effective_everywhere_by");
        assert_eq!(revoke.header("effective-everywhere-by"), Some(&*by));
        let expected = json!({
            "id": whoami.text("/id"),
            "revoked": true,
            "effective_everywhere_by": by,
        });
        assert_eq!(revoke.json(), expected);
        for method in ["GET", "DELETE"] {
            let again = world.request(method, "/v1/whoami").bearer(credential);
            let body = problem(401, "unauthorized", "Unauthorized");
            again.expect(401, &body).await;
        }
    }
}

/// Whether keys may manage keys does not matter to a key's own end and successor.
async fn possession_is_enough_to_look_and_revoke(place: Place) {
    let world = place
        .with(|server| server.env("KEYS_HTTP__KEY_MANAGEMENT", "session_only"))
        .await;
    let account = world.account("pro").await;
    let old = world.key(&account).await;
    // A stolen key must not make another one where keys do not manage keys.
    let rotate = world.post("/v1/whoami/rotate").bearer(&old);
    let rotated = rotate.json(&json!({ "grace_seconds": 60 })).send().await;
    assert_eq!(rotated.status, 403, "{rotated:?}");
    let whoami = world.get("/v1/whoami").bearer(&old).send().await;
    assert_eq!(whoami.status, 200, "{whoami:?}");
    let auth = world.get("/v1/auth").bearer(&old).send().await;
    assert_eq!(auth.status, 200, "{auth:?}");
    let revoked = world.delete("/v1/whoami").bearer(&old).send().await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let auth = world.get("/v1/auth").bearer(&old).send().await;
    assert_eq!(auth.status, 401, "{auth:?}");
}

async fn repetition_gets_the_very_same_answer(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let rotate = || {
        let rotate = world.post("/v1/whoami/rotate").bearer(&key);
        rotate.idempotency_key("once").text("{}")
    };
    let first = rotate().send().await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = rotate().send().await;
    assert_eq!((again.status, again.body), (201, first.body));
    assert_eq!(world.names(&key).await.len(), 2);
}

/// Returns the header in the answer to a request with this credential.
async fn told(world: &World, path: &str, credential: &str) -> Option<String> {
    let answer = world.get(path).bearer(credential).send().await;
    answer.header("key-expires").map(str::to_owned)
}

async fn keys_that_expire_are_told_when(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let draft = json!({ "expires_at": "2125-01-01T01:02:03.999Z" });
    let expiring = world.issue(&account, &draft).await.text("/key");
    let unending = world.key(&account).await;
    let paths = Dialect::BOTH.map(Dialect::path);
    for path in paths.into_iter().chain(["/v1/auth"]) {
        assert_eq!(told(&world, path, &unending).await, None, "{path}");
        // Rounded down, so that a client never takes it for valid too long.
        let date = told(&world, path, &expiring).await;
        let date = date.unwrap_or_default();
        assert_eq!(date, "Mon, 01 Jan 2125 01:02:03 GMT", "{path}");
        assert_eq!(told(&world, path, NOBODYS_KEY).await, None, "{path}");
    }
    for dialect in Dialect::BOTH {
        let opened = world
            .post(&format!("/v1/accounts/{account}/sessions"))
            .bearer(world.operator())
            .json(&json!({ "ttl_seconds": 600 }))
            .send()
            .await;
        let ends_at = Timestamp::parse_rfc3339(&opened.text("/expires_at")).unwrap();
        let date = told(&world, dialect.path(), &opened.text("/token")).await;
        assert_eq!(date, Some(ends_at.to_http_date()));
        // Refusals of a known key have it too.
        let create = world.post(dialect.path()).bearer(&expiring).text("{");
        let refused = create.send().await;
        assert_eq!(refused.status, 400);
        assert!(refused.header("key-expires").is_some(), "{refused:?}");
    }
}
