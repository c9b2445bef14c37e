//! `/v1/accounts`

use crate::exchange::{Exchange as _, Request, get, patch, post};
use crate::faulty::{Fault, Faulty};
use crate::rows::{FLAT, FLAT_401, PROBLEM_401};
use crate::support::World;

const SCOPE_403: &str = r#"{"title":"Forbidden","status":403,"code":"insufficient_scope","detail":"This API key lacks a required scope"}"#;

#[actix_web::test]
async fn every_route_asks_for_its_scopes() {
    let world = World::new();
    let account = world.account("pro").await.id;
    let path = format!("/v1/accounts/{account}");
    let routes: [(Request, &[&str], u16); 6] = [
        (get("/v1/accounts"), &["accounts:read"], 200),
        (get(&path), &["accounts:read"], 200),
        (
            post("/v1/accounts").json(r#"{"plan":"pro"}"#),
            &["accounts:write"],
            201,
        ),
        (patch(&path).json("{}"), &["accounts:write"], 200),
        (
            post(format!("{path}/sessions")).json(r#"{"ttl_seconds":1}"#),
            &["keys:read", "keys:write"],
            201,
        ),
        (
            post(format!("{path}/keys")).json("{}"),
            &["keys:write"],
            201,
        ),
    ];
    let all = ["accounts:read", "accounts:write", "keys:read", "keys:write"];
    for (request, needed, status) in routes {
        let enough = world.operator(needed).await;
        let answer = world.exchange(request.clone().bearer(&enough)).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        for missing in needed {
            let held = all.iter().filter(|scope| *scope != missing);
            let held: Vec<_> = held.copied().chain(["keys:verify"]).collect();
            let lacking = world.operator(&held).await;
            let refused = request.clone().bearer(&lacking);
            let answer = refused.expect(&world, 403, SCOPE_403).await;
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="keys", error="insufficient_scope""#)
            );
        }
    }
}

#[actix_web::test]
async fn account_key_with_the_scopes_of_an_operator_is_no_operator() {
    let world = World::new();
    let account = world.account("pro").await;
    let scopes = ["accounts:read", "accounts:write", "keys:read", "keys:write"];
    let key = world
        .issue(
            crate::support::draft(account.id)
                .scopes(Some(keys_core::ScopeSet::parse(scopes).unwrap())),
        )
        .await;
    let session = world.session(&account).await;
    for credential in [key.secret.expose(), &session] {
        let answer = world.exchange(get("/v1/accounts").bearer(credential)).await;
        let code = answer.text("/code");
        assert_eq!((answer.status, &*code), (403, "kind_not_allowed"));
    }
}

#[actix_web::test]
async fn operator_that_was_revoked_a_moment_ago_changes_nothing() {
    let store = Faulty::default();
    let world = World::with_store(store.clone());
    let operator = world.root().await;
    let account = world.account("pro").await.id;
    store.fails_with(Fault::CallerRevoked);
    for request in [
        post("/v1/accounts").json(r#"{"plan":"pro"}"#),
        patch(format!("/v1/accounts/{account}")).json(r#"{"plan":"free"}"#),
        post(format!("/v1/accounts/{account}/sessions")).json(r#"{"ttl_seconds":1}"#),
        post(format!("/v1/accounts/{account}/keys")).json("{}"),
    ] {
        let request = request.bearer(&operator);
        request.expect(&world, 401, PROBLEM_401).await;
    }
}

#[actix_web::test]
async fn changes_take_effect_on_the_next_request() {
    let world = World::new();
    let operator = world.root().await;
    let account = world.account("pro").await;
    let key = world.key(&account).await;
    let path = format!("/v1/accounts/{}", account.id);
    for (body, status) in [
        (r#"{"disabled":true}"#, 403),
        (r#"{"disabled":false}"#, 200),
        (r#"{"plan":"free"}"#, 403),
        (r#"{"plan":"business"}"#, 200),
    ] {
        let change = patch(&path).bearer(&operator).json(body);
        assert_eq!(world.exchange(change).await.status, 200);
        let answer = world.exchange(get(FLAT).bearer(&key)).await;
        assert_eq!(answer.status, status, "{body}");
    }
}

#[actix_web::test]
async fn pages_of_accounts_show_each_once() {
    let world = World::new();
    let operator = world.root().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.account("pro").await.id.to_string());
        world.advance(1);
    }
    let mut shown = Vec::new();
    let mut path = "/v1/accounts?limit=2".to_owned();
    for pages in 1.. {
        let page = world.exchange(get(&path).bearer(&operator)).await;
        let json = page.json();
        let ids = json["data"].as_array().unwrap().iter();
        shown.extend(ids.map(|account| account["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = json["next_cursor"].as_str() else {
            assert_eq!(pages, 3);
            break;
        };
        path = format!("/v1/accounts?limit=2&cursor={cursor}");
    }
    assert_eq!(shown, made);
}

#[actix_web::test]
async fn management_and_each_contract_may_be_left_out() {
    let world = World::with_api(|api| api.management(false).flat(None).account(None));
    let operator = world.root().await;
    for path in [FLAT, "/api/account/api-keys", "/v1/accounts"] {
        let answer = world.exchange(get(path).bearer(&operator)).await;
        assert_eq!((answer.status, &*answer.text("/code")), (404, "not_found"));
    }
    let world = World::with_api(|api| api.management(false));
    get(FLAT).expect(&world, 401, FLAT_401).await;
}
