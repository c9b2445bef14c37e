//! Cost of a verification that is not cached, compared with the same query by `pgbench` on the same
//! server, and the effect of a large table.
//!
//! The compared programs take turns of about a second. Each figure is the median of the rounds, so
//! that other load of the machine cancels out.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use keys_core::{AccountId, PepperedDigest, PresentedKey};
use keys_service::ports::{KeyOwner, Keys as _};
use keys_service::{KeyService, VerifyRequest};
use keys_store::{DatabaseUrl, Store, StoreOptions};
use keys_testkit::many::{self, ManyKey};
use keys_testkit::postgres::{self, Database};
use keys_testkit::report;

/// Keys that are looked up, spread over the whole table.
const KEYS: usize = 10_000;
const SMALL: usize = 1_000;
const LARGE: usize = 1_000_000;

/// Equal to the number of concurrent reads of misses.
const CONNECTIONS: u32 = 4;

/// Concurrent requests that miss the cache.
const MISSES: u32 = 256;

const ROUNDS: usize = 7;
const LENGTH: Duration = Duration::from_secs(1);

/// Calls in a row that are timed together. Few, so that other load affects both tables equally.
const CALLS: u32 = 100;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let small = many::keys(SMALL);
    let keys = Arc::new(many::keys(KEYS));
    report::information("keys in the table", LARGE);
    report::information("connections", CONNECTIONS);
    report::information("misses at the same time", MISSES);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let small_sqlite = runtime.block_on(sqlite(folder.path().join("small.db"), &small, SMALL));
    let large_sqlite = runtime.block_on(sqlite(folder.path().join("large.db"), &keys, LARGE));
    let (small_database, large_database) =
        (Database::create_blocking(), Database::create_blocking());
    let small_postgres = runtime.block_on(postgres(&small_database, &small, SMALL));
    let large_postgres = runtime.block_on(postgres(&large_database, &keys, LARGE));

    let pgbench = Pgbench::new(&large_database);
    throughput(&runtime, &pgbench, &keys, &large_postgres, &large_sqlite);
    for (what, small_store, large_store) in [
        ("PostgreSQL", &small_postgres, &large_postgres),
        ("SQLite", &small_sqlite, &large_sqlite),
    ] {
        let tables = [
            Table::new(small_store, &small, SMALL),
            Table::new(large_store, &keys, LARGE),
        ];
        growth(&runtime, what, &tables);
    }
}

async fn postgres(database: &Database, keys: &[ManyKey], total: usize) -> Store {
    let url: DatabaseUrl = database.url().parse().expect("a legal URL");
    let store = open(&url).await;
    many::fill_postgres(database, keys, total);
    store
}

async fn sqlite(path: PathBuf, keys: &[ManyKey], total: usize) -> Store {
    let store = open(&DatabaseUrl::sqlite(&path)).await;
    let path = path.to_str().expect("temporary folders have plain names");
    let mut connection = SqliteConnection::establish(path).expect("the file is there");
    connection
        .batch_execute(&many::fill_sqlite(keys, total))
        .expect("keys can be inserted");
    store
}

async fn open(url: &DatabaseUrl) -> Store {
    let options =
        StoreOptions::default().connections_max(CONNECTIONS.try_into().expect("not zero"));
    let store = Store::connect(url, options).await.expect("a database");
    store.migrate().await.expect("a schema");
    store
}

fn throughput(
    runtime: &tokio::runtime::Runtime,
    pgbench: &Pgbench,
    keys: &Arc<Vec<ManyKey>>,
    postgres: &Store,
    sqlite: &Store,
) {
    let gathered = KeyService::builder(postgres.clone(), many::peppers()).build();
    let in_process = KeyService::builder(sqlite.clone(), many::peppers()).build();
    let rounds: Vec<[f64; 5]> = (0..ROUNDS)
        .map(|_| {
            [
                pgbench.rate(CONNECTIONS),
                runtime.block_on(look_ups(postgres, keys)),
                runtime.block_on(misses(&gathered, keys)),
                pgbench.rate(1),
                runtime.block_on(misses(&in_process, keys)),
            ]
        })
        .collect();
    let rate = |what: &str, who: usize| {
        let rate = median(rounds.iter().map(|round| round[who]));
        report::information(what, format_args!("{rate:.0}/s"));
    };
    let ratio =
        |who: usize, beside: usize| median(rounds.iter().map(|round| round[who] / round[beside]));
    rate("`pgbench -M prepared`, as many connections", 0);
    rate("look-ups through the pool", 1);
    rate("misses, gathered", 2);
    rate("`pgbench -M prepared`, one connection", 3);
    rate("misses, gathered, SQLite", 4);
    let look_up = "look-ups through the pool against `pgbench` with as many connections";
    report::ratio_at_least(look_up, ratio(1, 0), 0.8);
    let missed = "misses at the same time against `pgbench` with as many connections";
    report::ratio_at_least(missed, ratio(2, 0), 2.0);
    let embedded = "misses at the same time, SQLite, against `pgbench` with one connection";
    report::ratio_at_least(embedded, ratio(4, 3), 4.0);
}

/// Look-ups of one key each a second, as many concurrently as there are connections.
async fn look_ups(store: &Store, keys: &Arc<Vec<ManyKey>>) -> f64 {
    rate_of(CONNECTIONS, |mut random, turn| {
        let (store, keys, peppers) = (store.clone(), Arc::clone(keys), many::peppers());
        async move {
            while turn.goes_on() {
                let secret = &keys[random.below(keys.len())].secret;
                let presented = PresentedKey::parse(secret).expect("a well-formed key");
                let digest: PepperedDigest = peppers.digest(presented);
                let found = store.find_by_digests(vec![digest]).await;
                assert_eq!(found.expect("the database answers").len(), 1);
                turn.count();
            }
        }
    })
    .await
}

/// Verifications a second that are not answered from the cache, many concurrently.
async fn misses(service: &KeyService, keys: &Arc<Vec<ManyKey>>) -> f64 {
    rate_of(MISSES, |mut random, turn| {
        let (service, keys) = (service.clone(), Arc::clone(keys));
        async move {
            while turn.goes_on() {
                verify(&service, &keys[random.below(keys.len())].secret).await;
                turn.count();
            }
        }
    })
    .await
}

async fn verify(service: &KeyService, secret: &str) {
    let request = VerifyRequest::new(secret).fresh(true);
    let verdict = service.verify(&request).await;
    assert!(verdict.expect("the database answers").is_valid());
}

/// The time in which work is counted.
#[derive(Default)]
struct Turn {
    is_over: AtomicBool,
    done: AtomicU32,
}

impl Turn {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the work of all tasks a second.
async fn rate_of<F>(tasks: u32, work: impl Fn(Random, Arc<Turn>) -> F) -> f64
where
    F: Future<Output = ()> + Send + 'static,
{
    let (start, turn) = (Instant::now(), Arc::new(Turn::default()));
    let tasks: Vec<_> = (1..=tasks)
        .map(|seed| tokio::spawn(work(Random(seed.into()), Arc::clone(&turn))))
        .collect();
    tokio::time::sleep(LENGTH).await;
    turn.is_over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no task panics");
    }
    f64::from(turn.done.load(Ordering::Relaxed)) / start.elapsed().as_secs_f64()
}

/// A table of some size, and a service on it.
struct Table<'a> {
    service: KeyService,
    keys: &'a [ManyKey],
    accounts: usize,
}

impl<'a> Table<'a> {
    fn new(store: &Store, keys: &'a [ManyKey], total: usize) -> Self {
        Self {
            service: KeyService::builder(store.clone(), many::peppers()).build(),
            keys,
            accounts: total / many::KEYS_PER_ACCOUNT,
        }
    }

    /// Microseconds of one verification that is not cached.
    async fn verification(&self, random: &mut Random) -> f64 {
        let start = Instant::now();
        for _ in 0..CALLS {
            verify(
                &self.service,
                &self.keys[random.below(self.keys.len())].secret,
            )
            .await;
        }
        micros(start)
    }

    /// Microseconds of listing the keys of one account.
    async fn listing(&self, random: &mut Random) -> f64 {
        let start = Instant::now();
        for _ in 0..CALLS {
            let id = many::account_id(random.below(self.accounts));
            let owner = KeyOwner::Account(AccountId::from_uuid(id.parse().expect("a UUID")));
            let page = self.service.list_keys(owner, 0, 20).await;
            assert_eq!(
                page.expect("the database answers").keys.len(),
                many::KEYS_PER_ACCOUNT
            );
        }
        micros(start)
    }
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
}

/// Measures the effect of a million keys in the table against a thousand.
fn growth(runtime: &tokio::runtime::Runtime, database: &str, tables: &[Table<'_>; 2]) {
    const ROUNDS: usize = 60;
    let mut random = Random(1);
    let [mut verifications, mut listings] = [Vec::new(), Vec::new()];
    // The first one fills the caches of the database and is not counted.
    for round in 0..=ROUNDS {
        // The order alternates from round to round.
        let (first, second) = (round % 2, (round + 1) % 2);
        let [mut verification, mut listing] = [[0.0; 2]; 2];
        for size in [first, second] {
            verification[size] = runtime.block_on(tables[size].verification(&mut random));
        }
        for size in [first, second] {
            listing[size] = runtime.block_on(tables[size].listing(&mut random));
        }
        if round > 0 {
            verifications.push(verification);
            listings.push(listing);
        }
    }
    for (what, rounds) in [("verification", &verifications), ("listing", &listings)] {
        let at = |place: usize| median(rounds.iter().map(|round| round[place]));
        report::information(
            &format!("{database}, {what}, a thousand keys, a million"),
            format_args!("{:.0} us, {:.0} us", at(0), at(1)),
        );
        let ratio = median(rounds.iter().map(|[small, large]| large / small));
        let name = format!("{database}, {what}, a million keys against a thousand");
        report::ratio_at_most(&name, ratio, 1.2);
    }
}

/// PostgreSQL's own benchmark with the same query.
struct Pgbench {
    program: PathBuf,
    url: String,
    script: tempfile::NamedTempFile,
}

impl Pgbench {
    fn new(database: &Database) -> Self {
        let script = tempfile::NamedTempFile::new().expect("a temporary file");
        let columns = "k.digest, k.pepper_id, k.id, k.account_id, k.kind, k.shown_prefix, k.name, k.allowed_networks, \
                       k.scopes, k.expires_at, k.revoked_at, k.last_used_at, k.created_at, \
                       a.id, a.external_id, a.plan, a.disabled, a.created_at";
        // One in a hundred has another digest and is not found, which costs no more.
        let text = format!(
            "\\set n random(0, {LARGE} - 1)\n\
             select {columns} from api_key k left join account a on a.id = k.account_id \
             where k.digest = sha256(:n::text::bytea);\n"
        );
        std::fs::write(script.path(), text).expect("the file can be written to");
        Self {
            program: postgres::tool("pgbench"),
            url: database.url(),
            script,
        }
    }

    /// Transactions a second, once connected.
    fn rate(&self, connections: u32) -> f64 {
        let output = Command::new(&self.program)
            .args(["--no-vacuum", "--protocol", "prepared", "--time"])
            .arg(LENGTH.as_secs().to_string())
            .arg("--client")
            .arg(connections.to_string())
            .arg("--file")
            .arg(self.script.path())
            .arg(&self.url)
            .output()
            .expect("pgbench can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let rate = said
            .lines()
            .filter_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
            .next_back();
        rate.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Random numbers, of sufficient quality for a benchmark.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
