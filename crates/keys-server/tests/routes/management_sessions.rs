//! `POST` and `DELETE /v1/accounts/{id}/sessions`, and `DELETE` of one session

use std::time::Duration;

use keys_core::Timestamp;
use keys_service::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::dialect::{Dialect, FLAT, problem, problem_fault};
use crate::shape::{difference, whole_key};
use crate::world::Place;

on_both_databases!(
    unusable_time_to_live_is_refused,
    person_and_scopes_at_fault_are_refused_by_their_members,
    end_of_unknown_sessions_is_refused,
    ending_sessions_needs_the_scope,
    session_is_ended_once,
    sessions_of_a_person_are_ended,
    scopes_of_a_session_limit_the_keys_made_in_it,
    session_is_not_opened_for_a_disabled_account,
    session_is_opened_with_a_token_and_its_end,
    session_is_used_like_a_key_on_both_contracts,
    session_is_opened_on_a_plan_without_keys,
);

async fn unusable_time_to_live_is_refused(place: Place) {
    const NUMBER: &str = "must be a whole number from 1 to 86400";
    let world = place.shared().await;
    let path = format!("/v1/accounts/{}/sessions", world.account("pro").await);
    for (body, message) in [
        (json!({}), "is required"),
        (json!({ "ttl_seconds": null }), "is required"),
        (json!({ "ttl_seconds": 0 }), NUMBER),
        (json!({ "ttl_seconds": -1 }), NUMBER),
        (json!({ "ttl_seconds": 86_401 }), NUMBER),
        (json!({ "ttl_seconds": u64::MAX }), NUMBER),
        (json!({ "ttl_seconds": 1.5 }), NUMBER),
        (json!({ "ttl_seconds": 60.0 }), NUMBER),
        (json!({ "ttl_seconds": "60" }), NUMBER),
        (json!({ "ttl_seconds": [60] }), NUMBER),
    ] {
        let open = world.post(&path).bearer(world.operator()).json(&body);
        open.expect(400, &problem_fault("ttl_seconds", message))
            .await;
    }
    let huge = world.post(&path).bearer(world.operator());
    let huge = huge.text(r#"{"ttl_seconds":1e999}"#).send().await;
    assert_eq!(huge.status, 400, "{huge:?}");
}

async fn session_is_not_opened_for_a_disabled_account(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    world.change(&account, &json!({ "disabled": true })).await;
    let open = world.post(&format!("/v1/accounts/{account}/sessions"));
    let open = open
        .bearer(world.operator())
        .json(&json!({ "ttl_seconds": 60 }));
    let body = problem(403, "account_disabled", "The account is disabled");
    open.expect(403, &body).await;
}

async fn session_is_opened_with_a_token_and_its_end(place: Place) {
    let world = place.shared().await;
    let path = format!("/v1/accounts/{}/sessions", world.account("pro").await);
    for ttl_seconds in [1, 60, 86_400] {
        let before = SystemClock.now();
        let open = world.post(&path).bearer(world.operator());
        let opened = open
            .json(&json!({ "ttl_seconds": ttl_seconds }))
            .send()
            .await;
        let after = SystemClock.now();
        assert_eq!(opened.status, 201, "{opened:?}");
        let end = opened.text("/expires_at");
        let expected =
            json!({ "id": opened.text("/id"), "token": whole_key("session"), "expires_at": end });
        assert_eq!(difference(&expected, &opened.json()), None);
        let ttl = Duration::from_secs(ttl_seconds);
        let end = Timestamp::parse_rfc3339(&end).unwrap().unix_millis();
        let earliest = before.saturating_add(ttl).unix_millis();
        let latest = after.saturating_add(ttl).unix_millis();
        assert!((earliest..=latest).contains(&end), "{opened:?}");
    }
}

async fn session_is_used_like_a_key_on_both_contracts(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("pro").await).await;
    for dialect in Dialect::BOTH {
        let created = world.create(dialect, &session, "key").await;
        let list = world.get(dialect.path()).bearer(&session).send().await;
        assert_eq!(dialect.listed(&list).len(), 1);
        let delete = world.delete(&dialect.path_of(&dialect.id(&created)));
        let deleted = delete.bearer(&session).send().await;
        assert_eq!(deleted.status, 200, "{deleted:?}");
    }
}

async fn session_is_opened_on_a_plan_without_keys(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("free").await).await;
    let list = world.get(FLAT).bearer(&session);
    list.expect(200, &Value::Array(Vec::new())).await;
}

async fn person_and_scopes_at_fault_are_refused_by_their_members(place: Place) {
    const SUBJECT: &str = "must be 1 to 255 characters, none of them a control character";
    const SCOPE: &str =
        "must be 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit";
    let world = place.shared().await;
    let path = format!("/v1/accounts/{}/sessions", world.account("pro").await);
    for (mut body, field, message) in [
        (json!({ "subject": 1 }), "subject", "must be a string"),
        (json!({ "subject": "" }), "subject", SUBJECT),
        (json!({ "subject": "a\nb" }), "subject", SUBJECT),
        (json!({ "subject": "x".repeat(256) }), "subject", SUBJECT),
        (
            json!({ "subject": " " }),
            "subject",
            "must contain a visible character",
        ),
        (
            json!({ "scopes": "a" }),
            "scopes",
            "must be a list of strings",
        ),
        (json!({ "scopes": ["a", "B"] }), "scopes.1", SCOPE),
    ] {
        body["ttl_seconds"] = json!(60);
        let open = world.post(&path).bearer(world.operator()).json(&body);
        open.expect(400, &problem_fault(field, message)).await;
    }
    let open = world.post(&path).bearer(world.operator());
    let open = open.json(&json!({ "subject": "", "scopes": [1] }));
    let refused = open.send().await;
    assert_eq!(refused.status, 400, "{refused:?}");
    let errors = refused.json()["errors"].as_array().unwrap().clone();
    let fields: Vec<_> = errors.iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["ttl_seconds", "subject", "scopes.0"]);
}

async fn end_of_unknown_sessions_is_refused(place: Place) {
    const UNKNOWN_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";
    let world = place.shared().await;
    let account = world.account("pro").await;
    let not_found = problem(404, "session_not_found", "Session not found");
    let key = world.issue(&account, &json!({})).await.text("/id");
    let other = world.account("pro").await;
    let opened = world.post(&format!("/v1/accounts/{other}/sessions"));
    let opened = opened.bearer(world.operator());
    let opened = opened.json(&json!({ "ttl_seconds": 60 })).send().await;
    let others = opened.text("/id");
    for path in [
        format!("{account}/sessions/{UNKNOWN_ID}"),
        format!("{account}/sessions/x"),
        format!("{account}/sessions/{key}"),
        format!("{account}/sessions/{others}"),
        format!("{UNKNOWN_ID}/sessions/{others}"),
        format!("x/sessions/{others}"),
    ] {
        let delete = world.delete(&format!("/v1/accounts/{path}"));
        delete
            .bearer(world.operator())
            .expect(404, &not_found)
            .await;
    }
    let not_found = problem(404, "account_not_found", "Account not found");
    for account in [UNKNOWN_ID, "x"] {
        let delete = world.delete(&format!("/v1/accounts/{account}/sessions"));
        delete
            .bearer(world.operator())
            .expect(404, &not_found)
            .await;
    }
    let delete = world.delete(&format!("/v1/accounts/{account}/sessions?subject="));
    let message = "must be 1 to 255 characters, none of them a control character";
    delete
        .bearer(world.operator())
        .expect(400, &problem_fault("subject", message))
        .await;
    assert_eq!(world.status(&opened.text("/token")).await, 200);
}

async fn ending_sessions_needs_the_scope(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    let create = ["operator-key", "create", "--name", "keys", "--scope"];
    let keys = world.command(&[&create[..], &["keys:write"]].concat());
    let path = format!("/v1/accounts/{account}/sessions");
    let message = "This API key lacks a required scope";
    let refused = problem(403, "insufficient_scope", message);
    for path in [path.clone(), format!("{path}/x")] {
        world
            .delete(&path)
            .bearer(&keys)
            .expect(403, &refused)
            .await;
    }
    let message = "This kind of credential cannot be used here";
    let refused = problem(403, "kind_not_allowed", message);
    world
        .delete(&path)
        .bearer(&session)
        .expect(403, &refused)
        .await;
    assert_eq!(world.status(&session).await, 200);
}

async fn session_is_ended_once(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let path = format!("/v1/accounts/{account}/sessions");
    let opened = world.post(&path).bearer(world.operator());
    let opened = opened.json(&json!({ "ttl_seconds": 60 })).send().await;
    let other = world.session(&account).await;
    let path = format!("{path}/{}", opened.text("/id"));
    let ended = world.delete(&path).bearer(world.operator()).send().await;
    assert_eq!(ended.status, 200, "{ended:?}");
    assert_eq!(ended.json()["revoked"], 1);
    assert!(ended.header("effective-everywhere-by").is_some());
    assert_eq!(world.status(&opened.text("/token")).await, 401);
    assert_eq!(world.status(&other).await, 200);
    let not_found = problem(404, "session_not_found", "Session not found");
    world
        .delete(&path)
        .bearer(world.operator())
        .expect(404, &not_found)
        .await;
}

async fn sessions_of_a_person_are_ended(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let path = format!("/v1/accounts/{account}/sessions");
    let open = async |subject: Value| {
        let body = json!({ "ttl_seconds": 600, "subject": subject });
        let opened = world.post(&path).bearer(world.operator()).json(&body);
        let opened = opened.send().await;
        assert_eq!(opened.status, 201, "{opened:?}");
        opened.text("/token")
    };
    let hers = [open(json!("user 17")).await, open(json!("user 17")).await];
    let his = open(json!("user 1")).await;
    let unnamed = open(Value::Null).await;
    let made = world.create(Dialect::Flat, &hers[0], "made").await;
    let end = async |query: &str| {
        let end = world.delete(&format!("{path}{query}"));
        let ended = end.bearer(world.operator()).send().await;
        assert_eq!(ended.status, 200, "{ended:?}");
        ended.json()["revoked"].clone()
    };
    assert_eq!(end("?subject=user").await, 0);
    assert_eq!(end("?subject=user%2017").await, 2);
    for session in &hers {
        assert_eq!(world.status(session).await, 401);
    }
    // Keys outlive the session.
    let made = Dialect::Flat.key(&made);
    for credential in [&his, &unnamed, &made] {
        assert_eq!(world.status(credential).await, 200);
    }
    assert_eq!(end("").await, 2);
    assert_eq!(end("").await, 0);
    assert_eq!(world.status(&made).await, 200);
}

async fn scopes_of_a_session_limit_the_keys_made_in_it(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let open = world.post(&format!("/v1/accounts/{account}/sessions"));
    let open = open.bearer(world.operator());
    let open = open.json(&json!({ "ttl_seconds": 600, "scopes": ["orders:read"] }));
    let session = open.send().await.text("/token");
    let made = world.create(Dialect::Flat, &session, "made").await;
    let verify = world.post("/v1/keys/verify").bearer(world.operator());
    let key = Dialect::Flat.key(&made);
    let verified = verify.json(&json!({ "key": key })).send().await;
    assert_eq!(verified.json()["key"]["scopes"], json!(["orders:read"]));
}
