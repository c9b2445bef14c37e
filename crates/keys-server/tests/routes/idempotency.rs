//! Repeated requests: `Idempotency-Key` on every create.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::dialect::{ACCOUNT, Dialect, FLAT, account_created, problem, success};
use crate::exchange::Request;
use crate::world::{Place, World};

on_both_databases!(
    unusable_idempotency_key_is_refused,
    another_body_is_refused,
    refusal_is_not_kept,
    replay_gets_the_very_same_answer_and_makes_nothing_new,
    replay_is_recognised_byte_for_byte,
    idempotency_key_is_the_credentials_own,
    idempotency_key_is_for_one_route,
    replay_counts_against_the_limit,
    replay_at_the_maximum_is_answered,
    requests_in_flight_together_make_one_key,
);

const INVALID: &str = "Idempotency-Key must be one value of 1 to 255 visible ASCII characters";
const OTHER_BODY: &str = "This Idempotency-Key was used with another body";
const IN_FLIGHT: &str = "A request with this Idempotency-Key is still in flight";

async fn unusable_idempotency_key_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    let requests = |headers: &[&[u8]]| {
        let with = |request: Request| {
            let add = |request: Request, value: &&[u8]| request.header("Idempotency-Key", value);
            headers.iter().fold(request, add)
        };
        let operate = |path: &str| with(world.post(path).bearer(world.operator()));
        let refused = problem(400, "invalid_idempotency_key", INVALID);
        let dialect = |dialect: Dialect| {
            let request = with(world.post(dialect.path()).bearer(&key));
            let refused = dialect.error(400, "invalid_idempotency_key", INVALID);
            (request.json(&dialect.draft("key")), refused)
        };
        let sessions = format!("/v1/accounts/{account}/sessions");
        [
            dialect(Dialect::Flat),
            dialect(Dialect::Account),
            (
                operate("/v1/accounts").text(r#"{"plan":"pro"}"#),
                refused.clone(),
            ),
            (
                operate(&sessions).text(r#"{"ttl_seconds":1}"#),
                refused.clone(),
            ),
            (
                operate(&format!("/v1/accounts/{account}/keys")).text("{}"),
                refused,
            ),
        ]
    };
    let long = "k".repeat(256);
    for headers in [
        [b"".as_slice()].as_slice(),
        &[b"a b"],
        &[b"\xc3\xa9"],
        &[long.as_bytes()],
        &[b"a", b"b"],
        &[b"a", b""],
    ] {
        for (request, body) in requests(headers) {
            request.expect(400, &body).await;
        }
    }
    // The same value twice counts as one, and the longest is accepted.
    for headers in [[b"a".as_slice(), b"a"].as_slice(), &[&long.as_bytes()[1..]]] {
        for (request, _) in requests(headers) {
            let answer = request.send().await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
}

async fn another_body_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    for dialect in Dialect::BOTH {
        let create = |name| {
            let create = world.post(dialect.path()).bearer(&key);
            create.idempotency_key("once").json(&dialect.draft(name))
        };
        create("first").expect(201, &dialect.created("first")).await;
        let refused = dialect.error(422, "idempotency_body_differs", OTHER_BODY);
        create("second").expect(422, &refused).await;
        create("second").expect(422, &refused).await;
    }
    let refused = problem(422, "idempotency_body_differs", OTHER_BODY);
    for (path, first, second) in [
        (
            "/v1/accounts".to_owned(),
            json!({ "plan": "pro" }),
            json!({ "plan": "free" }),
        ),
        (
            format!("/v1/accounts/{account}/sessions"),
            json!({ "ttl_seconds": 1 }),
            json!({ "ttl_seconds": 2 }),
        ),
        (
            format!("/v1/accounts/{account}/keys"),
            json!({ "name": "first" }),
            json!({ "name": "second" }),
        ),
    ] {
        // An operator key has one namespace for requests about all accounts.
        let create = |body| {
            let create = world.post(&path).bearer(world.operator());
            create.idempotency_key(&account).json(body)
        };
        assert_eq!(create(&first).send().await.status, 201);
        create(&second).expect(422, &refused).await;
    }
    assert_eq!(world.names(&key).await, ["first", "first", "first", ""]);
}

async fn refusal_is_not_kept(place: Place) {
    let world = place.shared().await;
    let account = world.account("three").await;
    let key = world.key(&account).await;
    let second = world.issue(&account, &json!({})).await.text("/id");
    world.key(&account).await;
    for dialect in Dialect::BOTH {
        let create = |body: &Value| {
            let create = world.post(dialect.path()).bearer(&key);
            create.idempotency_key("once").json(body)
        };
        assert_eq!(create(&json!([])).send().await.status, 400);
        let draft = dialect.draft("key");
        create(&draft).expect(403, &dialect.cap_reached(3)).await;
    }
    let delete = world.delete(&Dialect::Flat.path_of(&second)).bearer(&key);
    delete.expect(200, &success()).await;
    // Another body than before, which is no longer refused.
    let create = world.post(FLAT).bearer(&key).idempotency_key("once");
    let create = create.json(&json!({ "name": "other" }));
    create.expect(201, &Dialect::Flat.created("other")).await;
}

async fn replay_gets_the_very_same_answer_and_makes_nothing_new(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    for dialect in Dialect::BOTH {
        let create = || {
            let create = world.post(dialect.path()).bearer(&key);
            create.idempotency_key("once").json(&dialect.draft("key"))
        };
        let first = create().expect(201, &dialect.created("key")).await;
        for _ in 0..2 {
            let replay = create().send().await.has("cache-control", "no-store");
            assert_eq!((replay.status, &replay.body), (201, &first.body));
        }
        assert_eq!(world.status(&dialect.key(&first)).await, 200);
    }
    let detailed = || {
        let create = world.post(ACCOUNT).bearer(&key).idempotency_key("detailed");
        create.json(&json!({
            "memo": " as it is ",
            "allowedIps": ["2001:0db8::1", "192.168.1.77/24"],
            "expiresAt": "2125-12-31T23:59:59.123456Z",
        }))
    };
    let shown = json!(["2001:db8::1", "192.168.1.0/24"]);
    let expected = account_created(&json!(" as it is "), &shown);
    let first = detailed().expect(201, &expected).await;
    assert_eq!(detailed().send().await.body, first.body);
    assert_eq!(world.names(&key).await.len(), 4);

    for (path, body) in [
        (
            "/v1/accounts".to_owned(),
            json!({ "plan": "pro", "external_id": account }),
        ),
        (
            format!("/v1/accounts/{account}/sessions"),
            json!({ "ttl_seconds": 60 }),
        ),
        (
            format!("/v1/accounts/{account}/keys"),
            json!({ "scopes": ["b", "a"], "prefix": "acme", "expires_at": "2125-01-01T00:00:00Z" }),
        ),
    ] {
        let create = || {
            let create = world.post(&path).bearer(world.operator());
            create.idempotency_key(&account).json(&body)
        };
        let first = create().send().await;
        assert_eq!(first.status, 201, "{first:?}");
        let replay = create().send().await;
        assert_eq!((replay.status, replay.body), (201, first.body));
    }
    assert_eq!(world.names(&key).await.len(), 5);
}

async fn replay_is_recognised_byte_for_byte(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    let create = |body: &str| {
        let create = world.post(FLAT).bearer(&key);
        create.idempotency_key("once").text(body)
    };
    let first = create(r#"{"name":"key"}"#).send().await;
    assert_eq!(first.status, 201, "{first:?}");
    let refused = Dialect::Flat.error(422, "idempotency_body_differs", OTHER_BODY);
    create(r#"{"name": "key"}"#).expect(422, &refused).await;
    assert_eq!(create(r#"{"name":"key"}"#).send().await.body, first.body);
}

async fn idempotency_key_is_the_credentials_own(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    // The answer of a wide key must not be available to a narrower one.
    let narrow = json!({ "allowed_ips": ["127.0.0.1"] });
    let credentials = [
        world.key(&account).await,
        world.issue(&account, &narrow).await.text("/key"),
        world.session(&account).await,
        world.key_on("roomy").await,
    ];
    for dialect in Dialect::BOTH {
        let mut keys = Vec::new();
        for credential in &credentials {
            let create = world.post(dialect.path()).bearer(credential);
            let create = create.idempotency_key("once").json(&dialect.draft("key"));
            let created = create.send().await;
            assert_eq!(created.status, 201, "{created:?}");
            keys.push(dialect.key(&created));
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), credentials.len());
    }
}

async fn idempotency_key_is_for_one_route(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for dialect in Dialect::BOTH {
        let create = world
            .post(dialect.path())
            .bearer(&key)
            .idempotency_key("once");
        // A body that is valid for both.
        let create = create.json(&json!({ "name": "key", "memo": "key" }));
        create.expect(201, &dialect.created("key")).await;
    }
    assert_eq!(world.names(&key).await, ["key", "key", ""]);
}

async fn replay_counts_against_the_limit(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    for remaining in [9, 8, 7] {
        let create = world.post(FLAT).bearer(&key).idempotency_key("once");
        let answer = create.json(&json!({ "name": "key" })).send().await;
        let state = answer.header("ratelimit").unwrap_or_default();
        assert!(
            state.starts_with(&format!(r#""create";r={remaining};t="#)),
            "{answer:?}"
        );
    }
}

async fn replay_at_the_maximum_is_answered(place: Place) {
    let world = place.shared().await;
    let account = world.account("three").await;
    let key = world.key(&account).await;
    world.key(&account).await;
    let create = || {
        let create = world.post(ACCOUNT).bearer(&key).idempotency_key("once");
        create.json(&json!({ "memo": "third" }))
    };
    let first = create()
        .expect(201, &Dialect::Account.created("third"))
        .await;
    assert_eq!(create().send().await.body, first.body);
    let fourth = world.post(ACCOUNT).bearer(&key).idempotency_key("twice");
    let fourth = fourth.json(&json!({}));
    fourth.expect(403, &Dialect::Account.cap_reached(3)).await;
}

/// Sends the same request many times concurrently. Returns whether any got the answer that another
/// was in flight.
async fn together(world: &World, dialect: Dialect) -> bool {
    let session = world.session(&world.account("roomy").await).await;
    let mut creates = JoinSet::new();
    for _ in 0..12 {
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.idempotency_key("once").json(&dialect.draft("key"));
        creates.spawn(create.send());
    }
    let in_flight = dialect.error(409, "idempotency_in_flight", IN_FLIGHT);
    let mut created = Vec::new();
    let mut seen = false;
    for answer in creates.join_all().await {
        if answer.status == 409 {
            let answer = answer.is(409, &in_flight);
            // The rest of the time after which an attempt counts as dead.
            assert!((1..=30).contains(&answer.seconds("retry-after")));
            seen = true;
        } else {
            created.push(answer.is(201, &dialect.created("key")).body);
        }
    }
    created.dedup();
    assert_eq!(created.len(), 1, "one answer, however often");
    assert_eq!(world.names(&session).await, ["key"]);
    seen
}

async fn requests_in_flight_together_make_one_key(place: Place) {
    const ROUNDS: usize = 50;
    let world = place.shared().await;
    for dialect in Dialect::BOTH {
        let mut rounds = 0;
        // The scheduler decides which of them arrive while the first is in flight.
        while !together(&world, dialect).await {
            rounds += 1;
            assert!(
                rounds < ROUNDS,
                "nobody was ever told of a request in flight"
            );
        }
    }
}
