//! The database is unavailable: 503, never 401, and everything works again without help.

use std::time::Duration;

use keys_testkit::postgres::Database;
use serde_json::{Value, json};

use crate::dialect::{ACCOUNT, Dialect, FLAT, NOBODYS_KEY, problem};
use crate::exchange::Request;
use crate::world::{Place, World};

const MESSAGE: &str = "The service is temporarily unavailable";

fn unavailable(dialect: Dialect) -> Value {
    dialect.error(503, "unavailable", MESSAGE)
}

/// Returns every guarded route with a valid credential, and its answer without the database.
fn requests(world: &World, account: &str, key: &str) -> Vec<(Request, Value)> {
    let mut requests = Vec::new();
    for dialect in Dialect::BOTH {
        for request in [
            world.get(dialect.path()),
            world.post(dialect.path()).json(&dialect.draft("key")),
            world
                .post(dialect.path())
                .idempotency_key("a")
                .json(&dialect.draft("key")),
            world.delete(&dialect.path_of("AAAAAAAAAAAAAAAAAAAAAA")),
        ] {
            requests.push((request.bearer(key), unavailable(dialect)));
        }
    }
    let operator = world.operator();
    let path = format!("/v1/accounts/{account}");
    for request in [
        world.get("/v1/accounts"),
        world.post("/v1/accounts").text(r#"{"plan":"pro"}"#),
        world.get(&path),
        world.patch(&path).text("{}"),
        world
            .post(&format!("{path}/sessions"))
            .text(r#"{"ttl_seconds":60}"#),
        world.post(&format!("{path}/keys")).text("{}"),
    ] {
        let body = problem(503, "unavailable", MESSAGE);
        requests.push((request.bearer(operator), body));
    }
    requests
}

/// Refuses connections to a database, open and new ones, until dropped.
struct Away<'a> {
    database: &'a Database,
    // A database without connections cannot be reached, not even to restore it.
    elsewhere: Database,
}

impl<'a> Away<'a> {
    async fn new(database: &'a Database) -> Self {
        let elsewhere = Database::create().await;
        let away = Self {
            database,
            elsewhere,
        };
        away.allow_connections(false);
        let name = away.name();
        let _ = away.elsewhere.sql(&format!(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"
        ));
        away
    }

    fn name(&self) -> String {
        let url = self.database.url();
        url.rsplit('/').next().unwrap().to_owned()
    }

    fn allow_connections(&self, allowed: bool) {
        let name = self.name();
        let _ = self.elsewhere.sql(&format!(
            "alter database {name} allow_connections {allowed}"
        ));
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.allow_connections(true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn postgres_away_is_unavailable_on_every_route_and_never_unauthorized() {
    let world = Place::Postgres.roomy().await;
    let account = world.account("roomy").await;
    let key = world.key(&account).await;
    assert_eq!(world.status(&key).await, 200);
    let away = Away::new(world.database().unwrap()).await;
    for (request, body) in requests(&world, &account, &key) {
        request
            .expect(503, &body)
            .await
            .has("retry-after", "1")
            .has("www-authenticate", None);
    }
    for dialect in Dialect::BOTH {
        // Whether that key exists is not known.
        let unknown = world.get(dialect.path()).bearer(NOBODYS_KEY);
        let answer = unknown.expect(503, &unavailable(dialect)).await;
        answer.has("retry-after", "1").has("ratelimit", None);
        // Refusing a malformed key needs no database.
        for presented in ["nonsense", &NOBODYS_KEY.replace('v', "w")] {
            let malformed = world.get(dialect.path()).bearer(presented);
            malformed.expect(401, &dialect.unauthorized()).await;
        }
        let missing = world.get(dialect.path());
        missing.expect(401, &dialect.unauthorized()).await;
    }
    let alive = json!({ "status": "ok" });
    world.get("/livez").expect(200, &alive).await;
    let unready = json!({ "status": "unavailable", "database": "unreachable" });
    let answer = world.get("/readyz").expect(503, &unready).await;
    answer.has("retry-after", "1");

    drop(away);
    let mut answer = world.get(FLAT).bearer(&key).send().await;
    for _ in 0..20 {
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = world.get(FLAT).bearer(&key).send().await;
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    // The answer of the database is cached for a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ready = world.get("/readyz").send().await;
    assert_eq!((ready.status, &*ready.text("/status")), (200, "ok"));
    // A refused request created nothing, and may be sent again under the same name.
    assert_eq!(world.names(&key).await, [""]);
    let create = world.post(FLAT).bearer(&key).idempotency_key("a");
    let create = create.json(&Dialect::Flat.draft("key"));
    create.expect(201, &Dialect::Flat.created("key")).await;
}

/// Connections that were lost while idle do not cause errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lost_connections_to_postgres_are_replaced() {
    let world = Place::Postgres.roomy().await;
    let key = world.key_on("roomy").await;
    assert_eq!(world.status(&key).await, 200);
    drop(Away::new(world.database().unwrap()).await);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for dialect in Dialect::BOTH {
        world.create(dialect, &key, "key").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn server_is_ready_for_others_while_one_database_is_away() {
    // Two servers share a cluster, not a database.
    let (one, other) = (Place::Postgres.roomy().await, Place::Postgres.roomy().await);
    let (key, other_key) = (one.key_on("roomy").await, other.key_on("roomy").await);
    let away = Away::new(one.database().unwrap()).await;
    let list = one.get(ACCOUNT).bearer(&key);
    list.expect(503, &unavailable(Dialect::Account)).await;
    assert_eq!(other.status(&other_key).await, 200);
    drop(away);
}
