//! `lastUsedAt`: null until the first success, forward only, at most the flush interval behind.

use std::time::Duration;

use keys_core::Timestamp;
use keys_service::{Clock as _, KeyService, SystemClock};
use serde_json::{Value, json};

use crate::dialect::{Dialect, FLAT};
use crate::world::{Place, World};

on_both_databases!(
    refused_uses_are_none_and_successful_ones_are_shown_within_the_flush_interval,
    uses_are_written_when_the_server_stops_and_only_move_forward,
);

/// Returns when the key of this name was last used, checked in both contracts.
async fn last_used(world: &World, credential: &str, name: &str) -> Option<Timestamp> {
    let mut found = Vec::new();
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path()).bearer(credential).send().await;
        let keys = dialect.listed(&list);
        let [_, name_member, used_member] = dialect.members();
        let key = keys.iter().find(|key| key[name_member] == name);
        found.push(key.unwrap()[used_member].clone());
    }
    match &found[0] {
        Value::Null => None,
        used => {
            // The other contract was asked later, and may have a later time.
            assert!(found[1].as_str().unwrap() >= used.as_str().unwrap());
            let text = used.as_str().unwrap();
            let used = Timestamp::parse_rfc3339(text).unwrap();
            assert_eq!(used.to_string(), text, "milliseconds and Z");
            Some(used)
        }
    }
}

async fn refused_uses_are_none_and_successful_ones_are_shown_within_the_flush_interval(
    place: Place,
) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let session = world.session(&account).await;
    let issue = async |name: &str, allowed_ips: &[&str]| {
        let draft = json!({ "name": name, "allowed_ips": allowed_ips });
        world.issue(&account, &draft).await.text("/key")
    };
    issue("unused", &[]).await;
    let elsewhere = issue("elsewhere", &["192.0.2.1"]).await;
    let forbidden = issue("forbidden", &[]).await;
    let used = issue("used", &[]).await;
    assert_eq!(world.status(&elsewhere).await, 403);
    world.change_plan(&account, "free").await;
    assert_eq!(world.status(&forbidden).await, 403);
    world.change_plan(&account, "roomy").await;
    let before = SystemClock.now();
    // A management call is a use, also one with an invalid request.
    let create = world.post(FLAT).bearer(&used).text("{");
    assert_eq!(create.send().await.status, 400);
    let after = SystemClock.now();

    let patience = KeyService::FLUSH_INTERVAL + Duration::from_secs(5);
    let found = loop {
        if let Some(found) = last_used(&world, &session, "used").await {
            break found;
        }
        let waited = SystemClock.now().saturating_since(after);
        assert!(waited < patience, "not written in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let millis = before.unix_millis()..=after.unix_millis();
    assert!(millis.contains(&found.unix_millis()), "{found:?}");
    for name in ["unused", "elsewhere", "forbidden"] {
        assert_eq!(last_used(&world, &session, name).await, None, "{name}");
    }
}

async fn uses_are_written_when_the_server_stops_and_only_move_forward(place: Place) {
    let mut world = place.roomy().await;
    let account = world.account("roomy").await;
    let session = world.session(&account).await;
    let key = Dialect::Account.key(&world.create(Dialect::Account, &session, "key").await);
    let mut earlier = None;
    for _ in 0..2 {
        let before = SystemClock.now();
        assert_eq!(world.status(&key).await, 200);
        world.stop();
        world.start_again().await;
        let used = last_used(&world, &session, "key").await.unwrap();
        assert!(used.unix_millis() >= before.unix_millis());
        assert!(earlier.is_none_or(|earlier| used > earlier));
        earlier = Some(used);
    }
    // It was not used since, so the time stays.
    world.stop();
    world.start_again().await;
    assert_eq!(last_used(&world, &session, "key").await, earlier);
}
