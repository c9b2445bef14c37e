//! The circuit breaker: whether calls are made at all.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Opens after some failures in a row, and closes only when told to.
pub(crate) struct Breaker {
    /// Failures in a row, or [`OPEN`](Self::OPEN).
    failures: AtomicU32,
}

impl Breaker {
    /// One late answer is an accident, three in a row are a state; waiting for more costs 20 ms
    /// each.
    const FAILURES_MAX: u32 = 3;

    const OPEN: u32 = u32::MAX;

    /// A breaker that is open.
    pub(crate) fn open() -> Self {
        Self {
            failures: AtomicU32::new(Self::OPEN),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.failures.load(Relaxed) == Self::OPEN
    }

    pub(crate) fn close(&self) {
        self.failures.store(0, Relaxed);
    }

    /// A late success of a call from before it opened does not close it.
    pub(crate) fn succeeded(&self) {
        let _ = self.failures.fetch_update(Relaxed, Relaxed, |failures| {
            (failures != 0 && failures != Self::OPEN).then_some(0)
        });
    }

    /// Whether it was this failure that opened it.
    pub(crate) fn failed(&self) -> bool {
        let before = self.failures.fetch_update(Relaxed, Relaxed, |failures| {
            let next = match failures {
                Self::OPEN => return None,
                failures if failures + 1 >= Self::FAILURES_MAX => Self::OPEN,
                failures => failures + 1,
            };
            Some(next)
        });
        before.is_ok_and(|failures| failures + 1 >= Self::FAILURES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn third_failure_in_a_row_opens_it_and_nothing_but_closing_closes_it() {
        let breaker = Breaker::open();
        assert!(breaker.is_open());
        breaker.close();
        for _ in 0..5 {
            assert!(!breaker.failed());
            assert!(!breaker.failed());
            breaker.succeeded();
        }
        assert!(!breaker.failed());
        assert!(!breaker.failed());
        assert!(!breaker.is_open());
        assert!(breaker.failed(), "the one that opens it says so");
        assert!(!breaker.failed(), "and only that one");
        breaker.succeeded();
        assert!(breaker.is_open());
        breaker.close();
        assert!(!breaker.is_open());
    }
}
