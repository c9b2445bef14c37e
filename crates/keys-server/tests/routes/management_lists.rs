//! `GET /v1/keys/{id}`, `GET /v1/keys`, `GET /v1/accounts/{id}/keys`,
//! `GET /v1/accounts/{id}/sessions`

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::dialect::{problem, problem_fault};
use crate::exchange::{Answer, Request};
use crate::shape::{ID, NOW, shown_prefix};
use crate::world::{Place, World};

on_both_databases!(
    key_of_another_account_is_answered_like_an_unknown_one,
    sessions_and_operator_keys_are_not_read_as_keys,
    list_at_fault_is_refused_by_its_parameter,
    filter_that_would_read_all_accounts_is_refused,
    cursor_of_another_list_is_refused,
    account_that_is_unknown_has_no_list,
    kinds_other_than_accounts_keys_need_a_scope_of_their_own,
    accounts_use_their_plan_and_their_limit,
    key_is_read_with_everything_but_its_secret,
    version_changes_with_the_key_and_not_with_its_use,
    accounts_see_their_own_keys_and_no_others,
    keys_are_listed_in_pages_without_gap_or_repetition,
    filters_select_what_they_name,
    ended_keys_are_counted_and_listed_when_asked_for,
    sessions_are_listed,
);

fn operate(world: &World, path: &str) -> Request {
    world.get(path).bearer(world.operator())
}

fn key_not_found() -> Value {
    problem(404, "key_not_found", "API key not found")
}

fn account_not_found() -> Value {
    problem(404, "account_not_found", "Account not found")
}

/// Returns the answer without the headers that differ each time.
fn comparable(answer: &Answer) -> (u16, String, Vec<(String, String)>) {
    let kept = answer
        .headers
        .iter()
        .filter(|(name, _)| !["date", "ratelimit", "x-request-id"].contains(&name.as_str()));
    let mut kept: Vec<_> = kept.cloned().collect();
    kept.sort_unstable();
    (answer.status, answer.body.clone(), kept)
}

/// Returns the ids on a list.
fn ids(list: &Answer) -> Vec<String> {
    assert_eq!(list.status, 200, "{list:?}");
    let json = list.json();
    let keys = json["data"].as_array().unwrap().iter();
    keys.map(|key| key["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the ids on all pages of a list.
async fn all_ids(world: &World, path: &str, credential: &str) -> Vec<String> {
    let joint = if path.contains('?') { '&' } else { '?' };
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("{path}{joint}limit=2{cursor}"));
        let page = page.bearer(credential).send().await;
        all.extend(ids(&page));
        match page.json()["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn key_of_another_account_is_answered_like_an_unknown_one(place: Place) {
    let world = place.shared().await;
    let (own, other) = (world.account("roomy").await, world.account("roomy").await);
    let (key, session) = (world.key(&own).await, world.session(&own).await);
    let foreign = world.issue(&other, &json!({})).await.text("/id");
    let unknown = "AZt5bdYAcqeCoRtJcgohFA";
    for credential in [&key, &session] {
        let read = async |path: String| world.get(&path).bearer(credential).send().await;
        let others = read(format!("/v1/keys/{foreign}")).await;
        let others = others.is(404, &key_not_found());
        for id in [unknown, "x"] {
            let unknown = read(format!("/v1/keys/{id}")).await;
            assert_eq!(comparable(&unknown), comparable(&others));
        }
        for path in ["/v1/accounts/{}/keys", "/v1/keys?account_id={}"] {
            let others = read(path.replace("{}", &other)).await;
            let others = others.is(404, &account_not_found());
            for id in [unknown, "x"] {
                let unknown = read(path.replace("{}", id)).await;
                assert_eq!(comparable(&unknown), comparable(&others));
            }
        }
    }
    world
        .change(&other, &json!({ "external_id": format!("x {other}") }))
        .await;
    let named = world.get(&format!("/v1/keys?external_id=x%20{other}"));
    let others = named
        .bearer(&key)
        .send()
        .await
        .is(404, &account_not_found());
    let named = world.get("/v1/keys?external_id=unknown%20to%20all");
    let unknown = named.bearer(&key).send().await;
    assert_eq!(comparable(&unknown), comparable(&others));
}

async fn sessions_and_operator_keys_are_not_read_as_keys(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let open = world.post(&format!("/v1/accounts/{account}/sessions"));
    let open = open
        .bearer(world.operator())
        .json(&json!({ "ttl_seconds": 60 }));
    let session = open.send().await;
    let operators = world.command(&["key", "list", "--operators", "--json"]);
    let operators: Value = serde_json::from_str(&operators).unwrap();
    let operator = operators[0]["id"].as_str().unwrap();
    for id in [session.text("/id").as_str(), operator] {
        let read = operate(&world, &format!("/v1/keys/{id}"));
        read.expect(404, &key_not_found()).await;
        let read = world.get(&format!("/v1/keys/{id}"));
        let read = read.bearer(&session.text("/token"));
        read.expect(404, &key_not_found()).await;
    }
}

async fn list_at_fault_is_refused_by_its_parameter(place: Place) {
    const TIME: &str = "must be an RFC 3339 time with an offset, such as 2030-12-31T23:59:59Z";
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let limit = "must be a whole number from 1 to 1000";
    let cursor = "must be a next_cursor of another page";
    let status = "must be one or several of revoked, expired, disabled, rotating, active, with commas between them";
    let prefix = "must be the whole key_prefix of a key, such as sk_live_a1b2";
    let creator = "must be operator: and the id of an operator key, or subject: and a text";
    let sort = "must be created_at, last_used_at or expires_at, with - in front for the reverse";
    for (query, field, message) in [
        ("limit=0", "limit", limit),
        ("limit=1001", "limit", limit),
        ("limit=x", "limit", limit),
        ("cursor=", "cursor", cursor),
        ("cursor=AZt5bdYAcqeCoRtJcgohFA", "cursor", cursor),
        ("status=", "status", status),
        ("status=active,gone", "status", status),
        (
            "kind=person",
            "kind",
            "must be account, session or operator",
        ),
        ("prefix=", "prefix", prefix),
        ("prefix=sk_live_%00", "prefix", prefix),
        (
            "prefix=sk_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "prefix",
            prefix,
        ),
        ("name=", "name", "must be 1 to 255 characters"),
        (
            "scope=A",
            "scope",
            "must be 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit",
        ),
        ("created_by=user-17", "created_by", creator),
        ("created_by=operator:x", "created_by", creator),
        ("created_by=subject:a%00", "created_by", creator),
        ("created_after=yesterday", "created_after", TIME),
        ("created_before=2026-01-01", "created_before", TIME),
        ("last_used_before=", "last_used_before", TIME),
        ("expires_before=1", "expires_before", TIME),
        ("sort=name", "sort", sort),
        (
            "sort=created_at&sort=created_at",
            "sort",
            "must be given once",
        ),
        (
            "metadata.Team=x",
            "metadata",
            "a name in metadata is 1 to 40 lower-case letters, digits and `_`",
        ),
        (
            "metadata.=x",
            "metadata",
            "a name in metadata is 1 to 40 lower-case letters, digits and `_`",
        ),
        (
            "metadata.a=x&metadata.a=y",
            "metadata.a",
            "must be given once",
        ),
        (
            "metadata.a=%00",
            "metadata",
            "a value in metadata must not contain a NUL character",
        ),
    ] {
        for path in [
            format!("/v1/accounts/{account}/keys?{query}"),
            format!("/v1/keys?{query}"),
        ] {
            let list = operate(&world, &path);
            list.expect(400, &problem_fault(field, message)).await;
        }
    }
    // All of them are reported at once, and unknown names as well.
    let list = operate(&world, "/v1/keys?limit=0&sort=x&status=x")
        .send()
        .await;
    assert_eq!(
        list.json()["errors"].as_array().unwrap().len(),
        3,
        "{list:?}"
    );
    let list = operate(&world, "/v1/keys?statuses=active").send().await;
    assert_eq!(
        (list.status, list.text("/errors/0/field")),
        (400, "statuses".into())
    );
    let list = operate(&world, &format!("/v1/accounts/{account}/sessions?name=x"));
    assert_eq!(list.send().await.status, 400);
}

async fn filter_that_would_read_all_accounts_is_refused(place: Place) {
    let world = place.shared().await;
    for (query, field, message) in [
        ("name=CI", "name", "needs account_id or external_id"),
        (
            "metadata.team=a",
            "metadata",
            "needs account_id or external_id",
        ),
        (
            "kind=session",
            "kind",
            "session needs account_id, external_id or created_by=subject:..",
        ),
        (
            "status=revoked&sort=last_used_at",
            "status",
            "must not have revoked unless sort is created_at or -created_at",
        ),
        (
            "kind=operator&sort=expires_at",
            "sort",
            "must be created_at or -created_at, except for keys of accounts",
        ),
    ] {
        let list = operate(&world, &format!("/v1/keys?{query}"));
        let mut expected = problem_fault(field, message);
        expected["code"] = json!("filter_unbounded");
        list.expect(400, &expected).await;
    }
    // An account's own keys are those of one account.
    let own = world.key_on("roomy").await;
    let list = world.get("/v1/keys?name=CI").bearer(&own).send().await;
    assert_eq!(ids(&list), Vec::<String>::new());
}

async fn cursor_of_another_list_is_refused(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    for _ in 0..3 {
        world.key(&account).await;
    }
    let path = format!("/v1/accounts/{account}/keys");
    let first = operate(&world, &format!("{path}?limit=1")).send().await;
    let cursor = first.text("/next_cursor");
    let message = "belongs to a list with other filters or another sort";
    for path in [
        format!("{path}?sort=created_at&cursor={cursor}"),
        format!("{path}?status=active&cursor={cursor}"),
        format!("/v1/keys?cursor={cursor}"),
    ] {
        let list = operate(&world, &path);
        list.expect(400, &problem_fault("cursor", message)).await;
    }
    // The limit may differ, and so may the route to the same list.
    let rest = operate(&world, &format!("{path}?limit=9&cursor={cursor}"));
    assert_eq!(ids(&rest.send().await).len(), 2);
    let same = format!("/v1/keys?account_id={account}&cursor={cursor}");
    assert_eq!(ids(&operate(&world, &same).send().await).len(), 2);
}

async fn account_that_is_unknown_has_no_list(place: Place) {
    let world = place.shared().await;
    for path in [
        "/v1/accounts/AZt5bdYAcqeCoRtJcgohFA/keys",
        "/v1/accounts/x/keys",
        "/v1/keys?account_id=AZt5bdYAcqeCoRtJcgohFA",
        "/v1/keys?account_id=x",
        "/v1/keys?external_id=unknown%20to%20all",
        "/v1/accounts/AZt5bdYAcqeCoRtJcgohFA/sessions",
    ] {
        operate(&world, path)
            .expect(404, &account_not_found())
            .await;
    }
    let empty = world.account("roomy").await;
    let list = operate(&world, &format!("/v1/accounts/{empty}/keys"));
    let others = json!({ "statuses": ["revoked", "expired"], "count": 0, "more": false });
    let expected = json!({ "data": [], "next_cursor": null, "others": others });
    list.expect(200, &expected).await;
}

async fn kinds_other_than_accounts_keys_need_a_scope_of_their_own(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (own, session) = (world.key(&account).await, world.session(&account).await);
    let reader = ["operator-key", "create", "--name", "reader", "--scope"];
    let reader = world.command(&[&reader[..], &["keys:read"]].concat());
    let message = "This API key lacks a required scope";
    let lacking = problem(403, "insufficient_scope", message);
    for credential in [&own, &session, &reader] {
        for query in ["kind=session", "kind=operator"] {
            let list = world.get(&format!("/v1/keys?{query}&account_id={account}"));
            list.bearer(credential).expect(403, &lacking).await;
        }
    }
    let message = "This kind of credential cannot be used here";
    for credential in [&own, &session] {
        let list = world.get(&format!("/v1/accounts/{account}/sessions"));
        let list = list.bearer(credential);
        list.expect(403, &problem(403, "kind_not_allowed", message))
            .await;
    }
    let list = operate(
        &world,
        &format!("/v1/keys?kind=session&account_id={account}"),
    );
    assert_eq!(ids(&list.send().await).len(), 1);
    let list = operate(&world, "/v1/keys?kind=operator&limit=1")
        .send()
        .await;
    assert_eq!(list.text("/data/0/kind"), "operator");
}

async fn accounts_use_their_plan_and_their_limit(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let (key, session) = (world.key(&account).await, world.session(&account).await);
    let list = world.get("/v1/keys").bearer(&key).send().await;
    assert!(list.header("ratelimit").is_some(), "{list:?}");
    world.change_plan(&account, "free").await;
    let message = "API keys not available on your plan";
    let list = world.get("/v1/keys").bearer(&key);
    list.expect(403, &problem(403, "plan_forbidden", message))
        .await;
    // A session may still clean up.
    for _ in 0..8 {
        let list = world.get("/v1/keys").bearer(&session).send().await;
        assert_eq!(list.status, 200, "{list:?}");
    }
    // The documented plan without keys has ten lists a minute.
    let (mut refused, mut asked) = (0, 0);
    while asked < 4 {
        asked += 1;
        let list = world.get("/v1/keys").bearer(&session).send().await;
        refused += u32::from(list.status == 429);
    }
    assert!(refused > 0);
    let operators = operate(&world, "/v1/keys?limit=1").send().await;
    assert_eq!(operators.header("ratelimit"), None);
}

async fn key_is_read_with_everything_but_its_secret(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let issued = world
        .issue(
            &account,
            &json!({
                "name": "CI",
                "allowed_ips": ["10.0.0.0/8", "127.0.0.1", "::1"],
                "scopes": ["orders:read"],
                "expires_at": "2125-01-01T00:00:00Z",
            }),
        )
        .await;
    let id = issued.text("/id");
    let read = operate(&world, &format!("/v1/keys/{id}")).send().await;
    let expected = json!({
        "id": id,
        "account_id": account,
        "kind": "account",
        "status": "active",
        "name": "CI",
        "key_prefix": shown_prefix("sk_live"),
        "allowed_ips": ["10.0.0.0/8", "127.0.0.1", "::1"],
        "scopes": ["orders:read"],
        "limits": {},
        "metadata": {},
        "expires_at": "2125-01-01T00:00:00.000Z",
        "created_at": NOW,
        "created_by": { "type": "operator", "id": ID, "subject": null },
        "last_used_at": null,
        "last_used_ip": null,
        "use_count": 0,
        "disabled": false,
        "disabled_at": null,
        "revoked_at": null,
        "revoked_reason": null,
        "revoked_note": null,
        "predecessor": null,
        "successor": null,
    });
    let read = read.is(200, &expected);
    let etag = read.header("etag").unwrap_or_default().to_owned();
    assert!(etag.starts_with('"') && etag.len() == 18, "{etag}");
    let listed = operate(&world, &format!("/v1/accounts/{account}/keys"));
    let listed = listed.send().await;
    assert_eq!(listed.json()["data"][0], read.json());
    // The account reads the same, by any of its credentials.
    for credential in [issued.text("/key"), world.session(&account).await] {
        let own = world.get(&format!("/v1/keys/{id}"));
        let own = own.bearer(&credential).send().await;
        assert_eq!(own.json()["name"], read.json()["name"]);
        assert_eq!(own.header("etag"), Some(&*etag));
    }
    let secret = issued.text("/key");
    for said in [&read.body, &listed.body] {
        assert!(!said.contains(&secret[12..]), "{said}");
    }
    let head = world.request("HEAD", &format!("/v1/keys/{id}"));
    let head = head.bearer(world.operator()).send().await;
    assert_eq!((head.status, head.header("etag")), (200, Some(&*etag)));
}

async fn version_changes_with_the_key_and_not_with_its_use(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let issued = world.issue(&account, &json!({})).await;
    let (id, key) = (issued.text("/id"), issued.text("/key"));
    let read = async || operate(&world, &format!("/v1/keys/{id}")).send().await;
    let version = |answer: &Answer| answer.header("etag").unwrap().to_owned();
    let before = version(&read().await);
    assert_eq!(world.status(&key).await, 200);
    assert_eq!(version(&read().await), before);
    let delete = world.delete(&format!("/api/api-keys/{id}")).bearer(&key);
    assert_eq!(delete.send().await.status, 200);
    let after = read().await;
    assert_ne!(version(&after), before);
    assert_eq!(after.text("/status"), "revoked");
    assert!(after.json()["revoked_at"].is_string());
}

async fn accounts_see_their_own_keys_and_no_others(place: Place) {
    let world = place.shared().await;
    let (own, other) = (world.account("roomy").await, world.account("roomy").await);
    world
        .change(&own, &json!({ "external_id": format!("own {own}") }))
        .await;
    let mut expected = BTreeSet::new();
    for _ in 0..3 {
        let issued = world.issue(&own, &json!({})).await;
        expected.insert(issued.text("/id"));
        world.key(&other).await;
    }
    let (key, session) = (
        world.issue(&own, &json!({})).await,
        world.session(&own).await,
    );
    expected.insert(key.text("/id"));
    for credential in [&key.text("/key"), &session] {
        for path in [
            "/v1/keys".to_owned(),
            format!("/v1/keys?account_id={own}"),
            format!("/v1/keys?external_id=own%20{own}"),
            format!("/v1/accounts/{own}/keys"),
            "/v1/keys?sort=last_used_at".to_owned(),
            "/v1/keys?sort=-expires_at".to_owned(),
        ] {
            let found: BTreeSet<_> = all_ids(&world, &path, credential)
                .await
                .into_iter()
                .collect();
            assert_eq!(found, expected, "{path}");
        }
    }
}

async fn keys_are_listed_in_pages_without_gap_or_repetition(place: Place) {
    let world = place.alone().await;
    let mut created = Vec::new();
    for plan in ["pro", "business"] {
        let account = world.account(plan).await;
        for _ in 0..4 {
            created.push(world.issue(&account, &json!({})).await.text("/id"));
        }
    }
    let mut newest_first = all_ids(&world, "/v1/keys", world.operator()).await;
    let oldest_first = all_ids(&world, "/v1/keys?sort=created_at", world.operator()).await;
    newest_first.reverse();
    assert_eq!(newest_first, oldest_first);
    let as_sets = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(as_sets(&oldest_first), as_sets(&created));
    assert_eq!(oldest_first.len(), created.len());
    let whole = operate(&world, "/v1/keys?limit=8").send().await;
    assert_eq!(whole.json()["next_cursor"], Value::Null);
}

async fn filters_select_what_they_name(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let issue = async |draft: Value| {
        let issued = world.issue(&account, &draft).await;
        (issued.text("/id"), issued.text("/key_prefix"))
    };
    let (plain, _) = issue(json!({})).await;
    let (named, prefix) =
        issue(json!({ "name": "Nightly Backup", "scopes": ["orders:read"] })).await;
    let (ending, _) = issue(json!({ "expires_at": "2090-01-01T00:00:00Z" })).await;
    let session = world.session(&account).await;
    let made = world.post("/api/api-keys").bearer(&session);
    let made = made
        .json(&json!({ "name": "by a person" }))
        .send()
        .await
        .text("/id");
    let operator = operate(&world, &format!("/v1/keys/{plain}")).send().await;
    let operator = operator.text("/created_by/id");
    for (query, expected) in [
        ("name=backup".to_owned(), vec![&named]),
        (format!("prefix={prefix}"), vec![&named]),
        ("scope=orders:read".to_owned(), vec![&named]),
        ("kind=account&scope=orders:write".to_owned(), vec![]),
        (
            "expires_before=2090-01-01T00:00:01Z".to_owned(),
            vec![&ending],
        ),
        ("expires_before=2090-01-01T00:00:00Z".to_owned(), vec![]),
        (
            format!("created_by=operator:{operator}"),
            vec![&ending, &named, &plain],
        ),
        ("created_by=subject:user-17".to_owned(), vec![]),
        ("created_after=2090-01-01T00:00:00Z".to_owned(), vec![]),
        ("created_before=2020-01-01T00:00:00Z".to_owned(), vec![]),
        ("last_used_before=2020-01-01T00:00:00Z".to_owned(), vec![]),
        ("metadata.team=billing".to_owned(), vec![]),
        ("status=disabled,rotating".to_owned(), vec![]),
        (
            "status=active&status=disabled".to_owned(),
            vec![&made, &ending, &named, &plain],
        ),
        (
            "sort=expires_at&expires_before=2091-01-01T00:00:00Z".to_owned(),
            vec![&ending],
        ),
    ] {
        let path = format!("/v1/accounts/{account}/keys?{query}");
        let found = all_ids(&world, &path, world.operator()).await;
        let as_set = |ids: Vec<&String>| ids.into_iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(as_set(found.iter().collect()), as_set(expected), "{query}");
    }
}

async fn ended_keys_are_counted_and_listed_when_asked_for(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let live = world.issue(&account, &json!({})).await;
    let gone = world.issue(&account, &json!({})).await;
    let delete = world.delete(&format!("/api/api-keys/{}", gone.text("/id")));
    assert_eq!(delete.bearer(&live.text("/key")).send().await.status, 200);
    let path = format!("/v1/accounts/{account}/keys");
    let list = operate(&world, &path).send().await;
    assert_eq!(ids(&list), [live.text("/id")]);
    let others = json!({ "statuses": ["revoked", "expired"], "count": 1, "more": false });
    assert_eq!(list.json()["others"], others);
    let list = operate(&world, &format!("{path}?status=revoked,expired"));
    let list = list.send().await;
    assert_eq!(ids(&list), [gone.text("/id")]);
    assert_eq!(list.json().get("others"), None);
    let prefix = gone.text("/key_prefix");
    let list = operate(&world, &format!("/v1/keys?prefix={prefix}"))
        .send()
        .await;
    assert_eq!(list.json()["others"]["count"], 1);
    let list = operate(&world, &format!("/v1/keys?prefix={prefix}&status=revoked"));
    assert_eq!(ids(&list.send().await), [gone.text("/id")]);
}

async fn sessions_are_listed(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let path = format!("/v1/accounts/{account}/sessions");
    let open = world.post(&path).bearer(world.operator());
    let opened = open.json(&json!({ "ttl_seconds": 60 })).send().await;
    world.key(&account).await;
    let expected = json!({
        "data": [{
            "id": opened.text("/id"),
            "account_id": account,
            "status": "active",
            "subject": null,
            "scopes": [],
            "expires_at": opened.text("/expires_at"),
            "created_at": NOW,
            "created_by": { "type": "operator", "id": ID, "subject": null },
            "last_used_at": null,
            "last_used_ip": null,
            "use_count": 0,
        }],
        "next_cursor": null,
        "others": { "statuses": ["revoked", "expired"], "count": 0, "more": false },
    });
    operate(&world, &path).expect(200, &expected).await;
    let second = world.session(&account).await;
    assert_eq!(all_ids(&world, &path, world.operator()).await.len(), 2);
    assert!(second.starts_with("session_"));
}
