//! `DELETE /api/account/api-keys/{identifier}`

use crate::exchange::delete;
use crate::rows::{ACCOUNT, ACCOUNT_401, ACCOUNT_404, SUCCESS};
use crate::support::{World, draft};

#[actix_web::test]
async fn who_asks_is_judged_before_what_is_asked() {
    let world = World::new();
    let request = delete(format!("{ACCOUNT}/x"));
    request.expect(&world, 401, ACCOUNT_401).await;
}

#[actix_web::test]
async fn deleting_twice_finds_nothing() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let other = world.issue(draft(account.id)).await.key.id;
    let request = || delete(format!("{ACCOUNT}/{other}")).bearer(&key);
    request().expect(&world, 200, SUCCESS).await;
    request().expect(&world, 404, ACCOUNT_404).await;
}

#[actix_web::test]
async fn refused_deletes_count_against_the_limit() {
    let world = World::new();
    let key = world.pro_key().await;
    for _ in 0..10 {
        let request = delete(format!("{ACCOUNT}/x")).bearer(&key);
        request.expect(&world, 404, ACCOUNT_404).await;
    }
    let answer = delete(format!("{ACCOUNT}/x")).bearer(&key).expect(
        &world,
        429,
        r#"{"statusCode":429,"message":"Too many requests","errors":[]}"#,
    );
    let answer = answer.await;
    assert_eq!(answer.header("retry-after"), Some("6"));
    assert_eq!(answer.header("ratelimit"), Some(r#""delete";r=0;t=60"#));
}
