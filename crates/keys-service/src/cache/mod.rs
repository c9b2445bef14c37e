//! The coherent cache: records of keys that are served from memory and never beyond the published
//! bound.
//!
//! | Module | Holds |
//! |---|---|
//! | [`map`] | a sharded map that never serves a forgotten record; generic over its records |
//! | [`generations`] | which records have changed since a snapshot |
//! | [`lease`] | how long cached records may be trusted |
//! | [`record`] | the cached record of a key |
//! | [`account_marks`] | whether a key's account has changed since it was read |
//! | [`acknowledged`] | revocations that this instance has acknowledged |
//! | [`unknown`] | digests that do not exist |
//! | [`loader`] | reads missing records, several keys in one statement |
//! | [`outage`] | whether the database is known to be unavailable |

pub(crate) mod account_marks;
mod acknowledged;
pub(crate) mod generations;
pub(crate) mod lease;
pub(crate) mod loader;
mod locks;
pub(crate) mod map;
#[cfg(test)]
mod map_tests;
pub(crate) mod outage;
pub(crate) mod record;
pub(crate) mod unknown;

use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::Arc;

use keys_core::{AccountId, KeyId, PresentedKey, RevocationReason};

use crate::clock::Clock;
use crate::usage::{Used, Uses};
use account_marks::AccountMarks;
use acknowledged::Acknowledged;
use lease::{Lease, Nanos};
use locks::ParkingLot;
use map::{Bounds, Digest, Forget, Found, Map, MapKey, RecordId};
use record::{Record, account_record_id};
use unknown::Unknown;

/// Maximum size of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOptions {
    /// Maximum number of keys. At about 170 bytes each, and a hundred more for those with an
    /// external identifier, an expiry, addresses or scopes, a million take 170 to 270 MB.
    pub entries_max: usize,
    /// Maximum bytes of keys beside their fixed part, in names, addresses and scopes.
    pub bytes_max: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        const MIB: usize = 1 << 20;
        Self {
            entries_max: 1_000_000,
            bytes_max: 256 * MIB,
        }
    }
}

impl CacheOptions {
    /// Sets the maximum number of keys.
    #[must_use]
    pub const fn entries_max(mut self, entries_max: usize) -> Self {
        self.entries_max = entries_max;
        self
    }

    /// Sets the maximum bytes of keys beside their fixed part.
    #[must_use]
    pub const fn bytes_max(mut self, bytes_max: usize) -> Self {
        self.bytes_max = bytes_max;
        self
    }
}

/// The cache, see the module.
pub(crate) struct Cache {
    pub(crate) keys: Map<Record, ParkingLot>,
    pub(crate) accounts: AccountMarks,
    pub(crate) unknown: Unknown<ParkingLot>,
    pub(crate) lease: Lease,
    /// Revocations that this instance has acknowledged, to be applied again if the database loses
    /// them in a failover.
    pub(crate) acknowledged: Acknowledged,
    /// Uses of keys that have left the cache, and of keys that were never in it.
    pub(crate) uses: Uses,
    clock: Arc<dyn Clock>,
}

impl Cache {
    pub(crate) fn new(options: CacheOptions, clock: Arc<dyn Clock>) -> Self {
        Self {
            keys: Map::new(Bounds {
                entries_max: options.entries_max,
                bytes_max: options.bytes_max,
            }),
            accounts: AccountMarks::default(),
            unknown: Unknown::new(),
            lease: Lease::default(),
            acknowledged: Acknowledged::default(),
            uses: Uses::default(),
            clock,
        }
    }

    /// Records that a key was created on this instance.
    pub(crate) fn key_made(&self, digest: &Digest) {
        self.unknown.made_known(digest);
    }

    /// Records that this instance is about to acknowledge the revocation of a key.
    pub(crate) fn key_revoked_here(&self, id: KeyId, reason: Option<RevocationReason>) {
        // First, because the key may not be in the cache, for example because the feed was faster
        // than the answer of the store. It then leaves no tombstone. It is refused when it is read.
        self.acknowledged.note(self.now(), id, reason);
        self.forget_key(id, Forget::ForEver);
    }

    /// Records that a key has changed.
    pub(crate) fn key_changed(&self, id: KeyId) {
        self.forget_key(id, Forget::Reload);
    }

    /// Records that an account has changed: all its keys are read again.
    pub(crate) fn account_changed(&self, id: AccountId) {
        // First the generation, then the mark: a load that saw the old account finds the new
        // generation, or read its mark before. Then the generation once more: a verdict that took
        // its snapshot in between, and saw the old mark, must find that something has changed.
        self.keys.bump(&account_record_id(id));
        self.accounts.bump(id);
        self.keys.bump(&account_record_id(id));
    }

    /// Records that many accounts have changed: all their keys are read again, and no others. The
    /// shared marks of [`account_changed`](Self::account_changed) would affect most other accounts
    /// as well.
    pub(crate) fn accounts_changed(&self, ids: &HashSet<AccountId>) {
        let record_ids: Vec<RecordId> = ids.iter().map(|id| account_record_id(*id)).collect();
        self.keys.outdate_dependent(&record_ids, |record| {
            let account = record.facts.account_id();
            account.is_some_and(|account| ids.contains(&account))
        });
    }

    /// Records that anything may have changed: every record is read again before it is served. Keys
    /// that are known to be revoked stay refused, whatever is read.
    pub(crate) fn everything_changed(&self) {
        self.keys.outdate_all();
    }

    /// Returns whether this instance has read that the key is revoked. Revocation is final, so
    /// nothing else needs to be read, and a database that has lost the revocation is not believed.
    pub(crate) fn is_known_revoked(&self, key: &MapKey) -> bool {
        self.keys.visit(key, |found| match found {
            Found::Tombstone => true,
            Found::Known(hit) => hit.value.is_revoked(),
            Found::Nothing => false,
        })
    }

    /// Returns the gathered uses, to be written: first those of keys that are not cached, then
    /// shard by shard of the cache, so that all of a million are never held twice.
    pub(crate) fn collect_uses(&self) -> impl Iterator<Item = Vec<Used>> {
        let outside = std::iter::once_with(|| self.uses.take());
        let inside = (0..map::SHARDS).map(|shard| {
            let mut uses = Vec::new();
            // Read under exclusive access to a record, so it is later than every use.
            let now = OnceCell::new();
            self.keys.collect(shard, |id, record| {
                uses.extend(take_use(id, record, *now.get_or_init(|| self.now())));
            });
            uses
        });
        outside.chain(inside)
    }

    /// Records a use of a key in its record, if it is cached. Few threads share the record of a
    /// key, but all that verify would share a common counter.
    pub(crate) fn note_use(&self, key: &MapKey, id: KeyId, now: Nanos) -> bool {
        self.keys.visit(key, |found| match found {
            Found::Known(mut hit) if hit.id == *id.as_uuid().as_bytes() => {
                hit.value.note_use(now);
                hit.mark();
                true
            }
            Found::Known(_) | Found::Tombstone | Found::Nothing => false,
        })
    }

    /// Keeps the uses of records that left the cache.
    pub(crate) fn take_uses(&self, left: impl IntoIterator<Item = (RecordId, Record)>) {
        for (id, mut record) in left {
            if let Some(used) = take_use(id, &mut record, self.now()) {
                self.uses.record(used);
            }
        }
    }

    fn forget_key(&self, id: KeyId, how: Forget) {
        self.take_uses(self.keys.forget(id.as_uuid().as_bytes(), how));
    }

    fn now(&self) -> Nanos {
        lease::nanos(self.clock.elapsed())
    }
}

fn take_use(id: RecordId, record: &mut Record, now: Nanos) -> Option<Used> {
    let count = std::mem::take(&mut record.uses);
    (count > 0).then(|| Used {
        key_id: KeyId::from_uuid(uuid::Uuid::from_bytes(id)),
        last_at: record.used_at.before(now),
        count: u64::from(count),
    })
}

/// Returns a hash of the random part of a presented key: its first sixteen characters, 95 bits,
/// folded as wyhash does (Wang Yi, 2019), with the first of its constants. Clients cannot choose
/// the keys in the cache, so they cannot cause collisions.
#[inline]
pub(crate) fn hash(key: PresentedKey<'_>) -> u64 {
    const SECRETS: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];
    let (words, _) = key.random_part().as_chunks();
    let [a, b] = [0, 1].map(|word| u64::from_le_bytes(words[word]) ^ SECRETS[word]);
    let product = u128::from(a) * u128::from(b);
    #[expect(clippy::cast_possible_truncation, reason = "both halves go in")]
    let folded = product as u64 ^ (product >> 64) as u64;
    folded
}
