//! Cost of many instances for the database, and the time until they apply a revocation: real
//! servers on one throw-away PostgreSQL.
//!
//! `KEYS_BENCH_INSTANCES` sets their number, 48 by default. Ends by itself after about six minutes.

#![expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are small"
)]

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use keys_testkit::postgres::Cluster;
use keys_testkit::report;
use keys_testkit::server::Server;

use support::{Client, at_rate, cpu_seconds, field, millis, percentile};

/// Requested changes a second.
const RATE: u32 = 200;
const LASTING: Duration = Duration::from_secs(10);
/// Clients that share the rate, so that a slow answer does not delay the others.
const CLIENTS: usize = 16;
/// Maximum connections of an instance, beside that of its feed.
const CONNECTIONS: u32 = 4;
/// Accounts that the changes are spread over.
const ACCOUNTS: usize = 32;
/// Rows of the log that are newer than an open transaction.
const OLD_ROWS: usize = 6_000_000;
const OLD_ROWS_AT_ONCE: usize = 500_000;

fn main() {
    let instances = std::env::var("KEYS_BENCH_INSTANCES");
    let instances = instances.map_or(48, |count| count.parse().expect("a number of instances"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut fleet = Fleet::start(&runtime, instances);
    report::information("fleet: instances", instances);
    fleet.idle();
    fleet.creates();
    fleet.revokes("one instance", 1);
    fleet.revokes("16 instances", 16.min(instances));
    fleet.under_load();
    fleet.servers.truncate(1);
    fleet.old_transaction();
}

struct Fleet {
    servers: Vec<Server>,
    operator: String,
    /// One key of each account.
    owners: Vec<String>,
    cluster: Cluster,
}

/// Work of the feeds so far.
#[derive(Clone, Copy)]
struct Feeds {
    at: Instant,
    cpu: f64,
    polls: f64,
    poll_millis: f64,
}

/// Work of the feeds between two times.
struct Cost {
    processors: f64,
    polls_a_second: f64,
    /// Processor time of the feeds' backends for each poll. It includes all their other work.
    cpu_millis_a_poll: f64,
    millis_a_poll: f64,
}

impl Fleet {
    fn start(runtime: &tokio::runtime::Runtime, instances: usize) -> Self {
        /// Servers that start at the same time.
        const AT_ONCE: usize = 6;
        let settings = "-c shared_preload_libraries=pg_stat_statements -c fsync=on";
        let cluster = Cluster::start_with(settings).expect("PostgreSQL is installed");
        cluster.sql("postgres", "create database keys");
        cluster.sql("keys", "create extension pg_stat_statements");
        let start = |number: usize| {
            let url = cluster.database_url("keys");
            Server::builder(env!("CARGO_BIN_EXE_keys-server"))
                .postgres(&format!("{url}?application_name=keys-{number}"))
                .config(support::UNLIMITED)
                .env("KEYS_HTTP__WORKERS", "1")
                .env("KEYS_DATABASE__CONNECTIONS_MAX", CONNECTIONS.to_string())
                .start()
        };
        let mut servers = vec![runtime.block_on(start(0))];
        let numbers: Vec<_> = (1..instances).collect();
        for numbers in numbers.chunks(AT_ONCE) {
            let started = numbers.iter().map(|number| start(*number));
            // All of them concurrently, on this one thread.
            let started = runtime.block_on(async {
                let mut started: Vec<_> = started.map(Box::pin).collect();
                let mut done = Vec::new();
                while let Some(next) = started.pop() {
                    done.push(next.await);
                }
                done
            });
            servers.extend(started);
        }
        let operator = servers[0].operator_key("benchmark");
        let mut client = Client::new(&servers[0].url(""));
        let mut make = |path: &str, body: &str| {
            let answer = client.call("POST", path, &operator, Some(body));
            let answer = answer.expect("the server answers");
            assert_eq!(answer.status, 201, "{}", answer.body);
            answer.body
        };
        let owners = (0..ACCOUNTS).map(|_| {
            let account = field(&make("/v1/accounts", r#"{"plan":"pro"}"#), "id");
            field(&make(&format!("/v1/accounts/{account}/keys"), "{}"), "key")
        });
        let owners = owners.collect();
        Self {
            servers,
            operator,
            owners,
            cluster,
        }
    }

    fn sql(&self, statement: &str) -> String {
        self.cluster.sql("keys", statement).trim().to_owned()
    }

    fn feeds(&self) -> Feeds {
        let processes = self.sql(
            "select pid from pg_stat_activity where application_name like '% feed' and datname = 'keys'",
        );
        let processes: Vec<u32> = processes
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect();
        let polls = self.sql(
            "select coalesce(sum(calls), 0), coalesce(sum(total_exec_time), 0) from pg_stat_statements \
             where query like '%key_change_pruned%' and query like '%pg_current_snapshot%' \
             and query like '%) as new on %'",
        );
        let (polls, poll_millis) = polls.split_once('|').expect("two columns");
        Feeds {
            at: Instant::now(),
            cpu: cpu_seconds(&processes),
            polls: polls.parse().expect("a number"),
            poll_millis: poll_millis.parse().expect("a number"),
        }
    }

    fn cost(&self, before: Feeds) -> Cost {
        let after = self.feeds();
        let seconds = after.at.duration_since(before.at).as_secs_f64();
        let (cpu, polls) = (
            after.cpu - before.cpu,
            (after.polls - before.polls).max(1.0),
        );
        let instances = f64::from(u32::try_from(self.servers.len()).expect("few"));
        Cost {
            processors: cpu / seconds,
            polls_a_second: polls / seconds / instances,
            cpu_millis_a_poll: cpu * 1e3 / polls,
            millis_a_poll: (after.poll_millis - before.poll_millis) / polls,
        }
    }

    /// Backends of each instance, the feed's included.
    fn connections(&self, of: &str) -> f64 {
        let count = self.sql(&format!(
            "select count(*) from pg_stat_activity where datname = 'keys' and application_name like '{of}%'"
        ));
        count.parse().expect("a number")
    }

    /// Measures instances without requests.
    fn idle(&self) {
        /// Idle connections are closed some time after their last use.
        const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(90);
        let instances = f64::from(u32::try_from(self.servers.len()).expect("few"));
        let start = Instant::now();
        let mut connections = self.connections("keys-") / instances;
        while connections > 2.0 && start.elapsed() < GIVEN_BACK_WITHIN {
            std::thread::sleep(Duration::from_secs(1));
            connections = self.connections("keys-") / instances;
        }
        report::figure(
            "fleet: connections of an idle instance",
            format_args!("{connections:.1}"),
            "at most 2",
            connections <= 2.0,
        );
        let before = self.feeds();
        std::thread::sleep(Duration::from_secs(5));
        show_information("fleet, idle", &self.cost(before));
    }

    fn creates(&self) {
        let before = self.feeds();
        let took = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (took, owners) = (&took, &self.owners);
                let mut client = Client::new(&self.servers[0].url(""));
                scope.spawn(move || {
                    let rate = RATE / u32::try_from(CLIENTS).expect("few").min(RATE);
                    let mine = at_rate(rate, LASTING, |round| {
                        let owner = &owners[(number + round * CLIENTS) % owners.len()];
                        let start = Instant::now();
                        create(&mut client, owner);
                        start.elapsed()
                    });
                    took.lock().expect("no panic").extend(mine);
                });
            }
        });
        let cost = self.cost(before);
        let mut took = took.into_inner().expect("no panic");
        let rate = took.len() as f64 / LASTING.as_secs_f64();
        report::information("fleet: keys created a second", format_args!("{rate:.0}"));
        report::figure(
            "fleet: PostgreSQL's processors for the feeds, while keys are created",
            format_args!("{:.3}", cost.processors),
            "at most 0.10",
            cost.processors <= 0.10,
        );
        show_information("fleet, keys created", &cost);
        let p50 = percentile(&mut took, 50);
        let p99 = percentile(&mut took, 99);
        report::information("fleet: create, p50", millis(p50));
        report::figure(
            "fleet: create, p99",
            millis(p99),
            "at most 10 ms",
            p99 <= Duration::from_millis(10),
        );
    }

    /// Revokes keys through some instances, and sends some of the keys to another instance until it
    /// refuses them.
    fn revokes(&self, through: &str, count: usize) {
        /// Revocations of a client of which one is watched.
        const WATCHED: usize = 10;
        let per_client = usize::try_from(RATE).expect("few") * 10 / CLIENTS + 1;
        let made: Vec<Vec<(usize, String, String)>> = self.make(per_client);
        let before = self.feeds();
        let elsewhere = Mutex::new(Vec::new());
        let answered = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (number, keys) in made.iter().enumerate() {
                let (elsewhere, answered) = (&elsewhere, &answered);
                let mut client = Client::new(&self.servers[number % count].url(""));
                let far = (number * 7 + self.servers.len() / 2) % self.servers.len();
                let mut witness = Client::new(&self.servers[far].url(""));
                scope.spawn(move || {
                    let rate = RATE / u32::try_from(CLIENTS).expect("few");
                    let took = at_rate(rate.max(1), LASTING, |round| {
                        let Some((owner, id, secret)) = keys.get(round) else {
                            return Duration::ZERO;
                        };
                        let is_watched = round % WATCHED == 0;
                        if is_watched {
                            assert!(
                                is_accepted(&mut witness, &self.operator, secret),
                                "the key is good"
                            );
                        }
                        let owner = &self.owners[*owner];
                        let start = Instant::now();
                        let path = format!("/api/api-keys/{id}");
                        let answer = client.call("DELETE", &path, owner, None);
                        let answer = answer.expect("the server answers");
                        assert_eq!(answer.status, 200, "{}", answer.body);
                        let took = start.elapsed();
                        if is_watched {
                            let answered = Instant::now();
                            while is_accepted(&mut witness, &self.operator, secret) {
                                assert!(answered.elapsed() < Duration::from_secs(4), "the bound");
                                std::thread::sleep(Duration::from_millis(1));
                            }
                            elsewhere.lock().expect("no panic").push(answered.elapsed());
                        }
                        took
                    });
                    answered.lock().expect("no panic").extend(took);
                });
            }
        });
        let cost = self.cost(before);
        let mut elsewhere = elsewhere.into_inner().expect("no panic");
        let mut answered = answered.into_inner().expect("no panic");
        let what = format!("fleet, revoked through {through}");
        let rate = answered.len() as f64 / LASTING.as_secs_f64();
        report::information(&format!("{what}: keys a second"), format_args!("{rate:.0}"));
        report::figure(
            &format!("{what}: polls a second of an instance"),
            format_args!("{:.1}", cost.polls_a_second),
            "at most 25",
            cost.polls_a_second <= 25.0,
        );
        report::figure(
            &format!("{what}: processor time of a feed for each poll"),
            format_args!("{:.3} ms", cost.cpu_millis_a_poll),
            "at most 0.080 ms",
            cost.cpu_millis_a_poll <= 0.080,
        );
        show_information(&what, &cost);
        report::information(
            &format!("{what}: answered after, p99"),
            millis(percentile(&mut answered, 99)),
        );
        report::information(
            &format!("{what}: refused elsewhere after the answer, p50"),
            millis(percentile(&mut elsewhere, 50)),
        );
        let p99 = percentile(&mut elsewhere, 99);
        report::figure(
            &format!("{what}: refused elsewhere after the answer, p99"),
            millis(p99),
            "at most 50 ms",
            p99 <= Duration::from_millis(50),
        );
    }

    /// Creates keys for each client. Returns the position of the owner, the identifier and the
    /// secret of each.
    fn make(&self, per_client: usize) -> Vec<Vec<(usize, String, String)>> {
        let made = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (made, owners) = (&made, &self.owners);
                let mut client = Client::new(&self.servers[number % self.servers.len()].url(""));
                scope.spawn(move || {
                    let keys = (0..per_client).map(|round| {
                        let owner = (number + round * CLIENTS) % owners.len();
                        let (id, secret) = create(&mut client, &owners[owner]);
                        (owner, id, secret)
                    });
                    let keys: Vec<_> = keys.collect();
                    made.lock().expect("no panic").push(keys);
                });
            }
        });
        made.into_inner().expect("no panic")
    }

    /// Measures one instance with more clients than it may have connections.
    fn under_load(&self) {
        let most = Mutex::new(0.0_f64);
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let owners = &self.owners;
                let mut client = Client::new(&self.servers[0].url(""));
                scope.spawn(move || {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_secs(3) {
                        create(&mut client, &owners[number % owners.len()]);
                    }
                });
            }
            for _ in 0..8 {
                std::thread::sleep(Duration::from_millis(300));
                let now = self.connections("keys-0");
                let mut most = most.lock().expect("no panic");
                *most = most.max(now);
            }
        });
        let most = most.into_inner().expect("no panic");
        let allowed = f64::from(CONNECTIONS) + 1.0;
        report::figure(
            "fleet: connections of an instance under load",
            format_args!("{most:.0}"),
            format_args!("at most {CONNECTIONS}, which is the setting, and that of the feed"),
            most <= allowed,
        );
    }

    /// Measures polls of one instance, with millions of rows since the beginning of an open
    /// transaction.
    fn old_transaction(&self) {
        let open = Open::start(&self.cluster);
        for _ in 0..OLD_ROWS / OLD_ROWS_AT_ONCE {
            self.sql(&format!(
                "insert into key_change (kind, ref) select 1, gen_random_uuid() from generate_series(1, {OLD_ROWS_AT_ONCE})"
            ));
        }
        self.sql("analyze key_change");
        // Long enough to apply all of them.
        std::thread::sleep(Duration::from_secs(5));
        let mut client = Client::new(&self.servers[0].url(""));
        let before = self.feeds();
        for owner in self.owners.iter().cycle().take(40) {
            let (id, _) = create(&mut client, owner);
            let path = format!("/api/api-keys/{id}");
            let answer = client.call("DELETE", &path, owner, None);
            assert_eq!(answer.expect("the server answers").status, 200);
            std::thread::sleep(Duration::from_millis(100));
        }
        let cost = self.cost(before);
        report::information("fleet, open transaction: rows since it began", OLD_ROWS);
        show_information("fleet, open transaction", &cost);
        report::figure(
            "fleet, open transaction: a poll",
            format_args!("{:.2} ms", cost.millis_a_poll),
            "at most 2 ms",
            cost.millis_a_poll <= 2.0,
        );
        drop(open);
    }
}

fn show_information(what: &str, cost: &Cost) {
    report::information(
        &format!("{what}: polls a second of an instance, processor time and time of each"),
        format_args!(
            "{:.1}, {:.3} ms, {:.3} ms",
            cost.polls_a_second, cost.cpu_millis_a_poll, cost.millis_a_poll
        ),
    );
}

/// Creates a key. Returns its identifier and secret.
fn create(client: &mut Client, owner: &str) -> (String, String) {
    let answer = client.call("POST", "/api/api-keys", owner, Some(r#"{"name":"fleet"}"#));
    let answer = answer.expect("the server answers");
    assert_eq!(answer.status, 201, "{}", answer.body);
    (field(&answer.body, "id"), field(&answer.body, "key"))
}

/// Asked with an operator key, because refusals then count against no client address.
fn is_accepted(client: &mut Client, operator: &str, secret: &str) -> bool {
    let question = format!(r#"{{"key":"{secret}"}}"#);
    let answer = client.call("POST", "/v1/keys/verify", operator, Some(&question));
    let answer = answer.expect("the server answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body.contains(r#""valid":true"#)
}

/// A transaction that stays open until this is dropped.
struct Open(Child);

impl Open {
    fn start(cluster: &Cluster) -> Self {
        let psql = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--dbname"])
            .arg(cluster.database_url("keys"))
            .args([
                "-c",
                "begin; select pg_current_xact_id(); select pg_sleep(300)",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql can be run");
        // Ended when dropped, also by a panic below.
        let open = Self(psql);
        let is_open = || {
            let count = "select count(*) from pg_stat_activity where query like 'begin; select pg_current%' \
                         and backend_xid is not null";
            cluster.sql("keys", count).trim() != "0"
        };
        for _ in 0..100 {
            if is_open() {
                return open;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the transaction does not begin");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
