//! `/v1/operator-keys`

use serde_json::{Value, json};

use crate::dialect::{problem, problem_fault};
use crate::shape::{ID, NOW, shown_prefix, whole_key};
use crate::world::{Place, World};

on_both_databases!(
    operator_key_at_fault_is_refused_by_its_member,
    operator_key_never_gives_scopes_that_it_lacks,
    scopes_of_operators_are_needed,
    last_operator_key_is_not_revoked,
    operator_key_lives_its_life,
    repeated_creation_gives_the_same_key,
    operator_keys_are_listed_in_pages,
);

const PATH: &str = "/v1/operator-keys";

fn not_found() -> Value {
    problem(404, "key_not_found", "API key not found")
}

/// Creates an operator key by the command line.
fn operator(world: &World, scopes: &[&str]) -> String {
    let mut arguments = vec!["operator-key", "create", "--name", "narrow"];
    for scope in scopes {
        arguments.extend(["--scope", scope]);
    }
    world.command(&arguments)
}

async fn operator_key_at_fault_is_refused_by_its_member(place: Place) {
    let world = place.shared().await;
    let known = "must be scopes of operators: accounts:read, accounts:write, keys:read, keys:write, \
                 keys:verify, sessions:read, sessions:write, operators:read, operators:write, events:read";
    for (body, field, message) in [
        (json!({ "scopes": [] }), "name", "is required"),
        (json!({ "name": "x" }), "scopes", "is required"),
        (
            json!({ "name": "", "scopes": [] }),
            "name",
            "must not be empty",
        ),
        (
            json!({ "name": "x", "scopes": ["orders:read"] }),
            "scopes",
            known,
        ),
        (
            json!({ "name": "x", "scopes": [], "allowed_ips": ["nowhere"] }),
            "allowed_ips.0",
            "must be an IPv4 or IPv6 address or CIDR network",
        ),
        (
            json!({ "name": "x", "scopes": [], "expires_at": "2020-01-01T00:00:00Z" }),
            "expires_at",
            "must be in the future",
        ),
        (
            json!({ "name": "x", "scopes": [], "prefix": "x" }),
            "prefix",
            "is not known here; known are name, allowed_ips, scopes, expires_at",
        ),
    ] {
        let create = world.post(PATH).bearer(world.operator()).json(&body);
        create.expect(400, &problem_fault(field, message)).await;
    }
    for path in ["AAAAAAAAAAAAAAAAAAAAAA", "x"] {
        let path = format!("{PATH}/{path}");
        let read = world.get(&path).bearer(world.operator());
        read.expect(404, &not_found()).await;
        let delete = world.delete(&path).bearer(world.operator());
        delete.expect(404, &not_found()).await;
    }
    let issued = world
        .issue(&world.account("pro").await, &json!({}))
        .await
        .text("/id");
    let read = world.get(&format!("{PATH}/{issued}"));
    let read = read.bearer(world.operator());
    read.expect(404, &not_found()).await;
    let delete = world.delete(&format!("{PATH}/{issued}"));
    let delete = delete.bearer(world.operator());
    delete.expect(404, &not_found()).await;
}

async fn operator_key_never_gives_scopes_that_it_lacks(place: Place) {
    let world = place.shared().await;
    let narrow = operator(&world, &["operators:write", "keys:read"]);
    let create = |scopes: &[&str]| {
        let body = json!({ "name": "child", "scopes": scopes });
        world.post(PATH).bearer(&narrow).json(&body)
    };
    let message = "must be held by the key that creates it";
    for scopes in [&["keys:write"][..], &["keys:read", "operators:read"]] {
        create(scopes)
            .expect(400, &problem_fault("scopes", message))
            .await;
    }
    for scopes in [&[][..], &["keys:read"], &["keys:read", "operators:write"]] {
        let created = create(scopes).send().await;
        assert_eq!(created.status, 201, "{created:?}");
    }
}

async fn scopes_of_operators_are_needed(place: Place) {
    let world = place.shared().await;
    let reader = operator(&world, &["operators:read"]);
    let writer = operator(&world, &["operators:write", "keys:read", "keys:write"]);
    let message = "This API key lacks a required scope";
    let refused = problem(403, "insufficient_scope", message);
    let listed = world.get(PATH).bearer(&reader).send().await;
    assert_eq!(listed.status, 200, "{listed:?}");
    world.get(PATH).bearer(&writer).expect(403, &refused).await;
    let path = format!("{PATH}/{}", listed.text("/data/0/id"));
    world.get(&path).bearer(&writer).expect(403, &refused).await;
    world
        .delete(&path)
        .bearer(&reader)
        .expect(403, &refused)
        .await;
    let create = world.post(PATH).bearer(&reader);
    let create = create.json(&json!({ "name": "x", "scopes": [] }));
    create.expect(403, &refused).await;
    let account = world.account("roomy").await;
    let wrong_kind = problem(
        403,
        "kind_not_allowed",
        "This kind of credential cannot be used here",
    );
    for credential in [world.key(&account).await, world.session(&account).await] {
        world
            .get(PATH)
            .bearer(&credential)
            .expect(403, &wrong_kind)
            .await;
    }
}

async fn last_operator_key_is_not_revoked(place: Place) {
    let world = place.alone().await;
    let whoami = world.get("/v1/whoami").bearer(world.operator()).send();
    let id = whoami.await.text("/id");
    let path = format!("{PATH}/{id}");
    // A first start on SQLite has made one.
    let listed = world.get(PATH).bearer(world.operator()).send().await;
    for key in listed.json()["data"].as_array().unwrap() {
        let other = key["id"].as_str().unwrap();
        if other != id {
            let delete = world.delete(&format!("{PATH}/{other}"));
            let deleted = delete.bearer(world.operator()).send().await;
            assert_eq!(deleted.status, 200, "{deleted:?}");
        }
    }
    let message = "This is the last usable operator key with operators:write";
    let last = problem(409, "last_operator_key", message);
    for query in ["", "?reason=leaked"] {
        let delete = world.delete(&format!("{path}{query}"));
        delete.bearer(world.operator()).expect(409, &last).await;
    }
    operator(&world, &["keys:write"]);
    world
        .delete(&path)
        .bearer(world.operator())
        .expect(409, &last)
        .await;
    let next = operator(&world, &["operators:write"]);
    let deleted = world.delete(&path).bearer(world.operator()).send().await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let again = world.delete(&path).bearer(&next);
    again.expect(404, &not_found()).await;
}

async fn operator_key_lives_its_life(place: Place) {
    let world = place.shared().await;
    let create = world.post(PATH).bearer(world.operator()).json(&json!({
        "name": "billing",
        "allowed_ips": ["127.0.0.0/8", "::1"],
        "scopes": ["keys:write", "keys:read"],
        "expires_at": "2125-01-01T00:00:00Z",
    }));
    let expected = json!({
        "id": ID,
        "account_id": null,
        "name": "billing",
        "key": whole_key("operator"),
        "key_prefix": shown_prefix("operator"),
        "allowed_ips": ["127.0.0.0/8", "::1"],
        "scopes": ["keys:read", "keys:write"],
        "expires_at": "2125-01-01T00:00:00.000Z",
        "limits": {},
        "metadata": {},
        "last_used_at": null,
        "created_at": NOW,
    });
    let created = create.expect(201, &expected).await;
    let key = created.text("/key");
    let account = world.account("pro").await;
    let issue = world.post(&format!("/v1/accounts/{account}/keys"));
    let issued = issue.bearer(&key).json(&json!({})).send().await;
    assert_eq!(issued.status, 201, "{issued:?}");

    let path = format!("{PATH}/{}", created.text("/id"));
    let read = async || {
        let read = world.get(&path).bearer(world.operator()).send().await;
        assert_eq!(read.status, 200, "{read:?}");
        read.json()
    };
    let before = read().await;
    assert_eq!(before["status"], "active");
    assert_eq!(before["created_by"]["type"], "operator");
    assert_eq!(before["created_by"]["subject"], json!(null));
    assert_eq!(before["revoked_at"], json!(null));
    assert!(before.get("key").is_none());

    let body = json!({ "reason": "leaked", "note": "in a public log" });
    let delete = world.delete(&path).bearer(world.operator()).json(&body);
    let deleted = delete.send().await;
    // The key that it made as well.
    assert_eq!(deleted.json()["revoked"], 2, "{deleted:?}");
    assert_eq!(world.status(&issued.text("/key")).await, 401);
    let after = read().await;
    assert_eq!(after["status"], "revoked");
    assert_eq!(after["revoked_reason"], "leaked");
    assert_eq!(after["revoked_note"], "in a public log");
    let refused = world.get("/v1/accounts").bearer(&key).send().await;
    assert_eq!(refused.status, 401, "{refused:?}");
}

async fn repeated_creation_gives_the_same_key(place: Place) {
    let world = place.shared().await;
    let create = async || {
        let create = world.post(PATH).bearer(world.operator());
        let create = create.idempotency_key("operator-key-1");
        let created = create.json(&json!({ "name": "once", "scopes": [] })).send();
        let created = created.await;
        assert_eq!(created.status, 201, "{created:?}");
        created.text("/key")
    };
    assert_eq!(create().await, create().await);
}

async fn operator_keys_are_listed_in_pages(place: Place) {
    let world = place.alone().await;
    let before = world.get(PATH).bearer(world.operator()).send().await;
    let before = before.json()["data"].as_array().unwrap().len();
    for _ in 0..4 {
        operator(&world, &["keys:read"]);
    }
    for (query, field, message) in [
        ("limit=0", "limit", "must be a whole number from 1 to 1000"),
        (
            "limit=1001",
            "limit",
            "must be a whole number from 1 to 1000",
        ),
        (
            "cursor=x",
            "cursor",
            "must be a next_cursor of another page",
        ),
    ] {
        let list = world.get(&format!("{PATH}?{query}"));
        let list = list.bearer(world.operator());
        list.expect(400, &problem_fault(field, message)).await;
    }
    let mut seen = Vec::new();
    let mut query = "limit=2".to_owned();
    loop {
        let list = world.get(&format!("{PATH}?{query}"));
        let page = list.bearer(world.operator()).send().await.json();
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2, "{page}");
        seen.extend(
            data.iter()
                .map(|key| key["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        query = format!("limit=2&cursor={cursor}");
    }
    assert_eq!(seen.len(), before + 4);
    assert!(seen.is_sorted_by(|one, other| one != other));
    let whole = world.get(PATH).bearer(world.operator()).send().await.json();
    let whole = whole["data"].as_array().unwrap().iter();
    let whole: Vec<_> = whole.map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!(whole, seen);
}
