//! Keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use diesel::dsl::{min, sql};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt as _;
use keys_core::{
    AccountId, AuditAction, AuditSubject, Denial, KeyId, KeyKind, PepperError, PepperId,
    PepperedDigest, Revocation, Timestamp,
};
use keys_service::ports::{
    Change, ChangeError, Commit, FoundKey, KeyOwner, KeyPage, KeyUse, NewKey, StoreError,
};

use crate::connection::{Connection, Pools, query};
use crate::error::{QueryError, optional};
use crate::opening::{Counted, Opened, Opening};
#[cfg(feature = "postgres")]
use crate::postgres::{self, Held};
use crate::rows::{
    self, AccountRow, CorruptRow, EventRow, Fault, KeyRow, NewKeyRow, RevocationRow, kind_code,
    stored_key,
};
use crate::schema::{api_key, key_count};
#[cfg(feature = "sqlite")]
use crate::sqlite;
use crate::types::{DbId, DbTimestamp, Id, Tolerant};
use crate::{audit, authority, changes, idempotency, load};

const OPERATOR: i16 = kind_code(KeyKind::Operator);
const ACCOUNT: i16 = kind_code(KeyKind::Account);
const SESSION: i16 = kind_code(KeyKind::Session);

pub(crate) async fn find_by_digests(
    pools: Pools,
    digests: Vec<PepperedDigest>,
) -> Result<Vec<FoundKey>, StoreError> {
    if digests.is_empty() {
        return Ok(Vec::new());
    }
    let mut distinct: Vec<_> = digests.iter().map(|one| *one.digest.as_bytes()).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let mut connection = pools.look_up().await?;
    let rows = match &mut connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::keys_by_digest(lease.enter(), &distinct).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(lease) => {
            let outcome = sqlite::keys_by_digest(lease.enter(), distinct).await;
            lease.leave(outcome)
        }
    }?;
    let wanted: HashMap<_, _> = digests
        .iter()
        .map(|one| {
            (
                (one.digest.as_bytes().as_slice(), one.pepper.as_str()),
                *one,
            )
        })
        .collect();
    let mut found = Vec::with_capacity(rows.len());
    for (digest, pepper_id, key, account) in rows {
        let (Ok(digest), Ok(pepper_id)) = (digest.0, pepper_id.0) else {
            continue;
        };
        // A digest is valid only under its own pepper.
        if let Some(digest) = wanted.get(&(digest.as_slice(), pepper_id.as_str())) {
            found.push(FoundKey::new(*digest, stored_key(key, account)));
        }
    }
    Ok(found)
}

pub(crate) async fn insert(pools: Pools, new: NewKey, change: Change) -> Result<(), ChangeError> {
    #[cfg(feature = "postgres")]
    if let Pools::Postgres(pool) = &pools
        && let Some(held) = held_for(&new, &change)
    {
        let (row, event) = rows_of(&new, &change);
        let inserted =
            pool.at_once(move |open| postgres::insert_key(open, Some(held), row, event).boxed());
        if inserted.await? == Some(true) {
            return Ok(());
        }
    }
    // The lock on the account comes first and in a statement of its own, because only a statement
    // that begins after the lock was granted sees every key that was created under it before.
    let mut opening = Opening::new(&change, new.key.account_id, None);
    if new.admission.policy.cap && new.key.kind == KeyKind::Account {
        opening = opening.count_at(change.at);
    }
    let (mut connection, opened) = load::open(&pools, &opening).await?;
    let admitted = match opened {
        Ok(opened) => admit(&mut connection, opened, &new, &change).await,
        Err(error) => Err(error.into()),
    };
    let (row, event) = rows_of(&new, &change);
    match (connection, admitted) {
        #[cfg(feature = "postgres")]
        (Connection::Postgres(lease), Ok(())) if change.completion.is_none() => {
            let insertion =
                lease.commit_with(move |open| postgres::insert_key(open, None, row, event).boxed());
            insertion.await?;
            Ok(())
        }
        (mut connection, Ok(())) => {
            let outcome = insert_in(&mut connection, row, event, &change).await;
            connection.finish(outcome).await
        }
        (connection, Err(error)) => connection.finish(Err(error)).await,
    }
}

fn rows_of(new: &NewKey, change: &Change) -> (NewKeyRow, EventRow) {
    let row = NewKeyRow::new(new, change);
    let event = audit::event(
        change,
        AuditAction::KeyCreated,
        AuditSubject::Key(new.key.id),
    );
    (row, event)
}

/// The condition on which the key may be made in one statement. `None` if it has to be judged by
/// what the transaction sees.
#[cfg(feature = "postgres")]
fn held_for(new: &NewKey, change: &Change) -> Option<Held> {
    let (held, caller, account) = authority::held(change, new.key.account_id?)?;
    // The statement holds the caller to these limits.
    new.check_caller(caller).ok()?;
    let max = new.admission.keys_max(account).ok()?;
    Some(match max {
        Some(max) if new.key.kind == KeyKind::Account => held.with_less_than(max),
        _ => held,
    })
}

/// Adds a key in the open transaction, with its audit event and the idempotent answer.
pub(crate) async fn insert_in(
    connection: &mut Connection,
    row: NewKeyRow,
    event: EventRow,
    change: &Change,
) -> Result<(), ChangeError> {
    match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::insert_key(lease.enter(), None, row, event).await;
            lease.leave(outcome)?;
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => {
            query!(&mut *connection, |open| diesel::insert_into(api_key::table)
                .values(row)
                .execute(open))?;
            audit::write(connection, event).await?;
        }
    }
    idempotency::complete(connection, change).await
}

/// Checks whether the key may be created.
pub(crate) async fn admit(
    connection: &mut Connection,
    opened: Opened,
    new: &NewKey,
    change: &Change,
) -> Result<(), ChangeError> {
    let account = opened.account.map(AccountRow::read);
    let callers_own = opened.caller_account.map(AccountRow::read);
    let callers = callers_own.as_ref().or(account.as_ref());
    if let Some(caller) = authority::judge(change, opened.caller, callers)? {
        new.check_caller(&caller)?;
    }
    if new.key.account_id.is_none() {
        return Ok(());
    }
    let account = account.ok_or(ChangeError::AccountNotFound)?;
    let account = account.map_err(|corrupt| {
        rows::log(&corrupt.row);
        ChangeError::AccountDenied(Denial::Unreadable)
    })?;
    let max = new
        .admission
        .keys_max(&account)
        .map_err(ChangeError::AccountDenied)?;
    if let Some(max) = max
        && new.key.kind == KeyKind::Account
        && has_usable(connection, account.id, change.at, max, opened.counted).await?
    {
        return Err(ChangeError::CapReached { max });
    }
    Ok(())
}

/// Returns whether the account has at least `count` usable keys. Those that never expire are
/// counted already. For the others the index finds those that have not expired, and only as many
/// are read as needed. `counted` is their number, if it was read before.
async fn has_usable(
    connection: &mut Connection,
    account_id: AccountId,
    now: Timestamp,
    count: u32,
    counted: Option<Counted>,
) -> Result<bool, QueryError> {
    let id = DbId(account_id.as_uuid());
    let unending = match counted {
        Some(counted) => {
            if let Some(is_reached) = counted.reaches(count) {
                return Ok(is_reached);
            }
            counted.unending
        }
        None => unending(connection, id).await?,
    };
    let missing = i64::from(count) - unending;
    if missing <= 0 {
        return Ok(true);
    }
    let last: Vec<Option<Tolerant<DbTimestamp>>> = query!(connection, |open| api_key::table
        .filter(api_key::account_id.eq(id))
        // Written as in the index, because a planner that does not know the parameters could not
        // use it otherwise.
        .filter(sql::<Bool>("kind = 2"))
        .filter(api_key::revoked_at.is_null())
        .filter(api_key::expires_at.gt(DbTimestamp(now)))
        .order(api_key::expires_at)
        .select(api_key::expires_at)
        .offset(missing - 1)
        .limit(1)
        .load(open))?;
    Ok(!last.is_empty())
}

/// Returns the counted number of keys of the account that never expire.
async fn unending(connection: &mut Connection, account: DbId) -> Result<i64, QueryError> {
    let counted: Result<i64, QueryError> = query!(connection, |open| key_count::table
        .find(account)
        .select(key_count::unending)
        .first(open));
    Ok(optional(counted)?.unwrap_or(0))
}

pub(crate) async fn list(
    pools: Pools,
    owner: KeyOwner,
    offset: u64,
    limit: u32,
) -> Result<KeyPage, StoreError> {
    let connection = &mut pools.read().await?;
    let offset = i64::try_from(offset).unwrap_or(i64::MAX);
    let (total, rows) = match owner {
        KeyOwner::Account(id) => account_page(connection, id, offset, limit).await?,
        KeyOwner::Operators => operators_page(connection, offset, limit).await?,
    };
    let mut page = KeyPage::new(
        Vec::with_capacity(rows.len()),
        u64::try_from(total).unwrap_or(0),
    );
    for row in rows {
        let key = row.read().or_else(|corrupt| {
            rows::log(&corrupt.row);
            page.unreadable
                .extend(corrupt.shown.as_ref().map(|key| key.id));
            corrupt.shown.ok_or(())
        });
        page.keys.extend(key);
    }
    Ok(page)
}

/// Operators have few keys.
async fn operators_page(
    connection: &mut Connection,
    offset: i64,
    limit: u32,
) -> Result<(i64, Vec<KeyRow>), QueryError> {
    let total: i64 = query!(&mut *connection, |open| api_key::table
        .filter(api_key::account_id.is_null())
        .filter(api_key::kind.eq(OPERATOR))
        .filter(api_key::revoked_at.is_null())
        .count()
        .get_result(open))?;
    let rows = query!(connection, |open| api_key::table
        // `account_id = x` and `account_id is null` use the same index, but only if they are
        // written in this way.
        .filter(api_key::account_id.is_null())
        .filter(api_key::kind.eq(OPERATOR))
        .filter(api_key::revoked_at.is_null())
        // The owner is the same in all rows. PostgreSQL reads them in order only if every column of
        // the index is named; otherwise it sorts all operator keys.
        .order((
            api_key::account_id,
            api_key::created_at.desc(),
            api_key::id.desc()
        ))
        .offset(offset)
        .limit(i64::from(limit))
        .select(KeyRow::as_select())
        .load(open))?;
    Ok((total, rows))
}

/// Returns a page of an account's keys. An account may have a hundred thousand keys, so they are
/// not counted, and a page deep in the list is found by the index alone, from the nearer end.
async fn account_page(
    connection: &mut Connection,
    account_id: AccountId,
    offset: i64,
    limit: u32,
) -> Result<(i64, Vec<KeyRow>), QueryError> {
    let id = DbId(account_id.as_uuid());
    let total: Result<i64, QueryError> = query!(&mut *connection, |open| key_count::table
        .find(id)
        .select(key_count::listed)
        .first(open));
    let total = optional(total)?.unwrap_or(0);
    if offset == 0 {
        let rows = query!(connection, |open| api_key::table
            .filter(api_key::account_id.eq(id))
            .filter(api_key::kind.eq(ACCOUNT))
            .filter(api_key::revoked_at.is_null())
            .order((
                api_key::account_id,
                api_key::created_at.desc(),
                api_key::id.desc()
            ))
            .limit(i64::from(limit))
            .select(KeyRow::as_select())
            .load(open))?;
        return Ok((total, rows));
    }
    let ids = deep_page(connection, id, offset, limit, offset > total / 2).await?;
    let rows = query!(connection, |open| api_key::table
        .filter(api_key::id.eq_any(ids))
        .filter(api_key::revoked_at.is_null())
        .order((api_key::created_at.desc(), api_key::id.desc()))
        .select(KeyRow::as_select())
        .load(open))?;
    Ok((total, rows))
}

/// Returns the identifiers of a page. If it is nearer to the end of the list it is counted from
/// there, in one statement with the number of all keys, so that both are consistent.
async fn deep_page(
    connection: &mut Connection,
    account_id: DbId,
    offset: i64,
    limit: u32,
    is_near_the_end: bool,
) -> Result<Vec<DbId>, QueryError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Id)]
        id: DbId,
    }
    /// In SQL of both databases. Parameters first appear in the order of their numbers, as SQLite
    /// requires.
    const FROM_THE_START: &str = "select id from api_key \
         where account_id = $1 and kind = 2 and revoked_at is null \
         order by account_id, created_at desc, id desc limit $2 offset $3";
    const FROM_THE_END: &str = "select id from api_key \
         where account_id = $1 and kind = 2 and revoked_at is null \
         order by account_id desc, created_at, id \
         limit coalesce((select case when $2 + $3 <= listed then $2 \
                                     when $3 < listed then listed - $3 else 0 end \
                         from key_count where account_id = $1), 0) \
         offset coalesce((select case when $2 + $3 < listed then listed - $3 - $2 else 0 end \
                          from key_count where account_id = $1), 0)";
    let (sql, limit) = if is_near_the_end {
        (FROM_THE_END, i64::from(limit))
    } else {
        (FROM_THE_START, i64::from(limit))
    };
    // An offset beyond every list. Otherwise its difference to the number of keys could overflow.
    let offset = offset.min(i64::from(u32::MAX) * 1_000);
    let rows: Vec<Row> = query!(connection, |open| sql_query(sql)
        .bind::<Id, _>(account_id)
        .bind::<BigInt, _>(limit)
        .bind::<BigInt, _>(offset)
        .load(open))?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

pub(crate) async fn revoke(
    pools: Pools,
    owner: Option<KeyOwner>,
    id: KeyId,
    revocation: Revocation,
    change: Change,
) -> Result<Option<Commit>, ChangeError> {
    let account = match owner {
        Some(KeyOwner::Account(id)) => Some(id),
        Some(KeyOwner::Operators) | None => None,
    };
    let why = RevocationRow::from(&revocation);
    #[cfg(feature = "postgres")]
    if let Pools::Postgres(pool) = &pools
        && let Some((held, _, _)) = account.and_then(|account| authority::held(&change, account))
    {
        let event = audit::event(&change, AuditAction::KeyRevoked, AuditSubject::Key(id));
        let why = why.clone();
        let revoked = pool
            .at_once(move |open| postgres::revoke_key(open, Some(held), owner, why, event).boxed());
        if let Some(commit) = revoked.await?.flatten() {
            return Ok(Some(commit));
        }
    }
    let opening = Opening::new(&change, account, Some(id));
    let (connection, opened) = load::open(&pools, &opening).await?;
    let judged = match opened {
        Ok(opened) => {
            let account = opened.caller_account.or(opened.account);
            let account = account.map(AccountRow::read);
            authority::judge(&change, opened.caller, account.as_ref()).map(drop)
        }
        Err(error) => Err(error.into()),
    };
    let event = audit::event(&change, AuditAction::KeyRevoked, AuditSubject::Key(id));
    match (connection, judged) {
        #[cfg(feature = "postgres")]
        (Connection::Postgres(lease), Ok(())) if change.completion.is_none() => {
            let revoked = lease.commit_with(move |open| {
                postgres::revoke_key(open, None, owner, why, event).boxed()
            });
            Ok(revoked.await?)
        }
        (mut connection, Ok(())) => {
            let outcome = revoke_in(&mut connection, owner, why, event, &change).await;
            connection.finish(outcome).await
        }
        (connection, Err(error)) => connection.finish(Err(error)).await,
    }
}

async fn revoke_in(
    connection: &mut Connection,
    owner: Option<KeyOwner>,
    why: RevocationRow,
    event: EventRow,
    change: &Change,
) -> Result<Option<Commit>, ChangeError> {
    let commit = match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::revoke_key(lease.enter(), None, owner, why, event).await;
            lease.leave(outcome)?
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => revoke_on_sqlite(connection, owner, why, event).await?,
    };
    if commit.is_some() {
        idempotency::complete(connection, change).await?;
    }
    Ok(commit)
}

async fn revoke_on_sqlite(
    connection: &mut Connection,
    owner: Option<KeyOwner>,
    why: RevocationRow,
    event: EventRow,
) -> Result<Option<Commit>, ChangeError> {
    if mark_revoked(connection, owner, event.subject_id, event.at, why).await? == 0 {
        return Ok(None);
    }
    audit::write(connection, event).await?;
    Ok(Some(changes::commit(connection).await?))
}

/// Revokes a key, for SQLite. Changes nothing if the key is revoked already or does not belong to
/// `owner`.
async fn mark_revoked(
    connection: &mut Connection,
    owner: Option<KeyOwner>,
    id: DbId,
    now: DbTimestamp,
    why: RevocationRow,
) -> Result<usize, QueryError> {
    let revoked = (
        api_key::revoked_at.eq(now),
        api_key::revoked_reason.eq(why.reason),
        api_key::revoked_note.eq(why.note),
    );
    let update = diesel::update(api_key::table.find(id)).filter(api_key::revoked_at.is_null());
    match owner {
        None => query!(connection, |open| update.set(revoked).execute(open)),
        Some(KeyOwner::Account(account_id)) => {
            let update = update
                .filter(api_key::account_id.eq(DbId(account_id.as_uuid())))
                .filter(api_key::kind.eq(ACCOUNT));
            query!(connection, |open| update.set(revoked).execute(open))
        }
        Some(KeyOwner::Operators) => {
            let update = update.filter(api_key::kind.eq(OPERATOR));
            query!(connection, |open| update.set(revoked).execute(open))
        }
    }
}

pub(crate) async fn record_uses(pools: Pools, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError> {
    /// Two instances that record uses of the same keys hold their locks for milliseconds.
    const PATIENCE: Duration = Duration::from_millis(400);
    const PAUSE: Duration = Duration::from_millis(20);
    let began = Instant::now();
    let mut uses = merge(uses);
    while !uses.is_empty() {
        let skipped: BTreeSet<KeyId> = record_unlocked(&pools, uses.clone())
            .await?
            .into_iter()
            .collect();
        uses.retain(|one| skipped.contains(&one.key_id));
        if uses.is_empty() || began.elapsed() >= PATIENCE {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(uses.into_iter().map(|one| one.key_id).collect())
}

/// Records uses of the keys that no other transaction has locked, and returns the others.
async fn record_unlocked(pools: &Pools, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError> {
    // All or nothing, so that a retry after an error does not count some of them twice.
    let mut connection = pools.begin().await?;
    let outcome = match &mut connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::record_uses(lease.enter(), &uses).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(lease) => {
            let outcome = sqlite::record_uses(lease.enter(), uses).await;
            lease.leave(outcome).map(|()| Vec::new())
        }
    };
    connection.finish(outcome.map_err(StoreError::from)).await
}

/// Returns one entry for each key, in order: an update takes one of several, and locks taken in
/// order cannot deadlock.
fn merge(uses: Vec<KeyUse>) -> Vec<KeyUse> {
    let mut merged = BTreeMap::<KeyId, KeyUse>::new();
    for one in uses {
        merged
            .entry(one.key_id)
            .and_modify(|sum| {
                sum.last_used_at = sum.last_used_at.max(one.last_used_at);
                sum.count = sum.count.saturating_add(one.count);
            })
            .or_insert(one);
    }
    merged.into_values().collect()
}

/// Deletes at most `limit` sessions that ended long ago, in the order of their end. They cannot be
/// used or listed, and every sign-in creates one. Returns how many.
pub(crate) async fn delete_ended_sessions(
    connection: &mut Connection,
    ended_before: Timestamp,
    limit: i64,
) -> Result<usize, QueryError> {
    let ended: Vec<DbId> = query!(&mut *connection, |open| api_key::table
        .filter(api_key::kind.eq(SESSION))
        .filter(api_key::expires_at.lt(DbTimestamp(ended_before)))
        .order(api_key::expires_at)
        .select(api_key::id)
        .limit(limit)
        .load(open))?;
    for ids in ended.chunks(500) {
        query!(&mut *connection, |open| diesel::delete(api_key::table)
            .filter(api_key::id.eq_any(ids.to_vec()))
            .execute(open))?;
    }
    Ok(ended.len())
}

pub(crate) async fn pepper_ids(pools: Pools, now: Timestamp) -> Result<Vec<PepperId>, StoreError> {
    let mut connection = pools.read().await?;
    let mut found = Vec::<PepperId>::new();
    let mut last = String::new();
    // Steps from one value to the next through the index. `distinct` would read every key.
    loop {
        let next: Option<String> = query!(&mut connection, |open| api_key::table
            .filter(api_key::revoked_at.is_null())
            .filter(api_key::pepper_id.gt(&last))
            .filter(
                api_key::expires_at
                    .is_null()
                    .or(api_key::expires_at.gt(DbTimestamp(now)))
            )
            .select(min(api_key::pepper_id))
            .first(open))?;
        // Stored bytes that are not UTF-8 are read in another form, so they need not sort after the
        // last value. They sort after every legal one.
        let Some(next) = next.filter(|next| *next > last) else {
            return Ok(found);
        };
        match next.parse() {
            Ok(pepper) => found.push(pepper),
            // Keys under a name that no pepper can have are refused. They do not prevent the others
            // from being served.
            Err(error) => report_pepper(&mut connection, &next, &error).await?,
        }
        last = next;
    }
}

/// Logs one key whose pepper has an impossible name.
async fn report_pepper(
    connection: &mut Connection,
    pepper_id: &str,
    error: &PepperError,
) -> Result<(), StoreError> {
    let ids: Vec<Tolerant<DbId>> = query!(connection, |open| api_key::table
        .filter(api_key::revoked_at.is_null())
        .filter(api_key::pepper_id.eq(pepper_id))
        .select(api_key::id)
        .limit(1)
        .load(open))?;
    let id = ids.into_iter().next().and_then(|id| id.0.ok());
    rows::log(&CorruptRow {
        table: "api_key",
        id: id.map(|id| id.0),
        faults: vec![Fault {
            column: "pepper_id",
            why: error.to_string(),
        }],
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn uses_of_one_key_become_one() {
        let one = |key: u128, at, count| {
            KeyUse::new(
                KeyId::from_uuid(Uuid::from_u128(key)),
                Timestamp::from_unix_micros(at),
                count,
            )
        };
        assert_eq!(
            merge(vec![
                one(2, 5, 1),
                one(1, 9, u64::MAX),
                one(2, 3, 2),
                one(1, 1, 1)
            ]),
            [one(1, 9, u64::MAX), one(2, 5, 3)]
        );
    }
}
