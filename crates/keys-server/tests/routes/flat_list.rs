//! `GET /api/api-keys`

use serde_json::{Value, json};

use crate::dialect::{Dialect, FLAT, success};
use crate::shape::{ID, NOW, millis_of_id, shown_prefix};
use crate::world::Place;

on_both_databases!(
    documented_request_without_a_known_key_is_refused,
    list_is_a_bare_array_of_documented_members_newest_first,
    keys_of_either_dialect_are_listed_with_their_own_prefix,
    query_is_not_looked_at,
    sessions_and_operators_and_revoked_keys_are_not_listed,
    keys_of_other_accounts_are_not_listed,
    ids_are_ordered_by_time_and_say_when,
);

fn view(name: &str, prefix: &str) -> Value {
    json!({
        "id": ID,
        "name": name,
        "keyPrefix": shown_prefix(prefix),
        "lastUsedAt": null,
        "createdAt": NOW,
    })
}

async fn documented_request_without_a_known_key_is_refused(place: Place) {
    let world = place.shared().await;
    world
        .get("/api/api-keys")
        .header("Authorization", "Bearer sk_live_your_api_key")
        .expect(401, &Dialect::Flat.unauthorized())
        .await;
}

async fn list_is_a_bare_array_of_documented_members_newest_first(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("pro").await).await;
    let empty = world.get(FLAT).bearer(&session);
    empty.expect(200, &json!([])).await;
    let mut created = Vec::new();
    for name in ["first", "second", "third"] {
        created.push(world.create(Dialect::Flat, &session, name).await);
    }
    let listed = world
        .get(FLAT)
        .bearer(&session)
        .expect(
            200,
            &json!([
                view("third", "sk_live"),
                view("second", "sk_live"),
                view("first", "sk_live"),
            ]),
        )
        .await;
    for (index, created) in created.iter().rev().enumerate() {
        for member in ["id", "keyPrefix", "createdAt"] {
            let listed = listed.text(&format!("/{index}/{member}"));
            assert_eq!(listed, created.text(&format!("/{member}")));
        }
    }
}

async fn keys_of_either_dialect_are_listed_with_their_own_prefix(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("pro").await).await;
    world.create(Dialect::Flat, &session, "flat").await;
    world.create(Dialect::Account, &session, "account").await;
    let nameless = world.post(Dialect::Account.path()).bearer(&session);
    assert_eq!(nameless.json(&json!({})).send().await.status, 201);
    let expected = json!([
        view("", "xyp"),
        view("account", "xyp"),
        view("flat", "sk_live"),
    ]);
    world
        .get(FLAT)
        .bearer(&session)
        .expect(200, &expected)
        .await;
}

async fn query_is_not_looked_at(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for query in ["?page=0", "?page=2&limit=1", "?limit=all", "?", "?%ff=%"] {
        let listed = world.get(&format!("{FLAT}{query}")).bearer(&key);
        listed.expect(200, &json!([view("", "sk_live")])).await;
    }
}

async fn sessions_and_operators_and_revoked_keys_are_not_listed(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    let kept = world.create(Dialect::Flat, &session, "kept").await;
    let revoked = world.create(Dialect::Flat, &session, "revoked").await;
    let revoke = world.delete(&Dialect::Flat.path_of(&revoked.text("/id")));
    revoke.bearer(&session).expect(200, &success()).await;
    let listed = world.get(FLAT).bearer(&kept.text("/key"));
    listed.expect(200, &json!([view("kept", "sk_live")])).await;
}

async fn keys_of_other_accounts_are_not_listed(place: Place) {
    let world = place.shared().await;
    let (mine, theirs) = (world.key_on("pro").await, world.key_on("pro").await);
    world.create(Dialect::Flat, &mine, "mine").await;
    world.create(Dialect::Account, &theirs, "theirs").await;
    assert_eq!(world.names(&mine).await, ["mine", ""]);
    assert_eq!(world.names(&theirs).await, ["theirs", ""]);
}

async fn ids_are_ordered_by_time_and_say_when(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let mut earlier = 0;
    for _ in 0..3 {
        let created = world.create(Dialect::Flat, &key, "key").await;
        let made = millis_of_id(&created.text("/id"));
        let shown = keys_core::Timestamp::parse_rfc3339(&created.text("/createdAt"));
        assert_eq!(made, shown.unwrap().unix_millis());
        assert!(made >= earlier);
        earlier = made;
    }
}
