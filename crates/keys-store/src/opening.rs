//! The beginning of a change of keys: its transaction, its locks, and the rows that it is judged by.
//!
//! On PostgreSQL all of it is sent at once and costs one round trip. The server still runs the statements one after another, and
//! each sees everything that was committed before the locks of the earlier ones were granted.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{AccountId, KeyId, Timestamp};
use keys_service::store::{Authority, Change, StoreError};

use crate::accounts;
use crate::connection::{Connection, Pools, query};
use crate::error::optional;
use crate::rows::{AccountRow, KeyRow};
use crate::schema::api_key;
use crate::types::{DbId, DbTimestamp};

/// The locks and rows that a change needs before it is decided.
#[derive(Default)]
pub(crate) struct Opening {
    /// Locked before anything else.
    pub(crate) account: Option<DbId>,
    /// The key that is to be changed. Locked, together with the caller's, in order of their identifiers.
    pub(crate) key: Option<DbId>,
    /// The caller's key. Kept from being changed, and read.
    pub(crate) caller: Option<DbId>,
    /// The caller's account, if it is not the one that is locked. Read.
    pub(crate) caller_account: Option<DbId>,
    /// Since when usable keys of the account must not have expired, if they are to be counted.
    pub(crate) counted_at: Option<DbTimestamp>,
}

/// The result of an [`Opening`]: rows as the transaction sees them. `None` for a row that is not there or was not asked for.
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

    /// Whether there are at least `count`. `None` if that takes counting further.
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
    /// For a change to `key`, if it exists already, of `account`, if it belongs to one.
    pub(crate) fn new(change: &Change, account: Option<AccountId>, key: Option<KeyId>) -> Self {
        let caller = match &change.authority {
            Authority::Trusted => None,
            Authority::Caller(caller) => Some(caller),
        };
        let callers_own = caller.and_then(|caller| caller.account_id);
        Self {
            account: account.map(|id| DbId(id.as_uuid())),
            key: key.map(|id| DbId(id.as_uuid())),
            caller: caller.map(|caller| DbId(caller.key_id.as_uuid())),
            caller_account: callers_own
                .filter(|own| account != Some(*own))
                .map(|id| DbId(id.as_uuid())),
            counted_at: None,
        }
    }

    /// Has the usable keys of the account counted, where that costs no round trip.
    pub(crate) fn count_at(mut self, now: Timestamp) -> Self {
        self.counted_at = Some(DbTimestamp(now));
        self
    }
}

/// Begins a transaction, to be ended by [`Connection::finish`] whatever came of the opening.
pub(crate) async fn open(
    pools: &Pools,
    opening: &Opening,
) -> Result<(Connection, Result<Opened, StoreError>), StoreError> {
    if let Pools::Postgres(pool) = pools {
        let (lease, opened) = pool.begin_change(opening).await?;
        return Ok((Connection::Postgres(lease), opened.map_err(Into::into)));
    }
    let mut connection = pools.begin().await?;
    let opened = read(&mut connection, opening).await;
    Ok((connection, opened))
}

/// For SQLite, whose immediate transaction has locked everything.
async fn read(connection: &mut Connection, opening: &Opening) -> Result<Opened, StoreError> {
    let mut opened = Opened::default();
    if let Some(id) = opening.account {
        opened.account = accounts::find_in(connection, id).await?;
    }
    if let Some(id) = opening.caller {
        opened.caller = optional(query!(&mut *connection, |open| api_key::table
            .find(id)
            .select(KeyRow::as_select())
            .first(open)))?;
    }
    if let Some(id) = opening.caller_account {
        opened.caller_account = accounts::find_in(connection, id).await?;
    }
    Ok(opened)
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
