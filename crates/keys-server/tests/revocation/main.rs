//! Revoked keys against the clock: real servers, and one client that stamps every request and every answer.
//!
//! The promise is that no server accepts a key any more when its revocation was answered, and no other server when two
//! seconds have passed since. When a server made up its mind is not to be seen from outside, only that it was after the
//! request was sent. So an acceptance breaks the promise for certain if its request was sent after the bound, which is counted
//! from when the client had read the revocation's answer; and only those are counted. How long a revocation takes to get about
//! is told by when the last request that was accepted was sent.
//!
//! Some seconds long by default. The full size:
//!
//! ```sh
//! KEYS_TEST_FULL=1 cargo test --release -p keys-server --test revocation -- --nocapture --test-threads 1
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod campaign;
mod customers;
mod fleet;
mod patroni;
mod trial;

mod database_away;
mod everywhere;
mod failover;
mod ha;
mod same_instance;

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The program under test.
const BINARY: &str = env!("CARGO_BIN_EXE_keys-server");

/// The published bound.
const BOUND: Duration = Duration::from_secs(2);

/// The time on the one clock of everything here.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A figure is a line of its own, and the test's name may stand where it would begin.
fn end_the_line() {
    println!();
}

/// A number below this, at random.
fn dice(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// A time from one to another, at random.
fn between(shortest: u64, longest: u64) -> Duration {
    millis(shortest + dice(longest - shortest))
}

/// Times, to be summed up.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn part(&mut self, percent: usize) -> Duration {
        self.0.sort_unstable();
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or_default()
    }

    fn max(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    fn summary(&mut self) -> String {
        let (p50, p99) = (self.part(50), self.part(99));
        format!(
            "p50 {}, p99 {}, max {}",
            Millis(p50),
            Millis(p99),
            Millis(self.max())
        )
    }
}

/// Shows a time in milliseconds.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}
