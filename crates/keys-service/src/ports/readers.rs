//! Positions of the feeds of one process, for stores that number their changes in the order of commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::changes::SILENCE_MAX;

/// For stores that number their changes in the order of commits: how far the feeds of this process are.
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
    // Does not count suspended time, as the instances should: so it waits for them rather longer.
    heard_at: Instant,
    is_gone: bool,
}

impl Standing {
    fn is_silent(&self) -> bool {
        self.heard_at.elapsed() > SILENCE_MAX
    }
}

/// The place of one feed among the [`Readers`]. A feed that is dropped is waited for until [`SILENCE_MAX`] has passed:
/// the cache that it served may still be in use.
#[derive(Debug)]
pub struct Place {
    readers: Readers,
    id: u64,
}

impl Readers {
    /// Takes a place, from which nothing has been seen yet.
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

    /// Whether everybody who has to be waited for has applied the change of this number.
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

    /// The number up to which everybody who is not silent has applied all changes; `None` if there is nobody.
    #[must_use]
    pub fn slowest(&self) -> Option<u64> {
        let places = self.0.lock();
        let heard = places.taken.values().filter(|one| !one.is_silent());
        heard.map(|one| one.applied).min()
    }
}

impl Place {
    /// A sign of life, to be given before each poll.
    pub fn heard(&self) {
        if let Some(one) = self.readers.0.lock().taken.get_mut(&self.id) {
            one.heard_at = Instant::now();
        }
    }

    /// All changes up to this number have been applied.
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
