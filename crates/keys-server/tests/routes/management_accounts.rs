//! `POST /v1/accounts`, `GET /v1/accounts`, `GET /v1/accounts/{id}`, `PATCH /v1/accounts/{id}`

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::dialect::{problem, problem_fault};
use crate::exchange::{Answer, Request};
use crate::shape::{ID, NOW};
use crate::world::{Place, World};

on_both_databases!(
    account_at_fault_is_refused_by_its_member,
    unknown_plan_is_refused,
    taken_external_id_is_a_conflict,
    external_id_wanted_many_times_at_once_is_given_once,
    unknown_account_is_not_found,
    change_at_fault_is_refused_by_its_member,
    list_at_fault_is_refused_by_its_parameter,
    account_is_created_and_read_and_found_by_its_external_id,
    members_set_by_the_server_cannot_be_set_by_a_body,
    account_is_changed_member_by_member,
    external_id_is_free_again_once_given_up,
    accounts_are_listed_in_pages_without_gap_or_repetition,
);

const EXTERNAL_ID: &str = "must be 1 to 255 characters, none of them a control character";

fn operate(world: &World, request: Request) -> Request {
    request.bearer(world.operator())
}

fn create(world: &World, body: &Value) -> Request {
    operate(world, world.post("/v1/accounts")).json(body)
}

fn view(external_id: &Value, plan: &str, disabled: bool) -> Value {
    json!({
        "id": ID,
        "external_id": external_id,
        "plan": plan,
        "disabled": disabled,
        "created_at": NOW,
    })
}

/// Returns the account in the answer to a change.
fn account_in(changed: &Answer) -> Value {
    let mut account = changed.json();
    let members = account.as_object_mut().unwrap();
    assert!(members.remove("effective_everywhere_by").is_some());
    account
}

async fn account_at_fault_is_refused_by_its_member(place: Place) {
    let world = place.shared().await;
    for (body, field, message) in [
        (json!({}), "plan", "is required"),
        (json!({ "plan": null }), "plan", "is required"),
        (json!({ "plan": 1 }), "plan", "must be a string"),
        (json!({ "plan": ["pro"] }), "plan", "must be a string"),
        (
            json!({ "plan": "pro", "external_id": "" }),
            "external_id",
            EXTERNAL_ID,
        ),
        (
            json!({ "plan": "pro", "external_id": "a\nb" }),
            "external_id",
            EXTERNAL_ID,
        ),
        (
            json!({ "plan": "pro", "external_id": "\u{0}" }),
            "external_id",
            EXTERNAL_ID,
        ),
        (
            json!({ "plan": "pro", "external_id": "é".repeat(256) }),
            "external_id",
            EXTERNAL_ID,
        ),
        (
            json!({ "plan": "pro", "external_id": 1 }),
            "external_id",
            "must be a string",
        ),
        (
            json!({ "plan": "pro", "external_id": [] }),
            "external_id",
            "must be a string",
        ),
    ] {
        create(&world, &body)
            .expect(400, &problem_fault(field, message))
            .await;
    }
    let both = create(&world, &json!({ "external_id": "", "plan": 1 }));
    let expected = json!({
        "title": "Bad Request",
        "status": 400,
        "code": "invalid_request",
        "detail": format!("external_id {EXTERNAL_ID}"),
        "errors": [
            { "field": "external_id", "message": EXTERNAL_ID },
            { "field": "plan", "message": "must be a string" },
        ],
    });
    both.expect(400, &expected).await;
}

async fn unknown_plan_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let mut body = problem(400, "unknown_plan", "plan is not the name of a plan");
    body["errors"] = json!([{ "field": "plan", "message": "is not the name of a plan" }]);
    let long = "p".repeat(65);
    for plan in ["gold", "", "Pro", "pro ", "No Plan", "\u{0}", &long] {
        let draft = json!({ "plan": plan });
        create(&world, &draft).expect(400, &body).await;
        let change = world.patch(&format!("/v1/accounts/{account}"));
        operate(&world, change)
            .json(&draft)
            .expect(400, &body)
            .await;
    }
    let read = operate(&world, world.get(&format!("/v1/accounts/{account}")));
    read.expect(200, &view(&json!(null), "pro", false)).await;
}

fn taken() -> Value {
    problem(
        409,
        "external_id_taken",
        "Another account has this external_id",
    )
}

async fn taken_external_id_is_a_conflict(place: Place) {
    let world = place.shared().await;
    let (account, other) = (world.account("pro").await, world.account("pro").await);
    // An external id that no other account has.
    let external_id = format!("user of {account}");
    let draft = json!({ "external_id": external_id, "plan": "pro" });
    create(&world, &draft)
        .expect(201, &view(&json!(external_id), "pro", false))
        .await;
    for plan in ["pro", "free"] {
        let again = json!({ "external_id": external_id, "plan": plan });
        create(&world, &again).expect(409, &taken()).await;
    }
    let change = world.patch(&format!("/v1/accounts/{other}"));
    let change = operate(&world, change).json(&json!({ "external_id": external_id }));
    change.expect(409, &taken()).await;
    // Case is significant.
    let upper = json!({ "external_id": external_id.to_uppercase(), "plan": "pro" });
    assert_eq!(create(&world, &upper).send().await.status, 201);
}

async fn external_id_wanted_many_times_at_once_is_given_once(place: Place) {
    let world = place.shared().await;
    let external_id = format!("wanted {}", world.account("pro").await);
    let draft = json!({ "external_id": external_id, "plan": "pro" });
    let mut creates = JoinSet::new();
    for _ in 0..20 {
        creates.spawn(create(&world, &draft).send());
    }
    let mut created = 0;
    for answer in creates.join_all().await {
        if answer.status == 201 {
            answer.is(201, &view(&json!(external_id), "pro", false));
            created += 1;
        } else {
            answer.is(409, &taken());
        }
    }
    assert_eq!(created, 1);
}

async fn unknown_account_is_not_found(place: Place) {
    let world = place.shared().await;
    let not_found = problem(404, "account_not_found", "Account not found");
    for id in [
        "x",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAB",
        "AAAAAAAAAAAAAAAAAAAAA%00",
        "%ff",
        "018f0000-0000-7000-8000-000000000000",
    ] {
        let path = format!("/v1/accounts/{id}");
        for request in [
            world.get(&path),
            world.patch(&path).text(r#"{"plan":"free"}"#),
            world.patch(&path).text("{}"),
            world
                .post(&format!("{path}/sessions"))
                .text(r#"{"ttl_seconds":60}"#),
            world.post(&format!("{path}/keys")).text("{}"),
        ] {
            operate(&world, request).expect(404, &not_found).await;
        }
    }
}

async fn change_at_fault_is_refused_by_its_member(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    for (body, field, message) in [
        (json!({ "plan": null }), "plan", "must be a string"),
        (json!({ "plan": 1 }), "plan", "must be a string"),
        (
            json!({ "disabled": null }),
            "disabled",
            "must be true or false",
        ),
        (
            json!({ "disabled": "true" }),
            "disabled",
            "must be true or false",
        ),
        (
            json!({ "disabled": 1 }),
            "disabled",
            "must be true or false",
        ),
        (json!({ "external_id": "" }), "external_id", EXTERNAL_ID),
        (
            json!({ "external_id": 1 }),
            "external_id",
            "must be a string",
        ),
        (
            json!({ "plan": "free", "external_id": "\u{7f}" }),
            "external_id",
            EXTERNAL_ID,
        ),
    ] {
        let change = world.patch(&format!("/v1/accounts/{account}"));
        let change = operate(&world, change).json(&body);
        change.expect(400, &problem_fault(field, message)).await;
    }
    let read = operate(&world, world.get(&format!("/v1/accounts/{account}")));
    read.expect(200, &view(&json!(null), "pro", false)).await;
}

async fn list_at_fault_is_refused_by_its_parameter(place: Place) {
    let world = place.shared().await;
    let limit = "must be a whole number from 1 to 100";
    let cursor = "must be a next_cursor of another page";
    for (query, field, message) in [
        ("limit=0", "limit", limit),
        ("limit=101", "limit", limit),
        ("limit=-1", "limit", limit),
        ("limit=1.5", "limit", limit),
        ("limit=", "limit", limit),
        ("limit=all", "limit", limit),
        ("cursor=", "cursor", cursor),
        ("cursor=x", "cursor", cursor),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAB", "cursor", cursor),
        ("external_id=", "external_id", EXTERNAL_ID),
        ("external_id=%00", "external_id", EXTERNAL_ID),
        ("limit=1&limit=1", "limit", "must be given once"),
        (
            "external_id=a&external_id=b",
            "external_id",
            "must be given once",
        ),
    ] {
        let list = operate(&world, world.get(&format!("/v1/accounts?{query}")));
        list.expect(400, &problem_fault(field, message)).await;
    }
}

async fn account_is_created_and_read_and_found_by_its_external_id(place: Place) {
    let world = place.shared().await;
    for plan in ["free", "pro", "business"] {
        let created = create(&world, &json!({ "plan": plan }));
        created.expect(201, &view(&json!(null), plan, false)).await;
    }
    let null = create(&world, &json!({ "external_id": null, "plan": "pro" }));
    null.expect(201, &view(&json!(null), "pro", false)).await;

    let unique = world.account("pro").await;
    for (external_id, query) in [
        (format!("user {unique}"), format!("user%20{unique}")),
        (
            format!("🔑&=+#{unique}"),
            format!("%F0%9F%94%91%26%3D%2B%23{unique}"),
        ),
        ("x".repeat(233) + &unique, "x".repeat(233) + &unique),
    ] {
        let draft = json!({ "external_id": external_id, "plan": "pro" });
        let expected = view(&json!(external_id), "pro", false);
        let created = create(&world, &draft).expect(201, &expected).await;
        let id = created.text("/id");
        let read = operate(&world, world.get(&format!("/v1/accounts/{id}")));
        assert_eq!(read.expect(200, &expected).await.body, created.body);
        let found = operate(
            &world,
            world.get(&format!("/v1/accounts?external_id={query}")),
        );
        let page = json!({ "data": [created.json()], "next_cursor": null });
        found.expect(200, &page).await;
    }
    let nobody = operate(&world, world.get("/v1/accounts?external_id=nobody"));
    nobody
        .expect(200, &json!({ "data": [], "next_cursor": null }))
        .await;
}

async fn members_set_by_the_server_cannot_be_set_by_a_body(place: Place) {
    let world = place.shared().await;
    for member in ["id", "created_at", "unknown"] {
        let mut body = json!({ "plan": "pro" });
        body[member] = json!("AAAAAAAAAAAAAAAAAAAAAA");
        let refused = create(&world, &body).send().await;
        assert_eq!(
            (refused.status, refused.text("/errors/0/field")),
            (400, member.to_owned())
        );
    }
}

async fn account_is_changed_member_by_member(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let path = format!("/v1/accounts/{account}");
    let external_id = json!(format!("user {account}"));
    for (body, external_id, plan, disabled) in [
        (json!({}), &json!(null), "pro", false),
        (
            json!({ "plan": "business" }),
            &json!(null),
            "business",
            false,
        ),
        (
            json!({ "external_id": external_id }),
            &external_id,
            "business",
            false,
        ),
        // It is the account's own already.
        (
            json!({ "external_id": external_id }),
            &external_id,
            "business",
            false,
        ),
        (json!({ "disabled": true }), &external_id, "business", true),
        (
            json!({ "disabled": true, "plan": "free" }),
            &external_id,
            "free",
            true,
        ),
        (json!({ "external_id": null }), &json!(null), "free", true),
        (
            json!({ "disabled": false, "plan": "pro", "external_id": null }),
            &json!(null),
            "pro",
            false,
        ),
    ] {
        let expected = view(external_id, plan, disabled);
        let changed = operate(&world, world.patch(&path)).json(&body);
        let changed = changed.send().await;
        let by = changed.text("/effective_everywhere_by");
        assert_eq!(changed.header("effective-everywhere-by"), Some(&*by));
        let mut updated = expected.clone();
        updated["effective_everywhere_by"] = json!(by);
        let changed = changed.is(200, &updated);
        let read = operate(&world, world.get(&path))
            .expect(200, &expected)
            .await;
        assert_eq!(read.json(), account_in(&changed));
    }
}

async fn external_id_is_free_again_once_given_up(place: Place) {
    let world = place.shared().await;
    let (one, other) = (world.account("pro").await, world.account("pro").await);
    let external_id = json!({ "external_id": format!("user {one}") });
    world.change(&one, &external_id).await;
    let change = || operate(&world, world.patch(&format!("/v1/accounts/{other}")));
    change().json(&external_id).expect(409, &taken()).await;
    world.change(&one, &json!({ "external_id": null })).await;
    world.change(&other, &external_id).await;
}

async fn accounts_are_listed_in_pages_without_gap_or_repetition(place: Place) {
    let world = place.alone().await;
    let list = |query: &str| operate(&world, world.get(&format!("/v1/accounts{query}")));
    let none = json!({ "data": [], "next_cursor": null });
    list("").expect(200, &none).await;
    let mut created = Vec::new();
    for plan in ["free", "pro", "business", "pro", "free"] {
        created.push(create(&world, &json!({ "plan": plan })).send().await.json());
    }
    let all = list("")
        .expect(200, &json!({ "data": created, "next_cursor": null }))
        .await;
    assert_eq!(list("?limit=5").send().await.body, all.body);
    for limit in [1, 2, 3] {
        let (mut pages, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let after = cursor
                .map(|cursor| format!("&cursor={cursor}"))
                .unwrap_or_default();
            let page = list(&format!("?limit={limit}{after}")).send().await;
            assert_eq!(page.status, 200, "{page:?}");
            let json = page.json();
            let data = json["data"].as_array().unwrap();
            assert!(
                data.len() == limit || json["next_cursor"].is_null(),
                "{page:?}"
            );
            pages.extend(data.clone());
            if json["next_cursor"].is_null() {
                break;
            }
            cursor = Some(page.text("/next_cursor"));
        }
        assert_eq!(pages, created, "in pages of {limit}");
    }
}
