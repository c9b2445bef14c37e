//! The lease: how long cached records may be trusted without asking the database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::map::OUTDATED;
pub(crate) use crate::ports::REVOCATION_BOUND;
use crate::ports::TRUST_MAX;

/// A second safety net: no record is served for longer than this without being read again.
const AGE_MAX: Duration = Duration::from_mins(5);

/// Time on the monotonic clock, in nanoseconds.
pub(crate) type Nanos = u64;

/// The time at which this instance last knew every change.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Start of the last poll whose changes have all been applied; 0 for never, or if nothing is
    /// trusted.
    synced_at: AtomicU64,
    /// The same, whether or not it is trusted.
    heard_at: AtomicU64,
}

/// Freshness of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// No change that was answered longer than the bound ago is missing from it.
    Current,
    /// It was valid at the last sync, which is longer ago than the bound and not longer than the
    /// grace.
    Stale,
    /// It must be read again.
    Expired,
}

impl Lease {
    /// Publishes that every change before `began` has been applied. Take `began` before the poll is
    /// sent. Otherwise a change that was committed in between would be missed.
    pub(crate) fn extend(&self, began: Nanos) {
        // Zero means never.
        self.synced_at.fetch_max(began.max(1), Ordering::Release);
        self.heard_at.fetch_max(began.max(1), Ordering::Release);
    }

    /// Stops trusting earlier polls, because the log is not complete.
    pub(crate) fn distrust(&self) {
        self.synced_at.store(0, Ordering::Release);
    }

    /// Returns the start of the last complete poll, if there was one that is trusted.
    pub(crate) fn synced_at(&self) -> Option<Nanos> {
        known(&self.synced_at)
    }

    /// Returns the start of the last complete poll, if there was one. [`distrust`](Self::distrust)
    /// does not change it, because the server was reached.
    pub(crate) fn heard_at(&self) -> Option<Nanos> {
        known(&self.heard_at)
    }

    /// Returns the freshness of a record whose load began at `read_at`. Call it after the work,
    /// immediately before the verdict.
    ///
    /// An instance that follows no changes trusts only records that it read for the request itself,
    /// because other instances do not wait for it. An [`OUTDATED`] record is never valid, not even
    /// within the grace, because the last sync did not cover it.
    pub(crate) fn freshness(&self, read_at: Nanos, now: Nanos, grace: Duration) -> Freshness {
        let synced_at = self.synced_at.load(Ordering::Acquire);
        if synced_at == 0 || read_at == OUTDATED {
            return Freshness::Expired;
        }
        let unsynced = now.saturating_sub(synced_at);
        let since = unsynced.min(now.saturating_sub(read_at));
        let age = now.saturating_sub(read_at);
        if since < nanos(REVOCATION_BOUND) && unsynced < nanos(TRUST_MAX) && age < nanos(AGE_MAX) {
            Freshness::Current
        } else if unsynced < nanos(grace) {
            Freshness::Stale
        } else {
            Freshness::Expired
        }
    }
}

fn known(at: &AtomicU64) -> Option<Nanos> {
    match at.load(Ordering::Acquire) {
        0 => None,
        at => Some(at),
    }
}

/// Converts a duration to [`Nanos`]; 584 years fit.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Nanos = 2_000_000_000;
    const NO_GRACE: Duration = Duration::ZERO;

    #[test]
    fn a_record_is_trusted_for_the_bound_and_not_a_nanosecond_longer() {
        let lease = Lease::default();
        assert_eq!(
            lease.freshness(10, 11, NO_GRACE),
            Freshness::Expired,
            "not before the first sync"
        );
        lease.extend(1);
        assert_eq!(
            lease.freshness(10, 10 + T - 1, NO_GRACE),
            Freshness::Current
        );
        assert_eq!(lease.freshness(10, 10 + T, NO_GRACE), Freshness::Expired);
    }

    #[test]
    fn a_sync_extends_every_record_from_when_it_began() {
        let lease = Lease::default();
        lease.extend(5 * T);
        assert_eq!(lease.freshness(10, 6 * T - 1, NO_GRACE), Freshness::Current);
        assert_eq!(lease.freshness(10, 6 * T, NO_GRACE), Freshness::Expired);
        lease.extend(4 * T);
        assert_eq!(
            lease.synced_at(),
            Some(5 * T),
            "a late answer takes nothing back"
        );
    }

    #[test]
    fn the_last_poll_is_remembered_when_nothing_is_trusted_because_of_it() {
        let lease = Lease::default();
        assert_eq!(lease.heard_at(), None);
        lease.extend(T);
        lease.distrust();
        assert_eq!(lease.freshness(10, T + 1, NO_GRACE), Freshness::Expired);
        assert_eq!((lease.synced_at(), lease.heard_at()), (None, Some(T)));
        lease.extend(2 * T);
        assert_eq!(
            (lease.synced_at(), lease.heard_at()),
            (Some(2 * T), Some(2 * T))
        );
    }

    #[test]
    fn an_instance_cut_off_from_changes_stops_trusting_what_it_reads_directly() {
        let lease = Lease::default();
        lease.extend(1);
        assert_eq!(lease.freshness(2 * T, 2 * T, NO_GRACE), Freshness::Current);
        assert_eq!(
            lease.freshness(2 * T, 2 * T + 1, NO_GRACE),
            Freshness::Expired
        );
    }

    #[test]
    fn no_record_lives_past_five_minutes_without_being_read() {
        let lease = Lease::default();
        let later = nanos(AGE_MAX) + 10;
        lease.extend(later);
        assert_eq!(lease.freshness(10, later - 1, NO_GRACE), Freshness::Current);
        assert_eq!(lease.freshness(10, later, NO_GRACE), Freshness::Expired);
    }

    #[test]
    fn an_outdated_record_is_trusted_by_no_sync_and_within_no_grace() {
        let lease = Lease::default();
        lease.extend(10);
        let grace = Duration::from_secs(10);
        assert_eq!(lease.freshness(1, 11, grace), Freshness::Current);
        assert_eq!(lease.freshness(OUTDATED, 11, grace), Freshness::Expired);
        assert_eq!(lease.freshness(OUTDATED, 3 * T, grace), Freshness::Expired);
    }

    #[test]
    fn within_the_grace_what_was_valid_at_the_last_sync_is_stale() {
        let lease = Lease::default();
        lease.extend(T);
        let grace = Duration::from_secs(10);
        assert_eq!(lease.freshness(10, 2 * T - 1, grace), Freshness::Current);
        assert_eq!(lease.freshness(10, 2 * T, grace), Freshness::Stale);
        assert_eq!(lease.freshness(10, 6 * T - 1, grace), Freshness::Stale);
        assert_eq!(lease.freshness(10, 6 * T, grace), Freshness::Expired);
    }
}
