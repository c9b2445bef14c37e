//! State that survives a restart.

use serde_json::json;

use crate::dialect::{ACCOUNT, Dialect, success};
use crate::world::{Place, World, exactly, in_millis, wait_until};

on_both_databases!(
    all_that_was_answered_outlives_a_restart,
    all_that_was_answered_outlives_a_crash,
    kept_answer_outlives_a_restart,
);

async fn all_that_was_answered_outlives_a_restart(place: Place) {
    let world = place.roomy().await;
    survives(world, World::stop).await;
}

async fn all_that_was_answered_outlives_a_crash(place: Place) {
    let world = place.roomy().await;
    survives(world, World::kill).await;
}

async fn survives(mut world: World, end: impl FnOnce(&mut World)) {
    let account = world.account("roomy").await;
    let session = world.session(&account).await;
    let kept = world.create(Dialect::Flat, &session, "kept").await;
    let create = world.post(ACCOUNT).bearer(&session);
    let narrow = create
        .json(&json!({
            "memo": "narrow",
            "allowedIps": ["192.0.2.0/24"],
            "expiresAt": "2125-12-31T23:59:59Z",
        }))
        .send()
        .await;
    let create = world.post(ACCOUNT).bearer(&session);
    let expiry = in_millis(1_000);
    let expiring = json!({ "memo": "expiring", "expiresAt": exactly(expiry) });
    let expired = create.json(&expiring).send().await;
    let revoked = world.create(Dialect::Account, &session, "revoked").await;
    let revoke = world.delete(&Dialect::Account.path_of(&Dialect::Account.id(&revoked)));
    revoke.bearer(&session).expect(200, &success()).await;
    let disabled = world.account("roomy").await;
    let disabled_key = world.key(&disabled).await;
    world.change(&disabled, &json!({ "disabled": true })).await;
    let list = world.get(ACCOUNT).bearer(&session).send().await;

    end(&mut world);
    world.start_again().await;

    wait_until(expiry).await;
    let list_again = world.get(ACCOUNT).bearer(&session).send().await;
    assert_eq!(list_again.body, list.body);
    assert_eq!(
        world.names(&kept.text("/key")).await,
        ["expiring", "narrow", "kept"]
    );
    for (key, status) in [
        (narrow.text("/meta/secret_token"), 403),
        (expired.text("/meta/secret_token"), 401),
        (Dialect::Account.key(&revoked), 401),
        (disabled_key, 403),
    ] {
        assert_eq!(world.status(&key).await, status);
    }
    let id = Dialect::Account.id(&revoked);
    let revoke = world.delete(&Dialect::Flat.path_of(&id)).bearer(&session);
    revoke.expect(404, &Dialect::Flat.key_not_found()).await;
}

async fn kept_answer_outlives_a_restart(place: Place) {
    let mut world = place.roomy().await;
    let session = world.session(&world.account("roomy").await).await;
    let create = async |world: &World, dialect: Dialect| {
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.idempotency_key("once").json(&dialect.draft("key"));
        create.send().await.is(201, &dialect.created("key")).body
    };
    let before = [
        create(&world, Dialect::Flat).await,
        create(&world, Dialect::Account).await,
    ];
    world.stop();
    world.start_again().await;
    let after = [
        create(&world, Dialect::Flat).await,
        create(&world, Dialect::Account).await,
    ];
    assert_eq!(before, after);
    assert_eq!(world.names(&session).await, ["key", "key"]);
}
