//! Takes the database away in every way that a network knows. Answers are 503 in time and never
//! 401, requests do not pile up, and everything works again within a second of its return.

use std::time::Duration;

use keys_testkit::fault_proxy::{Direction, Fault, FaultProxy};
use keys_testkit::postgres::Database;
use keys_testkit::report::{figure, information, is_full};
use keys_testkit::server::Server;
use keys_testkit::wire::{Wire, request, request_with};
use tokio::task::JoinSet;

use crate::customers::{self, Key};
use crate::fleet::server;
use crate::{BOUND, Millis, Times, end_the_line, millis, now};

/// A well-formed key that does not exist.
const NOBODYS_KEY: &str = "sk_live_000000000000000000000000003vSKjy";

/// Concurrent requests.
const CROWD: usize = 200;

/// Maximum connections of a server to its database: its pool, and its listener.
const CONNECTIONS_MAX: usize = 10 + 1;

/// Maximum growth of memory for requests without an answer: far less than if they were kept.
const GROWTH_MAX_KB: usize = 64 * 1024;

/// Promised time of an answer, and of the recovery.
const PROMISED: Duration = Duration::from_secs(1);

/// Returns the enforced time. The short form runs beside other tests, so it only checks that there
/// is an end.
fn enforced() -> Duration {
    PROMISED * if is_full() { 1 } else { 3 }
}

struct World {
    server: Server,
    proxy: FaultProxy,
    operator: String,
    /// Keys verified before the database went away.
    known: Vec<Key>,
    /// Keys that were never verified.
    new: Vec<Key>,
    _database: Database,
}

impl World {
    async fn start() -> Self {
        const EACH: usize = 40;
        let database = Database::create().await;
        let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
        let server = server(&url).start().await;
        let operator = server.operator_key("proof");
        let mut known = customers::keys(&server.url(""), &operator, EACH * 2).await;
        let new = known.split_off(EACH);
        let mut wire = Wire::connect(&server.url("")).await;
        for key in &known {
            assert_eq!(wire.ask(&key.auth()).await.status, 200);
        }
        Self {
            server,
            proxy,
            operator,
            known,
            new,
            _database: database,
        }
    }

    async fn wire(&self) -> Wire {
        Wire::connect(&self.server.url("")).await
    }

    /// Returns the requests of a crowd: every way to verify keys that are cached, new, and unknown.
    fn questions(&self) -> Vec<Vec<u8>> {
        let verify = |body: &str, path: &str| request_with("POST", path, &self.operator, body);
        let mut questions = Vec::new();
        for number in 0..CROWD {
            let keys = [&self.known, &self.new][number % 2];
            let key = &keys[number / 2 % keys.len()];
            let secret = &key.secret;
            questions.push(match number % 7 {
                0 | 1 => request("GET", "/v1/auth", NOBODYS_KEY),
                2 => verify(&format!(r#"{{"key":"{secret}"}}"#), "/v1/keys/verify"),
                3 => verify(
                    &format!(r#"{{"requests":[{{"key":"{secret}"}},{{"key":"{NOBODYS_KEY}"}}]}}"#),
                    "/v1/keys/verify-batch",
                ),
                4 => request("GET", "/v1/auth?limit=verify", secret),
                _ => key.auth(),
            });
        }
        questions
    }

    /// Sends all of them concurrently, several times. Returns the time of each answer, all of which
    /// are 503.
    async fn turned_away(&self) -> Times {
        let turns = if is_full() { 10 } else { 2 };
        let mut crowd = JoinSet::new();
        for question in self.questions() {
            let mut wire = self.wire().await;
            crowd.spawn(async move {
                let mut times = Vec::new();
                for _ in 0..turns {
                    let sent = now();
                    let answer = wire.ask(&question).await;
                    times.push(now().saturating_sub(sent));
                    assert_eq!(answer.status, 503, "{}", answer.body);
                    assert_eq!(answer.header("retry-after"), Some("1"));
                    assert_eq!(answer.header("www-authenticate"), None);
                    assert_eq!(answer.header("x-denial"), None);
                }
                times
            });
        }
        Times(crowd.join_all().await.into_iter().flatten().collect())
    }

    /// Waits until every key is accepted again, while a crowd sends requests. Returns the time it
    /// took.
    async fn recovered(&self, since: Duration) -> Duration {
        const GIVEN_UP: Duration = Duration::from_secs(30);
        let mut crowd = JoinSet::new();
        for key in self.known.iter().chain(&self.new) {
            let (mut wire, question) = (self.wire().await, key.auth());
            crowd.spawn(async move {
                loop {
                    let status = wire.ask(&question).await.status;
                    if status == 200 {
                        return now();
                    }
                    assert_eq!(status, 503);
                    assert!(now() < since + GIVEN_UP, "the database is back");
                    tokio::time::sleep(millis(10)).await;
                }
            });
        }
        let last = crowd.join_all().await.into_iter().max().unwrap();
        last.saturating_sub(since)
    }

    /// Waits until changes are followed again. Returns the time it took.
    async fn followed(&self, since: Duration) -> Duration {
        let mut wire = self.wire().await;
        loop {
            let answer = wire.ask(&request("GET", "/readyz", "")).await;
            if answer.body.contains(r#""changes":"followed""#) {
                return now().saturating_sub(since);
            }
            tokio::time::sleep(millis(20)).await;
        }
    }

    /// Returns the resources of the server's process: memory in kB, and open files.
    fn held(&self) -> (usize, usize) {
        let folder = format!("/proc/{}", self.server.process_id());
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let memory = memory.unwrap().trim().trim_end_matches(" kB");
        let files = std::fs::read_dir(format!("{folder}/fd")).unwrap();
        (memory.parse().unwrap(), files.count())
    }
}

/// Verifies a cached key until the server no longer trusts its cache. Returns when it was last
/// accepted.
async fn last_accepted(mut wire: Wire, question: Vec<u8>) -> Duration {
    const PAUSE: Duration = millis(10);
    let mut last = now();
    loop {
        let sent = now();
        match wire.ask(&question).await.status {
            200 => last = sent,
            503 => return last,
            other => panic!("{other}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn survives(what: &str, fault: Fault) {
    let world = World::start().await;
    end_the_line();
    let what = format!("database away, {what}");
    let asking = last_accepted(world.wire().await, world.known[0].auth());
    let away = now();
    world.proxy.set(fault).await;
    let trusted = asking.await.saturating_sub(away);
    figure(
        &format!("{what}: known key accepted for"),
        Millis(trusted),
        "at most 2 s",
        trusted < BOUND,
    );
    assert!(trusted < BOUND, "{trusted:?}");
    // After the lease of all of them.
    tokio::time::sleep(BOUND.saturating_sub(trusted)).await;

    let before = world.held();
    let mut times = world.turned_away().await;
    let after = world.held();
    information(&format!("{what}: requests answered 503"), times.0.len());
    information(&format!("{what}: answered after"), times.summary());
    let slowest = times.max();
    figure(
        &format!("{what}: slowest answer"),
        Millis(slowest),
        "at most 1 s",
        slowest <= PROMISED,
    );
    let growth = after.0.saturating_sub(before.0);
    let open = world.proxy.open();
    information(
        &format!("{what}: memory grew by"),
        format_args!("{growth} kB"),
    );
    information(&format!("{what}: connections to the database"), open);

    world.proxy.set(Fault::None).await;
    let back = now();
    let recovered = world.recovered(back).await;
    let followed = world.followed(back).await;
    information(
        &format!("{what}: changes followed again after"),
        Millis(followed),
    );
    figure(
        &format!("{what}: recovered after"),
        Millis(recovered),
        "at most 1 s",
        recovered <= PROMISED,
    );
    assert!(slowest <= enforced(), "{slowest:?}");
    assert!(
        growth <= GROWTH_MAX_KB && open <= CONNECTIONS_MAX,
        "{growth} kB, {open}"
    );
    // The connections of the crowd are closed by now. The remaining ones belong to the recovery.
    assert!(
        after.1 <= before.1 + CROWD + CONNECTIONS_MAX,
        "{before:?} {after:?}"
    );
    assert!(recovered <= enforced(), "{recovered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_is_cut_off_costs_nobody_more_than_a_503() {
    survives("cut off", Fault::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_whose_bytes_are_swallowed_costs_nobody_more_than_a_503() {
    survives("swallowed", Fault::Swallow(Direction::Both)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_behind_half_open_connections_costs_nobody_more_than_a_503() {
    survives("half open", Fault::HalfOpen).await;
}
