//! The maximum of usable keys.

use serde_json::json;
use tokio::task::JoinSet;

use crate::dialect::{ACCOUNT, Dialect, problem, success};
use crate::world::{Place, exactly, in_millis, wait_until};

on_both_databases!(
    eleventh_key_is_refused_by_every_way_to_make_one,
    message_names_the_maximum_of_the_plan,
    many_creates_at_once_make_no_more_than_the_maximum,
    revoked_key_is_a_free_slot_at_once,
    expired_key_is_a_free_slot_at_once,
    sessions_do_not_count,
    plan_with_a_lower_maximum_keeps_all_keys_and_refuses_new_ones,
    mount_without_a_cap_has_none,
);

async fn eleventh_key_is_refused_by_every_way_to_make_one(place: Place) {
    let world = place.shared().await;
    let account = world.account("business").await;
    let session = world.session(&account).await;
    for number in 0..10 {
        let dialect = Dialect::BOTH[number % 2];
        world.create(dialect, &session, "key").await;
    }
    for dialect in Dialect::BOTH {
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.json(&dialect.draft("one too many"));
        create.expect(403, &dialect.cap_reached(10)).await;
    }
    let issue = world.post(&format!("/v1/accounts/{account}/keys"));
    let issue = issue.bearer(world.operator()).json(&json!({}));
    let message = "Maximum 10 API keys per account";
    let body = problem(403, "key_limit_reached", message);
    issue.expect(403, &body).await;
    assert_eq!(world.names(&session).await, ["key"; 10]);
}

async fn message_names_the_maximum_of_the_plan(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("three").await).await;
    for dialect in [Dialect::Flat, Dialect::Account, Dialect::Flat] {
        world.create(dialect, &session, "key").await;
    }
    for dialect in Dialect::BOTH {
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.json(&dialect.draft("one too many"));
        create.expect(403, &dialect.cap_reached(3)).await;
    }
}

async fn many_creates_at_once_make_no_more_than_the_maximum(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("ten").await).await;
    let mut creates = JoinSet::new();
    for number in 0..40 {
        let dialect = Dialect::BOTH[number % 2];
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.json(&dialect.draft("key"));
        creates.spawn(async move { (dialect, create.send().await) });
    }
    let mut made = 0;
    for (dialect, answer) in creates.join_all().await {
        if answer.status == 201 {
            answer.is(201, &dialect.created("key"));
            made += 1;
        } else {
            answer.is(403, &dialect.cap_reached(10));
        }
    }
    assert_eq!(made, 10);
    assert_eq!(world.names(&session).await, ["key"; 10]);
}

async fn revoked_key_is_a_free_slot_at_once(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("three").await).await;
    let mut last = String::new();
    for _ in 0..3 {
        last = world
            .create(Dialect::Flat, &session, "key")
            .await
            .text("/id");
    }
    for dialect in Dialect::BOTH {
        let revoke = world.delete(&dialect.path_of(&last)).bearer(&session);
        revoke.expect(200, &success()).await;
        last = dialect.id(&world.create(dialect, &session, "next").await);
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.json(&dialect.draft("one too many"));
        create.expect(403, &dialect.cap_reached(3)).await;
    }
}

async fn expired_key_is_a_free_slot_at_once(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("three").await).await;
    world.create(Dialect::Flat, &session, "first").await;
    world.create(Dialect::Flat, &session, "second").await;
    let expiry = in_millis(1_500);
    let create = world.post(ACCOUNT).bearer(&session);
    let create = create.json(&json!({ "memo": "third", "expiresAt": exactly(expiry) }));
    let created = create.send().await;
    assert_eq!(created.status, 201, "{created:?}");
    let fourth = world.post(ACCOUNT).bearer(&session).json(&json!({}));
    fourth.expect(403, &Dialect::Account.cap_reached(3)).await;
    wait_until(expiry).await;
    world.create(Dialect::Account, &session, "fourth").await;
    let fifth = world.post(ACCOUNT).bearer(&session).json(&json!({}));
    fifth.expect(403, &Dialect::Account.cap_reached(3)).await;
}

async fn sessions_do_not_count(place: Place) {
    let world = place.shared().await;
    let account = world.account("three").await;
    for _ in 0..4 {
        world.session(&account).await;
    }
    for _ in 0..3 {
        world.key(&account).await;
    }
    world.session(&account).await;
}

async fn plan_with_a_lower_maximum_keeps_all_keys_and_refuses_new_ones(place: Place) {
    let world = place.shared().await;
    let account = world.account("ten").await;
    let mut keys = Vec::new();
    for _ in 0..5 {
        let issued = world.issue(&account, &json!({})).await;
        keys.push((issued.text("/id"), issued.text("/key")));
    }
    world.change_plan(&account, "three").await;
    for (_, key) in &keys {
        assert_eq!(world.status(key).await, 200);
    }
    let key = &keys[4].1;
    for (id, _) in &keys[..3] {
        for dialect in Dialect::BOTH {
            let create = world.post(dialect.path()).bearer(key);
            let create = create.json(&dialect.draft("one too many"));
            create.expect(403, &dialect.cap_reached(3)).await;
        }
        let delete = world.delete(&Dialect::Flat.path_of(id)).bearer(key);
        delete.expect(200, &success()).await;
    }
    world.create(Dialect::Flat, key, "third").await;
}

async fn mount_without_a_cap_has_none(place: Place) {
    let world = place
        .with(|server| {
            server
                .env("KEYS_HTTP__FLAT__CAP", "false")
                .env("KEYS_HTTP__ACCOUNT__PLAN_GATE", "false")
        })
        .await;
    let account = world.account("business").await;
    let session = world.session(&account).await;
    for _ in 0..11 {
        world.create(Dialect::Flat, &session, "key").await;
    }
    let create = world.post(ACCOUNT).bearer(&session).json(&json!({}));
    create.expect(403, &Dialect::Account.cap_reached(10)).await;
    // The plan gate is a setting of each mount as well.
    let account = world.account("business").await;
    let key = world.key(&account).await;
    world.change_plan(&account, "free").await;
    let list = world.get(Dialect::Flat.path()).bearer(&key);
    list.expect(403, &Dialect::Flat.plan_forbidden()).await;
    let list = world.get(ACCOUNT).bearer(&key).send().await;
    assert_eq!(list.status, 200, "{list:?}");
}
