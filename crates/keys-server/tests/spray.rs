//! Sends a million unknown keys, each well-formed and sent once, to a server that serves valid keys
//! at the same time.
//!
//! Ten thousand by default. All of them, one database after the other:
//!
//! ```sh
//! KEYS_TEST_FULL=1 cargo test --profile dist -p keys-server --test spray -- \
//!   --nocapture --test-threads 1
//! ```
//!
//! # Comparison
//! Client, server and database share the machine, so any load on its processors delays all
//! requests. To isolate the cost of *unknown* keys, they are compared with as many requests in the
//! same time, from as many connections, by the same routes, with keys that the server has cached.
//! The rate of the same connections with known keys at full speed, and the latency without other
//! load, are printed too.

#![expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use keys_core::{KeyPrefix, SecretKey};
use keys_testkit::postgres::Database;
use keys_testkit::report;
use keys_testkit::rng::seeded;
use keys_testkit::server::Server;
use keys_testkit::wire::{self, Answer, Wire};
use serde_json::{Value, json};

const MIB: f64 = 1024.0 * 1024.0;

/// Maximum growth of the server's memory.
const GROWTH_MAX: f64 = 32.0 * MIB;

/// Maximum ratio of the p99 of valid traffic beside the spray.
const P99_RATIO_MAX: f64 = 2.0;

/// Maximum concurrent reads of the server.
const READS_MAX: f64 = 4.0;

/// Connections that send unknown keys. Each waits for its answers.
const SPRAYING: u32 = 16;

/// Requests of one round of a connection: as a gateway, as a backend, and for many keys at once.
const ROUND: (usize, usize, usize) = (25, 25, 50);

const KEYS_PER_ROUND: u32 = 100;

/// Connections of valid traffic, each with a fixed interval.
const VALID_CONNECTIONS: usize = 4;
const VALID_EVERY: Duration = Duration::from_millis(5);

/// Interval of requests with a valid key that is not cached.
const COLD_EVERY: Duration = Duration::from_millis(100);

/// Interval of reading the server's metrics.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Amount of work.
struct Size {
    unknown: u32,
    known: usize,
    cold: usize,
    quiet: Duration,
}

impl Size {
    fn wanted() -> Self {
        if report::is_full() {
            Self {
                unknown: 1_000_000,
                known: 1_000,
                cold: 500,
                quiet: Duration::from_secs(20),
            }
        } else {
            Self {
                unknown: 10_000,
                known: 100,
                cold: 30,
                quiet: Duration::from_secs(1),
            }
        }
    }
}

/// Maximum attempts of a request that is answered 503.
const ATTEMPTS_MAX: u32 = 10;

/// Sends a request until there is an answer. Returns the parsed answer and its latency. In full,
/// 503 is not repeated. In the short form other tests may keep the machine so busy that a server is
/// late, so it is counted and repeated.
async fn ask_until_answered<T>(
    connection: &mut Wire,
    request: &[u8],
    unavailable: &AtomicU32,
    read: impl FnOnce(Answer<'_>) -> T,
) -> (T, Duration) {
    let mut attempts = 1;
    loop {
        let sent = Instant::now();
        let answer = connection.ask(request).await;
        let took = sent.elapsed();
        if answer.status != 503 || attempts == ATTEMPTS_MAX || report::is_full() {
            return (read(answer), took);
        }
        attempts += 1;
        unavailable.fetch_add(1, Relaxed);
    }
}

struct World {
    server: Server,
    database: Option<Arc<Database>>,
    operator: String,
    /// Keys that are used all the time.
    known: Vec<String>,
    /// Keys that were never used.
    cold: Vec<String>,
    /// Number of answers of 503 that were repeated.
    unavailable: Arc<AtomicU32>,
}

impl World {
    async fn start(database: Option<Arc<Database>>, size: &Size) -> Self {
        let builder = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
            .env("KEYS_LOG__FILTER", "warn")
            // The clients of a gateway have addresses of their own, and a spray has many.
            .env("KEYS_HTTP__TRUSTED_PROXIES", "127.0.0.1/32")
            .env("KEYS_PLANS__PRO__KEYS_MAX", "100000");
        let builder = match &database {
            Some(database) => builder.postgres(&database.url()),
            None => builder,
        };
        let server = builder.start().await;
        let operator = server.operator_key("test");
        let account = json!({ "plan": "pro" });
        let account = server.post("/v1/accounts").bearer(&operator).json(&account);
        let account = account.send().await.text("/id");
        let mut connection = Wire::connect(&server.url("")).await;
        let request = wire::request_with(
            "POST",
            &format!("/v1/accounts/{account}/keys"),
            &operator,
            "{}",
        );
        let mut make = async |count: usize| {
            let mut keys = Vec::with_capacity(count);
            for _ in 0..count {
                let made = connection.ask(&request).await;
                assert_eq!(made.status, 201, "{made:?}");
                let made: Value = serde_json::from_str(made.body).unwrap();
                keys.push(made["key"].as_str().unwrap().to_owned());
            }
            keys
        };
        let (known, cold) = (make(size.known).await, make(size.cold).await);
        Self {
            server,
            database,
            operator,
            known,
            cold,
            unavailable: Arc::default(),
        }
    }

    async fn figures(&self) -> Figures {
        let mut connection = Wire::connect(&self.server.url("")).await;
        Figures::read(&mut connection).await
    }

    /// Returns a value of `/proc/PID/status`, in bytes.
    fn memory(&self, figure: &str) -> f64 {
        let path = format!("/proc/{}/status", self.server.process_id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(figure));
        let kib = line.unwrap().trim_start_matches(':').trim();
        kib.trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
    }

    /// Resets the peak of the memory.
    fn reset_peak(&self) {
        const PEAK: &str = "5";
        let path = format!("/proc/{}/clear_refs", self.server.process_id());
        std::fs::write(path, PEAK).unwrap();
    }
}

/// Metrics of the server.
#[derive(Debug, Clone, Copy)]
struct Figures {
    reads: f64,
    keys_read: f64,
    under_way: f64,
    waited_for: f64,
    cached: f64,
    not_found: f64,
}

impl Figures {
    async fn read(connection: &mut Wire) -> Self {
        let answer = connection
            .ask(b"GET /metrics HTTP/1.1\r\nHost: keys\r\n\r\n")
            .await;
        let figure = |name: &str| -> f64 {
            let mut lines = answer.body.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.unwrap_or_else(|| panic!("{name}")).parse().unwrap()
        };
        Self {
            reads: figure("keys_store_reads_total"),
            keys_read: figure("keys_store_keys_read_total"),
            under_way: figure("keys_store_reads_under_way"),
            waited_for: figure("keys_store_reads_waited_for"),
            cached: figure("keys_cache_entries"),
            not_found: figure(r#"keys_verdicts_total{code="not_found"}"#),
        }
    }
}

/// Latencies of answers.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Returns the value below which this percentage of all is.
    fn percentile(&self, hundredths: usize) -> Duration {
        self.0[(self.0.len() - 1) * hundredths / 100]
    }

    fn p99(&self) -> f64 {
        self.percentile(99).as_secs_f64()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let most = self.percentile(100);
        write!(
            f,
            "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms of {}",
            millis(p50),
            millis(p99),
            millis(most),
            self.0.len()
        )
    }
}

/// A measurement on a thread of its own, beside the test, until it is stopped. It does not wait for
/// the work of the test.
struct Beside<T> {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<T>,
}

impl<T: Send + 'static> Beside<T> {
    fn start(work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self {
            stop,
            thread: thread::spawn(move || work(stopped)),
        }
    }

    fn on_a_runtime<F: Future<Output = T>>(
        work: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static,
    ) -> Self {
        Self::start(|stop| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(tokio::task::LocalSet::new().run_until(work(stop)))
        })
    }

    async fn stop(self) -> T {
        self.stop.store(true, Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap())
            .await
            .unwrap()
    }
}

/// Asserts the verdict on every valid key.
fn is_accepted(answer: Answer<'_>) {
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Valid traffic: known keys, one after the other. All of them are accepted.
fn valid_traffic(world: &World) -> Beside<Times> {
    let (url, known) = (world.server.url(""), world.known.clone());
    let unavailable = Arc::clone(&world.unavailable);
    Beside::on_a_runtime(async move |stop| {
        let mut connections = Vec::new();
        for number in 0..VALID_CONNECTIONS {
            let (url, known, stop) = (url.clone(), known.clone(), Arc::clone(&stop));
            let unavailable = Arc::clone(&unavailable);
            connections.push(tokio::task::spawn_local(async move {
                let mut connection = Wire::connect(&url).await;
                let mut ticks = tokio::time::interval(VALID_EVERY);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut times = Vec::new();
                for key in known.iter().cycle().skip(number * 7) {
                    ticks.tick().await;
                    if stop.load(Relaxed) {
                        break;
                    }
                    let request = wire::forward_auth("", key, Ipv4Addr::LOCALHOST);
                    let asked =
                        ask_until_answered(&mut connection, &request, &unavailable, is_accepted);
                    times.push(asked.await.1);
                }
                times
            }));
        }
        let mut times = Vec::new();
        for connection in connections {
            times.extend(connection.await.unwrap());
        }
        Times::new(times)
    })
}

/// Valid keys that are not cached, each once. All of them are accepted.
fn cold_traffic(world: &World) -> Beside<Times> {
    let (url, cold) = (world.server.url(""), world.cold.clone());
    let unavailable = Arc::clone(&world.unavailable);
    Beside::on_a_runtime(async move |stop| {
        let mut connection = Wire::connect(&url).await;
        let mut ticks = tokio::time::interval(COLD_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut times = Vec::new();
        for key in &cold {
            ticks.tick().await;
            if stop.load(Relaxed) {
                break;
            }
            let request = wire::forward_auth("", key, Ipv4Addr::LOCALHOST);
            let asked = ask_until_answered(&mut connection, &request, &unavailable, is_accepted);
            times.push(asked.await.1);
        }
        Times::new(times)
    })
}

/// Maxima of the server's metrics.
fn looks(world: &World) -> Beside<(f64, f64)> {
    let url = world.server.url("");
    Beside::on_a_runtime(async move |stop| {
        let mut connection = Wire::connect(&url).await;
        let (mut under_way, mut waited_for) = (0.0_f64, 0.0_f64);
        while !stop.load(Relaxed) {
            let figures = Figures::read(&mut connection).await;
            under_way = under_way.max(figures.under_way);
            waited_for = waited_for.max(figures.waited_for);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        (under_way, waited_for)
    })
}

/// Observes PostgreSQL itself: the maximum number of concurrent reads of keys.
fn looks_of_postgres(database: Arc<Database>) -> Beside<(f64, u32)> {
    // Within one statement, because starting a client costs more than many samples.
    const LOOKS: &str = "\
        create function pg_temp.busiest() returns text language plpgsql as $$
        declare most int := 0; busy int;
        begin
            for look in 1..100 loop
                perform pg_stat_clear_snapshot();
                select count(*) into busy from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() and state = 'active'
                    and query like '%\"api_key\".\"digest\" = ANY%';
                most := greatest(most, busy);
                perform pg_sleep(0.005);
            end loop;
            return most;
        end $$;
        select pg_temp.busiest()";
    Beside::start(move |stop| {
        let (mut most, mut looks) = (0.0_f64, 0);
        while !stop.load(Relaxed) {
            let busiest = database.sql(LOOKS);
            most = most.max(busiest.trim().parse().unwrap());
            looks += 100;
        }
        (most, looks)
    })
}

/// The keys of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Cached keys, over and over.
    Known,
    /// Keys that do not exist, none of them twice.
    Unknown,
}

impl Load {
    /// Returns the code in the answer to backends.
    fn code(self) -> &'static str {
        match self {
            Self::Known => r#""code":"valid""#,
            Self::Unknown => r#""code":"not_found""#,
        }
    }

    /// Returns `X-Denial` in the answer to gateways.
    fn denial(self) -> Option<&'static str> {
        (self == Self::Unknown).then_some("not_found")
    }

    /// Returns the status of the answer to gateways.
    fn status(self) -> u16 {
        match self {
            Self::Known => 200,
            Self::Unknown => 401,
        }
    }
}

/// Returns the keys of one connection.
fn keys(world: &World, load: Load, connection: u32) -> Box<dyn FnMut() -> String + Send> {
    match load {
        Load::Known => {
            let (known, mut next) = (world.known.clone(), connection as usize * 31);
            Box::new(move || {
                next += 1;
                known[next % known.len()].clone()
            })
        }
        Load::Unknown => {
            let prefix: KeyPrefix = "sk_live".parse().unwrap();
            let mut rng = seeded(connection.into());
            Box::new(move || {
                let drawn = SecretKey::generate(&prefix, &mut rng).unwrap();
                drawn.expose().to_owned()
            })
        }
    }
}

/// Sends at least this many keys from all [`SPRAYING`] connections, and returns the rate per
/// second.
async fn ask(world: &World, load: Load, count: u32, pace: Pace) -> f64 {
    let start = Instant::now();
    let rounds = Arc::new(AtomicU32::new(0));
    let rounds_wanted = count.div_ceil(KEYS_PER_ROUND);
    let mut connections = Vec::new();
    for number in 0..SPRAYING {
        let mut connection = Wire::connect(&world.server.url("")).await;
        let (operator, rounds) = (world.operator.clone(), Arc::clone(&rounds));
        let unavailable = Arc::clone(&world.unavailable);
        let mut next = keys(world, load, number);
        connections.push(tokio::spawn(async move {
            let mut turns = Turns::new(pace);
            loop {
                let round = rounds.fetch_add(1, Relaxed);
                if round >= rounds_wanted {
                    break;
                }
                ask_round(
                    &mut connection,
                    &operator,
                    load,
                    round,
                    &mut next,
                    &mut turns,
                    &unavailable,
                )
                .await;
            }
        }));
    }
    for connection in connections {
        connection.await.unwrap();
    }
    f64::from(rounds_wanted * KEYS_PER_ROUND) / start.elapsed().as_secs_f64()
}

/// Rate of a load.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// Each connection sends as soon as it has its answer.
    Unbridled,
    /// Keys a second for all connections together.
    KeysPerSecond(f64),
}

/// Schedule of a connection.
struct Turns(Option<tokio::time::Interval>);

impl Turns {
    fn new(pace: Pace) -> Self {
        let Pace::KeysPerSecond(rate) = pace else {
            return Self(None);
        };
        let (gateways, backends, _) = ROUND;
        let requests_per_round = u32::try_from(gateways + backends + 1).unwrap();
        let keys_per_request = f64::from(KEYS_PER_ROUND) / f64::from(requests_per_round);
        let every = f64::from(SPRAYING) * keys_per_request / rate;
        Self(Some(tokio::time::interval(Duration::from_secs_f64(every))))
    }

    async fn next(&mut self) {
        if let Some(ticks) = &mut self.0 {
            ticks.tick().await;
        }
    }
}

async fn ask_round(
    connection: &mut Wire,
    operator: &str,
    load: Load,
    round: u32,
    mut next: impl FnMut() -> String,
    turns: &mut Turns,
    unavailable: &AtomicU32,
) {
    let (gateways, backends, at_once) = ROUND;
    for number in 0..gateways {
        // No address fails twice, so each has a full bucket.
        let number = round * KEYS_PER_ROUND + u32::try_from(number).unwrap();
        let client = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number);
        let request = wire::forward_auth("", &next(), client);
        turns.next().await;
        ask_until_answered(connection, &request, unavailable, |answer| {
            assert_eq!(answer.status, load.status(), "{answer:?}");
            assert_eq!(answer.header("x-denial"), load.denial());
        })
        .await;
    }
    for _ in 0..backends {
        let body = json!({ "key": next() }).to_string();
        let request = wire::request_with("POST", "/v1/keys/verify", operator, &body);
        turns.next().await;
        ask_until_answered(connection, &request, unavailable, |answer| {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.body.contains(load.code()), "{answer:?}");
        })
        .await;
    }
    let requests: Vec<_> = (0..at_once).map(|_| json!({ "key": next() })).collect();
    let body = json!({ "requests": requests }).to_string();
    let request = wire::request_with("POST", "/v1/keys/verify-batch", operator, &body);
    turns.next().await;
    ask_until_answered(connection, &request, unavailable, |answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body.matches(load.code()).count(), at_once);
    })
    .await;
}

/// Valid traffic without other load.
async fn alone(world: &World, lasting: Duration) -> Times {
    let valid = valid_traffic(world);
    tokio::time::sleep(lasting).await;
    valid.stop().await
}

/// Valid traffic beside requests with known keys, for about that long.
async fn beside_known(world: &World, lasting: Duration, pace: Pace) -> Times {
    const STEP: u32 = 5_000;
    let valid = valid_traffic(world);
    let start = Instant::now();
    let mut rate = 0.0;
    while start.elapsed() < lasting {
        rate = ask(world, Load::Known, STEP, pace).await;
    }
    println!("{rate:.0} known keys a second");
    valid.stop().await
}

async fn spray(place: &str, database: Option<Arc<Database>>) {
    let size = Size::wanted();
    let world = World::start(database, &size).await;
    let name = |what: &str| format!("spray, {place}: {what}");

    // Ordinary traffic by every route, until the server has allocated the memory for that.
    let idle = alone(&world, size.quiet).await;
    beside_known(&world, size.quiet, Pace::Unbridled).await;
    let unbridled = beside_known(&world, size.quiet, Pace::Unbridled).await;
    let (memory, before) = (world.memory("VmRSS"), world.figures().await);
    world.reset_peak();

    let postgres = world.database.clone().map(looks_of_postgres);
    let (looks, valid, cold) = (looks(&world), valid_traffic(&world), cold_traffic(&world));
    let rate = ask(&world, Load::Unknown, size.unknown, Pace::Unbridled).await;
    let (during, cold) = (valid.stop().await, cold.stop().await);
    let (under_way, waited_for) = looks.stop().await;
    let after = world.figures().await;
    let peak = world.memory("VmHWM") - memory;
    let quiet = beside_known(&world, size.quiet, Pace::KeysPerSecond(rate)).await;
    let at_last = world.figures().await;

    report::information(&name("unknown keys a second"), format_args!("{rate:.0}"));
    let (reads, keys_read) = (
        after.reads - before.reads,
        after.keys_read - before.keys_read,
    );
    report::information(
        &name("reads of the database"),
        format_args!("{reads:.0}, of {:.1} keys each", keys_read / reads),
    );
    report::information(&name("most requests that waited for a read"), waited_for);
    report::figure(
        &name("most reads under way at once, as the server says"),
        under_way,
        format_args!("at most {READS_MAX}"),
        under_way <= READS_MAX,
    );
    assert!(under_way <= READS_MAX, "{under_way}");
    if let Some(postgres) = postgres {
        let (busiest, looks) = postgres.stop().await;
        report::figure(
            &name("most reads under way at once, as the database says"),
            format_args!("{busiest} in {looks} looks"),
            format_args!("at most {READS_MAX}"),
            busiest <= READS_MAX,
        );
        assert!(busiest <= READS_MAX, "{busiest}");
        // Reads are found by the text of their statement, so this fails if the statement is
        // rewritten. The short form may be over too soon.
        assert!(
            !report::is_full() || busiest >= 1.0,
            "no read was ever seen"
        );
    }
    let not_found = after.not_found - before.not_found;
    assert!(not_found >= f64::from(size.unknown), "{not_found}");

    report::figure(
        &name("growth of memory at its peak"),
        format_args!("{:.1} MiB over {:.1} MiB", peak / MIB, memory / MIB),
        format_args!("at most {} MiB", GROWTH_MAX / MIB),
        peak <= GROWTH_MAX,
    );
    assert!(peak <= GROWTH_MAX, "{peak} over {memory}");

    // Known keys are still cached.
    assert!(after.cached >= before.cached, "{after:?}, {before:?}");
    report::information(
        &name("keys read again afterwards, which the spray has pushed out"),
        at_last.keys_read - after.keys_read,
    );

    for (what, times) in [
        ("alone", &idle),
        ("beside known keys at any rate", &unbridled),
        ("beside known keys at the rate of the spray", &quiet),
        ("during the spray", &during),
    ] {
        report::information(&name(&format!("valid traffic, {what}")), times);
    }
    report::information(
        &name("valid keys that were not in memory, all accepted"),
        &cold,
    );
    let ratio_to = |times: &Times| during.p99() / times.p99();
    report::information(
        &name("p99 of valid traffic over that beside known keys at any rate"),
        format_args!("{:.2}x", ratio_to(&unbridled)),
    );
    report::information(
        &name("p99 of valid traffic over that with nothing beside it"),
        format_args!("{:.2}x", ratio_to(&idle)),
    );
    // In full it would have failed at the first.
    report::information(
        &name("answers of 503, asked again"),
        world.unavailable.load(Relaxed),
    );
    let ratio = ratio_to(&quiet);
    report::ratio_at_most(
        &name("p99 of valid traffic over that beside known keys at the same rate"),
        ratio,
        P99_RATIO_MAX,
    );
    // The short form runs beside other tests.
    assert!(!report::is_full() || ratio <= P99_RATIO_MAX, "{ratio}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_leave_valid_ones_alone_on_postgres() {
    let database = Arc::new(Database::create().await);
    spray("PostgreSQL", Some(database)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_keys_leave_valid_ones_alone_on_sqlite() {
    spray("SQLite", None).await;
}
