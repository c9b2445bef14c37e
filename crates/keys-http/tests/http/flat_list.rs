//! `GET /api/api-keys`

use keys_core::IssuePolicy;
use keys_core::KeyName;
use keys_testkit::data::noon_plus;

use crate::exchange::{Exchange as _, delete, get};
use crate::rows::{FLAT, FLAT_401, SUCCESS};
use crate::support::{World, draft};

#[actix_web::test]
async fn last_use_is_shown_once_it_was_written() {
    let world = World::new();
    let key = world.pro_key().await;
    let list = || get(FLAT).bearer(&key);
    let listed = |last_used_at: &str| {
        format!(
            r#"[{{"id":"*","name":"","keyPrefix":"sk_live_*","lastUsedAt":{last_used_at},"createdAt":"2026-01-01T12:00:00.000Z"}}]"#
        )
    };
    list().expect(&world, 200, &listed("null")).await;
    world.advance(2);
    // A refused request is not a use.
    get(FLAT).expect(&world, 401, FLAT_401).await;
    world.service.flush_uses().await.unwrap();
    let first = listed(r#""2026-01-01T12:00:00.000Z""#);
    list().expect(&world, 200, &first).await;
    world.service.flush_uses().await.unwrap();
    let second = listed(r#""2026-01-01T12:00:02.000Z""#);
    list().expect(&world, 200, &second).await;
}

#[actix_web::test]
async fn expired_keys_are_listed_and_revoked_ones_are_not() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let expiring = draft(account.id).expires_at(Some(noon_plus(1)));
    let expiring = world.issue(expiring).await.key.id.to_string();
    let revoked = world.issue(draft(account.id)).await.key.id.to_string();
    let revoke = delete(format!("{FLAT}/{revoked}")).bearer(&key);
    revoke.expect(&world, 200, SUCCESS).await;
    world.advance(2);
    let listed = world.exchange(get(FLAT).bearer(&key)).await;
    assert!(listed.body.contains(&expiring));
    assert!(!listed.body.contains(&revoked));
}

#[actix_web::test]
async fn memo_longer_than_any_name_is_shown_as_it_is() {
    let world = World::new();
    let account = world.account("pro").await;
    let memo = "é".repeat(500);
    let named = draft(account.id).name(KeyName::from_memo(&memo).unwrap());
    let key = world.issue(named).await;
    let listed = world.exchange(get(FLAT).bearer(key.secret.expose())).await;
    assert_eq!(listed.text("/0/name"), memo);
}

#[actix_web::test]
async fn list_shows_the_newest_thousand() {
    let world = World::new();
    let account = world.account("pro").await;
    let policy = IssuePolicy::default().without_cap();
    let mut newest = world.issue(draft(account.id)).await;
    let oldest = newest.key.id.to_string();
    for _ in 0..1_000 {
        world.advance(1);
        newest = world.issue(draft(account.id).policy(policy)).await;
    }
    let listed = get(FLAT).bearer(newest.secret.expose());
    let listed = world.exchange(listed).await;
    assert_eq!(listed.json().as_array().map(Vec::len), Some(1_000));
    assert_eq!(listed.text("/0/id"), newest.key.id.to_string());
    assert!(!listed.body.contains(&oldest));
}
