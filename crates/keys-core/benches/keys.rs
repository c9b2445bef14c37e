//! Cost of the rules, each beside its floor. Read the results as ratios to `sha256`, in one run on
//! one machine.
//!
//! Budgets: `parse` at most 0.5 and `digest` at most 2.3 times `sha256`.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use keys_core::{
    AllowedNetworks, ApiKey, KeyId, KeyKind, Pepper, PepperRing, Question, ScopeSet, SecretKey,
    StoredKey, Timestamp, check_form, judge,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

fn keys(criterion: &mut Criterion) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let prefix = "sk_live".parse().expect("a legal prefix");
    let Ok(key) = SecretKey::generate(&prefix, &mut rng);
    let text = key.expose().to_owned();

    // The base of all ratios: one block of SHA-256, because a key of 40 bytes leaves room for the
    // padding.
    criterion.bench_function("sha256", |bencher| {
        bencher.iter(|| Sha256::digest(black_box(text.as_bytes())));
    });

    // Floor: 32 bytes of keystream and one allocation. The operating system's generator adds a
    // system call.
    criterion.bench_function("generate", |bencher| {
        bencher.iter(|| SecretKey::generate(black_box(&prefix), &mut rng));
    });

    // Floor: a CRC over 26 bytes and one pass over 40 to check the alphabet; nothing is allocated.
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| check_form(black_box(&text)));
    });

    // Floor: two of HMAC's four blocks; those of the two pads are computed once per pepper.
    let ring = PepperRing::new(
        "p1".parse().expect("a legal id"),
        Pepper::from_bytes(&[7; 32]).expect("long enough"),
    );
    criterion.bench_function("digest", |bencher| {
        bencher.iter(|| ring.digest(black_box(&key)).digest);
    });

    // Floor: two comparisons of times, a mask and comparison per network, a binary search per
    // scope.
    let now = Timestamp::from_unix_micros(1_800_000_000_000_000);
    let id = KeyId::generate(now, &mut getrandom::SysRng).expect("random bytes");
    let mut key = ApiKey::new(id, KeyKind::Operator, key.shown_prefix(), now);
    key.allowed_networks =
        AllowedNetworks::parse(["192.168.0.0/16", "10.0.0.0/8"]).expect("legal networks");
    key.scopes = ScopeSet::parse(["orders:read", "orders:write"]).expect("legal scopes");
    key.expires_at = Some(Timestamp::MAX);
    let record = StoredKey::new(key, None);
    let address = Some(IpAddr::from([10, 1, 2, 3]));
    let needed = ScopeSet::parse(["orders:read"]).expect("a legal scope");
    criterion.bench_function("judge", |bencher| {
        bencher.iter_batched(
            || (now, address),
            |(now, address)| {
                let question = Question {
                    kinds: &[KeyKind::Operator],
                    plans: None,
                    address,
                    scopes: black_box(&needed),
                };
                judge(black_box(&record), &question, || now)
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, keys);
criterion_main!(benches);
