//! `DELETE /api/api-keys/{id}`

use std::time::Duration;

use keys_service::{Actor, SessionDraft};
use keys_testkit::data::noon_plus;

use crate::exchange::{Exchange as _, delete, get};
use crate::faulty::{Fault, Faulty};
use crate::rows::{FLAT, FLAT_401, FLAT_404, SUCCESS};
use crate::support::{World, draft};

#[actix_web::test]
async fn only_ids_of_keys_are_known() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let system = Actor::system();
    let ttl = Duration::from_mins(1);
    let session = world
        .service
        .open_session(&system, SessionDraft::new(account.id, ttl));
    let session = session.await.unwrap().key.id.to_string();
    for id in [
        "x",
        &session,
        &account.id.to_string(),
        "AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAB",
        "%00",
        "%FF%FE",
        "..%2F..%2Fetc",
        &"a".repeat(4_000),
    ] {
        let request = delete(format!("{FLAT}/{id}")).bearer(&key);
        request.expect(&world, 404, FLAT_404).await;
        world.advance(6);
    }
}

#[actix_web::test]
async fn key_that_was_revoked_a_moment_ago_revokes_nothing() {
    let store = Faulty::default();
    let world = World::with_store(store.clone());
    let account = world.account("pro").await;
    let key = world.issue(draft(account.id)).await;
    store.fails_with(Fault::CallerRevoked);
    let request = delete(format!("{FLAT}/{}", key.key.id)).bearer(key.secret.expose());
    request.expect(&world, 401, FLAT_401).await;
}

#[actix_web::test]
async fn key_may_revoke_itself() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.issue(draft(account.id)).await;
    let request = || delete(format!("{FLAT}/{}", key.key.id)).bearer(key.secret.expose());
    request().expect(&world, 200, SUCCESS).await;
    request().expect(&world, 401, FLAT_401).await;
}

#[actix_web::test]
async fn expired_key_is_there_to_be_deleted() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let expiring = draft(account.id).expires_at(Some(noon_plus(1)));
    let expiring = world.issue(expiring).await;
    world.advance(1);
    let use_it = get(FLAT).bearer(expiring.secret.expose());
    use_it.expect(&world, 401, FLAT_401).await;
    let request = delete(format!("{FLAT}/{}", expiring.key.id)).bearer(&key);
    request.expect(&world, 200, SUCCESS).await;
    let listed = world.exchange(get(FLAT).bearer(&key)).await;
    assert_eq!(listed.json().as_array().map(Vec::len), Some(1));
}
