//! `GET /api/account/api-keys`

use serde_json::{Value, json};

use crate::dialect::{ACCOUNT, Dialect, account_fault, success};
use crate::shape::{ID, NOW};
use crate::world::{Place, World};

on_both_databases!(
    documented_request_without_a_known_key_is_refused,
    unusable_page_or_limit_is_refused_by_its_name,
    both_being_unusable_is_said_at_once,
    documented_request_lists_as_documented,
    pages_follow_one_another_without_gap_or_repetition,
    pages_past_the_end_are_empty_and_overflow_nothing,
    unknown_parameters_are_ignored,
    total_counts_what_is_listed,
);

const PAGE: &str = "must be a whole number of at least 1";
const LIMIT: &str = "must be a whole number from 1 to 100";

fn view(description: &Value) -> Value {
    json!({
        "identifier": ID,
        "description": description,
        "allowed_ips": [],
        "last_used_at": null,
        "created_at": NOW,
    })
}

async fn documented_request_without_a_known_key_is_refused(place: Place) {
    let world = place.shared().await;
    world
        .get("/api/account/api-keys?page=1&limit=50")
        .header("Authorization", "Bearer YOUR_API_KEY")
        .expect(401, &Dialect::Account.unauthorized())
        .await;
}

async fn unusable_page_or_limit_is_refused_by_its_name(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("roomy").await;
    for number in [
        "0",
        "-1",
        "1.5",
        "1.0",
        "1e1",
        "",
        "%20",
        "1%20",
        "%2B1",
        "+1",
        "one",
        "0x1",
        "%D9%A1",
        "99999999999999999999",
        "18446744073709551616",
    ] {
        let list = world.get(&format!("{ACCOUNT}?page={number}")).bearer(&key);
        list.expect(400, &account_fault("page", PAGE)).await;
        let list = world.get(&format!("{ACCOUNT}?limit={number}")).bearer(&key);
        list.expect(400, &account_fault("limit", LIMIT)).await;
    }
    for (query, field, message) in [
        ("limit=101", "limit", LIMIT),
        ("limit=18446744073709551615", "limit", LIMIT),
        ("page", "page", PAGE),
        ("page=1&page=1", "page", "must be given once"),
        ("limit=1&page=1&limit=2", "limit", "must be given once"),
    ] {
        let list = world.get(&format!("{ACCOUNT}?{query}")).bearer(&key);
        list.expect(400, &account_fault(field, message)).await;
    }
}

async fn both_being_unusable_is_said_at_once(place: Place) {
    let world = place.shared().await;
    let key = world.key_on("pro").await;
    let list = world.get(&format!("{ACCOUNT}?limit=0&page=0")).bearer(&key);
    let expected = json!({
        "statusCode": 400,
        "message": format!("page {PAGE}"),
        "errors": [
            { "field": "page", "message": PAGE },
            { "field": "limit", "message": LIMIT },
        ],
    });
    list.expect(400, &expected).await;
}

async fn documented_request_lists_as_documented(place: Place) {
    let world = place.shared().await;
    let session = world.session(&world.account("pro").await).await;
    let empty = json!({
        "data": [],
        "pagination": { "page": 1, "perPage": 50, "total": 0, "totalPages": 0 },
    });
    world
        .get(ACCOUNT)
        .bearer(&session)
        .expect(200, &empty)
        .await;
    let create = world.post(ACCOUNT).bearer(&session);
    let create = create.json(&json!({
        "memo": "Production API Key",
        "allowedIps": ["192.168.1.1", "10.0.0.1"],
    }));
    let created = create.send().await;
    world.create(Dialect::Flat, &session, "flat").await;
    let listed = world
        .get("/api/account/api-keys?page=1&limit=50")
        .bearer(&session)
        .expect(
            200,
            &json!({
                "data": [
                    view(&json!("flat")),
                    {
                        "identifier": created.text("/data/identifier"),
                        "description": "Production API Key",
                        "allowed_ips": ["192.168.1.1", "10.0.0.1"],
                        "last_used_at": null,
                        "created_at": created.text("/data/created_at"),
                    },
                ],
                "pagination": { "page": 1, "perPage": 50, "total": 2, "totalPages": 1 },
            }),
        )
        .await;
    let default = world.get(ACCOUNT).bearer(&session).send().await;
    assert_eq!(default.body, listed.body);
}

/// Returns a session of an account with this many keys, named from "1" to their number.
async fn with_keys(world: &World, count: u32) -> String {
    let session = world.session(&world.account("roomy").await).await;
    for number in 1..=count {
        let dialect = Dialect::BOTH[usize::from(number % 2 == 0)];
        world.create(dialect, &session, &number.to_string()).await;
    }
    session
}

async fn pages_follow_one_another_without_gap_or_repetition(place: Place) {
    let world = place.shared().await;
    let session = with_keys(&world, 5).await;
    for (query, page, per_page, pages, names) in [
        ("?page=1&limit=2", 1, 2, 3, vec!["5", "4"]),
        ("?limit=2&page=2", 2, 2, 3, vec!["3", "2"]),
        ("?page=3&limit=2", 3, 2, 3, vec!["1"]),
        ("?page=4&limit=2", 4, 2, 3, vec![]),
        ("?limit=5", 1, 5, 1, vec!["5", "4", "3", "2", "1"]),
        ("?page=5&limit=1", 5, 1, 5, vec!["1"]),
        ("?limit=100", 1, 100, 1, vec!["5", "4", "3", "2", "1"]),
        ("?page=2", 2, 50, 1, vec![]),
        ("?page=02&limit=04", 2, 4, 2, vec!["1"]),
    ] {
        let data: Vec<_> = names.iter().map(|name| view(&json!(name))).collect();
        let expected = json!({
            "data": data,
            "pagination": { "page": page, "perPage": per_page, "total": 5, "totalPages": pages },
        });
        let list = world.get(&format!("{ACCOUNT}{query}")).bearer(&session);
        list.expect(200, &expected).await;
    }
}

async fn pages_past_the_end_are_empty_and_overflow_nothing(place: Place) {
    let world = place.shared().await;
    let session = with_keys(&world, 1).await;
    for page in [
        2,
        9_223_372_036_854_775_807,
        9_223_372_036_854_775_808,
        u64::MAX,
    ] {
        for limit in [1, 100] {
            let expected = json!({
                "data": [],
                "pagination": { "page": page, "perPage": limit, "total": 1, "totalPages": 1 },
            });
            let path = format!("{ACCOUNT}?page={page}&limit={limit}");
            world
                .get(&path)
                .bearer(&session)
                .expect(200, &expected)
                .await;
        }
    }
}

async fn unknown_parameters_are_ignored(place: Place) {
    let world = place.shared().await;
    let session = with_keys(&world, 1).await;
    for query in [
        "?Page=0",
        "?perPage=0",
        "?offset=x&sort=name",
        "?&&",
        "?page%00=0",
        "?%ff",
    ] {
        let list = world.get(&format!("{ACCOUNT}{query}")).bearer(&session);
        let expected = json!({
            "data": [view(&json!("1"))],
            "pagination": { "page": 1, "perPage": 50, "total": 1, "totalPages": 1 },
        });
        list.expect(200, &expected).await;
    }
}

async fn total_counts_what_is_listed(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let session = world.session(&account).await;
    let revoked = world.create(Dialect::Account, &session, "revoked").await;
    world.create(Dialect::Account, &session, "kept").await;
    let path = Dialect::Account.path_of(&Dialect::Account.id(&revoked));
    let delete = world.delete(&path).bearer(&session);
    delete.expect(200, &success()).await;
    let expected = json!({
        "data": [view(&json!("kept"))],
        "pagination": { "page": 1, "perPage": 1, "total": 1, "totalPages": 1 },
    });
    let list = world.get(&format!("{ACCOUNT}?limit=1")).bearer(&session);
    list.expect(200, &expected).await;
}
