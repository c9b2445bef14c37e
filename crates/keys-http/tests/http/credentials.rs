//! Credentials: 401 and 403 before any limit of an account.

use keys_core::AllowedNetworks;
use keys_service::Actor;
use keys_service::ports::AccountPatch;
use keys_testkit::data::noon_plus;

use crate::exchange::{Exchange as _, get};
use crate::rows::{ACCOUNT, ACCOUNT_401, FLAT, FLAT_401, NOBODYS_KEY};
use crate::support::{CLIENT, World, draft};

#[actix_web::test]
async fn key_is_refused_at_the_exact_moment_it_expires() {
    let world = World::new();
    let account = world.account("pro").await;
    let expiring = draft(account.id).expires_at(Some(noon_plus(60)));
    let key = world.issue(expiring).await;
    let list = || get(FLAT).bearer(key.secret.expose());
    world.clock.set(keys_core::Timestamp::from_unix_micros(
        noon_plus(60).unix_micros() - 1,
    ));
    assert_eq!(world.exchange(list()).await.status, 200);
    world.clock.set(noon_plus(60));
    let answer = list().expect(&world, 401, FLAT_401).await;
    let challenge = answer.header("www-authenticate");
    assert_eq!(
        challenge,
        Some(r#"Bearer realm="keys", error="invalid_token""#)
    );
}

#[actix_web::test]
async fn key_is_only_good_from_its_addresses() {
    let world = World::new();
    let account = world.account("pro").await;
    let restricted = draft(account.id)
        .allowed_networks(AllowedNetworks::parse([CLIENT, "2001:db8::/32"]).unwrap());
    let key = world.issue(restricted).await;
    let list = || get(FLAT).bearer(key.secret.expose());
    for address in ["203.0.113.6", "::1", ""] {
        list()
            .expect(
                &world.from(address),
                403,
                r#"{"message":"This API key cannot be used from this address","code":"ip_not_allowed"}"#,
            )
            .await;
    }
    for address in [CLIENT, "::ffff:203.0.113.5", "2001:db8:1::2"] {
        let answer = world.from(address).exchange(list()).await;
        assert_eq!(answer.status, 200, "{address}");
    }
}

#[actix_web::test]
async fn keys_of_a_disabled_account_are_known_and_forbidden() {
    let world = World::new();
    let account = world.account("pro").await;
    let (key, session) = (world.key(&account).await, world.session(&account).await);
    let disable = AccountPatch::default().disabled(true);
    let system = Actor::system();
    let update = world.service.update_account(&system, account.id, disable);
    let _ = update.await.unwrap();
    for credential in [&key, &session] {
        let body = r#"{"message":"The account is disabled","code":"account_disabled"}"#;
        let request = get(FLAT).bearer(credential);
        let answer = request.expect(&world, 403, body).await;
        assert_eq!(answer.header("www-authenticate"), None);
        // None of the account's requests was used up.
        let policy = answer.header("ratelimit-policy");
        assert_eq!(policy, Some(r#""unauthenticated";q=60;w=60"#));
        let body = r#"{"statusCode":403,"message":"The account is disabled","errors":[]}"#;
        let request = get(ACCOUNT).bearer(credential);
        request.expect(&world, 403, body).await;
    }
}

#[actix_web::test]
async fn after_sixty_failures_an_address_has_to_wait() {
    let world = World::new();
    let key = world.pro_key().await;
    for number in 0..60 {
        let answer = world.exchange(get(FLAT).bearer(NOBODYS_KEY)).await;
        assert_eq!(answer.status, 401, "{number}");
    }
    let too_many = r#"{"message":"Too many requests","code":"rate_limited"}"#;
    for request in [get(FLAT), get(FLAT).bearer(NOBODYS_KEY)] {
        let answer = request.expect(&world, 429, too_many).await;
        assert_eq!(answer.header("retry-after"), Some("1"));
        let policy = answer.header("ratelimit-policy");
        assert_eq!(policy, Some(r#""unauthenticated";q=60;w=60"#));
        let state = answer.header("ratelimit");
        assert_eq!(state, Some(r#""unauthenticated";r=0;t=60"#));
        assert_eq!(answer.header("www-authenticate"), None);
    }
    // A valid key is accepted, from that address too, and other addresses are not affected.
    let valid = world.exchange(get(FLAT).bearer(&key)).await;
    assert_eq!(valid.status, 200);
    let elsewhere = world.from("198.51.100.1");
    get(ACCOUNT).expect(&elsewhere, 401, ACCOUNT_401).await;
    world.advance(1);
    get(ACCOUNT).expect(&world, 401, ACCOUNT_401).await;
    assert_eq!(world.exchange(get(ACCOUNT)).await.status, 429);
}

#[actix_web::test]
async fn addresses_of_one_ipv6_network_are_one_client() {
    let world =
        World::with_api(|api| api.unauthenticated_quota(keys_core::Quota::per_minute(1).unwrap()));
    let first = world.from("2001:db8::1");
    assert_eq!(first.exchange(get(FLAT)).await.status, 401);
    let second = world.from("2001:db8::ffff:2");
    assert_eq!(second.exchange(get(FLAT)).await.status, 429);
    let other = world.from("2001:db8:0:1::1");
    assert_eq!(other.exchange(get(FLAT)).await.status, 401);
}

#[actix_web::test]
async fn no_header_makes_the_surfaces_fail() {
    let world = World::with_api(|api| {
        api.unauthenticated_quota(keys_core::Quota::per_minute(10_000).unwrap())
    });
    let long = "x".repeat(300);
    for name in [
        "Authorization",
        "X-API-Key",
        "X-Forwarded-For",
        "Forwarded",
        "Idempotency-Key",
        "Content-Type",
        "Content-Encoding",
    ] {
        for value in [
            b"".as_slice(),
            b" ",
            b"\xff\xfe",
            b"Bearer \xc3\xa9",
            b"Bearer  ",
            b"\"",
            b",;=",
            long.as_bytes(),
        ] {
            for path in [FLAT, ACCOUNT, "/v1/accounts"] {
                let request = get(path).header(name, value);
                let answer = world.exchange(request).await;
                assert_eq!(answer.status, 401, "{name} {value:?}");
            }
        }
    }
}

#[test]
fn key_that_nobody_has_is_well_formed() {
    assert!(keys_core::SecretKey::parse(NOBODYS_KEY).is_ok());
}
