//! Which records have changed since a snapshot.

use super::locks::{Lock as _, Locks};
use super::map::RecordId;

/// Records share these marks. Two that share one sometimes cause a load to be repeated, which is
/// harmless.
const MARKS: usize = 1_024;

/// A position in the order of all changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Snapshot(u64);

/// Counts changes, and remembers for each record (or a few of them together) the number of its last
/// change.
pub(crate) struct Generations<L: Locks> {
    count: L::Lock<Count>,
    marks: Box<[L::Lock<u64>]>,
}

struct Count {
    changes: u64,
    /// The number of the last change that affected everything.
    everything: u64,
}

impl<L: Locks> Generations<L> {
    pub(crate) fn new() -> Self {
        Self {
            count: L::Lock::new(Count {
                changes: 0,
                everything: 0,
            }),
            marks: (0..MARKS).map(|_| L::Lock::new(0)).collect(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.count.with(|count| Snapshot(count.changes))
    }

    pub(crate) fn bump(&self, id: &RecordId) {
        self.count.with(|count| {
            count.changes += 1;
            // Inside the lock, because a reader of the new count must see the mark as well.
            self.mark(id).with(|mark| *mark = count.changes);
        });
    }

    pub(crate) fn bump_all(&self) {
        self.count.with(|count| {
            count.changes += 1;
            count.everything = count.changes;
        });
    }

    pub(crate) fn is_unchanged(&self, since: Snapshot, ids: &[RecordId]) -> bool {
        self.count.with(|count| count.everything) <= since.0
            && ids
                .iter()
                .all(|id| self.mark(id).with(|mark| *mark) <= since.0)
    }

    fn mark(&self, id: &RecordId) -> &L::Lock<u64> {
        // The last bytes of a UUID of version 7 are random.
        let index = usize::from(u16::from_le_bytes([id[14], id[15]]));
        &self.marks[index % MARKS]
    }
}
