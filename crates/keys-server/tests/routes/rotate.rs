//! `POST /v1/keys/{id}/rotate`

use std::time::Duration;

use keys_core::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::dialect::{NOBODYS_KEY, problem, problem_fault};
use crate::exchange::{Answer, Request};
use crate::flat_delete::MALFORMED_IDS;
use crate::shape::{ID, NOW, shown_prefix, whole_key};
use crate::world::{Place, World, exactly, in_millis, wait_until};

on_both_databases!(
    credentials_that_may_not_rotate_are_refused,
    rotation_at_fault_is_refused_by_its_member,
    other_and_unknown_keys_cannot_be_told_apart,
    key_that_ended_or_was_rotated_is_refused,
    key_that_may_do_more_than_the_caller_is_refused,
    account_that_may_not_have_keys_is_refused,
    limit_of_creates_comes_first,
    keys_rotate_only_themselves_and_others_where_they_may_manage,
    key_is_rotated_into_one_like_it,
    old_key_is_good_until_its_grace_ends,
    old_key_without_a_grace_ends_at_once,
    old_key_keeps_an_earlier_expiry_and_operators_choose_that_of_the_new_one,
    chain_of_three_has_two_good_keys,
    rotation_at_the_maximum_is_made,
    repetition_gets_the_very_same_answer,
    one_of_many_rotations_at_once_is_made,
    answer_waits_until_every_instance_has_applied_it,
);

fn rotate(world: &World, id: &str, body: &Value) -> Request {
    let request = world.post(&format!("/v1/keys/{id}/rotate"));
    request.bearer(world.operator()).json(body)
}

/// Rotates a key as an operator.
async fn rotated(world: &World, id: &str, body: &Value) -> Answer {
    let rotated = rotate(world, id, body).send().await;
    assert_eq!(rotated.status, 201, "{rotated:?}");
    rotated
}

fn not_found() -> Value {
    problem(404, "key_not_found", "API key not found")
}

fn rotated_into(successor: &str) -> Value {
    let message = format!("The API key was rotated already, its successor is {successor}");
    let mut body = problem(409, "key_rotated", &message);
    body["successor"] = successor.into();
    body
}

/// Returns the id and the secret of a new key.
async fn a_key(world: &World, account: &str, draft: &Value) -> (String, String) {
    let issued = world.issue(account, draft).await;
    (issued.text("/id"), issued.text("/key"))
}

async fn credentials_that_may_not_rotate_are_refused(place: Place) {
    let world = place.shared().await;
    let (id, _) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    let path = format!("/v1/keys/{id}/rotate");
    let unauthorized = problem(401, "unauthorized", "Unauthorized");
    world
        .post(&path)
        .text("{}")
        .expect(401, &unauthorized)
        .await;
    let unknown_caller = world.post(&path).bearer(NOBODYS_KEY).text("{}");
    unknown_caller.expect(401, &unauthorized).await;
    let reader = world.command(&[
        "operator-key",
        "create",
        "--name",
        "reader",
        "--scope",
        "keys:read",
    ]);
    let message = "This API key lacks a required scope";
    let lacks = problem(403, "insufficient_scope", message);
    let request = world.post(&path).bearer(&reader).text("{}");
    let answer = request.expect(403, &lacks).await;
    answer.has(
        "www-authenticate",
        r#"Bearer realm="keys", error="insufficient_scope""#,
    );
    let writer = world.command(&[
        "operator-key",
        "create",
        "--name",
        "writer",
        "--scope",
        "keys:write",
    ]);
    let answer = world.post(&path).bearer(&writer).text("{}").send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

async fn rotation_at_fault_is_refused_by_its_member(place: Place) {
    const GRACE: &str = "must be a whole number from 0 to 604800";
    const TIME: &str = "must be an RFC 3339 time with an offset, such as 2030-12-31T23:59:59Z";
    let world = place.shared().await;
    let (id, _) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    for (body, field, message) in [
        (json!({ "grace_seconds": -1 }), "grace_seconds", GRACE),
        (json!({ "grace_seconds": 1.5 }), "grace_seconds", GRACE),
        (json!({ "grace_seconds": "60" }), "grace_seconds", GRACE),
        (json!({ "grace_seconds": 604_801 }), "grace_seconds", GRACE),
        (json!({ "grace_seconds": u64::MAX }), "grace_seconds", GRACE),
        (json!({ "expires_at": 1 }), "expires_at", "must be a string"),
        (json!({ "expires_at": "2125-01-01" }), "expires_at", TIME),
        (
            json!({ "expires_at": "2020-01-01T00:00:00Z" }),
            "expires_at",
            "must be in the future",
        ),
        (
            json!({ "grace": 60 }),
            "grace",
            "is not known here; known are grace_seconds, expires_at",
        ),
    ] {
        let refused = problem_fault(field, message);
        rotate(&world, &id, &body).expect(400, &refused).await;
    }
    let both = json!({ "expires_at": "never", "grace_seconds": true });
    let answer = rotate(&world, &id, &both).send().await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 2);
    let path = format!("/v1/keys/{id}/rotate?wait=local");
    let answer = world.post(&path).bearer(world.operator()).text("{}");
    let refused = problem_fault("wait", "must be global");
    answer.expect(400, &refused).await;
    let answer = rotate(&world, &id, &json!([])).send().await;
    assert_eq!(answer.status, 400, "{answer:?}");
    // Nothing was rotated.
    rotated(&world, &id, &json!({ "grace_seconds": 604_800 })).await;
}

async fn other_and_unknown_keys_cannot_be_told_apart(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (_, key) = a_key(&world, &account, &json!({})).await;
    let session = world.session(&account).await;
    let (other, _) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    let opened = world
        .post(&format!("/v1/accounts/{account}/sessions"))
        .bearer(world.operator())
        .json(&json!({ "ttl_seconds": 600 }));
    let session_id = opened.send().await.text("/id");
    let unknown = "AZt5bdYAcqeCoRtJcgohFA";
    let known_to_none = [unknown, &session_id];
    for credential in [&*key, &session, world.operator()] {
        for id in MALFORMED_IDS.into_iter().chain(known_to_none) {
            let request = world.post(&format!("/v1/keys/{id}/rotate"));
            let request = request.bearer(credential).text("{}");
            request.expect(404, &not_found()).await;
        }
    }
    for credential in [&key, &session] {
        let request = world.post(&format!("/v1/keys/{other}/rotate"));
        let request = request.bearer(credential).text("{}");
        request.expect(404, &not_found()).await;
    }
    rotated(&world, &other, &json!({})).await;
}

async fn key_that_ended_or_was_rotated_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let ended = problem(409, "key_ended", "The API key was revoked or has expired");
    let (revoked, _) = a_key(&world, &account, &json!({})).await;
    world.command(&["key", "revoke", &revoked]);
    let end = in_millis(1_000);
    let draft = json!({ "expires_at": exactly(end) });
    let (expired, _) = a_key(&world, &account, &draft).await;
    wait_until(end).await;
    for id in [&revoked, &expired] {
        rotate(&world, id, &json!({})).expect(409, &ended).await;
    }
    let (first, _) = a_key(&world, &account, &json!({})).await;
    for grace in [0, 60] {
        let (first, _) = a_key(&world, &account, &json!({})).await;
        let body = json!({ "grace_seconds": grace });
        let second = rotated(&world, &first, &body).await.text("/id");
        let refused = rotated_into(&second);
        rotate(&world, &first, &body).expect(409, &refused).await;
    }
    rotated(&world, &first, &json!({})).await;
}

async fn key_that_may_do_more_than_the_caller_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let narrow = json!({ "scopes": ["a"], "allowed_ips": ["127.0.0.1"] });
    let (_, narrow) = a_key(&world, &account, &narrow).await;
    let wide = json!({ "scopes": ["a", "b"], "allowed_ips": ["127.0.0.1"] });
    let (wide, _) = a_key(&world, &account, &wide).await;
    let message = "The API key may do more than the credential that was presented";
    let refused = problem(403, "exceeds_caller", message);
    let path = format!("/v1/keys/{wide}/rotate");
    let request = world.post(&path).bearer(&narrow).text("{}");
    request.expect(403, &refused).await;
    // The expiry of the new key is at most that of the old one.
    let draft = json!({ "scopes": ["a"], "expires_at": "2125-01-01T00:00:00Z" });
    let (id, key) = a_key(&world, &account, &draft).await;
    let later = json!({ "expires_at": "2125-01-01T00:00:00.001Z" });
    let request = world.post(&format!("/v1/keys/{id}/rotate")).bearer(&key);
    let message = "must not be later than the expiry of the key";
    let refused = problem_fault("expires_at", message);
    request.json(&later).expect(400, &refused).await;
    rotated(&world, &wide, &json!({})).await;
}

async fn account_that_may_not_have_keys_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (id, _) = a_key(&world, &account, &json!({})).await;
    world.change_plan(&account, "free").await;
    let message = "API keys not available on your plan";
    let refused = problem(403, "plan_forbidden", message);
    rotate(&world, &id, &json!({})).expect(403, &refused).await;
    world.change(&account, &json!({ "disabled": true })).await;
    let refused = problem(403, "account_disabled", "The account is disabled");
    rotate(&world, &id, &json!({})).expect(403, &refused).await;
    let enabled = json!({ "disabled": false, "plan": "pro" });
    world.change(&account, &enabled).await;
    rotated(&world, &id, &json!({})).await;
}

async fn limit_of_creates_comes_first(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let (id, key) = a_key(&world, &account, &json!({})).await;
    let path = format!("/v1/keys/{id}/rotate");
    for remaining in (0..10).rev() {
        let answer = world.post(&path).bearer(&key).text("{").send().await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let state = answer.header("ratelimit").unwrap_or_default();
        assert!(
            state.starts_with(&format!(r#""create";r={remaining};t="#)),
            "{answer:?}"
        );
    }
    let limited = problem(429, "rate_limited", "Too many requests");
    for path in [&*path, "/v1/whoami/rotate"] {
        let request = world.post(path).bearer(&key).text("{}");
        request.expect(429, &limited).await;
    }
    // Operators have no limit.
    rotated(&world, &id, &json!({})).await;
}

async fn keys_rotate_only_themselves_and_others_where_they_may_manage(place: Place) {
    let world = place
        .with(|server| server.env("KEYS_HTTP__KEY_MANAGEMENT", "session_only"))
        .await;
    let account = world.account("pro").await;
    let (id, key) = a_key(&world, &account, &json!({})).await;
    let path = format!("/v1/keys/{id}/rotate");
    let message = "This kind of credential cannot be used here";
    let refused = problem(403, "kind_not_allowed", message);
    let request = world.post(&path).bearer(&key).text("{}");
    request.expect(403, &refused).await;
    let session = world.session(&account).await;
    let answer = world.post(&path).bearer(&session).text("{}").send().await;
    assert_eq!(answer.status, 201, "{answer:?}");

    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (id, key) = a_key(&world, &account, &json!({})).await;
    let (other, _) = a_key(&world, &account, &json!({})).await;
    let rotate = |id: &str, body: &Value| {
        let request = world.post(&format!("/v1/keys/{id}/rotate"));
        request.bearer(&key).json(body)
    };
    // A key that rotates itself keeps a minute for an answer that is lost.
    let message = "must be at least 60 for a key that rotates itself";
    let refused = problem_fault("grace_seconds", message);
    for grace in [0, 59] {
        let body = json!({ "grace_seconds": grace });
        rotate(&id, &body).expect(400, &refused).await;
    }
    let at_once = json!({ "grace_seconds": 0 });
    assert_eq!(rotate(&other, &at_once).send().await.status, 201);
    let minute = json!({ "grace_seconds": 60 });
    assert_eq!(rotate(&id, &minute).send().await.status, 201);
    assert_eq!(world.status(&key).await, 200);
}

async fn key_is_rotated_into_one_like_it(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let draft = json!({
        "name": "CI",
        "prefix": "acme_test",
        "allowed_ips": ["127.0.0.0/8", "2001:db8::1"],
        "scopes": ["orders:read", "a"],
        "expires_at": "2125-01-01T00:00:00.5Z",
        "limits": { "list": { "requests": 7, "period_seconds": 60 } },
        "metadata": { "team": "billing" },
    });
    let (id, key) = a_key(&world, &account, &draft).await;
    let expected = json!({
        "id": ID,
        "account_id": account,
        "name": "CI",
        "key": whole_key("acme_test"),
        "key_prefix": shown_prefix("acme_test"),
        "allowed_ips": ["127.0.0.0/8", "2001:db8::1"],
        "scopes": ["a", "orders:read"],
        "expires_at": "2125-01-01T00:00:00.500Z",
        "limits": { "list": { "requests": 7, "period_seconds": 60 } },
        "metadata": { "team": "billing" },
        "last_used_at": null,
        "created_at": NOW,
        "predecessor": id,
        "predecessor_ends_at": null,
    });
    let before = in_millis(0);
    let answer = rotate(&world, &id, &json!({})).send().await;
    let ends_at = answer.text("/predecessor_ends_at");
    let mut expected = expected;
    expected["predecessor_ends_at"] = ends_at.clone().into();
    let answer = answer.is(201, &expected).has("cache-control", "no-store");
    assert!(answer.header("effective-everywhere-by").is_some());
    // An hour, unless something else is asked for.
    let ends_at = Timestamp::parse_rfc3339(&ends_at).unwrap();
    let grace = ends_at.saturating_since(before).as_secs();
    assert!((3_599..3_660).contains(&grace), "{grace}");
    for key in [key, answer.text("/key")] {
        assert_eq!(world.status(&key).await, 200);
    }
}

/// Returns what `/v1/auth` says of a key: its status, its reason and when the key ends.
async fn verdict(world: &World, key: &str) -> (u16, Option<String>, Option<String>) {
    let answer = world.get("/v1/auth").bearer(key).send().await;
    let header = |name| answer.header(name).map(str::to_owned);
    (answer.status, header("x-denial"), header("key-expires"))
}

async fn old_key_is_good_until_its_grace_ends(place: Place) {
    let world = place.shared().await;
    let (id, old) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    // It is in the cache before.
    assert_eq!(verdict(&world, &old).await, (200, None, None));
    let answer = rotated(&world, &id, &json!({ "grace_seconds": 2 })).await;
    let new = answer.text("/key");
    let ends_at = Timestamp::parse_rfc3339(&answer.text("/predecessor_ends_at")).unwrap();
    let told = Some(ends_at.to_http_date());
    for _ in 0..2 {
        assert_eq!(verdict(&world, &old).await, (200, None, told.clone()));
        assert_eq!(verdict(&world, &new).await, (200, None, None));
        assert_eq!(world.status(&old).await, 200);
    }
    // The shown time is cut to milliseconds.
    wait_until(ends_at.saturating_add(Duration::from_millis(1))).await;
    let (status, denial, _) = verdict(&world, &old).await;
    assert_eq!((status, denial.as_deref()), (401, Some("expired")));
    assert_eq!(world.status(&old).await, 401);
    assert_eq!(world.status(&new).await, 200);
    assert_eq!(verdict(&world, &new).await.0, 200);
}

async fn old_key_without_a_grace_ends_at_once(place: Place) {
    let world = place.shared().await;
    let (id, old) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    assert_eq!(verdict(&world, &old).await.0, 200);
    let answer = rotated(&world, &id, &json!({ "grace_seconds": 0 })).await;
    let (status, denial, _) = verdict(&world, &old).await;
    assert_eq!((status, denial.as_deref()), (401, Some("revoked")));
    assert_eq!(world.status(&old).await, 401);
    assert_eq!(world.status(&answer.text("/key")).await, 200);
}

async fn old_key_keeps_an_earlier_expiry_and_operators_choose_that_of_the_new_one(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let end = in_millis(600_000);
    let draft = json!({ "expires_at": exactly(end) });
    for (chosen, expected) in [
        (json!(null), end.to_string()),
        (
            json!("2125-01-01T00:00:00Z"),
            "2125-01-01T00:00:00.000Z".to_owned(),
        ),
        (
            json!(exactly(in_millis(300_000))),
            "an earlier one".to_owned(),
        ),
    ] {
        let (id, _) = a_key(&world, &account, &draft).await;
        let answer = rotated(&world, &id, &json!({ "expires_at": chosen })).await;
        assert_eq!(answer.text("/predecessor_ends_at"), end.to_string());
        let expires_at = answer.text("/expires_at");
        if expected == "an earlier one" {
            assert!(expires_at < end.to_string(), "{answer:?}");
        } else {
            assert_eq!(expires_at, expected);
        }
    }
}

async fn chain_of_three_has_two_good_keys(place: Place) {
    let world = place.shared().await;
    let (first_id, first) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    let second = rotated(&world, &first_id, &json!({})).await;
    for key in [&first, &second.text("/key")] {
        assert_eq!(verdict(&world, key).await.0, 200);
    }
    let third = rotated(&world, &second.text("/id"), &json!({})).await;
    let (status, denial, _) = verdict(&world, &first).await;
    assert_eq!((status, denial.as_deref()), (401, Some("revoked")));
    for answer in [&second, &third] {
        let key = answer.text("/key");
        assert_eq!(verdict(&world, &key).await.0, 200);
        assert_eq!(world.status(&key).await, 200);
    }
    let refused = rotated_into(&second.text("/id"));
    rotate(&world, &first_id, &json!({}))
        .expect(409, &refused)
        .await;
}

async fn rotation_at_the_maximum_is_made(place: Place) {
    let world = place.shared().await;
    let account = world.account("three").await;
    let (id, _) = a_key(&world, &account, &json!({})).await;
    for _ in 0..2 {
        world.key(&account).await;
    }
    let message = "Maximum 3 API keys per account";
    let full = problem(403, "key_limit_reached", message);
    let create = || {
        let create = world.post(&format!("/v1/accounts/{account}/keys"));
        create.bearer(world.operator()).text("{}")
    };
    create().expect(403, &full).await;
    let second = rotated(&world, &id, &json!({})).await.text("/id");
    create().expect(403, &full).await;
    // The chain of one key never counts as more than two.
    rotated(&world, &second, &json!({ "grace_seconds": 0 })).await;
    create().expect(403, &full).await;
}

async fn repetition_gets_the_very_same_answer(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (id, key) = a_key(&world, &account, &json!({})).await;
    let rotate = |credential: &str, idempotency_key: &str| {
        let request = world.post(&format!("/v1/keys/{id}/rotate"));
        let request = request.bearer(credential).idempotency_key(idempotency_key);
        request.json(&json!({ "grace_seconds": 60 }))
    };
    // The key rotates itself, and its answer is lost.
    let first = rotate(&key, "once").send().await;
    assert_eq!(first.status, 201, "{first:?}");
    for _ in 0..2 {
        let again = rotate(&key, "once").send().await;
        assert_eq!((again.status, &again.body), (201, &first.body));
        assert!(again.header("effective-everywhere-by").is_some());
    }
    let refused = rotated_into(&first.text("/id"));
    rotate(&key, "twice").expect(409, &refused).await;
    // Another credential does not get that answer.
    rotate(world.operator(), "once").expect(409, &refused).await;
    let other = world.post(&format!("/v1/keys/{id}/rotate")).bearer(&key);
    let other = other.idempotency_key("once").text("{}");
    let message = "This Idempotency-Key was used with another body";
    let differs = problem(422, "idempotency_body_differs", message);
    other.expect(422, &differs).await;
    assert_eq!(world.status(&first.text("/key")).await, 200);
}

async fn one_of_many_rotations_at_once_is_made(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (id, key) = a_key(&world, &account, &json!({})).await;
    let session = world.session(&account).await;
    let mut rotations = JoinSet::new();
    for number in 0..12 {
        let credential = [&key, &session, world.operator()][number % 3];
        let request = world.post(&format!("/v1/keys/{id}/rotate"));
        rotations.spawn(request.bearer(credential).text("{}").send());
    }
    let answers = rotations.join_all().await;
    let made: Vec<_> = answers.iter().filter(|one| one.status == 201).collect();
    let [made] = &made[..] else {
        panic!("{answers:?}");
    };
    let refused = rotated_into(&made.text("/id"));
    for answer in answers.iter().filter(|one| one.status != 201) {
        answer.clone().is(409, &refused);
    }
    assert_eq!(world.names(&key).await.len(), 2);
}

async fn answer_waits_until_every_instance_has_applied_it(place: Place) {
    let world = place.shared().await;
    let (id, old) = a_key(&world, &world.account("roomy").await, &json!({})).await;
    let path = format!("/v1/keys/{id}/rotate?wait=global");
    let rotate = || {
        let request = world.post(&path).bearer(world.operator());
        let request = request.idempotency_key(&id);
        request.json(&json!({ "grace_seconds": 0 }))
    };
    let answer = rotate().send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let by = answer.header("effective-everywhere-by").unwrap();
    assert!(Timestamp::parse_rfc3339(by).unwrap() <= in_millis(0));
    assert_eq!(world.status(&old).await, 401);
    let again = rotate().send().await;
    assert_eq!((again.status, again.body), (201, answer.body));
}
