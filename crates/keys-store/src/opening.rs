//! The beginning of a change of keys: its transaction, its locks, and the rows that decide it.
//!
//! On PostgreSQL all of it is sent at once and costs one round trip. The server still executes the
//! statements one after another, and each sees everything that was committed before the locks of
//! the earlier ones were granted.

use keys_core::{AccountId, KeyId, Timestamp};
use keys_service::ports::{Authority, Change};

use crate::rows::{AccountRow, KeyRow};
use crate::types::{DbId, DbTimestamp};

/// The locks and rows that a change needs before it is decided.
#[derive(Default)]
pub(crate) struct Opening {
    /// Locked before anything else.
    pub(crate) account: Option<DbId>,
    /// The key to be changed. Locked, together with the caller's, in the order of their
    /// identifiers.
    pub(crate) key: Option<DbId>,
    /// Another key to be changed, locked in the same way. Only beside the first one.
    pub(crate) other_key: Option<DbId>,
    /// The caller's key. Locked against changes, and read.
    pub(crate) caller: Option<DbId>,
    /// The caller's account, if it is not the one that is locked. Read.
    pub(crate) caller_account: Option<DbId>,
    /// Time at which usable keys of the account must not have expired, if they are to be counted.
    pub(crate) counted_at: Option<DbTimestamp>,
}

/// The result of an [`Opening`]: rows as the transaction sees them. `None` for a row that does not
/// exist or was not requested.
#[derive(Default)]
pub(crate) struct Opened {
    pub(crate) account: Option<AccountRow>,
    pub(crate) caller: Option<KeyRow>,
    pub(crate) caller_account: Option<AccountRow>,
    pub(crate) counted: Option<Counted>,
}

/// The usable keys of an account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    /// Those that never expire.
    pub(crate) unending: i64,
    /// Those that expire. Not counted beyond [`ENDING_MAX`](Self::ENDING_MAX).
    pub(crate) ending: i64,
}

impl Counted {
    pub(crate) const ENDING_MAX: i64 = 100;

    /// Returns whether there are at least `count`. `None` if the count is not exact enough to
    /// decide.
    pub(crate) fn reaches(self, count: u32) -> Option<bool> {
        if self.unending.saturating_add(self.ending) >= i64::from(count) {
            Some(true)
        } else if self.ending < Self::ENDING_MAX {
            Some(false)
        } else {
            None
        }
    }
}

impl Opening {
    /// Creates an opening for a change to `key`, if it exists already, of `account`, if it belongs
    /// to one.
    pub(crate) fn new(change: &Change, account: Option<AccountId>, key: Option<KeyId>) -> Self {
        let caller = match &change.authority {
            Authority::Trusted => None,
            Authority::Caller(caller) => Some(caller),
        };
        let callers_own = caller.and_then(|caller| caller.account_id);
        Self {
            account: account.map(|id| DbId(id.as_uuid())),
            key: key.map(|id| DbId(id.as_uuid())),
            other_key: None,
            caller: caller.map(|caller| DbId(caller.key_id.as_uuid())),
            caller_account: callers_own
                .filter(|own| account != Some(*own))
                .map(|id| DbId(id.as_uuid())),
            counted_at: None,
        }
    }

    /// Locks another key as well.
    pub(crate) fn also(mut self, key: Option<KeyId>) -> Self {
        self.other_key = key.map(|id| DbId(id.as_uuid()));
        self
    }

    /// Counts the usable keys of the account, if that costs no round trip.
    pub(crate) fn count_at(mut self, now: Timestamp) -> Self {
        self.counted_at = Some(DbTimestamp(now));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_is_decided_only_by_keys_that_were_counted() {
        let reaches = |unending, ending, count| Counted { unending, ending }.reaches(count);
        assert_eq!(reaches(0, 0, 0), Some(true));
        assert_eq!(reaches(9, 0, 10), Some(false));
        assert_eq!(reaches(9, 1, 10), Some(true));
        assert_eq!(reaches(0, 99, 100), Some(false));
        assert_eq!(reaches(0, 100, 100), Some(true));
        assert_eq!(reaches(0, 100, 101), None);
        assert_eq!(reaches(i64::MAX, 100, u32::MAX), Some(true));
    }
}
