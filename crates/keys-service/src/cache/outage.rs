//! Whether the database is known to be away, so that requests need not find out one by one.
//!
//! It is while changes cannot be followed *and* a read has failed since. Neither alone is enough: a feed may be down while reads
//! work, and a read may fail because of an overload that has nothing to do with the next one. From then on one request at a
//! time asks the database, and the others are told at once what they would otherwise be told after its time limit. The first read
//! that succeeds, and the first poll of the feed, end it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    is_followed: AtomicBool,
    has_failed: AtomicBool,
    is_probed: AtomicBool,
}

/// The right to ask the database, which one request at a time has.
#[derive(Debug)]
pub(crate) struct Probe<'a>(&'a Outage);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.0.is_probed.store(false, Relaxed);
    }
}

impl Outage {
    /// What the feed said after its last turn.
    pub(crate) fn feed_is(&self, is_live: bool) {
        self.is_followed.store(is_live, Relaxed);
        if is_live {
            self.has_failed.store(false, Relaxed);
        }
    }

    /// A read has ended.
    pub(crate) fn read_has(&self, failed: bool) {
        // Read first: this is shared by all who read, and hardly ever changes.
        if self.has_failed.load(Relaxed) != failed {
            self.has_failed.store(failed, Relaxed);
        }
    }

    /// Whether the database is known to be away.
    pub(crate) fn is_known(&self) -> bool {
        self.has_failed.load(Relaxed) && !self.is_followed.load(Relaxed)
    }

    /// The right to ask the database although it is known to be away; `None` if another request has it.
    pub(crate) fn probe(&self) -> Option<Probe<'_>> {
        // Not `then_some`: a probe that is made in vain would give the right back when it is dropped.
        (!self.is_probed.swap(true, Relaxed)).then(|| Probe(self))
    }

    /// The right again, for the task that it was handed over to.
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
        // A failure from before the feed was back says nothing about the next outage.
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
