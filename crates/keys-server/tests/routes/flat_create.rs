//! `POST /api/api-keys`

use serde_json::json;

use crate::dialect::{ACCOUNT, Dialect, FLAT, flat_fault};
use crate::world::Place;

on_both_databases!(
    documented_credential_is_nobodys,
    unusable_name_is_refused,
    documented_request_creates_a_key_as_documented,
    name_is_trimmed_and_counted_in_scalars,
    names_may_be_given_twice,
    members_set_by_the_server_cannot_be_set_by_a_body,
    members_of_the_other_dialect_are_ignored,
);

async fn documented_credential_is_nobodys(place: Place) {
    let world = place.shared().await;
    world
        .post(FLAT)
        .header("Authorization", "Bearer sk_live_your_api_key")
        .text(r#"{"name": "Production Server"}"#)
        .expect(401, &Dialect::Flat.unauthorized())
        .await
        .has(
            "www-authenticate",
            r#"Bearer realm="keys", error="invalid_token""#,
        );
}

async fn unusable_name_is_refused(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let control = "must not contain control characters";
    for (body, message) in [
        (json!({}), "is required"),
        (json!({ "Name": "Production Server" }), "is required"),
        (json!({ "memo": "Production Server" }), "is required"),
        (json!({ "name": null }), "is required"),
        (json!({ "name": 7 }), "must be a string"),
        (json!({ "name": true }), "must be a string"),
        (json!({ "name": ["Production Server"] }), "must be a string"),
        (json!({ "name": {} }), "must be a string"),
        (json!({ "name": "" }), "must not be empty"),
        (json!({ "name": " \t\u{3000}\n" }), "must not be empty"),
        (json!({ "name": "a\u{0}b" }), control),
        (json!({ "name": "a\u{7f}" }), control),
        (json!({ "name": "a\nb" }), control),
        (json!({ "name": "a\u{85}b" }), control),
        (
            json!({ "name": "é".repeat(256) }),
            "must be at most 255 characters",
        ),
    ] {
        let create = world.post(FLAT).bearer(&key).json(&body);
        create.expect(400, &flat_fault("name", message)).await;
    }
    assert_eq!(world.names(&key).await, [""]);
}

async fn documented_request_creates_a_key_as_documented(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world
        .post("/api/api-keys")
        .header("Authorization", format!("Bearer {key}"))
        .header("Content-Type", "application/json")
        .unannounced(r#"{"name": "Production Server"}"#)
        .expect(201, &Dialect::Flat.created("Production Server"))
        .await
        .has("content-type", "application/json")
        .has("cache-control", "no-store");
    let new = created.text("/key");
    assert_eq!(new.len(), "sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6".len());
    assert_eq!(created.text("/keyPrefix"), new[..12]);
    assert_eq!(created.text("/keyPrefix").len(), "sk_live_a1b2".len());
    assert_eq!(world.names(&new).await, ["Production Server", ""]);
}

async fn name_is_trimmed_and_counted_in_scalars(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let longest = "🔑".repeat(255);
    for (sent, kept) in [
        ("  Production Server\t", "Production Server"),
        (&*longest, &*longest),
        ("a  b", "a  b"),
        (
            "<b>\"'; drop table api_key; --",
            "<b>\"'; drop table api_key; --",
        ),
        ("null", "null"),
    ] {
        let create = world.post(FLAT).bearer(&key).json(&json!({ "name": sent }));
        create.expect(201, &Dialect::Flat.created(kept)).await;
        assert_eq!(world.names(&key).await[0], kept);
    }
}

async fn names_may_be_given_twice(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let first = world.create(Dialect::Flat, &key, "twin").await;
    let second = world.create(Dialect::Flat, &key, "twin").await;
    assert_ne!(first.text("/id"), second.text("/id"));
    assert_ne!(first.text("/key"), second.text("/key"));
    assert_eq!(world.names(&key).await, ["twin", "twin", ""]);
}

async fn members_set_by_the_server_cannot_be_set_by_a_body(place: Place) {
    let world = place.shared().await;
    let (account, other) = (world.account("pro").await, world.account("pro").await);
    let key = world.key(&account).await;
    let chosen = "sk_live_000000000000000000000000003vSKjy";
    let created = world
        .post(FLAT)
        .bearer(&key)
        .json(&json!({
            "name": "mine",
            "id": "AAAAAAAAAAAAAAAAAAAAAA",
            "key": chosen,
            "keyPrefix": "sk_live_0000",
            "createdAt": "2020-01-01T00:00:00.000Z",
            "lastUsedAt": "2020-01-01T00:00:00.000Z",
            "accountId": other,
            "account_id": other,
            "kind": "operator",
            "scopes": ["accounts:write"],
            "unknown": { "deeply": [{ "nested": null }] },
        }))
        .expect(201, &Dialect::Flat.created("mine"))
        .await;
    assert_ne!(created.text("/id"), "AAAAAAAAAAAAAAAAAAAAAA");
    assert_ne!(created.text("/key"), chosen);
    let new = created.text("/key");
    assert_eq!(world.names(&new).await, ["mine", ""]);
    let manage = world.get("/v1/accounts").bearer(&new).send().await;
    assert_eq!(manage.status, 403, "{manage:?}");
}

async fn members_of_the_other_dialect_are_ignored(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world
        .post(FLAT)
        .bearer(&key)
        .json(&json!({
            "name": "flat",
            "memo": 1,
            "allowedIps": ["nowhere"],
            "expiresAt": "2020-01-01",
        }))
        .expect(201, &Dialect::Flat.created("flat"))
        .await;
    assert_eq!(world.status(&created.text("/key")).await, 200);
    let listed = world.get(ACCOUNT).bearer(&key).send().await;
    assert_eq!(listed.json()["data"][0]["allowed_ips"], json!([]));
}
