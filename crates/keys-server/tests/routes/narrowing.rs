//! Keys that create keys: never beyond their own limits, and only if sessions are not required.

use serde_json::{Value, json};

use crate::dialect::{ACCOUNT, Dialect, FLAT, account_created, account_fault, success};
use crate::world::{Place, World, exactly, in_millis, wait_until};

on_both_databases!(
    later_expiry_than_its_own_is_refused,
    address_outside_its_own_list_is_refused_by_its_index,
    what_is_left_open_becomes_its_own_list,
    what_is_left_open_becomes_its_own_expiry,
    narrower_key_is_created,
    key_of_a_key_is_held_to_the_first,
    session_is_not_narrow,
    keys_manage_keys_of_either_dialect,
    keys_manage_nothing_where_that_is_for_sessions,
);

async fn refused(world: &World, key: &str, body: Value, field: &str, message: &str) {
    let create = world.post(ACCOUNT).bearer(key).json(&body);
    create.expect(400, &account_fault(field, message)).await;
}

async fn later_expiry_than_its_own_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let draft = json!({ "expires_at": "2125-01-01T00:00:00Z" });
    let key = world.issue(&account, &draft).await.text("/key");
    for expiry in [
        "2125-01-01T00:00:00.000001Z",
        "2125-01-01T00:00:01Z",
        "2125-01-01T00:00:00-00:01",
        "9999-12-31T23:59:59Z",
    ] {
        let message = "must not be later than the expiry of the key that creates it";
        let body = json!({ "expiresAt": expiry });
        refused(&world, &key, body, "expiresAt", message).await;
    }
}

async fn address_outside_its_own_list_is_refused_by_its_index(place: Place) {
    const MESSAGE: &str = "must be within the addresses of the key that creates it";
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let draft = json!({ "allowed_ips": ["127.0.0.0/8", "10.0.0.0/25", "10.0.0.128/25"] });
    let key = world.issue(&account, &draft).await.text("/key");
    for (list, index) in [
        (vec!["192.0.2.1"], 0),
        (vec!["127.0.0.1", "192.0.2.1"], 1),
        (vec!["127.0.0.1", "127.0.0.1", "10.0.0.9", "10.0.1.0"], 3),
        (vec!["10.0.0.0/23"], 0),
        (vec!["0.0.0.0/0"], 0),
        (vec!["127.0.0.0/7"], 0),
        (vec!["::/0"], 0),
        (vec!["::1"], 0),
        (vec!["::ffff:192.0.2.1"], 0),
    ] {
        let field = format!("allowedIps.{index}");
        let body = json!({ "allowedIps": list });
        refused(&world, &key, body, &field, MESSAGE).await;
    }
}

async fn what_is_left_open_becomes_its_own_list(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let own = json!(["127.0.0.0/8", "2001:db8::/32"]);
    let draft = json!({ "allowed_ips": own });
    let key = world.issue(&account, &draft).await.text("/key");
    for body in [
        json!({}),
        json!({ "allowedIps": [] }),
        json!({ "allowedIps": null }),
    ] {
        let create = world.post(ACCOUNT).bearer(&key).json(&body);
        create
            .expect(201, &account_created(&json!(null), &own))
            .await;
    }
    // The flat contract cannot express it, and cannot be used to circumvent it.
    world.create(Dialect::Flat, &key, "flat").await;
    let listed = world.get(ACCOUNT).bearer(&key).send().await;
    assert_eq!(listed.json()["data"][0]["description"], "flat");
    assert_eq!(listed.json()["data"][0]["allowed_ips"], own);
}

async fn what_is_left_open_becomes_its_own_expiry(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let expiry = in_millis(2_000);
    let draft = json!({ "expires_at": exactly(expiry) });
    let key = world.issue(&account, &draft).await.text("/key");
    let mut children = Vec::new();
    for dialect in Dialect::BOTH {
        children.push(dialect.key(&world.create(dialect, &key, "child").await));
    }
    let null = world.post(ACCOUNT).bearer(&key);
    let null = null.json(&json!({ "expiresAt": null })).send().await;
    children.push(null.text("/meta/secret_token"));
    wait_until(expiry).await;
    for child in children.iter().chain([&key]) {
        assert_eq!(world.status(child).await, 401);
    }
}

async fn narrower_key_is_created(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let draft = json!({
        "allowed_ips": ["127.0.0.0/8", "10.0.0.0/25", "10.0.0.128/25"],
        "expires_at": "2125-01-01T00:00:00Z",
    });
    let key = world.issue(&account, &draft).await.text("/key");
    for list in [
        json!(["127.0.0.1"]),
        json!(["127.0.0.0/8", "10.0.0.0/25"]),
        // Covered by two entries together.
        json!(["127.0.0.1", "10.0.0.0/24"]),
    ] {
        for expiry in [
            "2125-01-01T00:00:00Z",
            "2125-01-01T01:00:00+01:00",
            "2100-01-01T00:00:00Z",
        ] {
            let body = json!({ "allowedIps": list, "expiresAt": expiry });
            let create = world.post(ACCOUNT).bearer(&key).json(&body);
            let expected = account_created(&json!(null), &list);
            let created = create.expect(201, &expected).await;
            let child = created.text("/meta/secret_token");
            assert_eq!(world.status(&child).await, 200);
        }
    }
}

async fn key_of_a_key_is_held_to_the_first(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let draft = json!({ "allowed_ips": ["127.0.0.0/8"] });
    let first = world.issue(&account, &draft).await.text("/key");
    let second = Dialect::Flat.key(&world.create(Dialect::Flat, &first, "second").await);
    let message = "must be within the addresses of the key that creates it";
    let body = json!({ "allowedIps": ["10.0.0.1"] });
    refused(&world, &second, body, "allowedIps.0", message).await;
}

async fn session_is_not_narrow(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let opened = world.post(&format!("/v1/accounts/{account}/sessions"));
    let opened = opened.bearer(world.operator());
    let opened = opened.json(&json!({ "ttl_seconds": 2 })).send().await;
    let session = opened.text("/token");
    let created = world.create(Dialect::Flat, &session, "outlives").await;
    tokio::time::sleep(std::time::Duration::from_millis(2_050)).await;
    assert_eq!(world.status(&session).await, 401);
    assert_eq!(world.status(&created.text("/key")).await, 200);
}

async fn keys_manage_keys_of_either_dialect(place: Place) {
    let world = place.shared().await;
    let first = world.key_on("roomy").await;
    for made_by in Dialect::BOTH {
        let key = made_by.key(&world.create(made_by, &first, "manager").await);
        for dialect in Dialect::BOTH {
            let created = world.create(dialect, &key, "managed").await;
            let list = world.get(dialect.path()).bearer(&key).send().await;
            let [id, name, _] = dialect.members();
            assert_eq!(dialect.listed(&list)[0][id], dialect.id(&created));
            assert_eq!(dialect.listed(&list)[0][name], "managed");
            let delete = world.delete(&dialect.path_of(&dialect.id(&created)));
            delete.bearer(&key).expect(200, &success()).await;
        }
    }
}

async fn keys_manage_nothing_where_that_is_for_sessions(place: Place) {
    let world = place
        .with(|server| server.env("KEYS_HTTP__KEY_MANAGEMENT", "session_only"))
        .await;
    let account = world.account("pro").await;
    let issued = world.issue(&account, &json!({})).await;
    let (id, key) = (issued.text("/id"), issued.text("/key"));
    let session = world.session(&account).await;
    for dialect in Dialect::BOTH {
        for request in [
            world.get(dialect.path()),
            world.post(dialect.path()).json(&dialect.draft("key")),
            world.post(dialect.path()).text("{"),
            world.delete(&dialect.path_of(&id)),
        ] {
            let request = request.bearer(&key);
            request.expect(403, &dialect.wrong_kind()).await;
        }
        world.create(dialect, &session, "key").await;
    }
    assert_eq!(world.names(&session).await, ["key", "key", ""]);
    // It is still a known key: an unknown one gets another answer.
    let unknown = world.get(FLAT).bearer(crate::dialect::NOBODYS_KEY);
    unknown.expect(401, &Dialect::Flat.unauthorized()).await;
    let delete = world.delete(&Dialect::Flat.path_of(&id)).bearer(&session);
    delete.expect(200, &success()).await;
}
