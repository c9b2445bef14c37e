//! `DELETE /api/account/api-keys/{identifier}`

use crate::dialect::{Dialect, success};
use crate::flat_delete::{MALFORMED_IDS, cannot_be_told_apart};
use crate::world::Place;

on_both_databases!(
    documented_request_without_a_known_key_is_refused,
    documented_id_is_unknown,
    malformed_id_is_an_unknown_id,
    someone_elses_key_is_an_unknown_key,
    deleting_twice_is_not_found,
    key_of_the_other_dialect_is_deleted_too,
);

const ACCOUNT: Dialect = Dialect::Account;

async fn documented_request_without_a_known_key_is_refused(place: Place) {
    let world = place.shared().await;
    world
        .delete("/api/account/api-keys/clx1a2b3c4d5e6f7g8h9i0j1")
        .header("Authorization", "Bearer YOUR_API_KEY")
        .expect(401, &ACCOUNT.unauthorized())
        .await;
}

async fn documented_id_is_unknown(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let delete = world.delete("/api/account/api-keys/clx1a2b3c4d5e6f7g8h9i0j1");
    let delete = delete.bearer(&key);
    delete.expect(404, &ACCOUNT.key_not_found()).await;
}

async fn malformed_id_is_an_unknown_id(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for id in MALFORMED_IDS {
        let delete = world.delete(&ACCOUNT.path_of(id)).bearer(&key);
        delete.expect(404, &ACCOUNT.key_not_found()).await;
    }
}

async fn someone_elses_key_is_an_unknown_key(place: Place) {
    cannot_be_told_apart(&place.shared().await, ACCOUNT).await;
}

async fn deleting_twice_is_not_found(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world.create(ACCOUNT, &key, "short-lived").await;
    let path = ACCOUNT.path_of(&ACCOUNT.id(&created));
    let first = world.delete(&path).bearer(&key);
    first.expect(200, &success()).await;
    assert_eq!(world.status(&ACCOUNT.key(&created)).await, 401);
    let second = world.delete(&path).bearer(&key);
    second.expect(404, &ACCOUNT.key_not_found()).await;
}

async fn key_of_the_other_dialect_is_deleted_too(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world.create(Dialect::Flat, &key, "flat").await;
    let delete = world.delete(&ACCOUNT.path_of(&created.text("/id")));
    delete.bearer(&key).expect(200, &success()).await;
    assert_eq!(world.status(&created.text("/key")).await, 401);
}
