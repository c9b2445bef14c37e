//! Whether an account has changed since one of its keys was read: one shared counter, so that one
//! change refuses all keys of an account at once, however many there are.

use std::sync::atomic::{AtomicU32, Ordering};

use keys_core::AccountId;

/// 256 KiB, so that the counters in use stay in the CPU cache. Accounts that share a counter cause
/// each other's keys to be read again, which is harmless: with a million keys in the cache a change
/// affects fifteen on average.
const COUNTS: usize = 1 << 16;

/// The value of an account's counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark(u32);

/// Counters of changes of accounts.
pub(crate) struct AccountMarks(Box<[AtomicU32]>);

impl Default for AccountMarks {
    fn default() -> Self {
        Self((0..COUNTS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl AccountMarks {
    /// Returns the counter. Read it before checking that the account has not changed since it was
    /// read: earlier changes are found by that check, and later changes have another value.
    #[inline]
    pub(crate) fn mark(&self, id: AccountId) -> Mark {
        Mark(self.count(id).load(Ordering::Acquire))
    }

    /// Increments the counter, so that the cached keys of the account are read again.
    pub(crate) fn bump(&self, id: AccountId) {
        self.count(id).fetch_add(1, Ordering::Release);
    }

    #[inline]
    fn count(&self, id: AccountId) -> &AtomicU32 {
        // Multiplied by 2^64 over the golden ratio (Knuth, The Art of Computer Programming, 6.4),
        // so that the upper bits depend on all bits, whichever part of the identifier is random.
        let (upper, lower) = id.as_uuid().as_u64_pair();
        let mixed = (upper.rotate_left(32) ^ lower).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "so many bits are left as there are counts"
        )]
        let place = (mixed >> (u64::BITS - COUNTS.ilog2())) as usize;
        &self.0[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_in_the_accounts_own_mark() {
        let marks = AccountMarks::default();
        let [one, other] = [1, 2].map(|id| AccountId::from_uuid(uuid::Uuid::from_u128(id)));
        let (before, other_before) = (marks.mark(one), marks.mark(other));
        assert_eq!(marks.mark(one), before);
        marks.bump(one);
        assert_ne!(marks.mark(one), before);
        assert_eq!(marks.mark(other), other_before);
    }
}
