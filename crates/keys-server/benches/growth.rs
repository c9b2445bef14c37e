//! Performance at large sizes: accounts with very many keys, a change of very many accounts, a
//! crash of the database, writes beside the same statements by `pgbench`, and large batches.
//!
//! Ends by itself after about four minutes. Arguments name the parts to measure: `lists`, `writes`,
//! `batches`, `accounts`, `crash`.

#![expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are small"
)]

mod support;

use std::io::Write as _;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use keys_testkit::postgres::Cluster;
use keys_testkit::report;
use keys_testkit::server::Server;

use support::{Client, field, millis, percentile};

/// Keys of the large account.
const MANY_KEYS: usize = 100_000;
/// Accounts that are changed by SQL.
const MANY_ACCOUNTS: usize = 100_000;
/// Accounts that are in use, and keys of each.
const ACCOUNTS: usize = 32;
const KEYS_PER_ACCOUNT: usize = 100;
const CLIENTS: usize = 8;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if is_wanted("lists") {
        large_account_on_sqlite(&runtime);
    }
    let mut cluster = Cluster::start().expect("PostgreSQL is installed");
    cluster.sql("postgres", "create database keys");
    let url = cluster.database_url("keys");
    let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
        .postgres(&url)
        .config(support::UNLIMITED);
    let stage = Stage::new(runtime.block_on(server.start()));
    if is_wanted("lists") {
        large_account_on_postgres(&stage, &cluster);
    }
    let keys = stage.keys();
    if is_wanted("writes") {
        stage.writes(&cluster);
    }
    if is_wanted("batches") {
        stage.batches(&keys);
    }
    if is_wanted("accounts") {
        stage.change_of_many_accounts(&cluster, &keys);
    }
    if is_wanted("crash") {
        stage.crash(&mut cluster, &keys);
    }
}

/// Returns whether a part should be measured: all of them, or those that the arguments name.
fn is_wanted(part: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|name| name == part)
}

fn large_account_on_sqlite(runtime: &tokio::runtime::Runtime) {
    let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
        .env("KEYS_DATABASE__CREATE", "true")
        .config(support::UNLIMITED);
    let server = runtime.block_on(server.start());
    let stage = Stage::new(server);
    let path = stage.server.folder().join("data/keys.db");
    let fill = |account: &str| {
        let path = path.to_str().expect("temporary folders have plain names");
        let mut connection = SqliteConnection::establish(path).expect("the file is there");
        connection
            .batch_execute(&format!(
                "pragma busy_timeout = 10000; \
                 with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < {MANY_KEYS}) \
                 insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, created_at) \
                 select unhex('0190a00000007000a000' || printf('%012x', n)), \
                        (select account_id from api_key where name = '{account}'), 2, randomblob(32), 'p1', \
                        'sk_live_many', 1700000000000000 + n from numbers; \
                 analyze;"
            ))
            .expect("the schema is known");
    };
    stage.large_account("SQLite", None, fill);
}

fn large_account_on_postgres(stage: &Stage, cluster: &Cluster) {
    let fill = |account: &str| {
        cluster.sql(
            "keys",
            &format!(
                "insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, created_at) \
                 select gen_random_uuid(), (select account_id from api_key where name = '{account}'), 2, \
                        sha256(n::text::bytea), 'p1', 'sk_live_many', now() - n * interval '1 second' \
                 from generate_series(1, {MANY_KEYS}) n"
            ),
        );
        cluster.sql("keys", "vacuum analyze");
    };
    // Page 1,000 took 57 ms before.
    stage.large_account("PostgreSQL", Some(Duration::from_micros(14_250)), fill);
}

/// A server, its operator and keys of several accounts.
struct Stage {
    server: Server,
    operator: String,
    owners: Vec<String>,
}

/// One answer: its time, its duration, and whether it was a 200.
type Sample = (Instant, Duration, bool);

impl Stage {
    fn new(server: Server) -> Self {
        let operator = server.operator_key("benchmark");
        let mut stage = Self {
            server,
            operator,
            owners: Vec::new(),
        };
        stage.owners = (0..ACCOUNTS).map(|number| stage.owner(number)).collect();
        stage
    }

    /// Creates a key of a new account, named after its number.
    fn owner(&self, number: usize) -> String {
        let mut client = self.client();
        let mut make = |path: &str, body: &str| {
            let answer = client.call("POST", path, &self.operator, Some(body));
            let answer = answer.expect("the server answers");
            assert_eq!(answer.status, 201, "{}", answer.body);
            answer.body
        };
        let account = field(&make("/v1/accounts", r#"{"plan":"pro"}"#), "id");
        let body = format!(r#"{{"name":"owner-{number}"}}"#);
        field(&make(&format!("/v1/accounts/{account}/keys"), &body), "key")
    }

    fn client(&self) -> Client {
        Client::new(&self.server.url(""))
    }

    /// Returns keys of all accounts.
    fn keys(&self) -> Vec<String> {
        let made = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for owners in self.owners.chunks(ACCOUNTS / CLIENTS) {
                let (made, mut client) = (&made, self.client());
                scope.spawn(move || {
                    for owner in owners {
                        for _ in 0..KEYS_PER_ACCOUNT {
                            let (_, secret) = create(&mut client, owner);
                            made.lock().expect("no panic").push(secret);
                        }
                    }
                });
            }
        });
        made.into_inner().expect("no panic")
    }

    /// Measures an account with very many keys beside one with few, in turns.
    fn large_account(&self, what: &str, page_at_most: Option<Duration>, fill: impl Fn(&str)) {
        const ROUNDS: usize = 60;
        let [small, large] = [&self.owners[0], &self.owners[1]];
        let mut client = self.client();
        for _ in 0..9 {
            create(&mut client, small);
        }
        fill("owner-1");
        let mut times: [Vec<Duration>; 5] = Default::default();
        for _ in 0..ROUNDS {
            let mut list = |owner: &str, page: usize| {
                let path = format!("/api/account/api-keys?page={page}&limit=50");
                let start = Instant::now();
                let answer = client.call("GET", &path, owner, None);
                let answer = answer.expect("the server answers");
                assert_eq!(answer.status, 200, "{}", answer.body);
                start.elapsed()
            };
            times[0].push(list(small, 1));
            times[1].push(list(large, 1));
            times[2].push(list(large, 1_000));
            for (place, owner) in [(3, small), (4, large)] {
                let start = Instant::now();
                let (id, _) = create(&mut client, owner);
                times[place].push(start.elapsed());
                let path = format!("/api/api-keys/{id}");
                let answer = client.call("DELETE", &path, owner, None);
                assert_eq!(answer.expect("the server answers").status, 200);
            }
        }
        let [small_page, page, page_1000, small_create, large_create] =
            times.map(|mut times| percentile(&mut times, 50));
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        let name = |text: &str| format!("growth, {what}, {MANY_KEYS} keys in an account: {text}");
        report::information(
            &name("create, few keys, many"),
            format_args!("{}, {}", millis(small_create), millis(large_create)),
        );
        report::ratio_at_most(
            &name("create, against an account with few"),
            ratio(large_create, small_create),
            1.2,
        );
        report::information(
            &name("page 1, few keys, many"),
            format_args!("{}, {}", millis(small_page), millis(page)),
        );
        report::ratio_at_most(
            &name("page 1, against an account with few"),
            ratio(page, small_page),
            2.0,
        );
        match page_at_most {
            Some(at_most) => report::figure(
                &name("page 1,000"),
                millis(page_1000),
                format_args!("at most {}", millis(at_most)),
                page_1000 <= at_most,
            ),
            None => report::information(&name("page 1,000"), millis(page_1000)),
        }
    }

    /// Measures creates and revocations beside the same statements by `pgbench`, in turns.
    fn writes(&self, cluster: &Cluster) {
        const ROUNDS: usize = 3;
        /// Keys for `pgbench` to revoke: more than it can.
        const SPARE: usize = 200_000;
        cluster.sql(
            "keys",
            &format!(
                "insert into account (id, plan, created_at) \
                 select ('0190a000-0000-7000-8000-00000001' || lpad(to_hex(n), 4, '0'))::uuid, 'pro', now() \
                 from generate_series(0, 999) n; \
                 insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, created_at) \
                 select ('0190a000-0000-7000-b000-' || lpad(to_hex(n), 12, '0'))::uuid, \
                        ('0190a000-0000-7000-8000-00000001' || lpad(to_hex(n % 1000), 4, '0'))::uuid, 2, sha256(('spare' || n)::bytea), 'p1', 'sk_live_many', now() \
                 from generate_series(1, {SPARE}) n"
            ),
        );
        let accounts = cluster.sql(
            "keys",
            "select account_id from api_key where name like 'owner-%'",
        );
        let accounts: Vec<_> = accounts.lines().collect();
        // As the service does it, without the look-up of the caller, which it has cached.
        let account = format!("(array['{}'])[:place]::uuid", accounts.join("','"));
        let create_script = format!(
            "\\set place random(1, {})\n\
             begin;\n\
             select plan, disabled from account where id = {account} for no key update;\n\
             insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, created_at) values \
             (gen_random_uuid(), {account}, 2, sha256(gen_random_uuid()::text::bytea), 'p1', 'sk_live_many', 'pgbench', now());\n\
             insert into audit_event (id, at, actor_kind, action, subject_id) values \
             (gen_random_uuid(), now(), 'system', 'key.created', {account});\n\
             commit;\n",
            accounts.len(),
        );
        let revoke_script = format!(
            "\\set n random(1, {SPARE})\n\
             update api_key set revoked_at = now() \
             where id = ('0190a000-0000-7000-b000-' || lpad(to_hex(:n::bigint), 12, '0'))::uuid and revoked_at is null;\n"
        );
        let (create_script, revoke_script) = (script(&create_script), script(&revoke_script));
        for clients in [1, CLIENTS] {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                let create_by_pgbench = pgbench(cluster, &create_script, clients);
                let (creates, made) = self.create_for_a_while(clients);
                let revoke_by_pgbench = pgbench(cluster, &revoke_script, clients);
                let revokes = self.revoke(&made);
                rounds.push([creates, create_by_pgbench, revokes, revoke_by_pgbench]);
            }
            let median = |value: &dyn Fn(&[f64; 4]) -> f64| {
                let mut values: Vec<f64> = rounds.iter().map(value).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            for (what, place, at_least) in [("create", 0, 0.8), ("revoke", 2, 0.5)] {
                let name = format!("growth, {clients} clients: {what}");
                report::information(
                    &format!("{name}, by the service, by `pgbench`"),
                    format_args!(
                        "{:.0}/s, {:.0}/s",
                        median(&|round| round[place]),
                        median(&|round| round[place + 1])
                    ),
                );
                report::ratio_at_least(
                    &format!("{name}, against `pgbench`"),
                    median(&|round| round[place] / round[place + 1]),
                    at_least,
                );
            }
        }
    }

    /// Returns creates a second, and the owner and identifier of each new key for each client.
    fn create_for_a_while(&self, clients: usize) -> (f64, Vec<Vec<(&str, String)>>) {
        let made = Mutex::new(Vec::new());
        let start = Instant::now();
        std::thread::scope(|scope| {
            for number in 0..clients {
                let (made, mut client) = (&made, self.client());
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    while start.elapsed() < WRITES_FOR {
                        let owner = &self.owners[(number + mine.len() * clients) % ACCOUNTS];
                        mine.push((owner.as_str(), create(&mut client, owner).0));
                    }
                    made.lock().expect("no panic").push(mine);
                });
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        let made = made.into_inner().expect("no panic");
        let count: usize = made.iter().map(Vec::len).sum();
        (count as f64 / seconds, made)
    }

    /// Revocations a second.
    fn revoke(&self, made: &[Vec<(&str, String)>]) -> f64 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for keys in made {
                let mut client = self.client();
                scope.spawn(move || {
                    for (owner, id) in keys {
                        let path = format!("/api/api-keys/{id}");
                        let answer = client.call("DELETE", &path, owner, None);
                        assert_eq!(answer.expect("the server answers").status, 200);
                    }
                });
            }
        });
        let count: usize = made.iter().map(Vec::len).sum();
        count as f64 / start.elapsed().as_secs_f64()
    }

    /// Measures requests with a thousand keys.
    fn batches(&self, keys: &[String]) {
        const BATCHES: usize = 60;
        const SIZE: usize = 1_000;
        let mut client = self.client();
        let bodies: Vec<String> = keys
            .chunks_exact(SIZE)
            .map(|keys| {
                let requests: Vec<_> = keys
                    .iter()
                    .map(|key| format!(r#"{{"key":"{key}"}}"#))
                    .collect();
                format!(r#"{{"requests":[{}]}}"#, requests.join(","))
            })
            .collect();
        let mut ask = |body: &str| {
            let answer = client.call("POST", "/v1/keys/verify-batch", &self.operator, Some(body));
            let answer = answer.expect("the server answers");
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(answer.body.matches(r#""valid":true"#).count(), SIZE);
        };
        for body in &bodies {
            ask(body);
        }
        let mut micros: Vec<f64> = (0..BATCHES)
            .map(|round| {
                let before = cpu_nanos(self.server.process_id());
                ask(&bodies[round % bodies.len()]);
                (cpu_nanos(self.server.process_id()) - before) / 1e3 / SIZE as f64
            })
            .collect();
        micros.sort_by(f64::total_cmp);
        let median = micros[micros.len() / 2];
        report::figure(
            "growth: processor time for each key of a batch of 1,000",
            format_args!("{median:.2} us"),
            "at most 0.80 us",
            median <= 0.8,
        );
    }

    /// Changes very many accounts by SQL, none of them in use.
    fn change_of_many_accounts(&self, cluster: &Cluster, keys: &[String]) {
        cluster.sql(
            "keys",
            &format!(
                "insert into account (id, plan, created_at) \
                 select gen_random_uuid(), 'business', now() from generate_series(1, {MANY_ACCOUNTS})"
            ),
        );
        // Long enough to cache all of them.
        self.load(keys, |_| std::thread::sleep(Duration::from_secs(3)));
        let read = self.keys_read();
        let mut changed_at = None;
        let mut samples = self.load(keys, |_| {
            std::thread::sleep(Duration::from_secs(3));
            changed_at = Some(Instant::now());
            cluster.sql(
                "keys",
                "update account set disabled = true where plan = 'business'",
            );
            std::thread::sleep(Duration::from_secs(4));
        });
        let changed_at = changed_at.expect("it was changed");
        let before = p99(&mut samples, |at| at < changed_at);
        let after = p99(&mut samples, |at| at >= changed_at);
        report::information(
            &format!(
                "growth, {MANY_ACCOUNTS} other accounts changed by SQL: p99 before, during and after"
            ),
            format_args!("{}, {}", millis(before), millis(after)),
        );
        let read = self.keys_read() - read;
        report::figure(
            &format!("growth, {MANY_ACCOUNTS} other accounts changed by SQL: keys read again"),
            read,
            "none",
            read == 0,
        );
    }

    /// Kills PostgreSQL and starts it again under load.
    fn crash(&self, cluster: &mut Cluster, keys: &[String]) {
        // Otherwise the writes of the other parts would be replayed for a minute.
        cluster.sql("postgres", "checkpoint");
        let (mut crashed_at, mut back_at) = (None, None);
        let mut samples = self.load(keys, |_| {
            std::thread::sleep(Duration::from_secs(3));
            crashed_at = Some(Instant::now());
            cluster.crash();
            cluster.start_again();
            back_at = Some(Instant::now());
            std::thread::sleep(Duration::from_secs(4));
        });
        let (crashed_at, back_at) = (crashed_at.expect("set"), back_at.expect("set"));
        let settled_at = back_at + Duration::from_secs(1);
        let before = p99(&mut samples, |at| at < crashed_at);
        let after = p99(&mut samples, |at| at >= settled_at);
        let refused = samples
            .iter()
            .filter(|(at, _, is_good)| !is_good && *at >= settled_at);
        let refused = refused.count();
        let down = back_at.duration_since(crashed_at);
        report::information("growth, PostgreSQL killed: away for", millis(down));
        report::information(
            "growth, PostgreSQL killed: p99 before, from 1 s after its return on",
            format_args!("{}, {}", millis(before), millis(after)),
        );
        report::ratio_at_most(
            "growth, PostgreSQL killed: p99 from 1 s after its return on against before",
            after.as_secs_f64() / before.as_secs_f64(),
            2.0,
        );
        report::figure(
            "growth, PostgreSQL killed: not answered from 1 s after its return on",
            refused,
            "none",
            refused == 0,
        );
    }

    /// Verifies random keys from several clients while `meanwhile` runs.
    fn load(&self, keys: &[String], meanwhile: impl FnOnce(&Self)) -> Vec<Sample> {
        let is_over = AtomicBool::new(false);
        let all = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let (is_over, all, mut client) = (&is_over, &all, self.client());
                scope.spawn(move || {
                    let mut random = number * 7_919 + 1;
                    let mut samples: Vec<Sample> = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        random = random
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        let key = &keys[(random >> 33) % keys.len()];
                        let start = Instant::now();
                        let answer = client.call("GET", "/v1/auth", key, None);
                        let is_good = answer.is_ok_and(|answer| answer.status == 200);
                        let now = Instant::now();
                        samples.push((now, now - start, is_good));
                    }
                    all.lock().expect("no panic").extend(samples);
                });
            }
            meanwhile(self);
            is_over.store(true, Ordering::Relaxed);
        });
        all.into_inner().expect("no panic")
    }

    /// Keys that the server has read from the database since its start.
    fn keys_read(&self) -> u64 {
        let answer = self.client().call("GET", "/metrics", &self.operator, None);
        let body = answer.expect("the server answers").body;
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix("keys_store_keys_read_total "));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no such figure in {body}"))
    }
}

const WRITES_FOR: Duration = Duration::from_secs(3);

fn p99(samples: &mut [Sample], when: impl Fn(Instant) -> bool) -> Duration {
    let times = samples.iter().filter(|(at, ..)| when(*at));
    let mut times: Vec<_> = times.map(|(_, took, _)| *took).collect();
    percentile(&mut times, 99)
}

/// Creates a key. Returns its identifier and secret.
fn create(client: &mut Client, owner: &str) -> (String, String) {
    let answer = client.call("POST", "/api/api-keys", owner, Some(r#"{"name":"growth"}"#));
    let answer = answer.expect("the server answers");
    assert_eq!(answer.status, 201, "{}", answer.body);
    (field(&answer.body, "id"), field(&answer.body, "key"))
}

/// A script for `pgbench`.
fn script(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a temporary file");
    file
}

/// Transactions a second.
fn pgbench(cluster: &Cluster, script: &tempfile::NamedTempFile, clients: usize) -> f64 {
    let address = cluster.address();
    let (host, port) = address.split_once(':').expect("a host and a port");
    let output = Command::new("pgbench")
        .args([
            "--no-vacuum",
            "-M",
            "prepared",
            "-U",
            "postgres",
            "-h",
            host,
            "-p",
            port,
        ])
        .args([
            "-c",
            &clients.to_string(),
            "-j",
            &clients.min(2).to_string(),
        ])
        .args(["-T", &WRITES_FOR.as_secs().to_string(), "-f"])
        .arg(script.path())
        .arg("keys")
        .output()
        .expect("pgbench can be run");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let line = stdout.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = line.and_then(|line| line.split(' ').next()?.parse().ok());
    rate.unwrap_or_else(|| panic!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Processor time of all threads of a process so far.
fn cpu_nanos(process: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let tasks = tasks.expect("the server is running");
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum()
}
