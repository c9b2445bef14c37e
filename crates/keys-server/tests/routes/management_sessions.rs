//! `POST /v1/accounts/{id}/sessions`

use std::time::Duration;

use keys_core::Timestamp;
use keys_service::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::dialect::{Dialect, FLAT, problem, problem_fault};
use crate::shape::{difference, whole_key};
use crate::world::Place;

on_both_databases!(
    unusable_time_to_live_is_refused,
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
