//! Positions of the feeds of one process, for stores that number their changes in the order of
//! commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::changes::SILENCE_MAX;

/// Positions of the feeds of this process, for stores that number their changes in the order of
/// commits.
///
/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Readers(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: HashMap<u64, Standing>,
}

#[derive(Debug)]
struct Standing {
    applied: u64,
    // Does not count suspended time, as the instances should, so it waits for them rather longer.
    heard_at: Instant,
    is_gone: bool,
}

impl Standing {
    fn is_silent(&self) -> bool {
        self.heard_at.elapsed() > SILENCE_MAX
    }
}

/// The position of one feed among the [`Readers`]. A feed that is dropped is waited for until
/// [`SILENCE_MAX`] has passed, because its cache may still be in use.
#[derive(Debug)]
pub struct Place {
    readers: Readers,
    id: u64,
}

impl Readers {
    /// Adds a feed that has seen nothing yet.
    #[must_use]
    pub fn join(&self) -> Place {
        let mut places = self.0.lock();
        let id = places.next;
        places.next += 1;
        let standing = Standing {
            applied: 0,
            heard_at: Instant::now(),
            is_gone: false,
        };
        places.taken.insert(id, standing);
        Place {
            readers: self.clone(),
            id,
        }
    }

    /// Returns whether every feed that has to be waited for has applied the change of this number.
    #[must_use]
    pub fn have_applied(&self, number: u64) -> bool {
        let mut places = self.0.lock();
        places
            .taken
            .retain(|_, one| !(one.is_gone && one.is_silent()));
        places
            .taken
            .values()
            .all(|one| one.applied >= number || one.is_silent())
    }

    /// Returns the number up to which every feed that is not silent has applied all changes. `None`
    /// if there is no feed.
    #[must_use]
    pub fn slowest(&self) -> Option<u64> {
        let places = self.0.lock();
        let heard = places.taken.values().filter(|one| !one.is_silent());
        heard.map(|one| one.applied).min()
    }
}

impl Place {
    /// Gives a sign of life. Call it before each poll.
    pub fn heard(&self) {
        if let Some(one) = self.readers.0.lock().taken.get_mut(&self.id) {
            one.heard_at = Instant::now();
        }
    }

    /// Records that all changes up to this number have been applied.
    pub fn applied(&self, number: u64) {
        if let Some(one) = self.readers.0.lock().taken.get_mut(&self.id) {
            one.applied = number;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(one) = self.readers.0.lock().taken.get_mut(&self.id) {
            one.is_gone = true;
        }
    }
}
