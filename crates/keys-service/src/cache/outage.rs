//! Whether the database is known to be unavailable, so that requests need not find out one by one.
//!
//! It counts as unavailable while changes cannot be followed *and* a read has failed since. Neither
//! alone is enough: a feed may be down while reads work, and a read may fail because of an overload
//! that does not affect the next one. From then on one request at a time asks the database, and the
//! others get at once the error that they would otherwise get after their time limit. The first
//! read that succeeds, or the first poll of the feed, ends it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The state of the database, see the module.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    is_followed: AtomicBool,
    has_failed: AtomicBool,
    is_probed: AtomicBool,
}

/// The permission to ask the database, which one request at a time has.
#[derive(Debug)]
pub(crate) struct Probe<'a>(&'a Outage);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.is_probed.store(false, Relaxed);
    }
}

impl Outage {
    /// Records the state of the feed after its last turn.
    pub(crate) fn feed_is(&self, is_live: bool) {
        self.is_followed.store(is_live, Relaxed);
        if is_live {
            self.has_failed.store(false, Relaxed);
        }
    }

    /// Records the end of a read.
    pub(crate) fn read_has(&self, failed: bool) {
        // Read first, because all readers share it and it rarely changes.
        if self.has_failed.load(Relaxed) != failed {
            self.has_failed.store(failed, Relaxed);
        }
    }

    /// Returns whether the database is known to be unavailable.
    pub(crate) fn is_known(&self) -> bool {
        self.has_failed.load(Relaxed) && !self.is_followed.load(Relaxed)
    }

    /// Returns the permission to ask the database although it is known to be unavailable. `None` if
    /// another request has it.
    pub(crate) fn probe(&self) -> Option<Probe<'_>> {
        // Not `then_some`, because dropping an unused probe would give the permission back.
        (!self.is_probed.swap(true, Relaxed)).then(|| Probe(self))
    }

    /// Returns the permission to the task that it was handed over to.
    pub(crate) fn resume(&self) -> Probe<'_> {
        Probe(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_known_only_when_feed_and_reads_have_failed() {
        let outage = Outage::default();
        outage.feed_is(true);
        assert!(!outage.is_known());
        outage.read_has(true);
        assert!(!outage.is_known());
        outage.feed_is(false);
        assert!(outage.is_known());
        outage.read_has(false);
        assert!(!outage.is_known());
        outage.read_has(true);
        outage.feed_is(true);
        assert!(!outage.is_known());
        // A failure from before the feed was back does not count for the next outage.
        outage.feed_is(false);
        assert!(!outage.is_known());
    }

    #[test]
    fn one_request_at_a_time_asks() {
        let outage = Outage::default();
        let probe = outage.probe();
        assert!(probe.is_some());
        assert!(outage.probe().is_none() && outage.probe().is_none());
        drop(probe);
        assert!(outage.probe().is_some());
    }
}
