//! `POST /api/account/api-keys`

use keys_core::{AllowedNetworks, Timestamp};
use keys_testkit::data::noon_plus;

use crate::exchange::{Exchange as _, get, post};
use crate::faults::ACCOUNT_503;
use crate::faulty::{Fault, Faulty};
use crate::rows::ACCOUNT;
use crate::support::{World, draft};

fn invalid(field: &str, message: &str) -> String {
    format!(
        r#"{{"statusCode":400,"message":"{field} {message}","errors":[{{"field":"{field}","message":"{message}"}}]}}"#
    )
}

#[actix_web::test]
async fn expiry_must_be_later_than_now() {
    let world = World::new();
    let key = world.pro_key().await;
    for (expires_at, status) in [
        ("2026-01-01T11:59:59.999999Z", 400),
        ("2026-01-01T12:00:00Z", 400),
        ("2026-01-01T13:00:00+01:00", 400),
        ("2026-01-01T12:00:00.000001Z", 201),
        ("2026-01-01T12:00:00-00:01", 201),
    ] {
        let body = format!(r#"{{"expiresAt":"{expires_at}"}}"#);
        let answer = world.exchange(post(ACCOUNT).bearer(&key).json(body)).await;
        assert_eq!(answer.status, status, "{expires_at}: {}", answer.body);
        if status == 400 {
            assert_eq!(answer.body, invalid("expiresAt", "must be in the future"));
        }
    }
}

#[actix_web::test]
async fn wider_than_the_creating_key_names_the_field_as_it_was_sent() {
    let world = World::new();
    let account = world.account("pro").await;
    let parent = world
        .issue(
            draft(account.id)
                .allowed_networks(AllowedNetworks::parse(["203.0.113.0/24"]).unwrap())
                .expires_at(Some(noon_plus(60))),
        )
        .await;
    let outside = "must be within the addresses of the key that creates it";
    let later = "must not be later than the expiry of the key that creates it";
    for (body, field, message) in [
        (
            r#"{"expiresAt":"2026-01-01T12:01:00.000001Z"}"#,
            "expiresAt",
            later,
        ),
        (r#"{"allowedIps":["0.0.0.0/0"]}"#, "allowedIps.0", outside),
        (r#"{"allowedIps":["::/0"]}"#, "allowedIps.0", outside),
        // Repeated entries are stored once, and still counted as the client sent them.
        (
            r#"{"allowedIps":["203.0.113.7","203.0.113.7/32","203.0.112.0/23"]}"#,
            "allowedIps.2",
            outside,
        ),
    ] {
        let request = post(ACCOUNT).bearer(parent.secret.expose()).json(body);
        request.expect(&world, 400, &invalid(field, message)).await;
    }
    post(ACCOUNT)
        .bearer(parent.secret.expose())
        .json(r#"{"memo":"CI","allowedIps":["203.0.113.5"],"expiresAt":"2026-01-01T12:01:00Z"}"#)
        .expect(
            &world,
            201,
            r#"{"data":{"identifier":"*","description":"CI","allowed_ips":["203.0.113.5"],"last_used_at":null,"created_at":"2026-01-01T12:00:00.000Z"},"meta":{"secret_token":"xyp_*"}}"#,
        )
        .await;
}

/// As in the case before if the body has the field. Otherwise the body is not at fault, and a
/// repetition inherits what the key has by then.
#[actix_web::test]
async fn wider_than_a_key_that_was_restricted_a_moment_ago_is_refused() {
    let store = Faulty::default();
    let world = World::with_store(store.clone());
    let key = world.pro_key().await;
    store.fails_with(Fault::CallerRestricted);
    let message = "must not be later than the expiry of the key that creates it";
    let explicit = post(ACCOUNT)
        .bearer(&key)
        .json(r#"{"expiresAt":"2026-01-01T12:01:00Z"}"#);
    let body = invalid("expiresAt", message);
    explicit.expect(&world, 400, &body).await;
    let inherited = post(ACCOUNT).bearer(&key).json("{}");
    let answer = inherited.expect(&world, 503, ACCOUNT_503).await;
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[actix_web::test]
async fn example_of_the_document_works_at_its_time() {
    let world = World::new();
    world
        .clock
        .set(Timestamp::parse_rfc3339("2024-03-15T10:30:00Z").unwrap());
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    let created = post(ACCOUNT)
        .bearer(&session)
        .json(
            r#"{
"memo": "Development API Key",
"allowedIps": ["192.168.1.100"],
"expiresAt": "2025-12-31T23:59:59Z"
}"#,
        )
        .expect(
            &world,
            201,
            r#"{"data":{"identifier":"*","description":"Development API Key","allowed_ips":["192.168.1.100"],"last_used_at":null,"created_at":"2024-03-15T10:30:00.000Z"},"meta":{"secret_token":"xyp_*"}}"#,
        )
        .await;
    let list = || get(ACCOUNT).bearer(&created.text("/meta/secret_token"));
    let there = world.from("192.168.1.100");
    assert_eq!(there.exchange(list()).await.status, 200);
    let last_moment = Timestamp::parse_rfc3339("2025-12-31T23:59:58.999999Z").unwrap();
    world.clock.set(last_moment);
    assert_eq!(there.exchange(list()).await.status, 200);
    let end = Timestamp::parse_rfc3339("2025-12-31T23:59:59Z").unwrap();
    world.clock.set(end);
    assert_eq!(there.exchange(list()).await.status, 401);
}
