//! What a verification costs in process, as a ratio to SHA-256 of the same key in the same run.
//!
//! Budgets: a hot key at most 3.5, one of 100,000 at random at most 5.5, a wrong checksum at most 0.5; two threads at most
//! 1.25 times the processor time per call of one. With `--memory` it measures the memory of a million cached keys instead, at
//! most 200 bytes each.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use keys_core::{AccountId, AllowedNetworks, KeyName, Pepper, PepperRing};
use keys_service::{
    Actor, CacheOptions, KeyDraft, KeyService, MemoryStore, NewAccount, Verdict, VerifyRequest,
};
use sha2::{Digest as _, Sha256};

/// Accounts hold ten keys each, as their plan allows.
const KEYS_PER_ACCOUNT: usize = 10;

/// Rounds of each measurement, of which the median counts.
const ROUNDS: usize = 15;

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

struct Warm {
    service: KeyService,
    keys: Vec<String>,
}

impl Warm {
    async fn new(count: usize) -> Self {
        let peppers = PepperRing::new(
            "p1".parse().expect("a legal id"),
            Pepper::from_bytes(&[7; 32]).expect("long enough"),
        );
        let options = CacheOptions {
            entries_max: 2 * count.max(1_000),
            ..CacheOptions::default()
        };
        let service = KeyService::builder(MemoryStore::default(), peppers)
            .cache(options)
            .build();
        tokio::spawn({
            let service = service.clone();
            async move { service.maintain().await }
        });
        let system = Actor::system();
        let mut keys = Vec::with_capacity(count);
        let mut account: Option<AccountId> = None;
        for number in 0..count {
            if number % KEYS_PER_ACCOUNT == 0 {
                let new = NewAccount {
                    external_id: None,
                    plan: "pro".parse().expect("a legal name"),
                };
                let created = service.create_account(&system, new, None).await;
                account = Some(created.expect("an account").id);
            }
            let draft = KeyDraft {
                name: Some(KeyName::from_name("Production Server").expect("a legal name")),
                allowed_networks: AllowedNetworks::default(),
                ..KeyDraft::new(
                    account.expect("made above"),
                    "sk_live".parse().expect("a legal prefix"),
                )
            };
            let issued = service.issue_key(&system, draft, None).await;
            keys.push(issued.expect("a key").secret.expose().to_owned());
        }
        while service.cache_state().behind.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { service, keys }
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
        }
    }

    fn verify(&self, key: &str) -> Verdict {
        let request = VerifyRequest::new(key);
        let verdict = pin!(self.service.verify(&request));
        // What the cache knows is answered at once: there is nothing to wait for.
        match verdict.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(verdict) => verdict.expect("a verdict"),
            Poll::Pending => panic!("not warm"),
        }
    }
}

fn speed(runtime: &tokio::runtime::Runtime) {
    const HUNDRED_THOUSAND: usize = 100_000;
    let warm = Arc::new(runtime.block_on(Warm::new(HUNDRED_THOUSAND)));
    runtime.block_on(warm.fill());
    let hot = warm.keys[0].clone();
    let wrong = format!(
        "{}{}",
        &hot[..hot.len() - 1],
        if hot.ends_with('0') { '1' } else { '0' }
    );

    let sha256 = || {
        black_box(Sha256::digest(black_box(hot.as_bytes())));
    };
    let mut state = 1_usize;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % HUNDRED_THOUSAND
    };
    let yardstick = median(200_000, sha256);
    let hot_ns = median(100_000, || {
        assert!(black_box(warm.verify(black_box(&hot))).is_valid());
    });
    let random_ns = median(100_000, || {
        assert!(black_box(warm.verify(black_box(&warm.keys[next()]))).is_valid());
    });
    let wrong_ns = median(200_000, || {
        assert!(!black_box(warm.verify(black_box(&wrong))).is_valid());
    });
    let one = cpu_per_call(&warm, 1);
    let two = cpu_per_call(&warm, 2);
    let row = |what: &str, value: f64, base: f64, budget: f64| {
        println!("{what}\t{value:.1}\t{:.2}\t{budget:.2}", value / base);
    };
    println!("what\tnanoseconds\tratio\tbudget");
    row("SHA-256 of the same key", yardstick, yardstick, 1.0);
    row("hot key verified", hot_ns, yardstick, 3.5);
    row("one of 100,000 keys at random", random_ns, yardstick, 5.5);
    row("wrong checksum refused", wrong_ns, yardstick, 0.5);
    row(
        "two threads against one, processor time per call",
        two,
        one,
        1.25,
    );
}

/// Nanoseconds of one call: the median of several rounds.
fn median(calls: u32, mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Processor time of one call in nanoseconds, with so many threads at random keys.
fn cpu_per_call(warm: &Arc<Warm>, threads: usize) -> f64 {
    const CALLS: u32 = 1_000_000;
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let handles: Vec<_> = (0..threads)
                .map(|thread| {
                    let warm = Arc::clone(warm);
                    std::thread::spawn(move || {
                        let mut state = thread + 1;
                        let start = thread_cpu();
                        for _ in 0..CALLS {
                            state = state
                                .wrapping_mul(6_364_136_223_846_793_005)
                                .wrapping_add(1);
                            let key = &warm.keys[(state >> 33) % warm.keys.len()];
                            black_box(warm.verify(key));
                        }
                        thread_cpu().saturating_sub(start).as_secs_f64()
                    })
                })
                .collect();
            let total: f64 = handles
                .into_iter()
                .map(|handle| handle.join().expect("a thread"))
                .sum();
            total * 1e9 / (f64::from(CALLS) * f64::from(u32::try_from(threads).expect("few")))
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[2]
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
    let warm = Warm::new(MILLION).await;
    let before = resident();
    warm.fill().await;
    let state = warm.service.cache_state();
    let grown = resident() - before;
    println!("what\tbytes\tratio\tbudget");
    println!(
        "memory of a cached key, of {}\t{:.1}\t{:.2}\t1.00",
        state.entries,
        grown / 1e6,
        grown / 1e6 / 200.0
    );
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
