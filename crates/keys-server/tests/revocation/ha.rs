//! PostgreSQL on three nodes under Patroni: its primary is killed, stopped, cut off and replaced on
//! purpose while three servers create, revoke and verify keys. No acknowledged change is lost, no
//! revoked key is accepted after the bound, and writes succeed within a second of each promotion.
//!
//! Needs root for the network namespaces, and the packages that `cargo xtask prove ha` installs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keys_testkit::haproxy::HaProxy;
use keys_testkit::postgres::psql;
use keys_testkit::report::{figure, information, is_full};
use keys_testkit::wire::{Wire, request_with};
use tokio::task::{JoinSet, block_in_place};
use tokio_postgres::NoTls;

use crate::campaign::{Campaign, Circumstances, Size, Trio};
use crate::fleet::SERVERS;
use crate::patroni::{NODES, Patroni, name};
use crate::{Millis, Times, end_the_line, millis, now};

/// The role of the service, and its database.
const ROLE: &str = "keys";
const PASSWORD: &str = "hunter2";

/// Time limit from the promotion to the first acknowledged write of each server.
const WRITES_WITHIN: Duration = Duration::from_secs(1);

/// Clients of each server that only create keys.
const WRITERS: usize = 3;

/// Ways to lose the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    Stopped,
    CutOff,
    Planned,
}

const LOSSES: [Loss; 4] = [Loss::Killed, Loss::Stopped, Loss::CutOff, Loss::Planned];

/// Returns the number of failovers.
fn failovers() -> usize {
    if is_full() { 20 } else { LOSSES.len() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_failovers_under_patroni_behind_haproxy() {
    let patroni = Patroni::start().await;
    let haproxy = HaProxy::start(|port| patroni.haproxy(port));
    let url = format!(
        "postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{ROLE}",
        haproxy.port()
    );
    prove("HAProxy", patroni, &url).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_failovers_under_patroni_with_a_multi_host_url() {
    let patroni = Patroni::start().await;
    let hosts: Vec<_> = (0..NODES)
        .map(|node| format!("{}:5432", patroni.address(node)))
        .collect();
    let hosts = hosts.join(",");
    let url = format!(
        "postgres://{ROLE}:{PASSWORD}@{hosts}/{ROLE}?sslmode=disable&target_session_attrs=read-write"
    );
    prove("multi-host URL", patroni, &url).await;
}

/// Times of one failover.
struct Failover {
    loss: Loss,
    /// From the loss to the first commit on the new primary that waits for no replica.
    promoted: Duration,
    /// From the loss to the first commit on the new primary that a replica has, too.
    writable: Duration,
    /// From then to the first acknowledged write of every server.
    resumed: Duration,
}

async fn prove(what: &str, mut patroni: Patroni, url: &str) {
    let (leader, _) = patroni.is_healthy().await;
    let superuser = patroni.superuser_url(leader);
    psql(
        &format!("{superuser}/postgres"),
        &format!("create role {ROLE} login password '{PASSWORD}'"),
    );
    psql(
        &format!("{superuser}/postgres"),
        &format!("create database {ROLE} owner {ROLE} template template0"),
    );
    psql(
        &format!("{superuser}/postgres"),
        "create table probe (at timestamptz)",
    );
    let probes = Probes::start(&patroni);
    let trio = Trio::start_unprivileged(url).await;
    let size = Size {
        keys: failovers() * 300,
        every: millis(120),
        asking: millis(5),
        window: 60,
        at_most: Duration::from_mins(20),
    };
    let campaign = Campaign::prepare(&trio, size).await;
    let (mut writing, created) = write(&trio, &campaign);
    let mut done: Vec<Failover> = Vec::new();
    let faults = async {
        for loss in LOSSES.into_iter().cycle().take(failovers()) {
            let failover = fail_over(&mut patroni, &probes, &campaign, loss).await;
            end_the_line();
            println!(
                "{what}, {loss:?}: promoted after {}, writable after {}, writes go on after {}",
                Millis(failover.promoted),
                Millis(failover.writable),
                Millis(failover.resumed)
            );
            done.push(failover);
        }
        campaign.revoke_no_more();
    };
    campaign.run(faults).await;
    writing.shutdown().await;
    tell(what, &mut done);
    campaign.report(what, &Circumstances::default());

    let (leader, _) = patroni.is_healthy().await;
    let database = format!("{}/{ROLE}", patroni.superuser_url(leader));
    let created = created.lock().unwrap();
    nothing_lost(
        &format!("{what}: acknowledged creations"),
        &created,
        &stored(&database, "true"),
    );
    nothing_lost(
        &format!("{what}: acknowledged revocations"),
        &campaign.acknowledged(),
        &stored(&database, "revoked_at is not null"),
    );
    let slowest = done.iter().map(|one| one.resumed).max().unwrap_or_default();
    assert!(slowest <= WRITES_WITHIN, "writes go on after {slowest:?}");
}

/// Returns the identifiers, in their external form, of keys in the database.
fn stored(database: &str, condition: &str) -> HashSet<String> {
    let statement = format!(
        "select rtrim(translate(encode(uuid_send(id), 'base64'), '+/', '-_'), '=') from api_key where {condition}"
    );
    psql(database, &statement)
        .lines()
        .map(str::to_owned)
        .collect()
}

fn nothing_lost(what: &str, acknowledged: &HashSet<String>, stored: &HashSet<String>) {
    let lost = acknowledged.difference(stored).count();
    figure(
        what,
        format_args!("{lost} lost of {}", acknowledged.len()),
        "none lost",
        lost == 0,
    );
    assert!(!acknowledged.is_empty());
    assert_eq!(lost, 0, "{what}");
}

/// Prints the times of all failovers.
fn tell(what: &str, done: &mut [Failover]) {
    end_the_line();
    information(&format!("{what}: failovers"), done.len());
    for loss in LOSSES {
        let mut times = [Times::default(), Times::default()];
        for failover in done.iter().filter(|failover| failover.loss == loss) {
            times[0].0.push(failover.promoted);
            times[1].0.push(failover.writable);
        }
        let of = match loss {
            Loss::Killed => "primary killed",
            Loss::Stopped => "primary stopped",
            Loss::CutOff => "primary cut off",
            Loss::Planned => "planned change",
        };
        let [promoted, writable] = &mut times;
        information(&format!("{what}, {of}: promoted after"), promoted.summary());
        information(
            &format!("{what}, {of}: first commit on the new primary after"),
            writable.summary(),
        );
    }
    let since_promotion = |one: &Failover| one.writable.saturating_sub(one.promoted) + one.resumed;
    let mut since_promotion = Times(done.iter().map(since_promotion).collect());
    information(
        &format!(
            "{what}: writes go on on every server, after the end of recovery on the new primary"
        ),
        since_promotion.summary(),
    );
    let mut resumed = Times(done.iter().map(|failover| failover.resumed).collect());
    figure(
        &format!("{what}: writes go on on every server, after the first commit on the new primary"),
        resumed.summary(),
        "at most 1 s",
        resumed.max() <= WRITES_WITHIN,
    );
}

/// Takes the primary away, waits for another one and until every server writes to it, and repairs
/// the cluster.
async fn fail_over(
    patroni: &mut Patroni,
    probes: &Probes,
    campaign: &Campaign,
    loss: Loss,
) -> Failover {
    const AT_MOST: Duration = Duration::from_mins(1);
    let (leader, standby) = patroni.is_healthy().await;
    tokio::time::sleep(millis(1_000)).await;
    let lost = now();
    block_in_place(|| match loss {
        Loss::Killed => patroni.kill(leader),
        Loss::Stopped => patroni.stop(leader),
        Loss::CutOff => patroni.cut(leader),
        Loss::Planned => {}
    });
    let mut switching = (loss == Loss::Planned).then(|| patroni.switch_over(leader, standby));
    let (promoted, writable) = loop {
        if let Some(times) = probes.taken_over(leader, lost) {
            break times;
        }
        // Patroni may not be ready for it, as operators know.
        if let Some(switching) = &mut switching
            && switching
                .try_wait()
                .unwrap()
                .is_some_and(|end| !end.success())
        {
            *switching = patroni.switch_over(leader, standby);
        }
        assert!(
            now() < lost + AT_MOST,
            "no other node is promoted\n{}",
            patroni.said()
        );
        tokio::time::sleep(millis(10)).await;
    };
    let mut resumed = Duration::ZERO;
    for server in 0..SERVERS {
        let first = loop {
            if let Some(first) = campaign.first_acknowledgement(server, writable) {
                break first;
            }
            assert!(
                now() < writable + AT_MOST,
                "server {server} does not write to the new primary\n{}",
                patroni.said()
            );
            tokio::time::sleep(millis(10)).await;
        };
        resumed = resumed.max(first.saturating_sub(writable));
    }
    if let Some(switching) = &mut switching {
        let status = block_in_place(|| switching.wait().unwrap());
        assert!(
            status.success(),
            "{} is not replaced: {status}",
            name(leader)
        );
    }
    block_in_place(|| match loss {
        Loss::Killed => patroni.start_node(leader),
        // It must not continue after the stop, so it is killed first, as fencing does.
        Loss::Stopped => {
            patroni.kill(leader);
            patroni.start_node(leader);
        }
        Loss::CutOff => patroni.mend(leader),
        Loss::Planned => {}
    });
    Failover {
        loss,
        promoted: promoted.saturating_sub(lost),
        writable: writable.saturating_sub(lost),
        resumed,
    }
}

/// Times since which a node accepts writes, while it does.
#[derive(Debug, Clone, Copy, Default)]
struct Accepting {
    /// Commits that wait for no replica.
    promoted: Option<Duration>,
    /// Commits that wait for a synchronous replica.
    writable: Option<Duration>,
}

/// A connection to each node itself, with continuous writes.
struct Probes {
    accepting: Arc<[Mutex<Accepting>; NODES]>,
    _tasks: JoinSet<()>,
}

impl Probes {
    fn start(patroni: &Patroni) -> Self {
        let accepting: Arc<[Mutex<Accepting>; NODES]> = Arc::default();
        let mut tasks = JoinSet::new();
        for node in 0..NODES {
            let url = format!("{}/postgres?sslmode=disable", patroni.superuser_url(node));
            let accepting = Arc::clone(&accepting);
            tasks.spawn(async move {
                loop {
                    probe(&url, &accepting[node]).await;
                    *accepting[node].lock().unwrap() = Accepting::default();
                    tokio::time::sleep(millis(50)).await;
                }
            });
        }
        Self {
            accepting,
            _tasks: tasks,
        }
    }

    /// Returns when a node other than this one accepted writes of either kind, if it does now and
    /// began to after `since`.
    fn taken_over(&self, from: usize, since: Duration) -> Option<(Duration, Duration)> {
        let others = self.accepting.iter().enumerate();
        let others = others.filter(|(node, _)| *node != from);
        others.into_iter().find_map(|(_, accepting)| {
            let Accepting { promoted, writable } = *accepting.lock().unwrap();
            let writable = writable.filter(|writable| *writable > since)?;
            Some((promoted?, writable))
        })
    }
}

/// Writes to one node until the connection is lost or silent.
async fn probe(url: &str, accepting: &Mutex<Accepting>) -> Option<()> {
    const PAUSE: Duration = millis(20);
    const LOCAL: &str = "set synchronous_commit = local; insert into probe values (now())";
    const REPLICATED: &str = "set synchronous_commit = on; insert into probe values (now())";
    let connecting = tokio::time::timeout(millis(500), tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting.await.ok()?.ok()?;
    let mut driving = JoinSet::new();
    driving.spawn(async move {
        let _ = connection.await;
    });
    while !client.is_closed() {
        let asked = client.query_one("select pg_is_in_recovery()", &[]);
        let asked = tokio::time::timeout(millis(1_000), asked).await.ok()?;
        if asked.ok()?.get(0) {
            *accepting.lock().unwrap() = Accepting::default();
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let local = tokio::time::timeout(millis(1_000), client.batch_execute(LOCAL));
        if local.await.ok()?.is_err() {
            *accepting.lock().unwrap() = Accepting::default();
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        accepting.lock().unwrap().promoted.get_or_insert_with(now);
        let replicated = client.batch_execute(REPLICATED);
        let replicated = tokio::time::timeout(Duration::from_secs(30), replicated);
        if replicated.await.ok()?.is_ok() {
            accepting.lock().unwrap().writable.get_or_insert_with(now);
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

/// Creates keys on every server, for ever. Returns the identifiers of those that were acknowledged.
fn write(trio: &Trio, campaign: &Arc<Campaign>) -> (JoinSet<()>, Arc<Mutex<HashSet<String>>>) {
    let created: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut writing = JoinSet::new();
    for server in 0..SERVERS {
        for _ in 0..WRITERS {
            let url = trio.servers[server].url("");
            let (operator, created) = (trio.operator.clone(), Arc::clone(&created));
            let campaign = Arc::clone(campaign);
            writing.spawn(async move {
                let mut account = None;
                loop {
                    // With a time limit, as clients have.
                    let write = create(&url, &operator, &mut account, &created);
                    if let Ok(true) = tokio::time::timeout(millis(1_000), write).await {
                        campaign.acknowledged_by(server);
                    }
                    tokio::time::sleep(millis(100)).await;
                }
            });
        }
    }
    (writing, created)
}

/// Creates one key, and its account first if there is none yet. Returns whether it was
/// acknowledged.
async fn create(
    url: &str,
    operator: &str,
    account: &mut Option<(String, usize)>,
    created: &Mutex<HashSet<String>>,
) -> bool {
    /// Keys of an account, whose plan allows 1,000.
    const KEYS_MAX: usize = 900;
    let mut wire = Wire::connect(url).await;
    let (path, body) = match account {
        Some((id, keys)) if *keys < KEYS_MAX => {
            *keys += 1;
            (format!("/v1/accounts/{id}/keys"), "{}")
        }
        _ => ("/v1/accounts".to_owned(), r#"{"plan":"proof"}"#),
    };
    let answer = wire.ask(&request_with("POST", &path, operator, body)).await;
    match answer.status {
        201 => {
            let made: serde_json::Value = serde_json::from_str(answer.body).unwrap();
            let id = made["id"].as_str().unwrap().to_owned();
            if path.ends_with("/keys") {
                created.lock().unwrap().insert(id);
            } else {
                *account = Some((id, 0));
            }
            true
        }
        503 => false,
        status => panic!("{status}: {}", answer.body),
    }
}
