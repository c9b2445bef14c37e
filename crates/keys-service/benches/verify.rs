//! What a verification costs in process, as a ratio to SHA-256 of the same key in the same run.
//!
//! Budgets, with room for both kinds of processor seen: a hot key at most 3.9, one of 100,000 at
//! random at most 6.0, alone and in a batch of 1,000, a wrong checksum at most 0.5; two threads at
//! most 1.25 times the processor time per call of one. With `--memory` it measures the memory of a
//! million cached keys instead, at most 200 bytes each.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use keys_core::{AccountId, AllowedNetworks, KeyName, Pepper, PepperRing};
use keys_service::{
    Actor, CacheOptions, KeyDraft, KeyService, MemoryStore, NewAccount, Verdict, VerifyRequest,
};
use keys_testkit::report;
use sha2::{Digest as _, Sha256};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keys of each account, as many as its plan allows.
const KEYS_PER_ACCOUNT: usize = 10;

/// Rounds in which everything is measured once. The median of the rounds counts, so that other load
/// of the machine cancels out.
const ROUNDS: usize = 51;
const ROUNDS_OF_THREADS: usize = 7;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    if std::env::args().any(|argument| argument == "--memory") {
        runtime.block_on(memory());
    } else {
        speed(&runtime);
    }
}

/// Returns a service whose cache has room for twice as many keys, and which follows changes.
async fn start(store: &MemoryStore, count: usize) -> KeyService {
    let peppers = PepperRing::new(
        "p1".parse().expect("a legal id"),
        Pepper::from_bytes(&[7; 32]).expect("long enough"),
    );
    let options = CacheOptions::default().entries_max(2 * count.max(1_000));
    let service = KeyService::builder(store.clone(), peppers)
        .cache(options)
        .build();
    tokio::spawn({
        let service = service.clone();
        async move { service.maintain().await }
    });
    while service.cache_state().behind.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    service
}

struct Warm {
    service: KeyService,
    store: MemoryStore,
    keys: Vec<String>,
}

impl Warm {
    /// Returns a service with `count` keys, none of which is cached yet. With `external_id` their
    /// accounts have one.
    async fn new(count: usize, external_id: bool) -> Self {
        let store = MemoryStore::default();
        let service = start(&store, count).await;
        let system = Actor::system();
        let mut keys = Vec::with_capacity(count);
        let mut account: Option<AccountId> = None;
        for number in 0..count {
            if number % KEYS_PER_ACCOUNT == 0 {
                let external = format!("customer-{number:08}");
                let external = external_id.then(|| external.parse().expect("legal"));
                let new =
                    NewAccount::new("pro".parse().expect("a legal name")).external_id(external);
                let created = service.create_account(&system, new).await;
                account = Some(created.expect("an account").id);
            }
            let draft = KeyDraft::new(
                account.expect("made above"),
                "sk_live".parse().expect("a legal prefix"),
            )
            .name(Some(
                KeyName::from_name("Production Server").expect("a legal name"),
            ))
            .allowed_networks(AllowedNetworks::default());
            let issued = service.issue_key(&system, draft).await;
            keys.push(issued.expect("a key").secret.expose().to_owned());
        }
        Self {
            service,
            store,
            keys,
        }
    }

    /// Returns another instance on the same store, with an empty cache.
    async fn beside(&self) -> Self {
        Self {
            service: start(&self.store, self.keys.len()).await,
            store: self.store.clone(),
            keys: self.keys.clone(),
        }
    }

    async fn fill(&self) {
        for keys in self.keys.chunks(200) {
            let requests: Vec<_> = keys.iter().map(|key| VerifyRequest::new(key)).collect();
            let verdicts = self
                .service
                .verify_batch(&requests)
                .await
                .expect("verdicts");
            assert!(verdicts.iter().all(Verdict::is_valid));
            // As every ten seconds, so that uses that were not written yet do not count as memory
            // of the cache.
            self.service.flush_uses().await.expect("the store is there");
        }
    }

    /// Returns whether the key may be used.
    fn admits(&self, key: &str) -> bool {
        let request = VerifyRequest::new(key);
        let verdict = pin!(self.service.verify(&request));
        // A cached key is answered at once, without waiting.
        match black_box(verdict.poll(&mut Context::from_waker(Waker::noop()))) {
            Poll::Ready(Ok(ref verdict)) => verdict.is_valid(),
            Poll::Ready(Err(error)) => panic!("no verdict: {error}"),
            Poll::Pending => panic!("not warm"),
        }
    }
}

/// Batches of random keys that follow one another, until all keys had their turn.
struct Batches<'a> {
    batches: Vec<Vec<VerifyRequest<'a>>>,
    next: usize,
}

impl<'a> Batches<'a> {
    const LEN: usize = 1_000;

    fn new(presented: &'a Presented, count: usize) -> Self {
        let mut next = presented.from(0);
        let mut batch = || (0..Self::LEN).map(|_| VerifyRequest::new(next())).collect();
        Self {
            batches: (0..count / Self::LEN).map(|_| batch()).collect(),
            next: 0,
        }
    }

    fn verify_next(&mut self, service: &KeyService) {
        let batch = &self.batches[self.next];
        self.next = (self.next + 1) % self.batches.len();
        let verdicts = pin!(service.verify_batch(batch));
        match black_box(verdicts.poll(&mut Context::from_waker(Waker::noop()))) {
            Poll::Ready(Ok(ref verdicts)) => assert!(verdicts.iter().all(Verdict::is_valid)),
            Poll::Ready(Err(error)) => panic!("no verdicts: {error}"),
            Poll::Pending => panic!("not warm"),
        }
    }
}

fn speed(runtime: &tokio::runtime::Runtime) {
    const HUNDRED_THOUSAND: usize = 100_000;
    let warm = Arc::new(runtime.block_on(Warm::new(HUNDRED_THOUSAND, false)));
    runtime.block_on(warm.fill());
    let hot = warm.keys[0].clone();
    let wrong = format!(
        "{}{}",
        &hot[..hot.len() - 1],
        if hot.ends_with('0') { '1' } else { '0' }
    );

    let mut sha256 = || {
        black_box(Sha256::digest(black_box(hot.as_bytes())));
    };
    let presented = Arc::new(Presented::in_random_order(&warm.keys));
    let mut next = presented.from(0);
    let mut hot_key = || assert!(warm.admits(black_box(&hot)));
    let mut random_key = || assert!(warm.admits(black_box(next())));
    let mut wrong_key = || assert!(!warm.admits(black_box(&wrong)));
    let mut batches = Batches::new(&presented, HUNDRED_THOUSAND);
    let mut batch = || batches.verify_next(&warm.service);
    let rounds: Vec<[f64; 5]> = (0..ROUNDS)
        .map(|_| {
            [
                nanos(40_000, &mut sha256),
                nanos(20_000, &mut hot_key),
                // Twice all of them, so that the CPU cache does not depend on the other
                // measurements.
                nanos(200_000, &mut random_key),
                nanos(40_000, &mut wrong_key),
                nanos(200, &mut batch) / 1_000.0,
            ]
        })
        .collect();
    let external = runtime.block_on(Warm::new(HUNDRED_THOUSAND, true));
    runtime.block_on(external.fill());
    let presented_external = Presented::in_random_order(&external.keys);
    let mut next = presented_external.from(0);
    let mut external_key = || assert!(external.admits(black_box(next())));
    let external_keys = median((0..ROUNDS).map(|_| nanos(200_000, &mut external_key)));
    let ring = Ring::new();
    let mut place = 0;
    let mut dependent_read = || place = ring.next[black_box(place)];
    let dependent_reads = (0..ROUNDS).map(|_| nanos(20_000, &mut dependent_read));
    let dependent_read = median(dependent_reads);
    let threads: Vec<[f64; 2]> = (0..ROUNDS_OF_THREADS)
        .map(|_| {
            [
                cpu_per_call(&warm, &presented, 1),
                cpu_per_call(&warm, &presented, 2),
            ]
        })
        .collect();

    let time = |what: &str, nanos: f64| report::information(what, format_args!("{nanos:.0} ns"));
    let at = |place: usize| median(rounds.iter().map(|round| round[place]));
    time("SHA-256 of the same key", at(0));
    time("a hot key verified", at(1));
    time("one of 100,000 keys at random verified", at(2));
    time(
        "the same, whose accounts have an external identifier",
        external_keys,
    );
    time("a wrong checksum refused", at(3));
    time("one of 1,000 keys at random of a batch verified", at(4));
    time(
        "one read among 16 MB that waits for the one before",
        dependent_read,
    );
    let thread_at = |place: usize| median(threads.iter().map(|round| round[place]));
    time("CPU per call, one thread", thread_at(0));
    time("CPU per call, two threads", thread_at(1));
    let ratio = |what: &str, place: usize, at_most: f64| {
        let ratios = rounds.iter().map(|round| round[place] / round[0]);
        report::ratio_at_most(what, median(ratios), at_most);
    };
    ratio("a hot key verified, against SHA-256", 1, 3.9);
    let random = "one of 100,000 keys at random verified, against SHA-256";
    ratio(random, 2, 6.0);
    ratio("a wrong checksum refused, against SHA-256", 3, 0.5);
    let batch = "one of 1,000 keys at random of a batch verified, against SHA-256";
    ratio(batch, 4, 6.0);
    let two = median(threads.iter().map(|[one, two]| two / one));
    report::ratio_at_most("CPU per call of two threads against one", two, 1.25);
}

/// Keys in random order, consecutive in memory. A key that was just received is in the CPU cache
/// when it is verified, and only its record is not.
struct Presented {
    text: String,
    key_len: usize,
}

impl Presented {
    fn in_random_order(keys: &[String]) -> Self {
        let order = random_order(keys.len());
        Self {
            text: order.iter().map(|index| keys[*index].as_str()).collect(),
            key_len: keys[0].len(),
        }
    }

    /// Returns all keys again and again, starting at one of them.
    fn from<'a>(&'a self, first: usize) -> impl FnMut() -> &'a str + use<'a> {
        let mut start = first * self.key_len;
        move || {
            let key = &self.text[start..start + self.key_len];
            start = (start + self.key_len) % self.text.len();
            key
        }
    }
}

/// Positions that lead to one another in random order: measures the time of a cache miss on this
/// machine.
struct Ring {
    next: Vec<usize>,
}

impl Ring {
    /// The memory of a hundred thousand cached keys.
    const LEN: usize = 16 * 1024 * 1024 / size_of::<usize>();

    fn new() -> Self {
        let order = random_order(Self::LEN);
        let mut next = vec![0; Self::LEN];
        for (from, to) in order.iter().zip(order.iter().cycle().skip(1)) {
            next[*from] = *to;
        }
        Self { next }
    }
}

/// Returns the numbers below `count` in a random order that is always the same: the shuffle of
/// Fisher and Yates, with the generator of Knuth's MMIX.
fn random_order(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = 1_usize;
    for last in (1..count).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (state >> 33) % (last + 1));
    }
    order
}

/// Returns the nanoseconds of processor time of one call. Wall-clock time would include other
/// programs.
fn nanos(calls: u32, call: &mut impl FnMut()) -> f64 {
    let start = thread_cpu();
    for _ in 0..calls {
        call();
    }
    thread_cpu().saturating_sub(start).as_secs_f64() * 1e9 / f64::from(calls)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the processor time of one call in nanoseconds, with this many threads at random keys.
fn cpu_per_call(warm: &Arc<Warm>, presented: &Arc<Presented>, threads: usize) -> f64 {
    const CALLS: u32 = 1_000_000;
    let handles: Vec<_> = (0..threads)
        .map(|thread| {
            let (warm, presented) = (Arc::clone(warm), Arc::clone(presented));
            std::thread::spawn(move || {
                let mut next = presented.from(thread * warm.keys.len() / threads);
                let start = thread_cpu();
                for _ in 0..CALLS {
                    assert!(warm.admits(next()));
                }
                thread_cpu().saturating_sub(start).as_secs_f64()
            })
        })
        .collect();
    let seconds = handles
        .into_iter()
        .map(|handle| handle.join().expect("a thread"))
        .sum::<f64>();
    seconds * 1e9 / (f64::from(CALLS) * f64::from(u32::try_from(threads).expect("few")))
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("after the start"),
        u32::try_from(time.tv_nsec).expect("below a second"),
    )
}

async fn memory() {
    const MILLION: usize = 1_000_000;
    const BYTES_MAX: f64 = 200.0;
    for external_id in [false, true] {
        let warm = Warm::new(MILLION, external_id).await;
        // The first instance reuses memory from creating the keys. The second has to allocate its
        // own.
        warm.fill().await;
        let second = warm.beside().await;
        let before = resident();
        second.fill().await;
        let grown = (resident() - before) / 1e6;
        if external_id {
            report::information(
                "the same, whose accounts have an external identifier",
                format_args!("{grown:.0} bytes"),
            );
            continue;
        }
        report::information("keys in the cache", second.service.cache_state().entries);
        report::figure(
            "growth of resident memory for each",
            format_args!("{grown:.0} bytes"),
            format_args!("at most {BYTES_MAX:.0} bytes"),
            grown <= BYTES_MAX,
        );
    }
}

/// Resident memory in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a line with the resident memory");
    let kibibytes: f64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number");
    kibibytes * 1024.0
}
