//! `RequireKey` around the routes of another application.

use actix_web::{App, HttpResponse, test, web};
use keys_core::{KeyKind, Operation, ScopeSet};
use keys_http::{KeyIdentity, Rejection, RequireKey};
use keys_service::Actor;

use crate::exchange::{Answer, Exchange, Request, get, post};
use crate::faulty::Faulty;
use crate::rows::{FLAT, NOBODYS_KEY, PROBLEM_401};
use crate::support::{CLIENT, World, answer, draft, test_request};

/// An application of its own, guarded by the keys of a world.
struct Shop<'a>(&'a World);

async fn orders(identity: KeyIdentity) -> HttpResponse {
    let account = identity.account().map(|account| account.id);
    HttpResponse::Ok().json(account.map(|id| id.to_string()))
}

fn plain(rejection: &Rejection) -> HttpResponse {
    HttpResponse::build(rejection.status()).json(rejection.code())
}

impl Exchange for Shop<'_> {
    async fn exchange(&self, request: Request) -> Answer {
        let api = &self.0.api;
        let scoped = |scope| {
            let scopes = ScopeSet::parse([scope]).expect("the scope is legal");
            RequireKey::new(api).scopes(scopes)
        };
        let create = Operation::Create.limit_name();
        let counted = RequireKey::new(api).limit(&create).expect("pro has it");
        let app = App::new()
            .service(
                web::resource("/orders")
                    .wrap(scoped("orders:read"))
                    .get(orders),
            )
            .service(
                web::scope("/shop")
                    .wrap(RequireKey::new(api).render(plain))
                    .route("/stock", web::get().to(orders))
                    .route(
                        "/orders",
                        web::post().to(orders).wrap(scoped("orders:write")),
                    ),
            )
            .route(
                "/admin",
                web::get()
                    .to(orders)
                    .wrap(RequireKey::new(api).kinds(&[KeyKind::Operator])),
            )
            .route("/search", web::get().to(orders).wrap(counted))
            .route("/forgotten", web::get().to(orders));
        let service = test::init_service(app).await;
        let response = test::call_service(&service, test_request(&request, CLIENT)).await;
        answer(response).await
    }
}

#[actix_web::test]
async fn strangers_are_refused() {
    let world = World::new();
    let shop = Shop(&world);
    let answer = get("/orders").expect(&shop, 401, PROBLEM_401).await;
    let challenge = answer.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
    let unknown = get("/orders").bearer(NOBODYS_KEY);
    let answer = unknown.expect(&shop, 401, PROBLEM_401).await;
    assert_eq!(
        answer.header("www-authenticate"),
        Some(r#"Bearer realm="keys", error="invalid_token""#)
    );
    assert_eq!(
        answer.header("ratelimit"),
        Some(r#""unauthenticated";r=58;t=2"#)
    );
    // In the application's own words, with the same headers.
    let answer = get("/shop/stock").expect(&shop, 401, r#""unauthorized""#);
    assert!(answer.await.header("www-authenticate").is_some());
}

#[actix_web::test]
async fn key_needs_the_scopes_the_right_kind_and_a_plan_with_keys() {
    let world = World::new();
    let shop = Shop(&world);
    let account = world.account("pro").await;
    let reader = world
        .issue(draft(account.id).scopes(Some(ScopeSet::parse(["orders:read"]).unwrap())))
        .await;
    let reader = reader.secret.expose();
    let id = format!(r#""{}""#, account.id);
    let accepted = get("/orders").bearer(reader);
    accepted.expect(&shop, 200, &id).await;
    let accepted = get("/shop/stock").bearer(reader);
    accepted.expect(&shop, 200, &id).await;
    let refused = post("/shop/orders").bearer(reader);
    assert_eq!(
        shop.exchange(refused).await.text("/code"),
        "insufficient_scope"
    );

    let session = world.session(&account).await;
    let refused = get("/shop/stock").bearer(&session);
    refused.expect(&shop, 403, r#""kind_not_allowed""#).await;
    let refused = get("/admin").bearer(reader);
    assert_eq!(
        shop.exchange(refused).await.text("/code"),
        "kind_not_allowed"
    );
    let operator = world.operator(&[]).await;
    let accepted = get("/admin").bearer(&operator);
    accepted.expect(&shop, 200, "null").await;

    let operator = world.root().await;
    let downgrade = Request::new("PATCH", format!("/v1/accounts/{}", account.id));
    let downgrade = downgrade.bearer(&operator).json(r#"{"plan":"free"}"#);
    assert_eq!(world.exchange(downgrade).await.status, 200);
    let refused = get("/shop/stock").bearer(reader);
    refused.expect(&shop, 403, r#""plan_forbidden""#).await;
}

#[actix_web::test]
async fn use_through_the_guard_is_a_use() {
    let world = World::new();
    let shop = Shop(&world);
    let key = world.pro_key().await;
    world.advance(5);
    let used = shop.exchange(get("/shop/stock").bearer(&key)).await;
    assert_eq!(used.status, 200);
    world.service.flush_uses().await.unwrap();
    let listed = world.exchange(get(FLAT).bearer(&key)).await;
    assert_eq!(listed.text("/0/lastUsedAt"), "2026-01-01T12:00:05.000Z");
}

#[actix_web::test]
async fn route_without_the_guard_has_no_identity_to_give() {
    let world = World::new();
    let key = world.pro_key().await;
    let answer = Shop(&world).exchange(get("/forgotten").bearer(&key)).await;
    assert_eq!(
        (answer.status, &*answer.text("/code")),
        (503, "unavailable")
    );
}

#[actix_web::test]
async fn limit_of_the_plan_holds_and_is_shown() {
    let world = World::new();
    let shop = Shop(&world);
    let key = world.pro_key().await;
    for number in 1..=10 {
        let answer = shop.exchange(get("/search").bearer(&key)).await;
        assert_eq!(answer.status, 200);
        let state = format!(r#""create";r={};t={}"#, 10 - number, 6 * number);
        assert_eq!(answer.header("ratelimit"), Some(&*state));
    }
    let answer = get("/search").bearer(&key).expect(
        &shop,
        429,
        r#"{"title":"Too Many Requests","status":429,"code":"rate_limited","detail":"Too many requests"}"#,
    );
    let answer = answer.await;
    assert_eq!(answer.header("retry-after"), Some("6"));
    let policy = answer.header("ratelimit-policy");
    assert_eq!(policy, Some(r#""create";q=10;w=60"#));
}

#[actix_web::test]
async fn limit_that_no_plan_has_is_refused() {
    let world = World::new();
    let limit = "unheard-of".parse().unwrap();
    let unknown = RequireKey::new(&world.api).limit(&limit).unwrap_err();
    assert_eq!(unknown.to_string(), "no plan has a limit named unheard-of");
}

#[actix_web::test]
async fn known_key_costs_no_look_into_the_store_and_a_revoked_one_is_refused_at_once() {
    let store = Faulty::default();
    let world = World::with_store(store.clone()).followed().await;
    let shop = Shop(&world);
    let key = world.issue(draft(world.account("pro").await.id)).await;
    let stock = || get("/shop/stock").bearer(key.secret.expose());
    assert_eq!(shop.exchange(stock()).await.status, 200);
    let before = store.calls();
    assert_eq!(shop.exchange(stock()).await.status, 200);
    assert_eq!(store.calls(), before);
    let revoke = world
        .service
        .revoke_key(&Actor::system(), None, key.key.id)
        .await;
    let _ = revoke.unwrap().unwrap();
    let refused = stock().expect(&shop, 401, r#""unauthorized""#);
    refused.await;
}
