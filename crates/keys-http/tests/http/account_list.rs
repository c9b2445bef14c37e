//! `GET /api/account/api-keys`

use keys_core::{AllowedNetworks, KeyName, Timestamp};

use crate::exchange::{Exchange as _, get};
use crate::rows::{ACCOUNT, ACCOUNT_401};
use crate::support::{World, draft};

#[actix_web::test]
async fn example_of_the_document_is_answered_as_documented() {
    let at = |text| Timestamp::parse_rfc3339(text).unwrap();
    let world = World::new();
    world.clock.set(at("2024-01-01T00:00:00Z"));
    let account = world.account("pro").await;
    let key = world
        .issue(
            draft(account.id)
                .name(KeyName::from_memo("Production API Key").unwrap())
                .allowed_networks(AllowedNetworks::parse(["192.168.1.1", "10.0.0.1"]).unwrap()),
        )
        .await;
    let there = world.from("10.0.0.1");
    let request = || get("/api/account/api-keys?page=1&limit=50").bearer(key.secret.expose());
    world.clock.set(at("2024-03-15T10:30:00Z"));
    assert_eq!(there.exchange(request()).await.status, 200);
    world.service.flush_uses().await.unwrap();
    request()
        .expect(
            &there,
            200,
            r#"{"data":[{"identifier":"*","description":"Production API Key","allowed_ips":["192.168.1.1","10.0.0.1"],"last_used_at":"2024-03-15T10:30:00.000Z","created_at":"2024-01-01T00:00:00.000Z"}],"pagination":{"page":1,"perPage":50,"total":1,"totalPages":1}}"#,
        )
        .await;
}

#[actix_web::test]
async fn who_asks_is_judged_before_what_is_asked() {
    let world = World::new();
    let request = || get(format!("{ACCOUNT}?page=0"));
    request().expect(&world, 401, ACCOUNT_401).await;

    let account = world.account("pro").await;
    let key = world.key(&account).await;
    for number in 0..31 {
        let answer = world.exchange(request().bearer(&key)).await;
        let expected = if number < 30 { 400 } else { 429 };
        assert_eq!(answer.status, expected, "{number}: {}", answer.body);
    }
}

#[actix_web::test]
async fn keys_of_the_same_moment_are_ordered_by_id() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    for _ in 0..5 {
        world.key(&account).await;
    }
    let ids = async |query: &str| {
        let request = get(format!("{ACCOUNT}{query}")).bearer(&key);
        let json = world.exchange(request).await.json();
        let keys = json["data"].as_array().unwrap().iter();
        keys.map(|key| key["identifier"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let all = ids("").await;
    let pages = [ids("?limit=4").await, ids("?limit=4&page=2").await].concat();
    assert_eq!(all, pages);
    assert_eq!(all.len(), 6);
}
