//! Uses of keys, gathered in memory and written periodically, so that a request never waits for the
//! database to record its use.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use keys_core::{KeyId, Timestamp};
use parking_lot::Mutex;

use crate::cache::lease::{self, Nanos};
use crate::clock::Clock;
use crate::ports::KeyUse;

/// Maximum number of keys whose uses are kept before some are dropped: 64 MB at worst, while the
/// database is unavailable.
const KEYS_MAX: usize = 1_000_000;

/// Uses of one key, with the latest on the monotonic clock. The time of day is computed when they
/// are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) key_id: KeyId,
    pub(crate) last_at: Nanos,
    pub(crate) count: u64,
}

impl Used {
    /// Returns one use at this time.
    pub(crate) fn once(key_id: KeyId, last_at: Nanos) -> Self {
        Self {
            key_id,
            last_at,
            count: 1,
        }
    }
}

/// Uses that were not written yet.
#[derive(Default)]
pub(crate) struct Uses {
    kept: Mutex<HashMap<KeyId, (Nanos, u64)>>,
    /// Number of uses that were dropped because those of too many keys were kept.
    dropped: AtomicU64,
}

impl Uses {
    /// Records several uses at once.
    pub(crate) fn record_all(&self, new: Vec<Used>) {
        if !new.is_empty() {
            let mut uses = self.kept.lock();
            for new in new {
                self.add(&mut uses, new);
            }
        }
    }

    pub(crate) fn record(&self, new: Used) {
        self.add(&mut self.kept.lock(), new);
    }

    fn add(&self, uses: &mut HashMap<KeyId, (Nanos, u64)>, new: Used) {
        if uses.len() >= KEYS_MAX && !uses.contains_key(&new.key_id) {
            self.dropped.fetch_add(new.count, Relaxed);
            return;
        }
        let (last, count) = uses.entry(new.key_id).or_insert((new.last_at, 0));
        *last = (*last).max(new.last_at);
        *count = count.saturating_add(new.count);
    }

    /// Returns the number of keys with uses that were not written yet.
    pub(crate) fn keys(&self) -> usize {
        self.kept.lock().len()
    }

    /// Returns the number of uses that were dropped since the start.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Takes all uses out.
    pub(crate) fn take(&self) -> Vec<Used> {
        let uses = std::mem::take(&mut *self.kept.lock());
        uses.into_iter()
            .map(|(key_id, (last_at, count))| Used {
                key_id,
                last_at,
                count,
            })
            .collect()
    }
}

/// Uses on their way to the store. Those that have not arrived when this is dropped are kept for
/// the next time.
pub(crate) struct Unwritten<'a> {
    uses: Vec<Used>,
    kept_in: &'a Uses,
}

impl<'a> Unwritten<'a> {
    pub(crate) fn new(uses: Vec<Used>, kept_in: &'a Uses) -> Self {
        Self { uses, kept_in }
    }

    pub(crate) fn extend(&mut self, more: Vec<Used>) {
        self.uses.extend(more);
    }

    /// Returns the next ones to write.
    pub(crate) fn batch(&self, count_max: usize) -> &[Used] {
        &self.uses[..self.uses.len().min(count_max)]
    }

    /// Records that the last [`batch`](Self::batch) has arrived, except for `skipped`, which are
    /// kept for the next time.
    pub(crate) fn written(&mut self, count: usize, skipped: &[KeyId]) {
        let batch = self.uses.drain(..count);
        if skipped.is_empty() {
            return;
        }
        let skipped: HashSet<_> = skipped.iter().collect();
        let kept = batch.filter(|used| skipped.contains(&used.key_id));
        self.kept_in.record_all(kept.collect());
    }
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.kept_in.record_all(std::mem::take(&mut self.uses));
    }
}

/// Converts `uses` for the store, with the current time of the clocks.
pub(crate) fn dated(uses: &[Used], clock: &dyn Clock) -> Vec<KeyUse> {
    let (now, elapsed) = (clock.now(), lease::nanos(clock.elapsed()));
    let date = |used: &Used| KeyUse {
        key_id: used.key_id,
        last_used_at: earlier(now, elapsed.saturating_sub(used.last_at)),
        count: used.count,
    };
    uses.iter().map(date).collect()
}

fn earlier(now: Timestamp, nanos: Nanos) -> Timestamp {
    let micros = i64::try_from(nanos / 1_000).unwrap_or(i64::MAX);
    Timestamp::from_unix_micros(now.unix_micros().saturating_sub(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_of_a_key_are_one_entry_with_the_latest_time() {
        let key_id =
            KeyId::generate(Timestamp::from_unix_micros(0), &mut getrandom::SysRng).unwrap();
        let uses = Uses::default();
        for last_at in [5, 9, 7] {
            uses.record(Used {
                key_id,
                last_at,
                count: 1,
            });
        }
        let expected = Used {
            key_id,
            last_at: 9,
            count: 3,
        };
        assert_eq!(uses.take(), [expected]);
        assert_eq!(uses.take(), []);

        let mut unwritten = Unwritten::new(Vec::new(), &uses);
        unwritten.extend(vec![expected, expected, expected]);
        assert_eq!(unwritten.batch(2).len(), 2);
        unwritten.written(2, &[]);
        drop(unwritten);
        assert_eq!(uses.take(), [expected]);

        // Skipped ones are kept too.
        let mut unwritten = Unwritten::new(Vec::new(), &uses);
        unwritten.extend(vec![expected]);
        unwritten.written(1, &[key_id]);
        drop(unwritten);
        assert_eq!(uses.take(), [expected]);
    }

    #[test]
    fn uses_of_too_many_keys_are_dropped_and_counted() {
        let key_id = |number: u128| KeyId::from_uuid(uuid::Uuid::from_u128(number));
        let used = |number| Used {
            count: 2,
            ..Used::once(key_id(number), 1)
        };
        let uses = Uses::default();
        let most = u128::try_from(KEYS_MAX).unwrap();
        uses.record_all((0..most).map(used).collect());
        assert_eq!((uses.keys(), uses.dropped_total()), (KEYS_MAX, 0));
        // A known one is counted further; another one is not.
        uses.record(used(0));
        assert_eq!(uses.dropped_total(), 0);
        uses.record(used(most));
        assert_eq!((uses.keys(), uses.dropped_total()), (KEYS_MAX, 2));
    }

    #[test]
    fn a_use_is_dated_back_by_the_time_since() {
        let now = Timestamp::from_unix_micros(1_000_000);
        assert_eq!(earlier(now, 1_999).unix_micros(), 999_999);
        assert_eq!(earlier(now, 0), now);
        assert_eq!(earlier(Timestamp::MIN, u64::MAX), Timestamp::MIN);
    }
}
