//! Plans without keys, downgrades and upgrades.

use serde_json::json;

use crate::dialect::{Dialect, problem, success};
use crate::world::Place;

on_both_databases!(
    keys_of_an_account_without_keys_may_do_nothing,
    session_of_an_account_without_keys_creates_nothing,
    operator_makes_no_key_for_an_account_without_keys,
    session_of_an_account_without_keys_lists_and_deletes,
    downgrade_deletes_nothing_and_upgrade_brings_all_back,
    change_of_plan_takes_effect_on_the_next_request,
    plan_that_left_the_configuration_is_one_without_keys,
);

async fn keys_of_an_account_without_keys_may_do_nothing(place: Place) {
    let world = place.shared().await;
    let account = world.account("business").await;
    let issued = world.issue(&account, &json!({})).await;
    let (id, key) = (issued.text("/id"), issued.text("/key"));
    world.change_plan(&account, "free").await;
    for dialect in Dialect::BOTH {
        for request in [
            world.get(dialect.path()),
            world.post(dialect.path()).json(&dialect.draft("key")),
            world.delete(&dialect.path_of(&id)),
            world.delete(&dialect.path_of("x")),
        ] {
            let answer = request.bearer(&key);
            let answer = answer.expect(403, &dialect.plan_forbidden()).await;
            answer.has("www-authenticate", None);
        }
    }
}

async fn session_of_an_account_without_keys_creates_nothing(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("free").await).await;
    for dialect in Dialect::BOTH {
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.json(&dialect.draft("key"));
        create.expect(403, &dialect.plan_forbidden()).await;
    }
    assert!(world.names(&session).await.is_empty());
}

async fn operator_makes_no_key_for_an_account_without_keys(place: Place) {
    let world = place.shared().await;
    let account = world.account("free").await;
    let issue = world.post(&format!("/v1/accounts/{account}/keys"));
    let issue = issue.bearer(world.operator()).json(&json!({}));
    let message = "API keys not available on your plan";
    issue
        .expect(403, &problem(403, "plan_forbidden", message))
        .await;
}

async fn session_of_an_account_without_keys_lists_and_deletes(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    let mut ids = Vec::new();
    for dialect in Dialect::BOTH {
        let created = world.create(dialect, &session, "key").await;
        ids.push((dialect, dialect.id(&created)));
    }
    world.change_plan(&account, "free").await;
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path()).bearer(&session).send().await;
        assert_eq!(list.status, 200, "{list:?}");
        assert_eq!(dialect.listed(&list).len(), 2);
        let unknown = world.delete(&dialect.path_of("x")).bearer(&session);
        unknown.expect(404, &dialect.key_not_found()).await;
    }
    for (dialect, id) in ids {
        let delete = world.delete(&dialect.path_of(&id)).bearer(&session);
        delete.expect(200, &success()).await;
    }
    assert!(world.names(&session).await.is_empty());
}

async fn downgrade_deletes_nothing_and_upgrade_brings_all_back(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    world.create(Dialect::Account, &key, "second").await;
    let before = world.get(Dialect::Flat.path()).bearer(&key).send().await;
    world.change_plan(&account, "free").await;
    assert_eq!(world.status(&key).await, 403);
    world.change_plan(&account, "pro").await;
    let after = world.get(Dialect::Flat.path()).bearer(&key).send().await;
    let ids = |answer| {
        let keys = Dialect::Flat.listed(answer);
        keys.iter().map(|key| key["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&after));
    assert_eq!(ids(&after).len(), 2);
}

async fn change_of_plan_takes_effect_on_the_next_request(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    for _ in 0..5 {
        assert_eq!(world.status(&key).await, 200);
        world.change_plan(&account, "free").await;
        assert_eq!(world.status(&key).await, 403);
        world.change_plan(&account, "roomy").await;
    }
}

async fn plan_that_left_the_configuration_is_one_without_keys(place: Place) {
    const GOLD: &str = "[plans.gold]
        keys = true
        keys_max = 10
        [plans.gold.limits]
        create = { requests = 10, period_seconds = 60 }
        list = { requests = 10, period_seconds = 60 }
        delete = { requests = 10, period_seconds = 60 }";
    let mut world = place.with(|server| server.config(GOLD)).await;
    let account = world.account("gold").await;
    let (key, session) = (world.key(&account).await, world.session(&account).await);
    assert_eq!(world.status(&key).await, 200);
    world.stop();
    world.configure("");
    world.start_again().await;
    let list = || world.get(Dialect::Flat.path());
    let refused = list().bearer(&key);
    refused.expect(403, &Dialect::Flat.plan_forbidden()).await;
    list().bearer(&key).send().await;
    assert_eq!(world.names(&session).await, [""]);
    let said = world.server().stderr() + &world.server().stdout();
    let warnings = said.lines().filter(|line| {
        line.contains("WARN") && line.contains("plan gold, which is not configured")
    });
    assert_eq!(warnings.count(), 1, "{said}");
    // No account can be moved to it any more, and accounts on it can leave it.
    let create = world.post("/v1/accounts").bearer(world.operator());
    let create = create.json(&json!({ "plan": "gold" })).send().await;
    assert_eq!(
        (create.status, create.text("/code")),
        (400, "unknown_plan".to_owned())
    );
    world.change_plan(&account, "pro").await;
    assert_eq!(world.status(&key).await, 200);
}
