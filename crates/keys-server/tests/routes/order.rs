//! The order of errors: 401, then 429, then 403 for the plan, then 400, then 403 for the cap.

use serde_json::json;

use crate::dialect::{ACCOUNT, Dialect, NOBODYS_KEY, flat_fault};
use crate::world::{Place, World};

on_both_databases!(
    unknown_credential_comes_before_the_limit,
    wrong_address_comes_before_the_limit,
    limit_comes_before_the_plan,
    limit_comes_before_the_body_the_page_and_the_id,
    plan_comes_before_the_body_the_page_and_the_id,
    body_comes_before_the_cap,
    cap_comes_last,
);

/// Uses up the limits of an account on `pro` or `free` for creates and deletes, and of `free` for
/// lists.
async fn exhaust(world: &World, key: &str) {
    for _ in 0..10 {
        world.post(ACCOUNT).bearer(key).send().await;
        world
            .delete(&Dialect::Flat.path_of("x"))
            .bearer(key)
            .send()
            .await;
        world.get(ACCOUNT).bearer(key).send().await;
    }
}

async fn unknown_credential_comes_before_the_limit(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issued = world.issue(&account, &json!({})).await;
    let (id, key) = (issued.text("/id"), issued.text("/key"));
    let other = world.key(&account).await;
    let delete = world.delete(&Dialect::Flat.path_of(&id)).bearer(&key);
    assert_eq!(delete.send().await.status, 200);
    exhaust(&world, &other).await;
    for dialect in Dialect::BOTH {
        for credential in [&*key, NOBODYS_KEY] {
            let create = world.post(dialect.path()).bearer(credential).text("{");
            create.expect(401, &dialect.unauthorized()).await;
        }
    }
}

async fn wrong_address_comes_before_the_limit(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let elsewhere = json!({ "allowed_ips": ["192.0.2.1"] });
    let elsewhere = world.issue(&account, &elsewhere).await.text("/key");
    // A person who found the key cannot use up its owner's requests either.
    exhaust(&world, &elsewhere).await;
    let create = world.post(ACCOUNT).bearer(&key).json(&json!({}));
    let created = create.send().await;
    assert_eq!(created.status, 201, "{created:?}");
    exhaust(&world, &key).await;
    for dialect in Dialect::BOTH {
        let create = world.post(dialect.path()).bearer(&elsewhere).text("{");
        create.expect(403, &dialect.wrong_address()).await;
    }
}

async fn limit_comes_before_the_plan(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    world.change_plan(&account, "free").await;
    for dialect in Dialect::BOTH {
        for request in [
            world.post(dialect.path()),
            world.get(dialect.path()),
            world.delete(&dialect.path_of("x")),
        ] {
            let request = request.bearer(&key);
            request.expect(403, &dialect.plan_forbidden()).await;
        }
    }
    exhaust(&world, &key).await;
    for dialect in Dialect::BOTH {
        for request in [
            world.post(dialect.path()),
            world.get(dialect.path()),
            world.delete(&dialect.path_of("x")),
        ] {
            let request = request.bearer(&key);
            request.expect(429, &dialect.rate_limited()).await;
        }
    }
}

async fn limit_comes_before_the_body_the_page_and_the_id(place: Place) {
    let world = place.shared().await;
    let account = world.account("free").await;
    let session = world.session(&account).await;
    exhaust(&world, &session).await;
    for dialect in Dialect::BOTH {
        for request in [
            world.post(dialect.path()).text("{"),
            world.post(dialect.path()).body("text/plain", "x"),
            world.post(dialect.path()).text("x".repeat(70_000)),
            world.post(dialect.path()).idempotency_key("a b").text("{}"),
            world.get(&format!("{}?page=0", dialect.path())),
            world.delete(&dialect.path_of("x")),
        ] {
            let request = request.bearer(&session);
            request.expect(429, &dialect.rate_limited()).await;
        }
    }
}

async fn plan_comes_before_the_body_the_page_and_the_id(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let (key, session) = (world.key(&account).await, world.session(&account).await);
    world.change_plan(&account, "free").await;
    for dialect in Dialect::BOTH {
        for request in [
            world.post(dialect.path()).bearer(&session).text("{"),
            world
                .post(dialect.path())
                .bearer(&session)
                .body("text/plain", "x"),
            world
                .post(dialect.path())
                .bearer(&key)
                .text("x".repeat(70_000)),
            world
                .post(dialect.path())
                .bearer(&key)
                .idempotency_key("a b"),
            world
                .get(&format!("{}?page=0", dialect.path()))
                .bearer(&key),
            world.delete(&dialect.path_of("x")).bearer(&key),
        ] {
            request.expect(403, &dialect.plan_forbidden()).await;
        }
    }
}

async fn full(world: &World) -> String {
    let account = world.account("three").await;
    world.key(&account).await;
    world.key(&account).await;
    world.key(&account).await
}

async fn body_comes_before_the_cap(place: Place) {
    let world = place.shared().await;
    let key = full(&world).await;
    let create = world.post(Dialect::Flat.path()).bearer(&key);
    let fault = flat_fault("name", "is required");
    create.json(&json!({})).expect(400, &fault).await;
    for dialect in Dialect::BOTH {
        for (request, status) in [
            (world.post(dialect.path()).text("{"), 400),
            (world.post(dialect.path()).body("text/plain", "x"), 415),
            (world.post(dialect.path()).text("x".repeat(70_000)), 413),
        ] {
            let answer = request.bearer(&key).send().await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
    }
    for body in [
        json!({ "allowedIps": ["nowhere"] }),
        json!({ "expiresAt": "2020-01-01T00:00:00Z" }),
    ] {
        let create = world.post(ACCOUNT).bearer(&key).json(&body);
        assert_eq!(create.send().await.status, 400);
    }
}

async fn cap_comes_last(place: Place) {
    let world = place.shared().await;
    let key = full(&world).await;
    for dialect in Dialect::BOTH {
        let create = world.post(dialect.path()).bearer(&key);
        let create = create.json(&dialect.draft("one too many"));
        create.expect(403, &dialect.cap_reached(3)).await;
    }
}
