//! Parts that only PostgreSQL has: row locks, advisory locks, arrays as tables, its connections.

use std::marker::PhantomData;
use std::sync::OnceLock;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::insertable::InsertValues;
use diesel::pg::{Pg, PgQueryBuilder};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryBuilder as _, QueryFragment, QueryId};
use diesel::result::Error;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, SmallInt, Text};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use keys_core::{KeyDigest, KeyId, KeyKind};
use keys_service::ports::{Commit, KeyOwner, KeyUse, day_of};

use crate::rows::{AccountRow, EventRow, FoundRow, KeyRow, NewKeyRow, RevocationRow, kind_code};
use crate::schema::{account, api_key, audit_event};
use crate::types::{Address, DbId, DbTimestamp, Id, Moment};

mod connect;
mod feed;
mod held;
mod identity;
mod life;
mod opening;
mod pool;
mod start;
mod types;

pub(crate) use connect::PostgresConnector;
pub(crate) use feed::{CHANNEL, PostgresFeed};
pub(crate) use held::Held;
use identity::{SETTING, log_number};
pub(crate) use life::{insert_reservation, is_lock_free, own_number, parse_holder};
pub(crate) use opening::{key_for_share, lock_account, lock_accounts, lock_keys};
pub(crate) use pool::{Lease, Pool};
pub(crate) use start::{Capacity, capacity};

/// Keys that one statement updates. With many more the planner would read the whole table.
const USES_PER_STATEMENT: usize = 1_000;

/// Writes a key and its audit event, in one statement. `false`, and nothing is written, if `held`
/// is not as it was.
pub(crate) async fn insert_key(
    mut connection: &AsyncPgConnection,
    held: Option<Held>,
    key: NewKeyRow,
    event: EventRow,
) -> QueryResult<bool> {
    let insertion = InsertKey {
        held,
        key: key.values().values,
        event: event.values().values,
    };
    Ok(insertion.execute(&mut connection).await? == 1)
}

/// Two insertions as one statement: both are executed, or none.
struct InsertKey<K, E> {
    held: Option<Held>,
    key: K,
    event: E,
}

impl<K, E> QueryId for InsertKey<K, E> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<K, E> QueryFragment<Pg> for InsertKey<K, E>
where
    K: InsertValues<Pg, api_key::table>,
    E: InsertValues<Pg, audit_event::table>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("with ");
        push_held(self.held.as_ref(), &mut out)?;
        out.push_sql("made as (insert into api_key (");
        self.key.column_names(out.reborrow())?;
        out.push_sql(") select ");
        self.key.walk_ast(out.reborrow())?;
        if self.held.is_some() {
            out.push_sql(" from held");
        }
        out.push_sql(" returning id) ");
        push_event(&self.event, "made", &mut out)
    }
}

fn push_held<'b>(held: Option<&'b Held>, out: &mut AstPass<'_, 'b, Pg>) -> QueryResult<()> {
    if let Some(held) = held {
        held.walk_ast(out.reborrow())?;
        out.push_sql(", ");
    }
    Ok(())
}

/// Writes `event` if `source` has a row.
fn push_event<'b, E: InsertValues<Pg, audit_event::table>>(
    event: &'b E,
    source: &str,
    out: &mut AstPass<'_, 'b, Pg>,
) -> QueryResult<()> {
    out.push_sql("insert into audit_event (");
    event.column_names(out.reborrow())?;
    out.push_sql(") select ");
    event.walk_ast(out.reborrow())?;
    out.push_sql(" from ");
    out.push_sql(source);
    Ok(())
}

/// Revokes the key of `event`, writes the event and identifies the transaction, in one statement.
/// Returns `None`, and changes nothing, if the key is revoked already, does not exist, or does not
/// belong to `owner`, or if `held` is not as it was.
pub(crate) async fn revoke_key(
    mut connection: &AsyncPgConnection,
    held: Option<Held>,
    owner: Option<KeyOwner>,
    why: RevocationRow,
    event: EventRow,
) -> QueryResult<Option<Commit>> {
    let (kind, account) = match owner {
        None => (None, None),
        Some(KeyOwner::Account(id)) => (Some(KeyKind::Account), Some(DbId(id.as_uuid()))),
        Some(KeyOwner::Operators) => (Some(KeyKind::Operator), None),
    };
    let revocation = RevokeKey {
        held,
        id: event.subject_id,
        at: event.at,
        why,
        kind: kind.map(kind_code),
        account,
        event: event.values().values,
    };
    let found: Option<(String, String)> =
        revocation.get_result(&mut connection).await.optional()?;
    let Some((number, log)) = found else {
        return Ok(None);
    };
    commit_of(&number, &log).map(Some)
}

/// Written by hand, because diesel prepares its own updates again for each execution, which is a
/// round trip.
struct RevokeKey<E> {
    held: Option<Held>,
    id: DbId,
    at: DbTimestamp,
    why: RevocationRow,
    kind: Option<i16>,
    account: Option<DbId>,
    event: E,
}

impl<E> QueryId for RevokeKey<E> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<E> Query for RevokeKey<E> {
    type SqlType = (Text, Text);
}

impl<E: InsertValues<Pg, audit_event::table>> QueryFragment<Pg> for RevokeKey<E> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("with ");
        push_held(self.held.as_ref(), &mut out)?;
        out.push_sql("revoked as (update api_key set revoked_at = ");
        out.push_bind_param::<Moment, _>(&self.at)?;
        if let Some(reason) = &self.why.reason {
            out.push_sql(", revoked_reason = ");
            out.push_bind_param::<Text, _>(reason)?;
        }
        if let Some(note) = &self.why.note {
            out.push_sql(", revoked_note = ");
            out.push_bind_param::<Text, _>(note)?;
        }
        out.push_sql(" where id = ");
        out.push_bind_param::<Id, _>(&self.id)?;
        out.push_sql(" and revoked_at is null");
        if let Some(kind) = &self.kind {
            out.push_sql(" and kind = ");
            out.push_bind_param::<SmallInt, _>(kind)?;
        }
        if let Some(account) = &self.account {
            out.push_sql(" and account_id = ");
            out.push_bind_param::<Id, _>(account)?;
        }
        if self.held.is_some() {
            out.push_sql(" and exists (select from held)");
        }
        out.push_sql(" returning id), noted as (");
        push_event(&self.event, "revoked", &mut out)?;
        out.push_sql(") select ");
        out.push_sql(TRANSACTION);
        out.push_sql(" from revoked");
        Ok(())
    }
}

/// Revokes those of the keys of `events` that are not revoked, and writes their events, in one
/// statement. Returns which.
pub(crate) async fn revoke_keys(
    connection: &mut AsyncPgConnection,
    why: RevocationRow,
    events: &[EventRow],
) -> QueryResult<Vec<DbId>> {
    #[derive(QueryableByName)]
    struct Revoked {
        #[diesel(sql_type = Id)]
        id: DbId,
    }
    let Some(first) = events.first() else {
        return Ok(Vec::new());
    };
    let keys: Vec<DbId> = events.iter().map(|event| event.subject_id).collect();
    let ids: Vec<DbId> = events.iter().map(|event| event.id).collect();
    // All events differ in their identifier and their subject only.
    let revoked: Vec<Revoked> = sql_query(
        "with wanted as materialized (select * from unnest($1, $2) as one (key, event)), \
         revoked as ( \
             update api_key set revoked_at = $3, revoked_reason = $4, revoked_note = $5 \
             from wanted where api_key.id = wanted.key and api_key.revoked_at is null \
             returning api_key.id, wanted.event \
         ), noted as ( \
             insert into audit_event (id, at, actor_kind, actor_id, action, subject_id, address, reason) \
             select event, $3, $6, $7, $8, id, $9, $10 from revoked \
         ) \
         select id from revoked",
    )
    .bind::<Array<Id>, _>(keys)
    .bind::<Array<Id>, _>(ids)
    .bind::<Moment, _>(first.at)
    .bind::<Nullable<Text>, _>(why.reason)
    .bind::<Nullable<Text>, _>(why.note)
    .bind::<Text, _>(first.actor_kind)
    .bind::<Nullable<Id>, _>(first.actor_id)
    .bind::<Text, _>(first.action)
    .bind::<Nullable<Address>, _>(first.address)
    .bind::<Nullable<Text>, _>(first.reason.as_deref())
    .load(connection)
    .await?;
    Ok(revoked.into_iter().map(|row| row.id).collect())
}

/// Lets one transaction at a time take operator keys or their scopes away, so that each sees which
/// are left.
pub(crate) async fn lock_operators(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    /// An arbitrary number ("keysoper", in ASCII) that no other program should use.
    const OPERATORS_LOCK: i64 = 0x6b65_7973_6f70_6572;
    sql_query("select pg_advisory_xact_lock($1)")
        .bind::<BigInt, _>(OPERATORS_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns the keys stored under any of these digests, by one prepared statement for any number of
/// them.
pub(crate) async fn keys_by_digest(
    connection: &mut AsyncPgConnection,
    wanted: &[[u8; KeyDigest::LEN]],
) -> QueryResult<Vec<FoundRow>> {
    static SQL: OnceLock<[String; 2]> = OnceLock::new();
    let wanted = wanted
        .iter()
        .map(<[u8; KeyDigest::LEN]>::as_slice)
        .collect();
    let query = api_key::table
        .left_join(account::table)
        .filter(api_key::digest.eq_any(Vec::<&[u8]>::new()))
        .select((
            api_key::digest,
            api_key::pepper_id,
            KeyRow::as_select(),
            Option::<AccountRow>::as_select(),
        ));
    BuiltOnce::new(&SQL, &query, wanted)?.load(connection).await
}

/// A query for a list whose text is built only once. `diesel-async` would build it for each
/// execution, only to find that it is prepared already.
struct BuiltOnce<'a, Q> {
    /// Text before and after the list.
    sql: &'static [String; 2],
    list: Vec<&'a [u8]>,
    query: PhantomData<fn() -> Q>,
}

impl<'a, Q: QueryFragment<Pg>> BuiltOnce<'a, Q> {
    /// Builds from `query`, the query for an empty list.
    fn new(
        sql: &'static OnceLock<[String; 2]>,
        query: &Q,
        list: Vec<&'a [u8]>,
    ) -> QueryResult<Self> {
        let sql = if let Some(sql) = sql.get() {
            sql
        } else {
            let mut builder = PgQueryBuilder::default();
            query.to_sql(&mut builder, &Pg)?;
            let text = builder.finish();
            let (before, after) = text.split_once("$1").expect("the list is its parameter");
            sql.get_or_init(|| [before.to_owned(), after.to_owned()])
        };
        Ok(Self {
            sql,
            list,
            query: PhantomData,
        })
    }
}

impl<Q: Query> Query for BuiltOnce<'_, Q> {
    type SqlType = Q::SqlType;
}

impl<Q: QueryId> QueryId for BuiltOnce<'_, Q> {
    type QueryId = BuiltOnce<'static, Q::QueryId>;
    const HAS_STATIC_QUERY_ID: bool = Q::HAS_STATIC_QUERY_ID;
}

impl<Q> QueryFragment<Pg> for BuiltOnce<'_, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(&self.sql[0]);
        out.push_bind_param::<Array<Binary>, _>(&self.list)?;
        out.push_sql(&self.sql[1]);
        Ok(())
    }
}

/// The number of the current transaction, and its log.
const TRANSACTION: &str = "pg_current_xact_id()::text, current_setting('keys.log')";

/// Identifies the current transaction, and the log of its number.
pub(crate) async fn transaction(connection: &mut AsyncPgConnection) -> QueryResult<Commit> {
    let (number, log): (String, String) = Transaction.get_result(connection).await?;
    commit_of(&number, &log)
}

#[derive(QueryId)]
struct Transaction;

impl Query for Transaction {
    type SqlType = (Text, Text);
}

impl QueryFragment<Pg> for Transaction {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("select ");
        out.push_sql(TRANSACTION);
        Ok(())
    }
}

fn commit_of(number: &str, log: &str) -> QueryResult<Commit> {
    let number = number
        .parse()
        .map_err(|error| Error::DeserializationError(Box::new(error)))?;
    Ok(Commit::in_log(log_number(log), number))
}

/// Lets one attempt at a time reserve any of these look-up digests.
pub(crate) async fn lock_lookups(
    connection: &mut AsyncPgConnection,
    lookups: &[[u8; 32]],
) -> QueryResult<()> {
    let mut locks: Vec<i64> = lookups
        .iter()
        .filter_map(|lookup| lookup.first_chunk())
        .map(|start| i64::from_be_bytes(*start))
        .collect();
    locks.sort_unstable();
    locks.dedup();
    for lock in locks {
        sql_query("select pg_advisory_xact_lock($1)")
            .bind::<BigInt, _>(lock)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Records uses, sorted by key, of the keys that no other transaction has locked. Returns the
/// others, because waiting for one would delay all the rest.
pub(crate) async fn record_uses(
    connection: &mut AsyncPgConnection,
    uses: &[KeyUse],
) -> QueryResult<Vec<KeyId>> {
    #[derive(QueryableByName)]
    struct Skipped {
        #[diesel(sql_type = Id)]
        id: DbId,
    }
    // Losing the last of these in a crash is harmless, and waiting for the disk each time is slow.
    connection
        .batch_execute("set local synchronous_commit = off")
        .await?;
    let mut skipped = Vec::new();
    for uses in uses.chunks(USES_PER_STATEMENT) {
        let ids: Vec<_> = uses.iter().map(|one| DbId(one.key_id.as_uuid())).collect();
        let times: Vec<_> = uses
            .iter()
            .map(|one| DbTimestamp(one.last_used_at))
            .collect();
        let counts: Vec<_> = uses.iter().map(|one| count(one.count)).collect();
        // The same value all day, so that no index has to be written for most uses.
        let days: Vec<_> = uses.iter().map(|one| day_of(one.last_used_at)).collect();
        let rows: Vec<Skipped> = sql_query(
            "with free as materialized ( \
                 select api_key.id from unnest($1) as one (id) join api_key on api_key.id = one.id \
                 for no key update of api_key skip locked \
             ), written as ( \
                 update api_key set \
                 last_used_at = greatest(api_key.last_used_at, one.at), \
                 last_used_day = greatest(api_key.last_used_day, one.day), \
                 use_count = api_key.use_count + least(one.count, 9223372036854775807 - api_key.use_count) \
                 from unnest($1, $2, $3, $4) as one (id, at, count, day) \
                 where api_key.id = one.id and one.id in (select id from free) \
             ) \
             select api_key.id from unnest($1) as one (id) join api_key on api_key.id = one.id \
             where one.id not in (select id from free)",
        )
        .bind::<Array<Id>, _>(ids)
        .bind::<Array<Moment>, _>(times)
        .bind::<Array<BigInt>, _>(counts)
        .bind::<Array<Integer>, _>(days)
        .load(connection)
        .await?;
        skipped.extend(rows.into_iter().map(|row| KeyId::from_uuid(row.id.0)));
    }
    Ok(skipped)
}

/// Lets one instance at a time sweep. Returns `false` if another one is sweeping.
pub(crate) async fn try_sweep_lock(connection: &mut AsyncPgConnection) -> QueryResult<bool> {
    /// An arbitrary number ("keyssweep", in ASCII as far as it fits) that no other program should
    /// use.
    const SWEEP_LOCK: i64 = 0x6b65_7973_7377_6570;
    let query = format!("select pg_try_advisory_xact_lock({SWEEP_LOCK})");
    sql::<Bool>(&query).get_result(connection).await
}

/// Returns the age of the oldest change in microseconds.
pub(crate) async fn oldest_change(connection: &mut AsyncPgConnection) -> QueryResult<Option<i64>> {
    sql::<Nullable<BigInt>>(
        "select (extract(epoch from now() - (select at from key_change order by at limit 1)) * 1000000)::bigint",
    )
    .get_result(connection)
    .await
}

/// Plans the statements of this transaction for their parameters. Otherwise the planner does not
/// know how many rows are old, and which partial index fits.
pub(crate) async fn plan_each_time(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection
        .batch_execute("set local plan_cache_mode = force_custom_plan")
        .await
}

/// Deletes at most `limit` changes that are older than `kept` and that every instance alive in that
/// time has seen, the oldest first, and records the progress in the same transaction. Returns how
/// many.
///
/// Only the oldest rows are examined, and those among them that may go are deleted, so that the
/// work is bounded even while an old transaction keeps all of them. The rest is left for the next
/// batch.
pub(crate) async fn prune_changes(
    connection: &mut AsyncPgConnection,
    kept: Duration,
    limit: i64,
) -> QueryResult<usize> {
    // Allows the deletion to the triggers that protect the log.
    connection
        .batch_execute("set local keys.pruning = 'on'")
        .await?;
    let kept = kept.as_secs();
    // `min` of these numbers exists since PostgreSQL 14 only.
    let count: i64 = sql::<BigInt>(&format!(
        "with slowest as ( \
             select pg_snapshot_xmin(seen) as xmin from instance \
             where seen_at > now() - interval '{kept} seconds' order by 1 limit 1 \
         ), old as materialized ( \
             select ctid as place, xid from key_change \
             where at < now() - interval '{kept} seconds' order by at limit {limit} \
         ), gone as ( \
             delete from key_change where ctid = any(array( \
                 select place from old \
                 where xid < coalesce((select xmin from slowest), pg_snapshot_xmax(pg_current_snapshot())))) \
             returning xid \
         ), marked as ( \
             insert into key_change_pruned as pruned (mark) \
             select coalesce((select xid from gone order by xid desc limit 1), '0') \
             on conflict (one) do update set mark = excluded.mark \
             where pruned.mark < excluded.mark or pruned.mark >= pg_snapshot_xmax(pg_current_snapshot()) \
         ) \
         select count(*) from gone",
    ))
    .get_result(connection)
    .await?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Deletes at most `limit` changes of transactions in the future, which come from another server
/// through a dump. No feed reads them, and a mark among them would reset every feed each time.
/// Returns how many.
pub(crate) async fn prune_foreign_changes(
    connection: &mut AsyncPgConnection,
    limit: i64,
) -> QueryResult<usize> {
    connection
        .batch_execute("set local keys.pruning = 'on'")
        .await?;
    sql_query(
        "delete from key_change where ctid = any(array( \
             select ctid from key_change where xid >= pg_snapshot_xmax(pg_current_snapshot()) limit $1))",
    )
    .bind::<BigInt, _>(limit)
    .execute(connection)
    .await
}

/// Deletes instances without a sign of life for an hour.
pub(crate) async fn forget_instances(connection: &mut AsyncPgConnection) -> QueryResult<usize> {
    connection
        .batch_execute("set local keys.pruning = 'on'")
        .await?;
    sql_query("delete from instance where seen_at < now() - interval '1 hour'")
        .execute(connection)
        .await
}

/// Enables the triggers that write the log of changes in every replication role, if some are not. A
/// restore with `--disable-triggers` leaves them so.
pub(crate) async fn repair_triggers(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection.batch_execute(&feed::repair_statement()).await
}

/// The accounts whose number of keys differs from `key_count`, with the right numbers. Read from
/// indexes alone: one has the listed keys, another those among them that expire.
const MISCOUNTED: &str = "\
    select account_id, coalesce(counted.listed, 0) as listed, coalesce(counted.unending, 0) as unending \
    from ( \
        select account_id, sum(listed)::bigint as listed, sum(unending)::bigint as unending \
        from ( \
            select account_id, count(*) as listed, count(*) as unending \
            from api_key where kind = 2 and revoked_at is null group by account_id \
            union all \
            select account_id, 0, -count(*) \
            from api_key where kind = 2 and revoked_at is null and expires_at is not null group by account_id \
        ) as parts group by account_id \
    ) as counted full join key_count as kept using (account_id) \
    where (coalesce(counted.listed, 0), coalesce(counted.unending, 0)) \
          <> (coalesce(kept.listed, 0), coalesce(kept.unending, 0))";

/// Returns whether the triggers have miscounted the keys of some account. They do not count while
/// they are disabled.
pub(crate) async fn are_keys_miscounted(connection: &mut AsyncPgConnection) -> QueryResult<bool> {
    let query = format!("select exists ({MISCOUNTED})");
    sql::<Bool>(&query).get_result(connection).await
}

/// Counts the keys of the miscounted accounts again. No key can be changed meanwhile.
pub(crate) async fn recount_keys(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection
        .batch_execute(&format!(
            "do $$ begin \
                 lock table api_key in share row exclusive mode; \
                 insert into key_count (account_id, listed, unending) {MISCOUNTED} \
                 on conflict (account_id) do update set listed = excluded.listed, unending = excluded.unending; \
             end $$"
        ))
        .await
}

/// Returns whether every instance that may still have a cache has seen this transaction. Never
/// `true` for a transaction of another log than the current one of this server, and an instance
/// that reported a position in another log has not seen it.
pub(crate) async fn is_seen_everywhere(
    connection: &mut AsyncPgConnection,
    commit: Commit,
    silence: Duration,
) -> QueryResult<bool> {
    type Columns = (Text, Bool, Bool, Bool);
    let (number, silence) = (commit.number(), silence.as_millis());
    // An epoch without a log is that of a new database that no instance has followed yet.
    let query = format!(
        "with heard as (select now() - interval '{silence} milliseconds' as since, current_setting('{SETTING}') as log), \
         epoch as (select epoch.since from instance_epoch as epoch, heard \
                   where epoch.log = heard.log or (epoch.log = '' and epoch.since = '-infinity')) \
         select (select log from heard) as log, \
                exists (select from epoch) as has_epoch, \
                exists (select from epoch, heard where epoch.since <= heard.since) as is_complete, \
                '{number}'::xid8 < pg_snapshot_xmax(pg_current_snapshot()) \
                and not exists (select from instance, heard where seen_at >= heard.since \
                                and not (instance.log = heard.log \
                                         and pg_snapshot_xmax(seen) <= pg_snapshot_xmax(pg_current_snapshot()) \
                                         and pg_visible_in_snapshot('{number}'::xid8, seen))) as is_seen",
    );
    let (log, has_epoch, is_complete, is_seen): (String, bool, bool, bool) =
        sql::<Columns>(&query).get_result(connection).await?;
    if !has_epoch {
        // The server crashed or was replaced. From now on, its followers are known again.
        sql_query(format!(
            "insert into instance_epoch (since, log) values (now(), current_setting('{SETTING}')) \
             on conflict (one) do update set since = excluded.since, log = excluded.log \
             where instance_epoch.log <> excluded.log"
        ))
        .execute(connection)
        .await?;
    }
    Ok(commit.log() == log_number(&log) && is_complete && is_seen)
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
