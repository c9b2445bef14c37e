//! Digests that nobody has, remembered for a moment, so that a flood of them costs the database less.
//!
//! A table of fixed size in which a newcomer takes the place of whoever stood there: bounded by construction. Forgetting one too early costs a
//! look at the database; remembering one too long cannot happen, since a lease is asked.

use super::lease::Nanos;
use super::locks::{Lock as _, Locks};
use super::map::Digest;

/// 65,536 places of 48 bytes: 3 MiB.
const PLACES: usize = 1 << 16;

const SHARDS: usize = 64;

/// See the module.
pub(crate) struct Unknown<L: Locks> {
    shards: Box<[L::Lock<Shard>]>,
}

struct Shard {
    /// Filled on first use.
    places: Vec<Option<Place>>,
    /// Bumped when a key is made here, so that a load that began before does not call it unknown.
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

    /// When the load began that found nobody with `digest`.
    pub(crate) fn read_at(&self, digest: &Digest) -> Option<Nanos> {
        self.shard(digest).with(|shard| {
            let place = shard.places.get(index_of(digest))?.as_ref()?;
            (place.digest == *digest).then_some(place.read_at)
        })
    }

    /// To be taken before a load begins.
    pub(crate) fn made(&self, digest: &Digest) -> Made {
        self.shard(digest).with(|shard| Made(shard.made))
    }

    /// Remembers that a load that began at `read_at` found nobody, unless a key was made here since.
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

    /// A key with this digest was made here: it is known from now on.
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
