//! The beginning of a transaction that changes keys, in one round trip.

use std::iter;
use std::time::Duration;

use diesel::QueryResult;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::result::Error;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use futures_util::future::{try_join, try_join4};
use tokio::time::timeout;

use super::held::NEW_KEYS_ARE_COUNTED;
use crate::opening::{Counted, Opened, Opening};
use crate::rows::{AccountRow, KeyRow};
use crate::schema::{account, api_key};
use crate::types::{DbId, DbTimestamp, Id, Moment};

async fn begin(mut connection: &AsyncPgConnection) -> QueryResult<()> {
    // Counting under the lock on the account is only right if each statement sees the commits
    // before it. It does not say `read write`, because a database that was made read-only by
    // default should stay so.
    connection
        .batch_execute("begin isolation level read committed")
        .await
}

/// Reads the account and locks it: others do not change it or give it keys until the transaction
/// ends.
pub(crate) async fn lock_account(
    mut connection: &AsyncPgConnection,
    id: DbId,
) -> QueryResult<AccountRow> {
    account::table
        .find(id)
        .select(AccountRow::as_select())
        .for_no_key_update()
        .first(&mut connection)
        .await
}

/// Locks accounts as [`lock_account`] does, always in the same order.
pub(crate) async fn lock_accounts(
    mut connection: &AsyncPgConnection,
    ids: Vec<DbId>,
) -> QueryResult<()> {
    account::table
        .filter(account::id.eq_any(ids))
        .order(account::id)
        .select(account::id)
        .for_no_key_update()
        .load::<DbId>(&mut connection)
        .await?;
    Ok(())
}

/// Reads the key and locks it: others do not change it until the transaction ends.
pub(crate) async fn key_for_share(
    mut connection: &AsyncPgConnection,
    id: DbId,
) -> QueryResult<KeyRow> {
    api_key::table
        .find(id)
        .select(KeyRow::as_select())
        .for_share()
        .first(&mut connection)
        .await
}

/// Locks keys that are about to be checked and changed, always in the same order, because two
/// operators revoking each other's keys would otherwise wait for each other. Returns them as they
/// are once they are locked.
pub(crate) async fn lock_keys(
    mut connection: &AsyncPgConnection,
    ids: Vec<DbId>,
) -> QueryResult<Vec<(DbId, KeyRow)>> {
    api_key::table
        .filter(api_key::id.eq_any(ids))
        .order(api_key::id)
        .select((api_key::id, KeyRow::as_select()))
        .for_no_key_update()
        .load(&mut connection)
        .await
}

/// Reason why a transaction is not open.
pub(crate) enum OpenFailure {
    /// The server did not answer the first statement in time.
    Silent,
    Query(Error),
}

impl From<Error> for OpenFailure {
    fn from(error: Error) -> Self {
        Self::Query(error)
    }
}

/// Begins a transaction, locks and reads, in one round trip. The beginning must be answered within
/// `patience`; locks may be waited for.
///
/// None of this changes anything, so nothing is done if the transaction was not begun.
pub(crate) async fn open(
    connection: &AsyncPgConnection,
    opening: &Opening,
    patience: Duration,
) -> Result<Opened, OpenFailure> {
    let begun = async {
        match timeout(patience, begin(connection)).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(OpenFailure::Silent),
        }
    };
    let account = if_wanted(opening.account, |id| lock_account(connection, id));
    let caller = async {
        let (Some(key), caller) = (opening.key, opening.caller) else {
            return if_wanted(opening.caller, |id| key_for_share(connection, id)).await;
        };
        let others = opening.other_key.into_iter().chain(caller);
        let ids = iter::once(key).chain(others).collect();
        let locked = lock_keys(connection, ids).await?;
        let mut locked = locked.into_iter();
        Ok(locked.find_map(|(id, row)| (Some(id) == caller).then_some(row)))
    };
    let caller_account = if_wanted(opening.caller_account, |id| find_account(connection, id));
    let counted = if_wanted(opening.account.zip(opening.counted_at), |(account, now)| {
        count_usable(connection, account, now)
    });
    // Each is sent when it is polled first, in this order. One that has to be prepared holds the
    // later ones back until it is sent itself.
    let ((), (account, caller, caller_account, counted)) =
        try_join(begun, try_join4(account, caller, caller_account, counted)).await?;
    Ok(Opened {
        account,
        caller,
        caller_account,
        counted,
    })
}

/// Returns the row that `find` reads, if an identifier is given and the row exists.
async fn if_wanted<W, T, F>(
    wanted: Option<W>,
    find: impl FnOnce(W) -> F,
) -> Result<Option<T>, OpenFailure>
where
    F: Future<Output = QueryResult<T>>,
{
    let Some(wanted) = wanted else {
        return Ok(None);
    };
    Ok(find(wanted).await.optional()?)
}

async fn find_account(mut connection: &AsyncPgConnection, id: DbId) -> QueryResult<AccountRow> {
    account::table
        .find(id)
        .select(AccountRow::as_select())
        .first(&mut connection)
        .await
}

async fn count_usable(
    mut connection: &AsyncPgConnection,
    account: DbId,
    now: DbTimestamp,
) -> QueryResult<Counted> {
    let (unending, ending) = CountUsable { account, now }
        .get_result(&mut connection)
        .await?;
    Ok(Counted { unending, ending })
}

/// Counts the usable keys of an account, those that expire up to a maximum. Those that never expire
/// are counted already, unless new keys are not counted at the moment.
#[derive(QueryId)]
struct CountUsable {
    account: DbId,
    now: DbTimestamp,
}

impl Query for CountUsable {
    type SqlType = (BigInt, BigInt);
}

impl QueryFragment<Pg> for CountUsable {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        const { assert!(Counted::ENDING_MAX == 100, "as the statement says") };
        out.push_sql("select case when ");
        out.push_sql(NEW_KEYS_ARE_COUNTED);
        out.push_sql(" then coalesce((select unending from key_count where account_id = ");
        out.push_bind_param::<Id, _>(&self.account)?;
        // Written as in the index, because a planner that does not know the parameters could not
        // use it otherwise.
        out.push_sql(
            "), 0) else (select count(*) from api_key \
                 where account_id = $1 and kind = 2 and revoked_at is null and expires_at is null) end, \
             (select count(*) from (\
                 select from api_key \
                 where account_id = $1 and kind = 2 and revoked_at is null and expires_at > ",
        );
        out.push_bind_param::<Moment, _>(&self.now)?;
        out.push_sql(" limit 100) as one)");
        Ok(())
    }
}
