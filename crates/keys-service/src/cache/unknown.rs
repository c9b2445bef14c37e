//! Digests that do not exist, remembered for a moment, so that a flood of them costs the database
//! less.
//!
//! A table of fixed size in which a new entry replaces the previous one in its slot: bounded by
//! construction. Forgetting one too early costs a look-up in the database. Remembering one too long
//! cannot happen, because the lease is checked.

use super::lease::Nanos;
use super::locks::{Lock as _, Locks};
use super::map::Digest;

/// 65,536 slots of 48 bytes: 3 MiB.
const PLACES: usize = 1 << 16;

const SHARDS: usize = 64;

/// The table, see the module.
pub(crate) struct Unknown<L: Locks> {
    shards: Box<[L::Lock<Shard>]>,
}

struct Shard {
    /// Filled on first use.
    places: Vec<Option<Place>>,
    /// Incremented when a key is created here, so that a load that began before does not report it
    /// as unknown.
    made: u64,
}

#[derive(Clone, Copy)]
struct Place {
    digest: Digest,
    read_at: Nanos,
}

/// The state of a shard before a load began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made(u64);

impl<L: Locks> Unknown<L> {
    pub(crate) fn new() -> Self {
        let shard = || Shard {
            places: Vec::new(),
            made: 0,
        };
        Self {
            shards: (0..SHARDS).map(|_| L::Lock::new(shard())).collect(),
        }
    }

    /// Returns the start of the load that found no key with `digest`.
    pub(crate) fn read_at(&self, digest: &Digest) -> Option<Nanos> {
        self.shard(digest).with(|shard| {
            let place = shard.places.get(index_of(digest))?.as_ref()?;
            (place.digest == *digest).then_some(place.read_at)
        })
    }

    /// Returns the state. Read it before a load begins.
    pub(crate) fn made(&self, digest: &Digest) -> Made {
        self.shard(digest).with(|shard| Made(shard.made))
    }

    /// Remembers that a load that began at `read_at` found no key, unless a key was created here
    /// since.
    pub(crate) fn remember(&self, digest: &Digest, read_at: Nanos, since: Made) {
        self.shard(digest).with(|shard| {
            if Made(shard.made) == since {
                shard.places.resize(PLACES / SHARDS, None);
                shard.places[index_of(digest)] = Some(Place {
                    digest: *digest,
                    read_at,
                });
            }
        });
    }

    /// Records that a key with this digest was created here.
    pub(crate) fn made_known(&self, digest: &Digest) {
        self.shard(digest).with(|shard| {
            shard.made += 1;
            if let Some(place) = shard.places.get_mut(index_of(digest)) {
                *place = None;
            }
        });
    }

    fn shard(&self, digest: &Digest) -> &L::Lock<Shard> {
        &self.shards[usize::from(digest[0]) % SHARDS]
    }
}

fn index_of(digest: &Digest) -> usize {
    usize::from(u16::from_le_bytes([digest[1], digest[2]])) % (PLACES / SHARDS)
}
