//! Uses of keys, gathered in memory and written now and then: a request never waits for the database to note it.

use std::collections::HashMap;

use keys_core::{KeyId, Timestamp};
use parking_lot::Mutex;

use crate::store::KeyUse;

/// Keys whose uses are kept at most before some are given up: 64 MB at worst, while the database is away.
const KEYS_MAX: usize = 1_000_000;

/// Uses that were not written yet.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<KeyId, (Timestamp, u64)>>);

impl Uses {
    pub(crate) fn record(&self, new: KeyUse) {
        let mut uses = self.0.lock();
        if uses.len() >= KEYS_MAX && !uses.contains_key(&new.key_id) {
            return;
        }
        let (last, count) = uses.entry(new.key_id).or_insert((new.last_used_at, 0));
        *last = (*last).max(new.last_used_at);
        *count = count.saturating_add(new.count);
    }

    /// Takes all uses out, ordered by key.
    pub(crate) fn take(&self) -> Vec<KeyUse> {
        let uses = std::mem::take(&mut *self.0.lock());
        let mut uses: Vec<_> = uses
            .into_iter()
            .map(|(key_id, (last_used_at, count))| KeyUse {
                key_id,
                last_used_at,
                count,
            })
            .collect();
        uses.sort_unstable_by_key(|used| used.key_id);
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_of_a_key_are_one_entry_with_the_latest_time() {
        let at = Timestamp::from_unix_micros;
        let key_id = KeyId::generate(at(0), &mut getrandom::SysRng).unwrap();
        let uses = Uses::default();
        for micros in [5, 9, 7] {
            uses.record(KeyUse {
                key_id,
                last_used_at: at(micros),
                count: 1,
            });
        }
        let expected = KeyUse {
            key_id,
            last_used_at: at(9),
            count: 3,
        };
        assert_eq!(uses.take(), [expected]);
        assert_eq!(uses.take(), []);
    }
}
