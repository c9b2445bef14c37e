//! A stored row that cannot be read: it refuses its own key, is marked on lists and by
//! `migrate --check`, and can be repaired.

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use serde_json::{Value, json};

use crate::dialect::Dialect;
use crate::world::{Place, World};

on_both_databases!(
    account_that_cannot_be_read_refuses_its_own_keys_and_is_mended,
    key_that_cannot_be_read_is_marked_and_can_be_deleted,
);

/// Changes rows as on a database from before the rules for them.
fn offend(world: &World, table: &str, column: &str, value: &str, of: &str) {
    let rule = format!("{table}_{column}_legal");
    let update = format!("update {table} set {column} = {value} where {of}");
    if let Some(database) = world.database() {
        let switch = |state| format!("alter table {table} {state} trigger {rule}");
        let statements = [switch("disable"), update, switch("enable always")];
        let _ = database.sql(&statements.join("; "));
    } else {
        let path = world.server().folder().join("data").join("keys.db");
        let mut open = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        let statements = format!("pragma busy_timeout = 5000; drop trigger {rule}; {update};");
        open.batch_execute(&statements).unwrap();
    }
}

async fn verify(world: &World, key: &str) -> Value {
    let question = json!({ "key": key });
    let asked = world.post("/v1/keys/verify").bearer(world.operator());
    let asked = asked.header("cache-control", "no-cache");
    let answer = asked.json(&question).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Returns the output of `migrate --check`, and whether it found anything.
fn check(world: &World) -> (String, bool) {
    let output = world.server().command(["migrate", "--check"]);
    let found = match output.status.code() {
        Some(0) => false,
        Some(1) => true,
        code => panic!("{code:?}"),
    };
    (String::from_utf8(output.stdout).unwrap(), found)
}

async fn account_that_cannot_be_read_refuses_its_own_keys_and_is_mended(place: Place) {
    let world = place.roomy().await;
    let (good, bad) = (world.account("roomy").await, world.account("roomy").await);
    let (good_key, bad_key) = (world.key(&good).await, world.key(&bad).await);
    world.change(&bad, &json!({ "external_id": "bad" })).await;
    assert_eq!(check(&world), (String::new(), false));
    offend(&world, "account", "plan", "'Roomy'", "external_id = 'bad'");

    assert_eq!(verify(&world, &good_key).await["code"], "valid");
    let refused = verify(&world, &bad_key).await;
    assert_eq!(
        (&refused["valid"], &refused["code"]),
        (&json!(false), &json!("unreadable"))
    );
    // One among many does not affect the others.
    let many = [&good_key, &bad_key, &good_key].map(|key| json!({ "key": key }));
    let asked = world.post("/v1/keys/verify-batch").bearer(world.operator());
    let asked = asked.header("cache-control", "no-cache");
    let answers = asked.json(&json!({ "requests": many })).send().await;
    assert_eq!(answers.status, 200, "{answers:?}");
    let answers = answers.json();
    let codes = answers["results"].as_array().unwrap();
    let codes: Vec<_> = codes.iter().map(|one| &one["code"]).collect();
    assert_eq!(codes, ["valid", "unreadable", "valid"]);
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path());
        assert_eq!(list.bearer(&bad_key).send().await.status, 403);
        let list = world.get(dialect.path());
        assert_eq!(list.bearer(&good_key).send().await.status, 200);
    }

    // Management still works, and shows the stored values.
    let get = world.get(&format!("/v1/accounts/{bad}"));
    let found = get.bearer(world.operator()).send().await;
    assert_eq!(found.status, 200, "{found:?}");
    let shown = found.json();
    assert_eq!(
        (&shown["plan"], &shown["unreadable"]),
        (&json!("Roomy"), &json!(["plan"]))
    );
    let list = world.get("/v1/accounts?limit=100").bearer(world.operator());
    let listed = list.send().await.json();
    let listed = listed["data"].as_array().unwrap();
    assert!(listed.contains(&shown), "{listed:?}");
    let readable = listed.iter().find(|account| account["id"] == json!(good));
    assert_eq!(readable.unwrap().get("unreadable"), None);
    let table = world.command(&["account", "list"]);
    assert!(table.contains("(unreadable)"), "{table}");

    let (named, found) = check(&world);
    let fields: Vec<_> = named.trim_end().split('\t').collect();
    assert!(found);
    assert_eq!(
        (fields[0], fields[1], fields[3]),
        ("account", bad.as_str(), "plan")
    );
    assert_eq!(named.lines().count(), 1);
    let log = world.server().stderr();
    assert!(log.contains(&bad), "{log}");

    // A change that does not repair it is refused by name. One that does applies at once.
    let patch = world.patch(&format!("/v1/accounts/{bad}"));
    let patch = patch.bearer(world.operator());
    let refused = patch.json(&json!({ "disabled": false })).send().await;
    assert_eq!(
        (refused.status, refused.text("/code").as_str()),
        (409, "account_unreadable")
    );
    world.change_plan(&bad, "roomy").await;
    assert_eq!(verify(&world, &bad_key).await["code"], "valid");
    assert_eq!(check(&world), (String::new(), false));
}

async fn key_that_cannot_be_read_is_marked_and_can_be_deleted(place: Place) {
    let mut world = place.roomy().await;
    let account = world.account("roomy").await;
    let good = world.key(&account).await;
    let issued = world.issue(&account, &json!({ "name": "broken" })).await;
    let (bad, id) = (issued.text("/key"), issued.text("/id"));
    let scopes = match place {
        Place::Sqlite => r#"'["orders", null]'"#,
        Place::Postgres => "array['orders', null]",
    };
    offend(&world, "api_key", "scopes", scopes, "name = 'broken'");
    // It does not prevent a start.
    world.stop();
    world.start_again().await;

    assert_eq!(verify(&world, &bad).await["code"], "unreadable");
    for dialect in Dialect::BOTH {
        let list = world.get(dialect.path()).bearer(&good).send().await;
        let [id_member, name_member, _] = dialect.members();
        let keys = dialect.listed(&list);
        assert_eq!(keys.len(), 2, "{keys:?}");
        for key in keys {
            let is_marked = key[name_member] == "(unreadable)";
            assert_eq!(is_marked, key[id_member] == json!(id), "{key}");
        }
    }
    let listed = world.command(&["key", "list", "--account", &account, "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let marked = listed.as_array().unwrap().iter();
    let marked: Vec<_> = marked
        .filter(|key| key["unreadable"] == json!(true))
        .collect();
    assert!(
        matches!(marked[..], [key] if key["id"] == json!(id)),
        "{listed}"
    );

    let path = format!("{}/{id}", Dialect::Flat.path());
    let deleted = world.delete(&path).bearer(&good).send().await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    assert_eq!(verify(&world, &bad).await["code"], "revoked");
}
