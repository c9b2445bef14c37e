//! `POST /api/api-keys`

use keys_http::Mount;
use keys_service::KeyManagement;
use keys_testkit::data::noon_plus;

use crate::exchange::{Exchange as _, get, post};
use crate::faulty::{Fault, Faulty};
use crate::rows::{FLAT, FLAT_401, FLAT_CREATED, PLAN_403};
use crate::support::{World, draft};

const BODY: &str = r#"{"name":"Production Server"}"#;
const KIND_403: &str =
    r#"{"message":"This kind of credential cannot be used here","code":"kind_not_allowed"}"#;

#[actix_web::test]
async fn key_may_not_create_keys_where_management_is_for_sessions() {
    let world = World::with_api(|api| api.key_management(KeyManagement::SessionOnly));
    let account = world.account("pro").await;
    let (key, session) = (world.key(&account).await, world.session(&account).await);
    // Before the body is read.
    let refused = post(FLAT).bearer(&key).body("text/plain", "x");
    refused.expect(&world, 403, KIND_403).await;
    get(FLAT).bearer(&key).expect(&world, 403, KIND_403).await;
    let accepted = post(FLAT).bearer(&session).json(BODY);
    accepted.expect(&world, 201, FLAT_CREATED).await;
}

#[actix_web::test]
async fn key_that_was_revoked_a_moment_ago_cannot_mint_its_successor() {
    for (fault, status, body) in [
        (Fault::CallerRevoked, 401, FLAT_401),
        (
            Fault::CallerDisabled,
            403,
            r#"{"message":"The account is disabled","code":"account_disabled"}"#,
        ),
    ] {
        let store = Faulty::default();
        let world = World::with_store(store.clone());
        let key = world.pro_key().await;
        store.fails_with(fault);
        let request = post(FLAT).bearer(&key).json(BODY);
        let answer = request.expect(&world, status, body).await;
        let challenge = (status == 401).then_some(r#"Bearer realm="keys", error="invalid_token""#);
        assert_eq!(answer.header("www-authenticate"), challenge);
        // It was counted, and its headers show that.
        assert_eq!(answer.header("ratelimit"), Some(r#""create";r=9;t=6"#));
    }
}

#[actix_web::test]
async fn what_a_key_creates_is_as_narrow_as_itself() {
    let world = World::new();
    let account = world.account("pro").await;
    let parent = world
        .issue(
            draft(account.id)
                .allowed_networks(keys_core::AllowedNetworks::parse(["203.0.113.0/24"]).unwrap())
                .expires_at(Some(noon_plus(60))),
        )
        .await;
    let request = post(FLAT).bearer(parent.secret.expose()).json(BODY);
    let created = request.expect(&world, 201, FLAT_CREATED).await;
    let child = created.text("/key");

    let list = || get(FLAT).bearer(&child);
    assert_eq!(world.exchange(list()).await.status, 200);
    let elsewhere = world.from("198.51.100.1");
    assert_eq!(elsewhere.exchange(list()).await.status, 403);
    world.advance(60);
    list().expect(&world, 401, FLAT_401).await;
}

#[actix_web::test]
async fn expired_keys_are_free_slots_at_once() {
    let world = World::new();
    let account = world.account("business").await;
    let key = world.key(&account).await;
    for _ in 0..9 {
        let expires_at = Some(noon_plus(60));
        let draft = draft(account.id).expires_at(expires_at);
        world.issue(draft).await;
    }
    let request = || post(FLAT).bearer(&key).json(BODY);
    let full = r#"{"message":"Maximum 10 API keys per account","code":"key_limit_reached"}"#;
    world.advance(59);
    request().expect(&world, 403, full).await;
    world.advance(1);
    request().expect(&world, 201, FLAT_CREATED).await;
}

#[actix_web::test]
async fn gate_and_cap_are_settings_of_the_mount() {
    let world = World::with_api(|api| {
        let mount = Mount::new("/keys".parse().unwrap(), "acme".parse().unwrap());
        api.flat(Some(mount.unwrap().plan_gate(false).cap(false)))
    });
    let account = world.account("free").await;
    let session = world.session(&account).await;
    let mut key = session;
    for _ in 0..10 {
        let request = post("/keys").bearer(&key).json(BODY);
        let template = FLAT_CREATED.replace("sk_live_", "acme_");
        key = request.expect(&world, 201, &template).await.text("/key");
        world.advance(6);
    }
    // The other mount keeps its own.
    get(crate::rows::ACCOUNT)
        .bearer(&key)
        .expect(&world, 403, crate::rows::ACCOUNT_PLAN_403)
        .await;
    let unserved = get(FLAT).bearer(&key);
    assert_eq!(world.exchange(unserved).await.status, 404);
}

#[actix_web::test]
async fn plan_that_left_the_configuration_has_no_keys() {
    let gone = keys_core::Plans::new(
        keys_core::Plans::documented()
            .iter()
            .filter(|(name, _)| name.as_str() != "pro")
            .map(|(name, plan)| (name.clone(), plan.clone())),
    );
    let store = Faulty::default();
    let before = World::with_store(store.clone());
    let key = before.pro_key().await;
    let world = World::with(store, |service| service.plans(gone), |api| api);
    let request = post(FLAT).bearer(&key).json(BODY);
    let answer = request.expect(&world, 403, PLAN_403).await;
    let policy = answer.header("ratelimit-policy");
    assert_eq!(policy, Some(r#""create";q=10;w=60"#));
}
