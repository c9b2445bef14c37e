//! `?wait=global`: the answer to a change means that every instance has applied it.

use std::time::Duration;

use keys_core::Timestamp;
use keys_service::MemoryStore;
use keys_service::ports::ChangeLog as _;
use keys_testkit::data::noon_plus;

use crate::exchange::{Exchange as _, Request, delete, patch};
use crate::rows::{ACCOUNT, FLAT, FLAT_404, SUCCESS};
use crate::support::{World, draft};

/// The bound of 2 s, a percent and 50 ms.
const BOUND: Duration = Duration::from_millis(2_070);

const BY: &str = "effective-everywhere-by";

fn noon_and(duration: Duration) -> String {
    noon_plus(0).saturating_add(duration).to_string()
}

#[actix_web::test]
async fn nothing_but_global_can_be_waited_for() {
    let world = World::new();
    let account = world.account("pro").await;
    let key = world.issue(draft(account.id)).await;
    let secret = key.secret.expose();
    let operator = world.root().await;
    let detail = r#""title":"Bad Request","status":400,"code":"invalid_request","detail":"#;
    for (query, message) in [
        ("wait=", "must be global"),
        ("wait=local", "must be global"),
        ("wait=GLOBAL", "must be global"),
        ("wait=global&wait=global", "must be given once"),
    ] {
        let errors = format!(r#""errors":[{{"field":"wait","message":"{message}"}}]"#);
        let flat = format!(r#"{{"message":"wait {message}","code":"invalid_request"}}"#);
        let nested = format!(r#"{{"statusCode":400,"message":"wait {message}",{errors}}}"#);
        let problem = format!(r#"{{{detail}"wait {message}",{errors}}}"#);
        for (request, credential, body) in [
            (
                delete(format!("{FLAT}/{}?{query}", key.key.id)),
                secret,
                flat,
            ),
            (
                delete(format!("{ACCOUNT}/{}?{query}", key.key.id)),
                secret,
                nested,
            ),
            (
                patch(format!("/v1/accounts/{}?{query}", account.id)).json("{}"),
                &operator,
                problem,
            ),
        ] {
            let answer = request.bearer(credential).expect(&world, 400, &body).await;
            assert_eq!(answer.header(BY), None);
        }
    }
    // Nothing was changed.
    let revoke = delete(format!("{FLAT}/{}", key.key.id)).bearer(secret);
    let answer = revoke.expect(&world, 200, SUCCESS).await;
    assert_eq!(answer.header(BY), Some(&*noon_and(BOUND)));
    let operator_key = world.pro_key().await;
    let unknown = delete(format!("{FLAT}/x?wait=global")).bearer(&operator_key);
    let answer = unknown.expect(&world, 404, FLAT_404).await;
    assert_eq!(answer.header(BY), None);
}

/// Changes without and with waiting, and their answers, where `*` is the time.
fn changes(world_key: &str, id: &str, account: &str, operator: &str) -> [(Request, String); 3] {
    let waited = r#"{"success":true,"effective_everywhere_by":"*"}"#;
    [
        (
            delete(format!("{FLAT}/{id}?wait=global")).bearer(world_key),
            waited.to_owned(),
        ),
        (
            delete(format!("{ACCOUNT}/{id}?wait=global")).bearer(world_key),
            waited.to_owned(),
        ),
        (
            patch(format!("/v1/accounts/{account}?wait=global"))
                .bearer(operator)
                .json(r#"{"plan":"business"}"#),
            format!(
                r#"{{"id":"{account}","external_id":null,"plan":"business","disabled":false,"created_at":"*","effective_everywhere_by":"*"}}"#
            ),
        ),
    ]
}

#[actix_web::test]
async fn without_other_instances_there_is_nobody_to_wait_for() {
    let world = World::new();
    let operator = world.root().await;
    for index in 0..3 {
        let account = world.account("pro").await;
        let key = world.key(&account).await;
        let id = world.issue(draft(account.id)).await.key.id.to_string();
        let (request, body) = changes(&key, &id, &account.id.to_string(), &operator)[index].clone();
        let answer = request.expect(&world, 200, &body).await;
        // It is so already.
        let now = noon_and(Duration::ZERO);
        assert_eq!(answer.header(BY), Some(&*now));
        assert_eq!(answer.text("/effective_everywhere_by"), now);
    }
}

#[actix_web::test]
async fn instance_that_says_nothing_is_waited_for_as_long_as_it_may_accept() {
    let store = MemoryStore::new();
    let world = World::with_store(store.clone());
    let operator = world.root().await;
    // Another instance, which had a sign of life a moment ago.
    let mut other = store.feed();
    other.poll().await.unwrap();
    other.applied().await;
    for index in 0..3_u32 {
        let account = world.account("pro").await;
        let key = world.key(&account).await;
        let id = world.issue(draft(account.id)).await.key.id.to_string();
        let changes = changes(&key, &id, &account.id.to_string(), &operator);
        let (request, body) = changes[index as usize].clone();
        let answered = request.expect(&world, 200, &body);
        let passes = async {
            actix_web::rt::time::sleep(Duration::from_millis(50)).await;
            world.clock.advance(BOUND);
        };
        let (answer, ()) = futures_util::future::join(answered, passes).await;
        assert_eq!(answer.header(BY), Some(&*noon_and(BOUND * (index + 1))));
    }
}

#[actix_web::test]
async fn answer_comes_as_soon_as_all_have_applied_the_change() {
    let store = MemoryStore::new();
    let world = World::with_store(store.clone());
    let mut other = store.feed();
    other.poll().await.unwrap();
    other.applied().await;
    let account = world.account("pro").await;
    let key = world.issue(draft(account.id)).await;
    let request = delete(format!("{FLAT}/{}?wait=global", key.key.id)).bearer(key.secret.expose());
    let answered = world.exchange(request);
    let applies = async {
        actix_web::rt::time::sleep(Duration::from_millis(50)).await;
        world.clock.advance(Duration::from_millis(50));
        other.poll().await.unwrap();
        other.applied().await;
    };
    let (answer, ()) = futures_util::future::join(answered, applies).await;
    assert_eq!(answer.status, 200);
    let by = Timestamp::parse_rfc3339(answer.header(BY).unwrap()).unwrap();
    assert_eq!(by, noon_plus(0).saturating_add(Duration::from_millis(50)));
}
