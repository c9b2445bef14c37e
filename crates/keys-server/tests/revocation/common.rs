//! Times, and the program under test.

use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_keys-server");

/// The published bound.
pub(crate) const BOUND: Duration = Duration::from_secs(2);

/// Returns the time on the one clock that all measurements share.
pub(crate) fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

pub(crate) const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Ends the current line, because a figure needs a line of its own, and the test's name may be at
/// its start.
pub(crate) fn end_the_line() {
    println!();
}

/// Returns a random number below this.
pub(crate) fn dice(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}

/// Returns a random time between the two.
pub(crate) fn between(shortest: u64, longest: u64) -> Duration {
    millis(shortest + dice(longest - shortest))
}

/// Times to be summarized.
#[derive(Debug, Default)]
pub(crate) struct Times(pub(crate) Vec<Duration>);

impl Times {
    pub(crate) fn part(&mut self, percent: usize) -> Duration {
        self.0.sort_unstable();
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn max(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    pub(crate) fn summary(&mut self) -> String {
        let (p50, p99) = (self.part(50), self.part(99));
        format!(
            "p50 {}, p99 {}, max {}",
            Millis(p50),
            Millis(p99),
            Millis(self.max())
        )
    }
}

/// Displays a time in milliseconds.
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}
