//! `POST /v1/accounts/{id}/keys`

use serde_json::{Value, json};

use crate::dialect::{Dialect, problem, problem_fault};
use crate::shape::{ID, NOW, shown_prefix, whole_key};
use crate::world::Place;

on_both_databases!(
    key_at_fault_is_refused_by_its_member,
    everything_that_is_wrong_is_said_at_once,
    key_is_not_made_for_a_disabled_account,
    key_is_made_with_all_that_was_asked_for,
    absence_is_written_in_several_ways,
    key_is_good_on_both_contracts,
    operators_have_no_limit_of_requests,
);

const PREFIX: &str = "must be 2 to 20 lower-case letters and digits in groups joined by single underscores, starting with a letter";
const SCOPE: &str =
    "must be 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit";
const ADDRESS: &str = "must be an IPv4 or IPv6 address or CIDR network";
const TIME: &str = "must be an RFC 3339 time with an offset, such as 2030-12-31T23:59:59Z";

#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn key_at_fault_is_refused_by_its_member(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let path = format!("/v1/accounts/{account}/keys");
    let many: Vec<_> = (0..65).map(|number| format!("scope:{number}")).collect();
    for (body, field, message) in [
        (json!({ "name": "" }), "name", "must not be empty"),
        (json!({ "name": " " }), "name", "must not be empty"),
        (json!({ "name": 1 }), "name", "must be a string"),
        (
            json!({ "name": "a\u{0}" }),
            "name",
            "must not contain control characters",
        ),
        (
            json!({ "name": "x".repeat(256) }),
            "name",
            "must be at most 255 characters",
        ),
        (json!({ "prefix": 1 }), "prefix", "must be a string"),
        (json!({ "prefix": "" }), "prefix", PREFIX),
        (json!({ "prefix": "x" }), "prefix", PREFIX),
        (json!({ "prefix": "Acme" }), "prefix", PREFIX),
        (json!({ "prefix": "acme_" }), "prefix", PREFIX),
        (json!({ "prefix": "acme__live" }), "prefix", PREFIX),
        (json!({ "prefix": "1acme" }), "prefix", PREFIX),
        (json!({ "prefix": "acme-live" }), "prefix", PREFIX),
        (json!({ "prefix": "a".repeat(21) }), "prefix", PREFIX),
        (
            json!({ "prefix": "operator" }),
            "prefix",
            "is reserved for another kind of credential",
        ),
        (
            json!({ "prefix": "session" }),
            "prefix",
            "is reserved for another kind of credential",
        ),
        (
            json!({ "allowed_ips": "10.0.0.1" }),
            "allowed_ips",
            "must be a list of strings",
        ),
        (
            json!({ "allowed_ips": ["10.0.0.1", "nowhere"] }),
            "allowed_ips.1",
            ADDRESS,
        ),
        (
            json!({ "allowed_ips": [null] }),
            "allowed_ips.0",
            "must be a string",
        ),
        (
            json!({ "allowed_ips": vec!["10.0.0.1"; 129] }),
            "allowed_ips",
            "must have at most 128 entries",
        ),
        (
            json!({ "scopes": "a" }),
            "scopes",
            "must be a list of strings",
        ),
        (json!({ "scopes": [1] }), "scopes.0", "must be a string"),
        (json!({ "scopes": ["a", ""] }), "scopes.1", SCOPE),
        (json!({ "scopes": ["a", "B"] }), "scopes.1", SCOPE),
        (json!({ "scopes": [":a"] }), "scopes.0", SCOPE),
        (json!({ "scopes": ["a b"] }), "scopes.0", SCOPE),
        (json!({ "scopes": ["a".repeat(65)] }), "scopes.0", SCOPE),
        (
            json!({ "scopes": many }),
            "scopes",
            "must have at most 64 entries",
        ),
        (json!({ "expires_at": 1 }), "expires_at", "must be a string"),
        (json!({ "expires_at": "2125-01-01" }), "expires_at", TIME),
        (
            json!({ "expires_at": "2020-01-01T00:00:00Z" }),
            "expires_at",
            "must be in the future",
        ),
        (
            json!({ "metadata": ["a"] }),
            "metadata",
            "must be an object of strings",
        ),
        (
            json!({ "metadata": { "a": 1 } }),
            "metadata.a",
            "must be a string",
        ),
        (
            json!({ "metadata": { "Team": "x" } }),
            "metadata.Team",
            "must be named by 1 to 40 lower-case letters, digits and `_`",
        ),
        (
            json!({ "metadata": { "a": "\u{0}" } }),
            "metadata.a",
            "must not contain a NUL character",
        ),
        (
            json!({ "metadata": { "a": "x".repeat(4_088) } }),
            "metadata",
            "must be at most 4096 bytes",
        ),
        (
            json!({ "limits": 1 }),
            "limits",
            "must be an object of limits",
        ),
        (
            json!({ "limits": { "create": { "requests": 1 } } }),
            "limits.create",
            "must have requests and period_seconds",
        ),
        (
            json!({ "limits": { "create": { "requests": 0, "period_seconds": 1 } } }),
            "limits.create.requests",
            "must be a whole number from 1 to 4294967295",
        ),
        (
            json!({ "limits": { "create": { "requests": 1, "period_seconds": 1, "per": "key" } } }),
            "limits.create.per",
            "is not known here; known are requests, period_seconds",
        ),
        (
            json!({ "limits": { "calls": { "requests": 1, "period_seconds": 1 } } }),
            "limits.calls",
            "is not the name of a limit of any plan",
        ),
        (
            json!({ "limits": { "A B": { "requests": 1, "period_seconds": 1 } } }),
            "limits.A B",
            "is not the name of a limit of any plan",
        ),
    ] {
        let issue = world.post(&path).bearer(world.operator()).json(&body);
        issue.expect(400, &problem_fault(field, message)).await;
    }
}

async fn everything_that_is_wrong_is_said_at_once(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issue = world.post(&format!("/v1/accounts/{account}/keys"));
    let issue = issue.bearer(world.operator()).json(&json!({
        "expires_at": "never",
        "scopes": ["A", "a", "B"],
        "allowed_ips": ["nowhere"],
        "prefix": "X",
        "name": "",
    }));
    let expected = json!({
        "title": "Bad Request",
        "status": 400,
        "code": "invalid_request",
        "detail": "name must not be empty",
        "errors": [
            { "field": "name", "message": "must not be empty" },
            { "field": "prefix", "message": PREFIX },
            { "field": "allowed_ips.0", "message": ADDRESS },
            { "field": "scopes.0", "message": SCOPE },
            { "field": "scopes.2", "message": SCOPE },
            { "field": "expires_at", "message": TIME },
        ],
    });
    issue.expect(400, &expected).await;
}

async fn key_is_not_made_for_a_disabled_account(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    world.change(&account, &json!({ "disabled": true })).await;
    let issue = world.post(&format!("/v1/accounts/{account}/keys"));
    let issue = issue.bearer(world.operator()).json(&json!({}));
    let body = problem(403, "account_disabled", "The account is disabled");
    issue.expect(403, &body).await;
}

fn view(account: &str, name: &Value, prefix: &str) -> Value {
    json!({
        "id": ID,
        "account_id": account,
        "name": name,
        "key": whole_key(prefix),
        "key_prefix": shown_prefix(prefix),
        "allowed_ips": [],
        "scopes": [],
        "expires_at": null,
        "limits": {},
        "metadata": {},
        "last_used_at": null,
        "created_at": NOW,
    })
}

async fn key_is_made_with_all_that_was_asked_for(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let issue = world.post(&format!("/v1/accounts/{account}/keys"));
    let issue = issue.bearer(world.operator()).json(&json!({
        "name": " CI ",
        "prefix": "acme_test",
        "allowed_ips": ["10.1.2.3/8", "2001:DB8::1", "10.0.0.0/8"],
        "scopes": ["orders:read", "a", "orders:read", "9.b_c-d"],
        "expires_at": "2125-01-01T01:00:00.5+01:00",
        "limits": { "create": { "requests": 5, "period_seconds": 60 }, "list": null },
        "metadata": { "team": "billing \"x\"", "other": null },
    }));
    let mut expected = view(&account, &json!("CI"), "acme_test");
    expected["allowed_ips"] = json!(["10.0.0.0/8", "2001:db8::1"]);
    expected["scopes"] = json!(["9.b_c-d", "a", "orders:read"]);
    expected["expires_at"] = json!("2125-01-01T00:00:00.500Z");
    expected["limits"] = json!({ "create": { "requests": 5, "period_seconds": 60 } });
    expected["metadata"] = json!({ "team": "billing \"x\"" });
    let issued = issue
        .expect(201, &expected)
        .await
        .has("cache-control", "no-store");
    let key = issued.text("/key");
    assert!(key.starts_with(&issued.text("/key_prefix")));
}

async fn absence_is_written_in_several_ways(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    for body in [
        json!({}),
        json!({
            "name": null,
            "prefix": null,
            "allowed_ips": null,
            "scopes": null,
            "expires_at": null,
            "limits": null,
            "metadata": null,
        }),
        json!({ "allowed_ips": [], "scopes": [], "limits": {}, "metadata": {} }),
    ] {
        let issue = world.post(&format!("/v1/accounts/{account}/keys"));
        let issue = issue.bearer(world.operator()).json(&body);
        issue
            .expect(201, &view(&account, &json!(null), "sk_live"))
            .await;
    }
}

async fn key_is_good_on_both_contracts(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    let draft = json!({ "name": "made by an operator", "prefix": "xyp" });
    let issued = world.issue(&account, &draft).await;
    for dialect in Dialect::BOTH {
        let list = world
            .get(dialect.path())
            .bearer(&issued.text("/key"))
            .send()
            .await;
        let [id, name, _] = dialect.members();
        assert_eq!(dialect.listed(&list)[0][id], issued.text("/id"));
        assert_eq!(dialect.listed(&list)[0][name], "made by an operator");
    }
}

async fn operators_have_no_limit_of_requests(place: Place) {
    let world = place.shared().await;
    let account = world.account("pro").await;
    for _ in 0..10 {
        world.key(&account).await;
    }
    let message = "Maximum 10 API keys per account";
    for _ in 0..5 {
        let issue = world.post(&format!("/v1/accounts/{account}/keys"));
        let issue = issue.bearer(world.operator()).json(&json!({}));
        issue
            .expect(403, &problem(403, "key_limit_reached", message))
            .await;
    }
    // They do not use up the account's quota either.
    let session = world.session(&account).await;
    let create = world.post(Dialect::Flat.path()).bearer(&session).text("{}");
    let answer = create.send().await;
    assert_eq!(answer.header("ratelimit"), Some(r#""create";r=9;t=6"#));
}
