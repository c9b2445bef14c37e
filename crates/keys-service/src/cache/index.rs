//! Finds the slots of a shard by their tags: open addressing with linear probing (Knuth, The Art of Computer Programming, 6.4).
//!
//! Why our own: a look-up that finds nothing in the processor's caches waits for memory once, where a general hash table waits twice, for
//! the bits that tell where to look and then for what is there. With a hundred thousand keys that wait is a seventh of a
//! verification.
//!
//! An entry has four bytes: the number of a slot, which is below the number of entries, and as many bits of its tag as fit beside it. The
//! other bits of the tag say where the search begins.

/// No slot: the number of slots stays below three quarters of the number of entries, so none has the highest number.
const EMPTY: u32 = u32::MAX;

/// Sixteen entries are one line of the processor's cache.
const LEN_MIN: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// None, or a power of two of them.
    entries: Vec<u32>,
    len: usize,
}

impl Index {
    /// How many slots are in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The slots that may have this tag, the right ones among them.
    #[inline]
    pub(crate) fn candidates(&self, tag: u32) -> impl Iterator<Item = u32> {
        let bits = self.bits();
        let check = tag.unbounded_shl(bits);
        let slot_mask = !u32::MAX.unbounded_shl(bits);
        self.probe(tag)
            .map_while(|place| self.entries.get(place).copied())
            .take_while(|entry| *entry != EMPTY)
            .filter(move |entry| entry & !slot_mask == check)
            .map(move |entry| entry & slot_mask)
    }

    /// Adds a slot that is not in it. Beyond three quarters it grows, for which `all` tells every slot with its tag, this one too.
    pub(crate) fn insert<All: Iterator<Item = (u32, u32)>>(
        &mut self,
        tag: u32,
        slot: u32,
        all: impl FnOnce() -> All,
    ) {
        self.len += 1;
        if self.len.max(slot as usize + 1) * 4 <= self.entries.len() * 3 {
            self.put(tag, slot);
            return;
        }
        let len = (self.entries.len() * 2).max(LEN_MIN);
        self.entries = vec![EMPTY; len];
        for (slot, tag) in all() {
            self.put(tag, slot);
        }
    }

    /// Removes a slot. What comes behind it moves up, for which `tag_of` tells the tags of other slots.
    pub(crate) fn remove(&mut self, tag: u32, slot: u32, tag_of: impl Fn(u32) -> u32) {
        let entry = self.entry(tag, slot);
        let found = self
            .probe(tag)
            .map_while(|place| Some((place, *self.entries.get(place)?)))
            .take_while(|(_, found)| *found != EMPTY)
            .find(|(_, found)| *found == entry);
        let Some((mut hole, _)) = found else { return };
        self.len -= 1;
        let (mask, slot_mask) = (self.entries.len() - 1, !u32::MAX.unbounded_shl(self.bits()));
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let entry = self.entries[place];
            if entry == EMPTY {
                break;
            }
            // It may move into the hole unless its search begins behind that.
            let home = self.home(tag_of(entry & slot_mask));
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(hole) & mask {
                self.entries[hole] = entry;
                hole = place;
            }
        }
        self.entries[hole] = EMPTY;
    }

    fn put(&mut self, tag: u32, slot: u32) {
        let entry = self.entry(tag, slot);
        let free = self.probe(tag).find(|place| self.entries[*place] == EMPTY);
        if let Some(free) = free {
            self.entries[free] = entry;
        }
    }

    fn entry(&self, tag: u32, slot: u32) -> u32 {
        tag.unbounded_shl(self.bits()) | slot
    }

    /// Where the search for a tag goes, in order, past every entry once.
    #[inline]
    fn probe(&self, tag: u32) -> impl Iterator<Item = usize> + use<> {
        let (home, len) = (self.home(tag), self.entries.len());
        (0..len).map(move |step| (home + step) & (len - 1))
    }

    /// Where the search for a tag begins: by its upper bits, where an entry has the lower ones.
    #[inline]
    fn home(&self, tag: u32) -> usize {
        tag.unbounded_shr(u32::BITS - self.bits()) as usize
    }

    /// Bits of an entry that are for the slot.
    #[inline]
    fn bits(&self) -> u32 {
        self.entries.len().checked_ilog2().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Does the same to an index and to a map, and compares them.
    fn agrees_with_a_map(seed: u64, tag_mask: u32) {
        const STEPS: u32 = 4_000;
        let mut state = seed;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let mut index = Index::default();
        let mut tags: BTreeMap<u32, u32> = BTreeMap::new();
        let mut free: Vec<u32> = Vec::new();
        for step in 0..STEPS {
            // First it grows, then it stays as it is, then it shrinks.
            let grows = random() % STEPS > step;
            if grows {
                let slot = free
                    .pop()
                    .unwrap_or_else(|| u32::try_from(tags.len()).unwrap());
                let tag = random().wrapping_mul(2) & tag_mask;
                tags.insert(slot, tag);
                index.insert(tag, slot, || tags.iter().map(|(slot, tag)| (*slot, *tag)));
            } else if let Some((slot, tag)) = tags.pop_last() {
                index.remove(tag, slot, |slot| tags[&slot]);
                free.retain(|other| *other < slot);
                if random() % 2 == 0
                    && let Some(other) = tags.keys().nth(random() as usize % tags.len().max(1))
                {
                    let (other, tag) = (*other, tags[other]);
                    tags.remove(&other);
                    free.push(other);
                    index.remove(tag, other, |slot| tags[&slot]);
                }
            }
            assert_eq!(index.len(), tags.len());
            if step % 100 == 0 {
                for (slot, tag) in &tags {
                    assert!(index.candidates(*tag).any(|found| found == *slot));
                }
            }
        }
        for (slot, tag) in std::mem::take(&mut tags) {
            index.remove(tag, slot, |_| tag);
            assert!(index.candidates(tag).all(|found| found != slot));
        }
        assert!(index.entries.iter().all(|entry| *entry == EMPTY));
    }

    #[test]
    fn every_slot_is_found_until_it_is_removed() {
        for seed in 0..4 {
            agrees_with_a_map(seed, u32::MAX);
        }
    }

    #[test]
    fn slots_with_few_tags_among_them_are_found_too() {
        agrees_with_a_map(1, 0xf000_0000);
        agrees_with_a_map(2, 0x0000_000f);
    }

    #[test]
    fn an_empty_index_finds_nothing() {
        let mut index = Index::default();
        assert_eq!(index.candidates(7).count(), 0);
        index.remove(7, 0, |_| 0);
        assert_eq!(index.len(), 0);
    }

    #[test]
    fn few_others_are_looked_at() {
        const SLOTS: u32 = 12_000;
        let tag = |slot: u32| slot.wrapping_mul(0x9e37_79b1);
        let mut index = Index::default();
        for slot in 0..SLOTS {
            index.insert(tag(slot), slot, || (0..=slot).map(|slot| (slot, tag(slot))));
        }
        let candidates: usize = (0..SLOTS)
            .map(|slot| index.candidates(tag(slot)).count())
            .sum();
        assert!(candidates < 12_100, "{candidates}");
    }
}
