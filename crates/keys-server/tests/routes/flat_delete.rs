//! `DELETE /api/api-keys/{id}`

use tokio::task::JoinSet;

use crate::dialect::{Dialect, FLAT, success};
use crate::world::{Place, World};

on_both_databases!(
    documented_request_without_a_known_key_is_refused,
    documented_id_is_unknown,
    malformed_id_is_an_unknown_id,
    someone_elses_key_is_an_unknown_key,
    session_cannot_be_deleted_by_its_id,
    deleting_twice_is_not_found,
    deleting_many_times_at_once_succeeds_once,
    deleted_key_opens_nothing_at_once,
    key_may_delete_itself,
    key_of_the_other_dialect_is_deleted_too,
);

pub(crate) const MALFORMED_IDS: [&str; 12] = [
    "x",
    "AAAAAAAAAAAAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAAAAA",
    // The last character has bits that no id uses.
    "AAAAAAAAAAAAAAAAAAAAAB",
    "AAAAAAAAAAAAAAAAAAAAA%3D",
    "AAAAAAAAAAA%2FAAAAAAAAAA",
    "AAAAAAAAAAAAAAAAAAAA%00A",
    "018f0000-0000-7000-8000-000000000000",
    "%F0%9F%94%91",
    "%ff",
    "' or 1=1 --",
    "sk_live_000000000000000000000000003vSKjy",
];

/// Asserts that a key of another account and one that does not exist get the same answer.
pub(crate) async fn cannot_be_told_apart(world: &World, dialect: Dialect) {
    let (mine, theirs) = (world.key_on("roomy").await, world.key_on("roomy").await);
    let target = world.create(dialect, &theirs, "target").await;
    let unknown = world.delete(&dialect.path_of("AAAAAAAAAAAAAAAAAAAAAA"));
    let unknown = unknown.bearer(&mine);
    let unknown = unknown.expect(404, &dialect.key_not_found()).await;
    let foreign = world.delete(&dialect.path_of(&dialect.id(&target)));
    let foreign = foreign.bearer(&mine);
    let foreign = foreign.expect(404, &dialect.key_not_found()).await;
    assert_eq!(unknown.body, foreign.body);
    let headers = |answer: &crate::exchange::Answer| {
        let mut headers = answer.headers.clone();
        headers.sort();
        headers.retain(|(name, _)| !["date", "ratelimit"].contains(&name.as_str()));
        headers
    };
    assert_eq!(headers(&unknown), headers(&foreign));
    assert_eq!(world.status(&dialect.key(&target)).await, 200);
}

async fn documented_request_without_a_known_key_is_refused(place: Place) {
    let world = place.shared().await;
    world
        .delete("/api/api-keys/kJx9mP2qLn4vRt7bYw3cZ")
        .header("Authorization", "Bearer sk_live_your_api_key")
        .expect(401, &Dialect::Flat.unauthorized())
        .await;
}

async fn documented_id_is_unknown(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let delete = world.delete("/api/api-keys/kJx9mP2qLn4vRt7bYw3cZ");
    let delete = delete.bearer(&key);
    delete.expect(404, &Dialect::Flat.key_not_found()).await;
}

async fn malformed_id_is_an_unknown_id(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let long = "A".repeat(3_000);
    for id in MALFORMED_IDS.into_iter().chain([&*long]) {
        let delete = world.delete(&Dialect::Flat.path_of(id)).bearer(&key);
        delete.expect(404, &Dialect::Flat.key_not_found()).await;
    }
}

async fn someone_elses_key_is_an_unknown_key(place: Place) {
    cannot_be_told_apart(&place.shared().await, Dialect::Flat).await;
}

async fn session_cannot_be_deleted_by_its_id(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    // The public prefix of the session's token. No answer contains its id.
    let delete = world.delete(&Dialect::Flat.path_of(&session));
    let delete = delete.bearer(&session);
    delete.expect(404, &Dialect::Flat.key_not_found()).await;
    assert_eq!(world.status(&session).await, 200);
}

async fn deleting_twice_is_not_found(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world.create(Dialect::Flat, &key, "short-lived").await;
    let path = Dialect::Flat.path_of(&created.text("/id"));
    let first = world.delete(&path).bearer(&key);
    first.expect(200, &success()).await;
    for _ in 0..2 {
        let again = world.delete(&path).bearer(&key);
        again.expect(404, &Dialect::Flat.key_not_found()).await;
    }
}

async fn deleting_many_times_at_once_succeeds_once(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let created = world.create(Dialect::Flat, &key, "short-lived").await;
    let mut deletes = JoinSet::new();
    for number in 0..20 {
        let dialect = Dialect::BOTH[number % 2];
        let delete = world.delete(&dialect.path_of(&created.text("/id")));
        let delete = delete.bearer(&key);
        deletes.spawn(async move { (dialect, delete.send().await) });
    }
    let mut deleted = 0;
    for (dialect, answer) in deletes.join_all().await {
        if answer.status == 200 {
            answer.is(200, &success());
            deleted += 1;
        } else {
            answer.is(404, &dialect.key_not_found());
        }
    }
    assert_eq!(deleted, 1);
}

async fn deleted_key_opens_nothing_at_once(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world.create(Dialect::Flat, &key, "short-lived").await;
    let deleted = created.text("/key");
    assert_eq!(world.status(&deleted).await, 200);
    let delete = world.delete(&Dialect::Flat.path_of(&created.text("/id")));
    delete.bearer(&key).expect(200, &success()).await;
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path()).bearer(&deleted);
        list.expect(401, &dialect.unauthorized()).await.has(
            "www-authenticate",
            r#"Bearer realm="keys", error="invalid_token""#,
        );
    }
}

async fn key_may_delete_itself(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issued = world.issue(&account, &serde_json::json!({})).await;
    let (id, key) = (issued.text("/id"), issued.text("/key"));
    let delete = world.delete(&Dialect::Flat.path_of(&id)).bearer(&key);
    delete.expect(200, &success()).await;
    let again = world.delete(&Dialect::Flat.path_of(&id)).bearer(&key);
    again.expect(401, &Dialect::Flat.unauthorized()).await;
    let list = world.get(FLAT).bearer(&key);
    list.expect(401, &Dialect::Flat.unauthorized()).await;
}

async fn key_of_the_other_dialect_is_deleted_too(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let created = world.create(Dialect::Account, &key, "account").await;
    let delete = world.delete(&Dialect::Flat.path_of(&Dialect::Account.id(&created)));
    delete.bearer(&key).expect(200, &success()).await;
    assert_eq!(world.status(&Dialect::Account.key(&created)).await, 401);
}
