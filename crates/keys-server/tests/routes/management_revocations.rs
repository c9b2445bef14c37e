//! `DELETE /v1/keys/{id}` and `POST /v1/keys/revoke`

use serde_json::{Value, json};

use crate::dialect::{Dialect, problem, problem_fault};
use crate::exchange::Answer;
use crate::shape::NOW;
use crate::world::{Place, World};

on_both_databases!(
    revocation_at_fault_is_refused_by_its_member,
    bulk_revocation_at_fault_is_refused_by_its_member,
    unknown_key_is_not_found,
    other_kinds_are_unknown_to_a_revocation_of_keys,
    caller_without_the_scope_is_refused,
    keys_of_other_accounts_are_unknown_to_an_account,
    key_is_revoked_once_with_reason_and_note,
    leaked_key_takes_what_it_made,
    keys_are_revoked_together,
    revocation_may_wait_for_all_instances,
);

const REASON: &str = "must be one of superseded, leaked, offboarded, unused, other";
const UNKNOWN_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

fn not_found() -> Value {
    problem(404, "key_not_found", "API key not found")
}

async fn revoke(world: &World, body: &Value) -> Answer {
    let request = world.post("/v1/keys/revoke").bearer(world.operator());
    request.json(body).send().await
}

fn counts(revoked: u64, remaining: u64) -> Value {
    let by = if revoked == 0 {
        Value::Null
    } else {
        json!("<later>")
    };
    json!({ "revoked": revoked, "remaining": remaining, "effective_everywhere_by": by })
}

/// Asserts the numbers of an answer, whose time is in the future.
fn assert_counts(answer: &Answer, revoked: u64, remaining: u64) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut body = answer.json();
    let by = &mut body["effective_everywhere_by"];
    if by.is_string() {
        assert_eq!(answer.header("effective-everywhere-by"), by.as_str());
        *by = json!("<later>");
    }
    assert_eq!(body, counts(revoked, remaining));
}

async fn revocation_at_fault_is_refused_by_its_member(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issued = world.issue(&account, &json!({})).await;
    let path = format!("/v1/keys/{}", issued.text("/id"));
    for (query, field, message) in [
        ("?reason=", "reason", REASON),
        ("?reason=stolen", "reason", REASON),
        (
            "?reason=leaked&reason=leaked",
            "reason",
            "must be given once",
        ),
        ("?wait=forever", "wait", "must be global"),
        (
            "?note=x",
            "note",
            "is not known here; known are reason, wait",
        ),
    ] {
        let delete = world.delete(&format!("{path}{query}"));
        let delete = delete.bearer(world.operator());
        delete.expect(400, &problem_fault(field, message)).await;
    }
    for (body, field, message) in [
        (json!({ "reason": 1 }), "reason", "must be a string"),
        (json!({ "reason": "Leaked" }), "reason", REASON),
        (json!({ "note": "" }), "note", "must not be empty"),
        (
            json!({ "note": "a\u{7}" }),
            "note",
            "must not contain control characters",
        ),
    ] {
        let delete = world.delete(&path).bearer(world.operator()).json(&body);
        delete.expect(400, &problem_fault(field, message)).await;
    }
    let long = world.delete(&path).bearer(world.operator());
    let long = long.json(&json!({ "note": "x".repeat(501) })).send().await;
    assert_eq!(long.status, 400, "{long:?}");
    let twice = world.delete(&format!("{path}?reason=leaked"));
    let twice = twice.bearer(world.operator());
    let twice = twice.json(&json!({ "reason": "leaked" }));
    let message = "must be given once, in the query or in the body";
    twice.expect(400, &problem_fault("reason", message)).await;
    assert_eq!(world.status(&issued.text("/key")).await, 200);
}

async fn bulk_revocation_at_fault_is_refused_by_its_member(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let many = vec![UNKNOWN_ID; 1_001];
    let entries = "must have 1 to 1000 entries";
    let id = "must be the id of a key, which is not the key itself";
    for (body, field, message) in [
        (
            json!({}),
            "ids",
            "is required, or account_id, or created_by",
        ),
        (json!({ "ids": [] }), "ids", entries),
        (json!({ "ids": many }), "ids", entries),
        (json!({ "ids": "x" }), "ids", "must be a list of strings"),
        (json!({ "ids": [UNKNOWN_ID, 1] }), "ids.1", id),
        (json!({ "ids": [key] }), "ids.0", id),
        (json!({ "account_id": 1 }), "account_id", "must be a string"),
        (
            json!({ "created_by": "user-17" }),
            "created_by",
            "is not operator:ID or subject:TEXT",
        ),
        (
            json!({ "ids": [UNKNOWN_ID], "account_id": UNKNOWN_ID }),
            "ids",
            "cannot be combined with another selection",
        ),
        (
            json!({ "account_id": UNKNOWN_ID, "created_by": "subject:x" }),
            "account_id",
            "cannot be combined with another selection",
        ),
        (
            json!({ "ids": [UNKNOWN_ID], "reason": "x" }),
            "reason",
            REASON,
        ),
    ] {
        let answer = revoke(&world, &body).await;
        answer.is(400, &problem_fault(field, message));
    }
    for account in [UNKNOWN_ID, "x"] {
        let answer = revoke(&world, &json!({ "account_id": account })).await;
        answer.is(404, &problem(404, "account_not_found", "Account not found"));
    }
    let none = revoke(&world, &json!({ "ids": [UNKNOWN_ID] })).await;
    assert_counts(&none, 0, 0);
}

async fn unknown_key_is_not_found(place: Place) {
    let world = place.shared().await;
    for path in [
        format!("/v1/keys/{UNKNOWN_ID}"),
        "/v1/keys/x".to_owned(),
        format!("/v1/keys/{UNKNOWN_ID}?reason=leaked"),
    ] {
        let delete = world.delete(&path).bearer(world.operator());
        delete.expect(404, &not_found()).await;
    }
}

async fn other_kinds_are_unknown_to_a_revocation_of_keys(place: Place) {
    let world = place.roomy().await;
    let account = world.account("pro").await;
    let opened = world.post(&format!("/v1/accounts/{account}/sessions"));
    let opened = opened.bearer(world.operator());
    let opened = opened.json(&json!({ "ttl_seconds": 60 })).send().await;
    let operators = world.get("/v1/operator-keys").bearer(world.operator());
    let operator = operators.send().await.text("/data/0/id");
    for id in [opened.text("/id"), operator] {
        for query in ["", "?reason=leaked"] {
            let delete = world.delete(&format!("/v1/keys/{id}{query}"));
            delete
                .bearer(world.operator())
                .expect(404, &not_found())
                .await;
        }
        let answer = revoke(&world, &json!({ "ids": [id] })).await;
        assert_counts(&answer, 0, 0);
    }
    assert_eq!(world.status(&opened.text("/token")).await, 200);
}

async fn caller_without_the_scope_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issued = world.issue(&account, &json!({})).await;
    let create = ["operator-key", "create", "--name", "reader", "--scope"];
    let reader = world.command(&[&create[..], &["keys:read"]].concat());
    let message = "This API key lacks a required scope";
    let refused = problem(403, "insufficient_scope", message);
    let delete = world.delete(&format!("/v1/keys/{}", issued.text("/id")));
    delete.bearer(&reader).expect(403, &refused).await;
    let bulk = world.post("/v1/keys/revoke").bearer(&reader);
    let bulk = bulk.json(&json!({ "account_id": account }));
    bulk.expect(403, &refused).await;
    assert_eq!(world.status(&issued.text("/key")).await, 200);
}

async fn keys_of_other_accounts_are_unknown_to_an_account(place: Place) {
    let world = place.shared().await;
    let own = world.account("roomy").await;
    let other = world.account("roomy").await;
    let theirs = world.issue(&other, &json!({})).await;
    let path = format!("/v1/keys/{}", theirs.text("/id"));
    for credential in [world.key(&own).await, world.session(&own).await] {
        for query in ["", "?reason=leaked"] {
            let delete = world.delete(&format!("{path}{query}")).bearer(&credential);
            delete.expect(404, &not_found()).await;
        }
        let bulk = |body: Value| {
            world
                .post("/v1/keys/revoke")
                .bearer(&credential)
                .json(&body)
        };
        let ids = bulk(json!({ "ids": [theirs.text("/id")] })).send().await;
        assert_counts(&ids, 0, 0);
        for account in [&*other, UNKNOWN_ID] {
            bulk(json!({ "account_id": account }))
                .expect(404, &problem(404, "account_not_found", "Account not found"))
                .await;
        }
        let mine = world.issue(&own, &json!({})).await;
        let delete = world.delete(&format!("/v1/keys/{}", mine.text("/id")));
        let deleted = delete.bearer(&credential).send().await;
        assert_counts(&deleted, 1, 0);
        assert_eq!(world.status(&mine.text("/key")).await, 401);
    }
    assert_eq!(world.status(&theirs.text("/key")).await, 200);
    // All keys of the account, by its session.
    let session = world.session(&own).await;
    let all = world.post("/v1/keys/revoke").bearer(&session);
    let all = all.json(&json!({ "account_id": own })).send().await;
    assert_counts(&all, 1, 0);
    assert_eq!(world.status(&theirs.text("/key")).await, 200);
}

async fn key_is_revoked_once_with_reason_and_note(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    for body in [
        None,
        Some(json!({})),
        Some(json!({ "reason": "offboarded", "note": "left in May" })),
        Some(json!({ "reason": null, "note": null })),
    ] {
        let issued = world.issue(&account, &json!({})).await;
        let path = format!("/v1/keys/{}", issued.text("/id"));
        let delete = world.delete(&path).bearer(world.operator());
        let delete = match &body {
            Some(body) => delete.json(body),
            None => delete,
        };
        let deleted = delete.send().await;
        assert_counts(&deleted, 1, 0);
        assert_eq!(world.status(&issued.text("/key")).await, 401);
        for query in ["", "?reason=leaked"] {
            let again = world.delete(&format!("{path}{query}"));
            again
                .bearer(world.operator())
                .expect(404, &not_found())
                .await;
        }
    }
    let issued = world.issue(&account, &json!({})).await;
    let path = format!("/v1/keys/{}?reason=unused", issued.text("/id"));
    let deleted = world.delete(&path).bearer(world.operator()).send().await;
    assert_counts(&deleted, 1, 0);
}

async fn leaked_key_takes_what_it_made(place: Place) {
    let world = place.shared().await;
    let account = world.account("ten").await;
    let leaked = world.issue(&account, &json!({})).await;
    let bystander = world.key(&account).await;
    let child = world
        .create(Dialect::Flat, &leaked.text("/key"), "child")
        .await;
    let child = Dialect::Flat.key(&child);
    let grandchild = world.create(Dialect::Flat, &child, "grandchild").await;
    let grandchild = Dialect::Flat.key(&grandchild);
    let path = format!("/v1/keys/{}?reason=leaked", leaked.text("/id"));
    let deleted = world.delete(&path).bearer(world.operator()).send().await;
    assert_counts(&deleted, 3, 0);
    for key in [&leaked.text("/key"), &child, &grandchild] {
        assert_eq!(world.status(key).await, 401);
    }
    assert_eq!(world.status(&bystander).await, 200);
}

async fn keys_are_revoked_together(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let mut issued = Vec::new();
    for _ in 0..5 {
        issued.push(world.issue(&account, &json!({})).await);
    }
    let ids: Vec<String> = issued[..2].iter().map(|key| key.text("/id")).collect();
    let body = json!({ "ids": [ids[0], ids[1], ids[0], UNKNOWN_ID], "reason": "superseded" });
    assert_counts(&revoke(&world, &body).await, 2, 0);
    for (index, key) in issued.iter().enumerate() {
        let expected = if index < 2 { 401 } else { 200 };
        assert_eq!(world.status(&key.text("/key")).await, expected);
    }
    let body = json!({ "account_id": account, "note": "closed" });
    assert_counts(&revoke(&world, &body).await, 3, 0);
    assert_counts(&revoke(&world, &body).await, 0, 0);

    // By the person in whose session they were made.
    let other = world.account("roomy").await;
    let opened = world.post(&format!("/v1/accounts/{other}/sessions"));
    let person = format!("person of {other}");
    let opened = opened.bearer(world.operator());
    let opened = opened.json(&json!({ "ttl_seconds": 600, "subject": person }));
    let session = opened.send().await.text("/token");
    let made = world.create(Dialect::Flat, &session, "made").await;
    let kept = world.key(&other).await;
    let body = json!({ "created_by": format!("subject:{person}"), "reason": "offboarded" });
    assert_counts(&revoke(&world, &body).await, 1, 0);
    assert_eq!(world.status(&Dialect::Flat.key(&made)).await, 401);
    for credential in [&kept, &session] {
        assert_eq!(world.status(credential).await, 200);
    }
}

async fn revocation_may_wait_for_all_instances(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issued = world.issue(&account, &json!({})).await;
    let path = format!("/v1/keys/{}?wait=global", issued.text("/id"));
    let deleted = world.delete(&path).bearer(world.operator()).send().await;
    let expected = json!({ "revoked": 1, "remaining": 0, "effective_everywhere_by": NOW });
    deleted.is(200, &expected);
    world.key(&account).await;
    let bulk = world.post("/v1/keys/revoke?wait=global");
    let bulk = bulk.bearer(world.operator());
    let bulk = bulk.json(&json!({ "account_id": account }));
    bulk.expect(200, &expected).await;
}
