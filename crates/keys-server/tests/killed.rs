//! Repeats requests under `Idempotency-Key` after their server was killed: the real program,
//! SIGKILL.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keys_testkit::postgres::Database;
use keys_testkit::process::signal;
use keys_testkit::server::Server;
use reqwest::Client;

const BINARY: &str = env!("CARGO_BIN_EXE_keys-server");

/// Clients that create accounts concurrently.
const CLIENTS: usize = 16;

/// Time limit of a repetition. If the attempt were not taken over, it would wait 30 s.
const REPEATED_WITHIN: Duration = Duration::from_secs(5);

/// Creates an account under this `Idempotency-Key`. `None` if there was no answer.
async fn create(client: &Client, url: &str, operator: &str, key: &str) -> Option<(u16, String)> {
    let request = client
        .post(url)
        .bearer_auth(operator)
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(if url.ends_with("accounts") {
            r#"{"plan":"pro"}"#
        } else {
            r#"{"name":"one"}"#
        });
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.text().await.ok()?))
}

/// Kills the server under load. Returns the names of requests without an answer, and the answers of
/// the others.
async fn kill_under_load(
    server: &mut Server,
    operator: &str,
    round: usize,
) -> (Vec<String>, BTreeSet<String>) {
    let url = server.url("/v1/accounts");
    let answered = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (url, operator) = (url.clone(), operator.to_owned());
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let http = Client::new();
                let mut made = Vec::new();
                for number in 0.. {
                    let key = format!("{round}-{client}-{number}");
                    match create(&http, &url, &operator, &key).await {
                        Some((201, body)) => {
                            answered.fetch_add(1, Ordering::Relaxed);
                            made.push(body);
                        }
                        Some((status, body)) => panic!("{status}: {body}"),
                        None => return (made, key),
                    }
                }
                unreachable!("the server is killed before")
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < 2 * CLIENTS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.kill();
    let (mut lost, mut made) = (Vec::new(), BTreeSet::new());
    for task in tasks {
        let (answers, key) = task.await.unwrap();
        made.extend(answers);
        lost.push(key);
    }
    (lost, made)
}

/// Repeats all lost requests concurrently. Each creates exactly one account.
async fn lost_answers_are_repeated(mut server: Server, rounds: usize) {
    let operator = server.operator_key("test");
    let mut all = BTreeSet::new();
    for round in 0..rounds {
        let (lost, made) = kill_under_load(&mut server, &operator, round).await;
        all.extend(made);
        server.start_again().await;
        let url = server.url("/v1/accounts");
        let http = Client::new();
        // All concurrently: each of them takes over from the same process.
        let start = Instant::now();
        let repeated = lost.into_iter().map(|key| {
            let (http, url, operator) = (http.clone(), url.clone(), operator.clone());
            tokio::spawn(async move { (create(&http, &url, &operator, &key).await, key) })
        });
        for task in repeated.collect::<Vec<_>>() {
            let (answer, key) = task.await.unwrap();
            let (status, body) = answer.unwrap();
            assert!(start.elapsed() < REPEATED_WITHIN, "{key}");
            assert_eq!(status, 201, "{key}: {body}");
            assert!(all.insert(body.clone()), "{key} was made twice");
            let again = create(&http, &url, &operator, &key).await;
            assert_eq!(again, Some((201, body)), "{key}");
        }
    }
    let listed = server.command(["account", "list", "--json", "--limit", "10000"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lost_by_a_killed_server_on_sqlite_are_repeated_at_once() {
    lost_answers_are_repeated(Server::builder(BINARY).start().await, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lost_by_a_killed_server_on_postgres_are_repeated_at_once() {
    let database = Database::create().await;
    let server = Server::builder(BINARY)
        .postgres(&database.url())
        .start()
        .await;
    lost_answers_are_repeated(server, 3).await;
}

/// Delays the creation of keys on PostgreSQL for a while.
fn hold_accounts(database: &Arc<Database>, seconds: u32) -> std::thread::JoinHandle<()> {
    let database = Arc::clone(database);
    std::thread::spawn(move || {
        let _ = database.sql(&format!(
            "begin; select id from account for update; select pg_sleep({seconds}); commit"
        ));
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_is_taken_over_when_its_process_ends_and_not_before() {
    let database = Arc::new(Database::create().await);
    let start = || Server::builder(BINARY).postgres(&database.url()).start();
    let (mut first, second) = (start().await, start().await);
    let operator = first.operator_key("test");
    let account = first
        .post("/v1/accounts")
        .bearer(&operator)
        .json(&serde_json::json!({"plan": "pro"}))
        .send()
        .await
        .text("/id");
    let path = format!("/v1/accounts/{account}/keys");
    let (first_url, second_url) = (first.url(&path), second.url(&path));

    let held = hold_accounts(&database, 4);
    while database.sql("select count(*) from pg_locks where mode = 'RowShareLock' and relation = 'account'::regclass") == "0\n" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let slow = {
        let operator = operator.clone();
        tokio::spawn(async move { create(&Client::new(), &first_url, &operator, "slow").await })
    };
    while database.sql("select count(*) from idempotency where sealed is null") == "0\n" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // However slow it is, even if its process is stopped.
    signal("STOP", first.process_id());
    let http = Client::new();
    for _ in 0..5 {
        let request = http
            .post(&second_url)
            .bearer_auth(&operator)
            .header("content-type", "application/json")
            .header("idempotency-key", "slow")
            .body(r#"{"name":"one"}"#);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 409);
        let retry_after = answer.headers()["retry-after"].to_str().unwrap();
        let retry_after: u64 = retry_after.parse().unwrap();
        assert!((20..=30).contains(&retry_after), "{retry_after}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.kill();
    assert_eq!(slow.await.unwrap(), None);
    held.join().unwrap();
    let start = Instant::now();
    let answer = loop {
        let answer = create(&http, &second_url, &operator, "slow").await.unwrap();
        // PostgreSQL notices a moment later that the process is gone.
        if answer.0 != 409 || start.elapsed() > REPEATED_WITHIN {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(answer.0, 201, "{}", answer.1);
    let count = "select count(*) from api_key where kind = 2";
    assert_eq!(database.sql(count), "1\n");
}
