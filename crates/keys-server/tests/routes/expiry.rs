//! Expiry: a key is expired from the exact time on.

use serde_json::json;

use crate::dialect::{ACCOUNT, Dialect, account_created};
use crate::world::{Place, exactly, in_millis, wait_until};

on_both_databases!(
    key_is_good_until_its_expiry_and_unknown_from_then_on,
    session_is_good_until_its_expiry_and_unknown_from_then_on,
);

const INVALID_TOKEN: &str = r#"Bearer realm="keys", error="invalid_token""#;

async fn key_is_good_until_its_expiry_and_unknown_from_then_on(place: Place) {
    let world = place.shared().await;
    let owner = world.key_on("roomy").await;
    let expiry = in_millis(2_000);
    let create = world.post(ACCOUNT).bearer(&owner);
    let create = create.json(&json!({ "expiresAt": exactly(expiry) }));
    let expected = account_created(&json!(null), &json!([]));
    let created = create.expect(201, &expected).await;
    let key = created.text("/meta/secret_token");
    assert_eq!(world.status(&key).await, 200);
    let child = world.create(Dialect::Flat, &key, "child").await;
    wait_until(expiry).await;
    for dialect in Dialect::BOTH {
        for request in [
            world.get(dialect.path()),
            world.post(dialect.path()).json(&dialect.draft("key")),
            world.delete(&dialect.path_of(&child.text("/id"))),
        ] {
            let answer = request.bearer(&key);
            let answer = answer.expect(401, &dialect.unauthorized()).await;
            answer.has("www-authenticate", INVALID_TOKEN);
        }
    }
    // It is still listed, and can be deleted.
    assert_eq!(world.names(&owner).await, ["child", "", ""]);
    let delete = world.delete(&Dialect::Account.path_of(&created.text("/data/identifier")));
    let deleted = delete.bearer(&owner).send().await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
}

async fn session_is_good_until_its_expiry_and_unknown_from_then_on(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let opened = world.post(&format!("/v1/accounts/{account}/sessions"));
    let opened = opened.bearer(world.operator());
    let opened = opened.json(&json!({ "ttl_seconds": 2 })).send().await;
    let session = opened.text("/token");
    let expiry = keys_core::Timestamp::parse_rfc3339(&opened.text("/expires_at")).unwrap();
    assert_eq!(world.status(&session).await, 200);
    // The shown time is cut to milliseconds.
    wait_until(expiry.saturating_add(std::time::Duration::from_millis(1))).await;
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path()).bearer(&session);
        let answer = list.expect(401, &dialect.unauthorized()).await;
        answer.has("www-authenticate", INVALID_TOKEN);
    }
}
