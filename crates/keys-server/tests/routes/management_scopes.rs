//! Scopes of an operator key, and the routes they open.

use serde_json::json;

use crate::dialect::problem;
use crate::world::Place;

on_both_databases!(operators_key_opens_what_its_scopes_name_and_nothing_else);

const ALL: [&str; 6] = [
    "accounts:read",
    "accounts:write",
    "keys:read",
    "keys:write",
    "keys:verify",
    "sessions:read",
];

async fn operators_key_opens_what_its_scopes_name_and_nothing_else(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let path = format!("/v1/accounts/{account}");
    for held in ALL
        .map(|scope| vec![scope])
        .into_iter()
        .chain([vec!["keys:read", "keys:write"]])
    {
        let mut arguments = vec!["operator-key", "create", "--name", "narrow"];
        for scope in &held {
            arguments.extend(["--scope", scope]);
        }
        let key = world.command(&arguments);
        for (request, needed, status) in [
            (
                world.get("/v1/accounts?limit=1"),
                vec!["accounts:read"],
                200,
            ),
            (
                world.post("/v1/accounts").json(&json!({ "plan": "pro" })),
                vec!["accounts:write"],
                201,
            ),
            (world.get(&path), vec!["accounts:read"], 200),
            (
                world.patch(&path).json(&json!({})),
                vec!["accounts:write"],
                200,
            ),
            (
                world
                    .post(&format!("{path}/sessions"))
                    .json(&json!({ "ttl_seconds": 1 })),
                vec!["keys:read", "keys:write"],
                201,
            ),
            (
                world.post(&format!("{path}/keys")).json(&json!({})),
                vec!["keys:write"],
                201,
            ),
            (
                world.get(&format!("{path}/keys?limit=1")),
                vec!["keys:read"],
                200,
            ),
            (world.get("/v1/keys?limit=1"), vec!["keys:read"], 200),
            (
                world.get("/v1/keys/AZt5bdYAcqeCoRtJcgohFA"),
                vec!["keys:read"],
                404,
            ),
            (
                world.get(&format!("{path}/sessions")),
                vec!["sessions:read"],
                200,
            ),
        ] {
            let answer = request.bearer(&key).send().await;
            if needed.iter().all(|scope| held.contains(scope)) {
                assert_eq!(answer.status, status, "{held:?}: {answer:?}");
            } else {
                let message = "This API key lacks a required scope";
                let answer = answer.is(403, &problem(403, "insufficient_scope", message));
                answer.has(
                    "www-authenticate",
                    r#"Bearer realm="keys", error="insufficient_scope""#,
                );
            }
        }
    }
}
