//! `PATCH /v1/keys/{id}`

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::dialect::{NOBODYS_KEY, problem, problem_fault};
use crate::exchange::{Answer, Request};
use crate::shape::{ID, NOW, shown_prefix};
use crate::world::{Place, World, in_millis, wait_until};

on_both_databases!(
    field_at_fault_is_refused_by_its_name,
    every_fault_is_named_at_once,
    fields_that_cannot_be_changed_are_taken_as_they_are_shown,
    key_of_another_account_is_an_unknown_key,
    key_that_has_ended_is_not_changed,
    lost_update_is_refused,
    one_of_many_racing_updates_is_made,
    each_field_is_changed_and_removed,
    metadata_and_limits_are_merged,
    disabled_key_is_refused_until_it_is_enabled,
    key_changes_no_key_beyond_itself,
    sessions_and_keys_change_keys_of_their_account,
    keys_change_nothing_where_that_is_for_sessions,
    changes_count_against_the_limit_of_the_account,
    own_limit_of_a_key_refuses_before_that_of_the_plan,
    changes_are_in_the_audit_trail,
);

const UNKNOWN_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A key of a new account on this plan.
struct Made {
    account: String,
    id: String,
    key: String,
    version: String,
}

async fn made(world: &World, plan: &str, draft: &Value) -> Made {
    let account = world.account(plan).await;
    made_in(world, &account, draft).await
}

async fn made_in(world: &World, account: &str, draft: &Value) -> Made {
    let issued = world.issue(account, draft).await;
    Made {
        account: account.to_owned(),
        id: issued.text("/id"),
        key: issued.text("/key"),
        version: issued.header("etag").unwrap().to_owned(),
    }
}

fn update(world: &World, id: &str, body: &Value) -> Request {
    let update = world.patch(&format!("/v1/keys/{id}"));
    update.bearer(world.operator()).json(body)
}

async fn updated(world: &World, id: &str, body: &Value) -> Answer {
    let answer = update(world, id, body).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn not_found() -> Value {
    problem(404, "key_not_found", "API key not found")
}

/// The view of a key that was just made and changed.
fn view(account: &str) -> Value {
    json!({
        "id": ID,
        "account_id": account,
        "kind": "account",
        "status": "active",
        "name": null,
        "key_prefix": shown_prefix("sk_live"),
        "allowed_ips": [],
        "scopes": [],
        "expires_at": null,
        "limits": {},
        "metadata": {},
        "created_at": NOW,
        "created_by": { "type": "operator", "id": ID, "subject": null },
        "last_used_at": null,
        "last_used_ip": null,
        "use_count": 0,
        "disabled": false,
        "disabled_at": null,
        "revoked_at": null,
        "revoked_reason": null,
        "revoked_note": null,
        "predecessor": null,
        "successor": null,
    })
}

/// Asserts the answer to a change: the key, its version, and the time by which it is effective.
fn assert_view(answer: &Answer, expected: &Value) {
    let mut body = answer.json();
    let by = body
        .as_object_mut()
        .unwrap()
        .remove("effective_everywhere_by");
    let by = by.unwrap().as_str().unwrap().to_owned();
    assert_eq!(answer.header("effective-everywhere-by"), Some(&*by));
    let etag = answer.header("etag").unwrap();
    assert_eq!(etag.len(), 18, "{etag}");
    if let Some(difference) = crate::shape::difference(expected, &body) {
        panic!("{difference}\n{answer:?}");
    }
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn field_at_fault_is_refused_by_its_name(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({ "allowed_ips": ["10.0.0.1"] })).await;
    let not_empty = "must not be empty; null removes the list, and allows every address";
    let fixed = "cannot be changed";
    for (body, field, message) in [
        (json!({ "name": "" }), "name", "must not be empty"),
        (json!({ "name": 1 }), "name", "must be a string"),
        (json!({ "allowed_ips": [] }), "allowed_ips", not_empty),
        (
            json!({ "allowed_ips": "10.0.0.1" }),
            "allowed_ips",
            "must be a list of strings",
        ),
        (
            json!({ "allowed_ips": ["10.0.0.1", "x"] }),
            "allowed_ips.1",
            "must be an IPv4 or IPv6 address or CIDR network",
        ),
        (
            json!({ "scopes": "a" }),
            "scopes",
            "must be a list of strings",
        ),
        (json!({ "scopes": [1] }), "scopes.0", "must be a string"),
        (
            json!({ "expires_at": "2020-01-01T00:00:00Z" }),
            "expires_at",
            "must be in the future",
        ),
        (
            json!({ "disabled": null }),
            "disabled",
            "must be true or false",
        ),
        (
            json!({ "disabled": "yes" }),
            "disabled",
            "must be true or false",
        ),
        (
            json!({ "metadata": [] }),
            "metadata",
            "must be an object of strings",
        ),
        (
            json!({ "metadata": { "a": {} } }),
            "metadata.a",
            "must be a string",
        ),
        (
            json!({ "metadata": { "a": "x".repeat(5_000) } }),
            "metadata",
            "must be at most 4096 bytes",
        ),
        (
            json!({ "limits": [] }),
            "limits",
            "must be an object of limits",
        ),
        (
            json!({ "limits": { "create": { "requests": 1 } } }),
            "limits.create",
            "must have requests and period_seconds",
        ),
        (
            json!({ "limits": { "create": { "requests": 1.5, "period_seconds": 1 } } }),
            "limits.create.requests",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            json!({ "limits": { "cals": { "requests": 1, "period_seconds": 1 } } }),
            "limits.cals",
            "is not the name of a limit of any plan",
        ),
        (json!({ "id": UNKNOWN_ID }), "id", fixed),
        (json!({ "account_id": null }), "account_id", fixed),
        (json!({ "kind": "operator" }), "kind", fixed),
        (json!({ "status": "disabled" }), "status", fixed),
        (json!({ "key_prefix": "sk_live_" }), "key_prefix", fixed),
        (
            json!({ "created_at": "2020-01-01T00:00:00.000Z" }),
            "created_at",
            fixed,
        ),
        (json!({ "created_by": null }), "created_by", fixed),
        (
            json!({ "last_used_at": "2020-01-01T00:00:00Z" }),
            "last_used_at",
            fixed,
        ),
        (json!({ "last_used_ip": "10.0.0.1" }), "last_used_ip", fixed),
        (json!({ "use_count": 1 }), "use_count", fixed),
        (json!({ "use_count": null }), "use_count", fixed),
        (
            json!({ "disabled_at": "2020-01-01T00:00:00.000Z" }),
            "disabled_at",
            fixed,
        ),
        (json!({ "successor": UNKNOWN_ID }), "successor", fixed),
        (
            json!({ "revoked_at": "2020-01-01T00:00:00.000Z" }),
            "revoked_at",
            fixed,
        ),
        (
            json!({ "scope": ["a"] }),
            "scope",
            "is not known here; did you mean scopes?",
        ),
    ] {
        let refused = update(&world, &key.id, &body);
        refused.expect(400, &problem_fault(field, message)).await;
    }
    let twice = world.patch(&format!("/v1/keys/{}", key.id));
    let twice = twice.bearer(world.operator());
    let twice = twice.text(r#"{"name":"a","name":"b"}"#).send().await;
    assert_eq!(
        (twice.status, &*twice.text("/code")),
        (400, "malformed_body")
    );
    // Nothing was changed.
    let unchanged = updated(&world, &key.id, &json!({})).await;
    assert_eq!(unchanged.header("etag"), Some(&*key.version));
}

async fn every_fault_is_named_at_once(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({})).await;
    let body = json!({
        "use_count": 7,
        "metadata": { "a": 1 },
        "limits": { "create": { "requests": 0 } },
        "disabled": 1,
        "expires_at": "soon",
        "scopes": ["A"],
        "allowed_ips": ["x"],
        "name": "",
    });
    let refused = update(&world, &key.id, &body).send().await;
    assert_eq!(refused.status, 400, "{refused:?}");
    let errors = refused.json()["errors"].as_array().unwrap().clone();
    let fields: Vec<_> = errors.iter().map(|error| error["field"].clone()).collect();
    let expected = [
        "name",
        "allowed_ips.0",
        "scopes.0",
        "expires_at",
        "disabled",
        "limits.create.requests",
        "metadata.a",
        "use_count",
    ];
    assert_eq!(fields, expected);
}

async fn fields_that_cannot_be_changed_are_taken_as_they_are_shown(place: Place) {
    let world = place.shared().await;
    let draft = json!({
        "name": "CI",
        "allowed_ips": ["127.0.0.0/8"],
        "expires_at": "2125-01-01T00:00:00.000123Z",
        "limits": { "list": { "requests": 60, "period_seconds": 60 } },
        "metadata": { "a": "b" },
    });
    let key = made(&world, "pro", &draft).await;
    let mut shown = updated(&world, &key.id, &json!({})).await.json();
    shown
        .as_object_mut()
        .unwrap()
        .remove("effective_everywhere_by");
    let again = updated(&world, &key.id, &shown).await;
    // The expiry is shown without its microseconds, and stays as it is.
    assert_eq!(again.header("etag"), Some(&*key.version));
    // Values about uses may be those of an earlier answer.
    assert_eq!(world.status(&key.key).await, 200);
    shown["name"] = json!("CI 2");
    let changed = updated(&world, &key.id, &shown).await;
    assert_eq!(changed.text("/name"), "CI 2");
}

async fn key_of_another_account_is_an_unknown_key(place: Place) {
    let world = place.shared().await;
    let own = made(&world, "roomy", &json!({})).await;
    let other = made(&world, "roomy", &json!({})).await;
    let session = world.session(&own.account).await;
    let opened = world
        .post(&format!("/v1/accounts/{}/sessions", own.account))
        .bearer(world.operator())
        .json(&json!({ "ttl_seconds": 60 }));
    let session_id = opened.send().await.text("/id");
    let arguments = ["operator-key", "create", "--json", "--name", "other"];
    let operator: Value = serde_json::from_str(&world.command(&arguments)).unwrap();
    let operator_id = operator["id"].as_str().unwrap();
    let body = json!({ "name": "mine" });
    for credential in [&*own.key, &*session] {
        for id in [&*other.id, &*session_id, operator_id, UNKNOWN_ID, "x"] {
            for body in [&body, &json!({ "disabled": true })] {
                let patch = world.patch(&format!("/v1/keys/{id}"));
                let patch = patch.bearer(credential).json(body);
                patch.expect(404, &not_found()).await;
            }
        }
    }
    // Operators know the keys of accounts only.
    for id in [&*session_id, operator_id, UNKNOWN_ID, "x"] {
        update(&world, id, &body).expect(404, &not_found()).await;
    }
    let unknown = world.patch(&format!("/v1/keys/{}", own.id));
    let unknown = unknown.bearer(NOBODYS_KEY).json(&body).send().await;
    assert_eq!(unknown.status, 401, "{unknown:?}");
    let untouched = updated(&world, &other.id, &json!({})).await;
    assert_eq!(untouched.header("etag"), Some(&*other.version));
}

async fn key_that_has_ended_is_not_changed(place: Place) {
    let world = place.shared().await;
    let end = in_millis(300);
    let account = world.account("pro").await;
    let draft = json!({ "expires_at": crate::world::exactly(end) });
    let expired = made_in(&world, &account, &draft).await;
    let revoked = made_in(&world, &account, &json!({})).await;
    world.command(&["key", "revoke", &revoked.id]);
    wait_until(end).await;
    let message = "The API key was revoked or has expired";
    let ended = problem(409, "key_ended", message);
    for key in [&expired, &revoked] {
        for body in [
            json!({}),
            json!({ "expires_at": null }),
            json!({ "disabled": true }),
        ] {
            update(&world, &key.id, &body).expect(409, &ended).await;
            // Whatever version is asked for.
            let other = update(&world, &key.id, &body);
            let other = other.header("If-Match", "\"0123456789abcdef\"");
            other.expect(409, &ended).await;
        }
    }
}

async fn lost_update_is_refused(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({})).await;
    let first = update(&world, &key.id, &json!({ "name": "first" }));
    let first = first.header("If-Match", &key.version).send().await;
    assert_eq!(first.status, 200, "{first:?}");
    let version = first.header("etag").unwrap();
    assert_ne!(version, key.version);
    let message = "The record was changed since the version in If-Match";
    let failed = problem(412, "precondition_failed", message);
    for stale in [&*key.version, "\"x\"", "x", "", &format!("W/{version}")] {
        let second = update(&world, &key.id, &json!({ "name": "second" }));
        let second = second.header("If-Match", stale);
        second.expect(412, &failed).await;
    }
    for fresh in ["*", &format!("{}, {version}", key.version)] {
        let second = update(&world, &key.id, &json!({ "name": "first" }));
        let second = second.header("If-Match", fresh).send().await;
        assert_eq!(second.status, 200, "{second:?}");
        // It changed nothing.
        assert_eq!(second.header("etag"), Some(version));
    }
    // A use is not a change.
    assert_eq!(world.status(&key.key).await, 200);
    let third = update(&world, &key.id, &json!({ "disabled": true }));
    let third = third.header("If-Match", version).send().await;
    assert_eq!(third.status, 200, "{third:?}");
}

async fn one_of_many_racing_updates_is_made(place: Place) {
    const RACING: usize = 12;
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({})).await;
    let mut racing = JoinSet::new();
    for number in 0..RACING {
        let name = format!("racer {number}");
        let update = update(&world, &key.id, &json!({ "name": name }));
        racing.spawn(update.header("If-Match", &key.version).send());
    }
    let answers = racing.join_all().await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    let made: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .collect();
    let [made] = &made[..] else {
        panic!("{statuses:?}");
    };
    let refused = statuses.iter().filter(|status| **status == 412).count();
    assert_eq!(refused, RACING - 1, "{statuses:?}");
    let current = updated(&world, &key.id, &json!({})).await;
    assert_eq!(current.text("/name"), made.text("/name"));
}

async fn each_field_is_changed_and_removed(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({})).await;
    let mut expected = view(&key.account);
    for (field, value) in [
        ("name", json!("CI")),
        ("allowed_ips", json!(["10.0.0.0/8", "2001:db8::1"])),
        ("scopes", json!(["a", "b:c"])),
        ("expires_at", json!("2125-01-01T00:00:00.500Z")),
        (
            "limits",
            json!({ "create": { "requests": 5, "period_seconds": 60 } }),
        ),
        ("metadata", json!({ "team": "billing" })),
    ] {
        let answer = updated(&world, &key.id, &json!({ field: value })).await;
        expected[field] = value;
        assert_view(&answer, &expected);
    }
    let removed = json!({
        "name": null,
        "allowed_ips": null,
        "scopes": null,
        "expires_at": null,
        "limits": null,
        "metadata": null,
    });
    let answer = updated(&world, &key.id, &removed).await;
    assert_view(&answer, &view(&key.account));
    assert_eq!(answer.header("etag"), Some(&*key.version));
    let spelled =
        json!({ "name": " CI ", "allowed_ips": ["10.1.2.3/8"], "scopes": ["b", "a", "b"] });
    let spelled = updated(&world, &key.id, &spelled).await;
    assert_eq!(spelled.text("/name"), "CI");
    assert_eq!(spelled.json()["allowed_ips"], json!(["10.0.0.0/8"]));
    assert_eq!(spelled.json()["scopes"], json!(["a", "b"]));
}

async fn metadata_and_limits_are_merged(place: Place) {
    let world = place.shared().await;
    let draft = json!({
        "metadata": { "a": "1", "b": "2" },
        "limits": {
            "create": { "requests": 5, "period_seconds": 60 },
            "list": { "requests": 7, "period_seconds": 60 },
        },
    });
    let key = made(&world, "pro", &draft).await;
    let patch = json!({
        "metadata": { "b": null, "c": "3", "d": null },
        "limits": { "create": { "requests": 4 }, "list": null },
    });
    let changed = updated(&world, &key.id, &patch).await.json();
    assert_eq!(changed["metadata"], json!({ "a": "1", "c": "3" }));
    let limits = json!({ "create": { "requests": 4, "period_seconds": 60 } });
    assert_eq!(changed["limits"], limits);
    let nothing = json!({ "metadata": {}, "limits": {}, "scopes": [] });
    let same = updated(&world, &key.id, &nothing).await.json();
    assert_eq!(same["metadata"], changed["metadata"]);
    assert_eq!(same["limits"], limits);
}

async fn disabled_key_is_refused_until_it_is_enabled(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({})).await;
    let verdict = async || {
        let verify = world.post("/v1/keys/verify").bearer(world.operator());
        let verify = verify.json(&json!({ "key": key.key })).send().await;
        verify.text("/code")
    };
    for _ in 0..2 {
        assert_eq!(verdict().await, "valid");
        assert_eq!(world.status(&key.key).await, 200);
        let disabled = update(&world, &key.id, &json!({ "disabled": true }))
            .send()
            .await;
        assert_eq!(disabled.status, 200, "{disabled:?}");
        assert_eq!(disabled.text("/status"), "disabled");
        assert_eq!(disabled.json()["disabled"], true);
        // From the answer on.
        assert_eq!(verdict().await, "disabled");
        assert_eq!(world.status(&key.key).await, 401);
        let again = updated(&world, &key.id, &json!({ "disabled": true })).await;
        assert_eq!(again.header("etag"), disabled.header("etag"));
        let path = format!("/v1/keys/{}?wait=global", key.id);
        let enabled = world.patch(&path).bearer(world.operator());
        let enabled = enabled.json(&json!({ "disabled": false })).send().await;
        assert_eq!(enabled.status, 200, "{enabled:?}");
        assert_eq!(enabled.text("/status"), "active");
        assert_eq!(enabled.header("etag"), Some(&*key.version));
    }
}

async fn key_changes_no_key_beyond_itself(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let limited = json!({
        "allowed_ips": ["127.0.0.0/8"],
        "scopes": ["a", "b"],
        "expires_at": "2125-01-01T00:00:00Z",
        "limits": { "create": { "requests": 9, "period_seconds": 60 } },
    });
    let own = made_in(&world, &account, &limited).await;
    let narrow = json!({
        "allowed_ips": ["127.0.0.1"],
        "scopes": ["a"],
        "expires_at": "2124-01-01T00:00:00Z",
        "limits": { "create": { "requests": 1, "period_seconds": 60 } },
    });
    let target = made_in(&world, &account, &narrow).await;
    let wide = made_in(&world, &account, &json!({ "scopes": ["admin"] })).await;
    let patch = |id: &str, body: &Value| {
        let patch = world.patch(&format!("/v1/keys/{id}"));
        patch.bearer(&own.key).json(body)
    };
    for (body, field, message) in [
        (
            json!({ "expires_at": null }),
            "expires_at",
            "must not be later than the expiry of the key that changes it",
        ),
        (
            json!({ "allowed_ips": ["127.0.0.1", "127.0.0.1", "10.0.0.1"] }),
            "allowed_ips.2",
            "must be within the addresses of the key that changes it",
        ),
        (
            json!({ "allowed_ips": null }),
            "allowed_ips",
            "must be within the addresses of the key that changes it",
        ),
        (
            json!({ "scopes": ["a", "admin"] }),
            "scopes",
            "must be held by the key that changes it",
        ),
        (
            json!({ "limits": { "create": { "requests": 10 } } }),
            "limits",
            "must not be higher than the limits of the key that changes it",
        ),
        (
            json!({ "limits": null }),
            "limits",
            "must not be higher than the limits of the key that changes it",
        ),
    ] {
        for id in [&target.id, &own.id] {
            patch(id, &body)
                .expect(400, &problem_fault(field, message))
                .await;
        }
    }
    let widened = json!({ "scopes": ["a", "b"], "allowed_ips": ["127.0.0.0/8"] });
    let widened = patch(&target.id, &widened).send().await;
    assert_eq!(widened.status, 200, "{widened:?}");
    // A wider key may be narrowed and disabled, and not enabled again.
    for body in [json!({ "name": "x" }), json!({ "disabled": true })] {
        let narrowed = patch(&wide.id, &body).send().await;
        assert_eq!(narrowed.status, 200, "{narrowed:?}");
    }
    let message = "must not be later than the expiry of the key that changes it";
    let enable = patch(&wide.id, &json!({ "disabled": false }));
    enable
        .expect(400, &problem_fault("expires_at", message))
        .await;
    updated(&world, &wide.id, &json!({ "disabled": false })).await;
}

async fn sessions_and_keys_change_keys_of_their_account(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "roomy", &json!({})).await;
    let session = world.session(&key.account).await;
    for (credential, kind) in [(&session, "session"), (&key.key, "account")] {
        let patch = world.patch(&format!("/v1/keys/{}", key.id));
        let patch = patch.bearer(credential).json(&json!({ "name": kind }));
        let changed = patch.send().await;
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(changed.text("/name"), kind);
        assert!(changed.header("ratelimit").is_some());
    }
    let scopeless = [
        "operator-key",
        "create",
        "--name",
        "x",
        "--scope",
        "keys:read",
    ];
    let scopeless = world.command(&scopeless);
    let refused = world.patch(&format!("/v1/keys/{}", key.id));
    let refused = refused.bearer(&scopeless).json(&json!({}));
    let message = "This API key lacks a required scope";
    let body = problem(403, "insufficient_scope", message);
    refused.expect(403, &body).await;
    let itself = world.patch(&format!("/v1/keys/{}", key.id));
    let itself = itself.bearer(&key.key).json(&json!({ "disabled": true }));
    assert_eq!(itself.send().await.status, 200);
    let gone = world.patch(&format!("/v1/keys/{}", key.id));
    let gone = gone.bearer(&key.key).json(&json!({ "disabled": false }));
    assert_eq!(gone.send().await.status, 401);
}

async fn keys_change_nothing_where_that_is_for_sessions(place: Place) {
    let world = place
        .with(|server| server.env("KEYS_HTTP__KEY_MANAGEMENT", "session_only"))
        .await;
    let key = made(&world, "pro", &json!({})).await;
    let session = world.session(&key.account).await;
    let patch = |credential: &str| {
        let patch = world.patch(&format!("/v1/keys/{}", key.id));
        patch.bearer(credential).json(&json!({ "name": "x" }))
    };
    let message = "This kind of credential cannot be used here";
    let body = problem(403, "kind_not_allowed", message);
    patch(&key.key).expect(403, &body).await;
    assert_eq!(patch(&session).send().await.status, 200);
}

async fn changes_count_against_the_limit_of_the_account(place: Place) {
    let world = place.shared().await;
    let key = made(&world, "pro", &json!({})).await;
    let patch = async || {
        let patch = world.patch(&format!("/v1/keys/{}", key.id));
        patch.bearer(&key.key).json(&json!({})).send().await
    };
    let mut allowed = 0;
    let refused = loop {
        let answer = patch().await;
        if answer.status != 200 {
            break answer;
        }
        allowed += 1;
        assert!(allowed <= 20);
    };
    assert!(allowed >= 10, "{allowed}");
    let policy = Some(r#""delete";q=10;w=60"#);
    assert_eq!(refused.header("ratelimit-policy"), policy);
    refused.is(429, &problem(429, "rate_limited", "Too many requests"));
    // Operators have no limit.
    updated(&world, &key.id, &json!({})).await;
}

async fn own_limit_of_a_key_refuses_before_that_of_the_plan(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let limits = json!({ "limits": { "list": { "requests": 2, "period_seconds": 3600 } } });
    let limited = made_in(&world, &account, &limits).await;
    let free = made_in(&world, &account, &json!({})).await;
    let verify = async |key: &str| {
        let verify = world.post("/v1/keys/verify").bearer(world.operator());
        let verify = verify.json(&json!({ "key": key, "limit": "list" }));
        let json = verify.send().await.json();
        let limit = &json["rate_limit"];
        (
            json["code"].as_str().unwrap().to_owned(),
            limit["limit"].as_u64().unwrap(),
            limit["remaining"].as_u64().unwrap(),
        )
    };
    assert_eq!(verify(&limited.key).await, ("valid".to_owned(), 2, 1));
    assert_eq!(verify(&limited.key).await, ("valid".to_owned(), 2, 0));
    for _ in 0..3 {
        let refused = ("rate_limited".to_owned(), 2, 0);
        assert_eq!(verify(&limited.key).await, refused);
    }
    // The account has used two, and not five.
    let (code, limit, remaining) = verify(&free.key).await;
    assert_eq!((&*code, limit), ("valid", 1_000));
    assert!(remaining >= 997, "{remaining}");
    // It applies to the contracts as well.
    assert_eq!(world.status(&limited.key).await, 429);
    assert_eq!(world.status(&free.key).await, 200);
}

async fn changes_are_in_the_audit_trail(place: Place) {
    let world = place.shared().await;
    let Some(database) = world.database() else {
        return;
    };
    let key = made(&world, "pro", &json!({})).await;
    for body in [
        json!({ "name": "x" }),
        json!({ "disabled": true }),
        json!({ "disabled": false }),
        json!({}),
    ] {
        updated(&world, &key.id, &body).await;
    }
    let (client, connection) = tokio_postgres::connect(&database.url(), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let id: keys_core::KeyId = key.id.parse().unwrap();
    let query = format!(
        "select action from audit_event where subject_id = '{}' order by at",
        id.as_uuid()
    );
    let rows = client.query(&query, &[]).await.unwrap();
    let actions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let expected = ["key.created", "key.updated", "key.disabled", "key.enabled"];
    assert_eq!(actions, expected);
}
