//! A bounded map of records that never serves a record it was told to forget. It is independent of
//! the rules of keys.
//!
//! It is our own for three reasons. The general caches cost 4 to 25 times a sharded map with inline
//! records (measured per look-up at 100,000 entries: `quick_cache` 144 to 168 ns, `moka` 990 ns,
//! such a map 41 ns). None prefetches. And none lets a load find out, in the same step that stores
//! its result, that the record has changed since it was read. That step prevents a revoked key from
//! being put back by a load that began before.
//!
//! Records are stored inline in shards, found by a hash of the key's text and identified by the
//! whole digest. The hash does not need the digest, so a record can be prefetched
//! ([`Map::prefetch`]) while its digest is still being computed: among a hundred thousand records
//! that hides most of the cache miss. A second index finds a record by its identifier, because a
//! change contains only that.
//!
//! # Order of operations
//! A change first increments the [`Generations`] of the identifier, then looks it up and forgets
//! it. A load first registers the identifier, then compares generations, then stores, all under the
//! lock of the shard. So either the change finds the identifier registered, and forgets the record
//! once the lock is free; or the load finds the new generation, and stores nothing.
//!
//! Then the change increments them again. A reader that takes a snapshot, looks a record up, works
//! for some time and then checks whether it still holds ([`Map::is_unchanged`]) may have taken the
//! snapshot after the first increment and seen the record before it was forgotten.

use std::ops::{Index, IndexMut};

use hashbrown::HashTable;
use prefetch_index::prefetch_index;

use super::generations::{Generations, Snapshot};
use super::locks::{Lock as _, Locks};

/// A digest, uniformly distributed.
pub(crate) type Digest = [u8; 32];

/// The look-up key of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapKey {
    /// Selects the position. Any distribution of its bits with few collisions is sufficient.
    pub(crate) hash: u64,
    /// Identifies the record.
    pub(crate) digest: Digest,
}

/// The identifier of a record, in any distribution.
pub(crate) type RecordId = [u8; 16];

/// Enough that two threads rarely contend for one lock, and few enough that empty shards cost next
/// to nothing.
pub(crate) const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 6;

/// Slots use the bits of a `u32` that the number of the shard leaves: 67 million in each shard.
const SLOTS_MAX: usize = 1 << (u32::BITS - SHARD_BITS);

/// Records that an eviction examines before it gives up looking for one that was not used recently.
const EVICTION_STEPS: u32 = 32;

/// Records that an eviction examines before it gives up looking for one that takes many bytes,
/// other than the new one: some microseconds under the lock of a shard.
const HEAVY_STEPS: u32 = 1_024;

/// The two properties of its records that a map needs.
pub(crate) trait Weigh {
    /// Returns the bytes on the heap that belong to this record alone.
    fn heap_bytes(&self) -> usize;

    /// Returns whether the record is permanently gone. No other record ever replaces it.
    fn is_final(&self) -> bool;
}

/// [`Slot::read_at`] of a record that must be read again before it is served.
pub(crate) const OUTDATED: u64 = 0;

/// The maximum size of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) entries_max: usize,
    pub(crate) bytes_max: usize,
}

/// The map, see the module.
pub(crate) struct Map<V, L: Locks> {
    shards: Sharded<L::Lock<Shard<V>>>,
    ids: Sharded<L::Lock<HashTable<Place>>>,
    generations: Generations<L>,
    per_shard: Bounds,
}

type Sharded<T> = Box<[Aligned<T>]>;

/// Keeps neighbouring locks on separate cache lines.
#[repr(align(128))]
struct Aligned<T>(T);

struct Shard<V> {
    by_hash: HashTable<u32>,
    slots: Slots<V>,
    free: Vec<u32>,
    /// Start of the next eviction: the hand of the clock algorithm.
    hand: u32,
    /// The same for evictions of records that take many bytes.
    heavy_hand: u32,
    heap_bytes: usize,
    /// Number of slots that are [final](Slot::is_final).
    finals: usize,
}

/// Slots by number, in blocks that do not move: growing copies no record while others wait for the
/// lock, and leaves no holes.
struct Slots<V>(Vec<Vec<Slot<V>>>);

/// Two cache lines for records of the size of keys: the look-up key, and then the record.
#[repr(C, align(128))]
struct Slot<V> {
    digest: Digest,
    id: RecordId,
    /// Start of its load, or [`OUTDATED`].
    read_at: u64,
    /// The stored part of the hash.
    tag: u32,
    /// Whether it was used since the hand last passed.
    used: bool,
    /// Whether [`Map::collect`] should visit it.
    marked: bool,
    /// Whether it is a tombstone, or a record that is permanently gone.
    is_final: bool,
    state: State<V>,
}

enum State<V> {
    Free,
    /// Known to be permanently gone. Refused without any further check, and evicted last.
    Tombstone,
    Known(V),
}

/// Position of a record, and some bits of its identifier to distinguish it from most others. Eight
/// bytes, because there is one for every record.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    tag: u32,
    /// The slot in the upper bits, the shard in the lowest.
    packed: u32,
}

/// Result of a look-up.
pub(crate) enum Found<'a, V> {
    /// Nothing.
    Nothing,
    /// A record known to be permanently gone.
    Tombstone,
    /// A record, with the start of its load or [`OUTDATED`]. It may be changed in place, and marked
    /// for collection.
    Known(Hit<'a, V>),
}

/// A found record.
pub(crate) struct Hit<'a, V> {
    pub(crate) value: &'a mut V,
    pub(crate) read_at: u64,
    pub(crate) id: RecordId,
    marked: &'a mut bool,
}

impl<V> Hit<'_, V> {
    /// Marks the record for the next [`Map::collect`].
    pub(crate) fn mark(&mut self) {
        *self.marked = true;
    }
}

/// Result of storing a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored<V> {
    /// It is stored. Marked records that had to make room are returned, with their identifiers.
    Yes(Vec<(RecordId, V)>),
    /// A dependency has changed since the load began: nothing is stored.
    Changed,
    /// The record is known to be permanently gone, whatever this load read: nothing is stored.
    Final,
}

/// Way to forget a record that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forget {
    /// It is loaded again at the next look-up.
    Reload,
    /// It is permanently gone.
    ForEver,
}

impl<V: Weigh, L: Locks> Map<V, L> {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let per_shard = |max: usize| max.div_ceil(SHARDS).max(1);
        // One more than the maximum, for the record that causes an eviction.
        let entries_max = per_shard(bounds.entries_max).min(SLOTS_MAX - 1);
        Self {
            shards: (0..SHARDS)
                .map(|_| Aligned(L::Lock::new(Shard::new())))
                .collect(),
            ids: (0..SHARDS)
                .map(|_| Aligned(L::Lock::new(HashTable::new())))
                .collect(),
            generations: Generations::new(),
            per_shard: Bounds {
                entries_max,
                bytes_max: per_shard(bounds.bytes_max),
            },
        }
    }

    /// Prefetches the slot for `hash` into the CPU cache. Does not block.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        self.shard(shard_of(hash)).with(|shard| {
            // There is usually one. Another with the same few bits costs nothing but its prefetch.
            if let Some(slot) = shard.by_hash.iter_hash(spread(tag_of(hash))).next() {
                shard.slots.prefetch(*slot);
            }
        });
    }

    /// Looks a key up and passes the result to `visit`, under the lock of its shard: keep it short.
    #[inline]
    pub(crate) fn visit<R>(&self, key: &MapKey, visit: impl FnOnce(Found<'_, V>) -> R) -> R {
        self.shard(shard_of(key.hash)).with(|shard| {
            let Some(slot) = shard.find(key) else {
                return visit(Found::Nothing);
            };
            slot.used = true;
            match &mut slot.state {
                State::Free => visit(Found::Nothing),
                State::Tombstone => visit(Found::Tombstone),
                State::Known(value) => visit(Found::Known(Hit {
                    value,
                    read_at: slot.read_at,
                    id: slot.id,
                    marked: &mut slot.marked,
                })),
            }
        })
    }

    /// Returns a snapshot. Take it before a load begins to read.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.generations.snapshot()
    }

    /// Returns whether nothing has changed since `since` for any of `ids`.
    pub(crate) fn is_unchanged(&self, since: Snapshot, ids: &[RecordId]) -> bool {
        self.generations.is_unchanged(since, ids)
    }

    /// Stores a loaded record, unless it or one of `depends_on` has changed since `since`, or the
    /// record is known to be permanently gone. A record that is permanently gone is always stored.
    pub(crate) fn store(
        &self,
        key: &MapKey,
        id: RecordId,
        depends_on: &[RecordId],
        value: V,
        read_at: u64,
        since: Snapshot,
    ) -> Stored<V> {
        let shard_index = shard_of(key.hash);
        self.shard(shard_index).with(|shard| {
            let mut out = Vec::new();
            if let Some(slot_index) = shard.number(key) {
                let slot = &shard.slots[slot_index];
                if slot.id != id && !slot.is_final {
                    // The same key under another identifier, whose changes must find it from now
                    // on.
                    self.evict(shard, shard_index, slot_index, &mut out);
                }
            }
            let (slot_index, is_new) = shard.claim(key, id);
            let place = Place::new(&id, shard_index, slot_index);
            if is_new {
                // Before the generations are compared: see the module.
                self.register(&id, place);
            }
            let slot = &mut shard.slots[slot_index];
            let is_final = value.is_final();
            if slot.is_final {
                // It stays as it is. The other fields of the new record are not needed.
                return if is_final {
                    Stored::Yes(out)
                } else {
                    Stored::Final
                };
            }
            let unchanged = is_final
                || (self.generations.is_unchanged(since, &[id])
                    && self.generations.is_unchanged(since, depends_on));
            if !unchanged {
                if is_new {
                    self.unregister(&id, place);
                    shard.release(slot_index);
                }
                return Stored::Changed;
            }
            slot.read_at = read_at.max(OUTDATED + 1);
            slot.is_final = is_final;
            shard.heap_bytes += value.heap_bytes();
            out.extend(shard.put(slot_index, State::Known(value)));
            shard.finals += usize::from(is_final);
            self.make_room(shard, shard_index, slot_index, &mut out);
            Stored::Yes(out)
        })
    }

    /// Records that a record has changed, so that loads under way do not store their older result.
    pub(crate) fn bump(&self, id: &RecordId) {
        self.generations.bump(id);
    }

    /// Records that a record has changed and forgets it. Returns it, with its identifier, if it was
    /// marked.
    ///
    /// A record that is permanently gone becomes a tombstone, however it is forgotten.
    pub(crate) fn forget(&self, id: &RecordId, how: Forget) -> Option<(RecordId, V)> {
        self.generations.bump(id);
        let mut handed_back = None;
        for place in self.places(id) {
            self.shard(place.shard()).with(|shard| {
                let Some(slot) = shard.slots.get_mut(place.slot()) else {
                    return;
                };
                if slot.id != *id || !matches!(slot.state, State::Known(_)) {
                    return;
                }
                handed_back = if slot.is_final || how == Forget::ForEver {
                    shard.bury(place.slot())
                } else {
                    self.unregister(id, place);
                    shard.release(place.slot())
                };
            });
        }
        self.generations.bump(id);
        handed_back
    }

    /// Marks everything to be read again before it is served, and keeps loads under way from
    /// storing anything. Tombstones, and records that are permanently gone, stay: nothing that is
    /// read later reverses that.
    ///
    /// Nothing is removed, so that records in use can be read again before they are needed: see
    /// [`Map::outdated`].
    pub(crate) fn outdate_all(&self) {
        self.generations.bump_all();
        self.outdate(|_| true);
        self.generations.bump_all();
    }

    /// Marks the records for which `depends_on` returns `true` to be read again before they are
    /// served. Examines all records.
    ///
    /// `ids` are the dependencies of these records; loads under way store nothing that depends on
    /// them.
    pub(crate) fn outdate_dependent(&self, ids: &[RecordId], depends_on: impl Fn(&V) -> bool) {
        for id in ids {
            self.generations.bump(id);
        }
        self.outdate(depends_on);
        for id in ids {
            self.generations.bump(id);
        }
    }

    fn outdate(&self, is_meant: impl Fn(&V) -> bool) {
        for shard in &self.shards {
            shard.0.with(|shard| {
                for slot in shard.slots.0.iter_mut().flatten() {
                    if let State::Known(value) = &slot.state
                        && is_meant(value)
                    {
                        slot.read_at = OUTDATED;
                    }
                }
            });
        }
    }

    /// Removes the record of a key that is no longer in the database. A record that is known to be
    /// permanently gone stays. A marked record is returned.
    pub(crate) fn remove(&self, key: &MapKey) -> Vec<(RecordId, V)> {
        let shard_index = shard_of(key.hash);
        let mut out = Vec::new();
        self.shard(shard_index).with(|shard| {
            if let Some(index) = shard.number(key)
                && !shard.slots[index].is_final
            {
                self.evict(shard, shard_index, index, &mut out);
            }
        });
        out
    }

    /// Returns the records of one shard that must be read again before they are served and for
    /// which `is_wanted` returns `true`.
    pub(crate) fn outdated(&self, shard: usize, is_wanted: impl Fn(&V) -> bool) -> Vec<MapKey> {
        self.shard(shard).with(|slots| {
            let slots = slots.slots.0.iter().flatten();
            let wanted = slots.filter(|slot| {
                slot.read_at == OUTDATED
                    && !slot.is_final
                    && matches!(&slot.state, State::Known(value) if is_wanted(value))
            });
            wanted
                .map(|slot| MapKey {
                    hash: hash_of(slot.tag, shard),
                    digest: slot.digest,
                })
                .collect()
        })
    }

    /// Visits every marked record of one shard.
    pub(crate) fn collect(&self, shard: usize, mut visit: impl FnMut(RecordId, &mut V)) {
        self.shard(shard).with(|shard| {
            for slot in shard.slots.0.iter_mut().flatten() {
                if std::mem::take(&mut slot.marked)
                    && let State::Known(value) = &mut slot.state
                {
                    visit(slot.id, value);
                }
            }
        });
    }

    /// Returns the number of records and tombstones, and their bytes on the heap.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(entries, bytes), shard| {
            shard
                .0
                .with(|shard| (entries + shard.by_hash.len(), bytes + shard.heap_bytes))
        })
    }

    fn shard(&self, index: usize) -> &L::Lock<Shard<V>> {
        &self.shards[index % SHARDS].0
    }

    /// Evicts records until the shard is within its bounds.
    ///
    /// If only bytes are short, it evicts records that take more than their share of them, because
    /// others would free next to nothing, and a few large records would push out many small ones.
    /// There is always one, because all shares together are within the bounds.
    fn make_room(
        &self,
        shard: &mut Shard<V>,
        shard_index: usize,
        keep: u32,
        out: &mut Vec<(RecordId, V)>,
    ) {
        while shard.by_hash.len() > self.per_shard.entries_max {
            let Some(victim) = shard.victim(keep) else {
                return;
            };
            self.evict(shard, shard_index, victim, out);
        }
        let share = self.per_shard.bytes_max / self.per_shard.entries_max;
        while shard.heap_bytes > self.per_shard.bytes_max {
            let Some(victim) = shard.heavy_victim(keep, share) else {
                return;
            };
            if !shard.slots[victim].is_final {
                self.evict(shard, shard_index, victim, out);
                continue;
            }
            // A tombstone takes no bytes.
            out.extend(shard.bury(victim));
        }
    }

    /// Removes a record or a tombstone. A marked record is added to `out`.
    fn evict(
        &self,
        shard: &mut Shard<V>,
        shard_index: usize,
        index: u32,
        out: &mut Vec<(RecordId, V)>,
    ) {
        let id = shard.slots[index].id;
        // `ids` is locked only inside a shard's lock, never the other way round.
        self.unregister(&id, Place::new(&id, shard_index, index));
        out.extend(shard.release(index));
    }

    fn register(&self, id: &RecordId, place: Place) {
        self.ids[id_shard(id)].0.with(|places| {
            places.insert_unique(id_hash(id), place, |place| place.rehash());
        });
    }

    fn unregister(&self, id: &RecordId, place: Place) {
        self.ids[id_shard(id)].0.with(|places| {
            if let Ok(entry) = places.find_entry(id_hash(id), |other| *other == place) {
                entry.remove();
            }
        });
    }

    /// Returns the possible positions of the record. They rarely include others with the same tag,
    /// so the caller compares.
    fn places(&self, id: &RecordId) -> Vec<Place> {
        let hash = id_hash(id);
        let tag = tag_of(hash);
        self.ids[id_shard(id)].0.with(|places| {
            places
                .iter_hash(hash)
                .filter(|place| place.tag == tag)
                .copied()
                .collect()
        })
    }
}

impl<V: Weigh> Shard<V> {
    fn new() -> Self {
        Self {
            by_hash: HashTable::new(),
            slots: Slots(Vec::new()),
            free: Vec::new(),
            hand: 0,
            heavy_hand: 0,
            heap_bytes: 0,
            finals: 0,
        }
    }

    #[inline]
    fn find(&mut self, key: &MapKey) -> Option<&mut Slot<V>> {
        let slot = self.number(key)?;
        self.slots.get_mut(slot)
    }

    #[inline]
    fn number(&self, key: &MapKey) -> Option<u32> {
        let slots = &self.slots;
        let found = self.by_hash.find(spread(tag_of(key.hash)), |slot| {
            constant_time_eq::constant_time_eq_32(&slots[*slot].digest, &key.digest)
        });
        found.copied()
    }

    /// Returns the slot of a key, and whether it is a new one.
    fn claim(&mut self, key: &MapKey, id: RecordId) -> (u32, bool) {
        if let Some(slot) = self.number(key) {
            return (slot, false);
        }
        let tag = tag_of(key.hash);
        let slot = Slot {
            digest: key.digest,
            id,
            read_at: 0,
            tag,
            state: State::Free,
            // A record counts as used from its second use on, so that a flood of keys that are used
            // once evicts no other.
            used: false,
            marked: false,
            is_final: false,
        };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index] = slot;
            index
        } else {
            self.slots.push(slot)
        };
        let slots = &self.slots;
        self.by_hash
            .insert_unique(spread(tag), index, |slot| spread(slots[*slot].tag));
        (index, true)
    }

    /// Frees the slot of a key. Returns its record if it was marked.
    fn release(&mut self, index: u32) -> Option<(RecordId, V)> {
        let hash = spread(self.slots[index].tag);
        if let Ok(entry) = self.by_hash.find_entry(hash, |slot| *slot == index) {
            entry.remove();
        }
        let slot = &mut self.slots[index];
        self.finals -= usize::from(std::mem::take(&mut slot.is_final));
        self.free.push(index);
        self.put(index, State::Free)
    }

    /// Leaves a tombstone in the slot of a key. Returns its record if it was marked.
    fn bury(&mut self, index: u32) -> Option<(RecordId, V)> {
        let slot = &mut self.slots[index];
        self.finals += usize::from(!std::mem::replace(&mut slot.is_final, true));
        self.put(index, State::Tombstone)
    }

    /// Changes the state of a slot. Returns the record that was in it if that was marked.
    fn put(&mut self, index: u32, state: State<V>) -> Option<(RecordId, V)> {
        let slot = &mut self.slots[index];
        let State::Known(old) = std::mem::replace(&mut slot.state, state) else {
            return None;
        };
        self.heap_bytes -= old.heap_bytes();
        std::mem::take(&mut slot.marked).then_some((slot.id, old))
    }

    /// Returns a record to evict: one that was not used since the hand last passed, or any record,
    /// or else one that is permanently gone. Those are evicted first where they are the majority:
    /// they save a look-up in the database and remember revocations that it may have lost, but must
    /// not push out everything else.
    fn victim(&mut self, keep: u32) -> Option<u32> {
        let count = self.slots.len();
        let are_the_most = self.finals > self.by_hash.len() / 2;
        let mut any_record = None;
        let mut any_final = None;
        for step in 0..count {
            let index = (self.hand + step) % count;
            let slot = &mut self.slots[index];
            if index == keep || matches!(slot.state, State::Free) {
                continue;
            }
            if slot.is_final {
                if are_the_most {
                    any_record = Some(index);
                    break;
                }
                any_final = any_final.or(Some(index));
            } else if slot.used {
                slot.used = false;
                any_record = any_record.or(Some(index));
            } else {
                any_record = Some(index);
                break;
            }
            if step >= EVICTION_STEPS && any_record.is_some() {
                break;
            }
        }
        let index = any_record.or(any_final)?;
        self.hand = (index + 1) % count;
        Some(index)
    }

    /// Returns a record that takes more bytes than `share`: one that was not used since the hand
    /// last passed, or any. If none is found within some steps, it is the `newcomer`, if that is
    /// one of them.
    fn heavy_victim(&mut self, newcomer: u32, share: usize) -> Option<u32> {
        let count = self.slots.len();
        let weighs = |slot: &Slot<V>| match &slot.state {
            State::Known(value) => value.heap_bytes(),
            State::Free | State::Tombstone => 0,
        };
        let newcomer_is_heavy = weighs(&self.slots[newcomer]) > share;
        let mut any = None;
        for step in 0..count {
            let index = (self.heavy_hand + step) % count;
            let slot = &mut self.slots[index];
            if index == newcomer || weighs(slot) <= share {
                // Continue.
            } else if slot.used && !slot.is_final {
                slot.used = false;
                any = any.or(Some(index));
            } else {
                any = Some(index);
                break;
            }
            let is_enough = if any.is_some() {
                step >= EVICTION_STEPS
            } else {
                step >= HEAVY_STEPS && newcomer_is_heavy
            };
            if is_enough {
                // The next search continues where this one has stopped.
                self.heavy_hand = (index + 1) % count;
                return any.or(Some(newcomer));
            }
        }
        let index = any.or(newcomer_is_heavy.then_some(newcomer))?;
        self.heavy_hand = (index + 1) % count;
        Some(index)
    }
}

impl<V> Slots<V> {
    /// Small enough that the last block of each shard, which is half empty on average, does not
    /// matter, and large enough that the list of blocks stays in the CPU cache: 32 KB for records
    /// of the size of keys. One less than a power of two, because an allocator needs some room to
    /// align a block: with 256 it used its next size, a quarter more (measured: 206 bytes a key
    /// instead of 168).
    const BLOCK_LEN: u32 = 255;

    fn len(&self) -> u32 {
        let full = self.0.len().saturating_sub(1) * Self::BLOCK_LEN as usize;
        let last = self.0.last().map_or(0, Vec::len);
        u32::try_from(full + last).expect("a shard is bounded far below 2^32 entries")
    }

    fn push(&mut self, slot: Slot<V>) -> u32 {
        let index = self.len();
        if index.is_multiple_of(Self::BLOCK_LEN) {
            self.0.push(Vec::with_capacity(Self::BLOCK_LEN as usize));
        }
        let last = self.0.last_mut().expect("a block was just added");
        last.push(slot);
        index
    }

    /// Prefetches both cache lines of a slot.
    #[inline]
    fn prefetch(&self, index: u32) {
        let block = self.0.get((index / Self::BLOCK_LEN) as usize);
        if let Some(slot) = block.and_then(|block| block.get((index % Self::BLOCK_LEN) as usize)) {
            prefetch_index(std::slice::from_ref(&slot.digest), 0);
            prefetch_index(std::slice::from_ref(&slot.state), 0);
        }
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<V>> {
        let block = self.0.get_mut((index / Self::BLOCK_LEN) as usize)?;
        block.get_mut((index % Self::BLOCK_LEN) as usize)
    }
}

impl<V> Index<u32> for Slots<V> {
    type Output = Slot<V>;

    #[inline]
    fn index(&self, index: u32) -> &Slot<V> {
        &self.0[(index / Self::BLOCK_LEN) as usize][(index % Self::BLOCK_LEN) as usize]
    }
}

impl<V> IndexMut<u32> for Slots<V> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Slot<V> {
        &mut self.0[(index / Self::BLOCK_LEN) as usize][(index % Self::BLOCK_LEN) as usize]
    }
}

impl Place {
    fn new(id: &RecordId, shard: usize, slot: u32) -> Self {
        let shard = u32::try_from(shard % SHARDS).expect("there are few shards");
        Self {
            tag: tag_of(id_hash(id)),
            packed: slot << SHARD_BITS | shard,
        }
    }

    fn slot(self) -> u32 {
        self.packed >> SHARD_BITS
    }

    fn shard(self) -> usize {
        self.packed as usize % SHARDS
    }

    /// The index stores only the tag and rehashes by it, so the bucket must depend on bits of the
    /// tag.
    fn rehash(self) -> u64 {
        spread(self.tag)
    }
}

#[cfg(test)]
pub(crate) const fn slot_size<V>() -> usize {
    size_of::<Slot<V>>()
}

/// Uses other bits than [`tag_of`]. Otherwise all tags of a shard would have some bits in common.
fn shard_of(hash: u64) -> usize {
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits matter")]
    let low = hash as usize;
    low % SHARDS
}

/// Returns a hash with this tag and this shard.
fn hash_of(tag: u32, shard: usize) -> u64 {
    (u64::from(tag) << 32) | (shard % SHARDS) as u64
}

/// Identifiers begin with a time, so their bytes are mixed: the finalizer of `SplitMix64` (Steele,
/// Lea, Flood 2014).
fn mix(id: &RecordId) -> u64 {
    let folded = u128::from_le_bytes(*id);
    #[expect(clippy::cast_possible_truncation, reason = "both halves go in")]
    let mut z = (folded as u64) ^ ((folded >> 64) as u64).rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn id_shard(id: &RecordId) -> usize {
    shard_of(mix(id))
}

fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn id_hash(id: &RecordId) -> u64 {
    spread((mix(id) >> 32) as u32)
}

/// Returns a hash that depends on the tag alone in every part: the tag itself in the upper half,
/// and in the lower its product with 2^32 over the golden ratio (Knuth, The Art of Computer
/// Programming, 6.4).
fn spread(tag: u32) -> u64 {
    (u64::from(tag) << 32) | u64::from(tag.wrapping_mul(0x9e37_79b1))
}
