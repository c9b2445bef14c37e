//! How much of the world a check contains. Within its bounds a check is complete.

use crate::state::{Move, Status, Write};

#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each switches one kind of step on"
)]
pub(crate) struct Bounds {
    pub(crate) instances: usize,
    /// What the keys are when it begins, one row each.
    pub(crate) rows: &'static [Status],
    /// What is written.
    pub(crate) writes: &'static [Write],
    /// How many transactions there are, of these kinds, begun and committed in any order at any instance.
    pub(crate) transactions: usize,
    /// How many verifications are under way at once, in all instances together. Their number over time is not limited.
    pub(crate) verifications: usize,
    /// How many polls are under way at once, in all instances together.
    pub(crate) polls: usize,
    /// How many verifications and polls together are under way at once.
    pub(crate) under_way: usize,
    /// G in ticks; 0 is no grace.
    pub(crate) grace: u8,
    /// Answers wait for all instances.
    pub(crate) wait_global: bool,
    /// Verifications that go past the cache (`no-cache`, batches), so that loads of one key overlap.
    pub(crate) direct_reads: bool,
    /// Instances restart, at any moment.
    pub(crate) restarts: bool,
    /// Entries are evicted, at any moment.
    pub(crate) evictions: bool,
    /// The change log is pruned, also under the feet of an instance that is cut off.
    pub(crate) prunes: bool,
    /// How the database may become another one, once, at any moment.
    pub(crate) moves: &'static [Move],
    /// Connections of listeners, notifications and who heard them. Elsewhere a poll may happen at any moment, which covers
    /// each way to be woken, late or never.
    pub(crate) wakeups: bool,
}
