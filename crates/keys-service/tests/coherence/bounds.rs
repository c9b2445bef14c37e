//! Bounds of a check. Within its bounds a check is complete.

use crate::state::{Move, Status, Write};

#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each switches one kind of step on"
)]
pub(crate) struct Bounds {
    pub(crate) instances: usize,
    /// Initial status of the keys, one row each.
    pub(crate) rows: &'static [Status],
    /// Possible writes.
    pub(crate) writes: &'static [Write],
    /// Number of transactions of these kinds, begun and committed in any order at any instance.
    pub(crate) transactions: usize,
    /// Maximum concurrent verifications, in all instances together. Their number over time is not
    /// limited.
    pub(crate) verifications: usize,
    /// Maximum concurrent polls, in all instances together.
    pub(crate) polls: usize,
    /// Maximum concurrent verifications and polls together.
    pub(crate) under_way: usize,
    /// G in ticks; 0 is no grace.
    pub(crate) grace: u8,
    /// Answers wait for all instances.
    pub(crate) wait_global: bool,
    /// Verifications that go past the cache (`no-cache`, batches), so that loads of one key
    /// overlap.
    pub(crate) direct_reads: bool,
    /// Instances restart, at any moment.
    pub(crate) restarts: bool,
    /// Entries are evicted, at any moment.
    pub(crate) evictions: bool,
    /// The change log is pruned, also while an instance that is cut off still needs it.
    pub(crate) prunes: bool,
    /// Ways in which the database may become another one, once, at any moment.
    pub(crate) moves: &'static [Move],
    /// Whether connections of listeners, notifications and their receivers are modelled. Otherwise
    /// a poll may happen at any moment, which covers wake-ups that are on time, late or lost.
    pub(crate) wakeups: bool,
}
