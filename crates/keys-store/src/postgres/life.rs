//! Advisory locks as signs of life: each process holds one of its own as long as it lives.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use diesel::dsl::sql;
use diesel::sql_types::{Binary, Bool, Integer, Text};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use crate::rows::ReservationRow;
use crate::types::{Id, Moment};

/// The number of this process. It is almost certainly unique among living processes. If two share
/// one, neither is taken over early.
static NUMBER: LazyLock<i32> = LazyLock::new(|| {
    // The seeds of hash maps are random enough for a number that only has to differ.
    let [a, b, c, d, ..] = RandomState::new().hash_one(0).to_ne_bytes();
    i32::from_ne_bytes([a, b, c, d])
});

/// Returns the number of the lock of this process.
pub(crate) fn own_number() -> i32 {
    *NUMBER
}

/// First number of the advisory locks that are signs of life ("keys" in ASCII). The second is that
/// of the process.
const LIFE_LOCKS: i32 = 0x6b65_7973;

/// Start time of the server. A server that is restarted has lost the locks of processes that are
/// still alive.
const SERVER_STARTED: &str = "extract(epoch from pg_postmaster_start_time())::text";

/// Returns a statement that takes the lock of this process in its session: the feed's, which lives
/// longest.
pub(super) fn show_statement() -> String {
    let number = own_number();
    format!("select pg_advisory_lock_shared({LIFE_LOCKS}, {number})")
}

/// Reserves an answer, and holds the lock `number` in this session from now on.
pub(crate) async fn insert_reservation(
    connection: &mut AsyncPgConnection,
    row: ReservationRow,
    number: i32,
) -> QueryResult<()> {
    // As part of a value the lock is certainly taken, and before any other transaction can see the
    // row.
    sql_query(format!(
        "insert into idempotency (lookup, body_digest, token, expires_at, holder) \
         values ($1, $2, $3, $4, \
                 $5::text || '@' || {SERVER_STARTED} || pg_advisory_lock_shared({LIFE_LOCKS}, $5)::text)"
    ))
    .bind::<Binary, _>(row.lookup)
    .bind::<Binary, _>(row.body_digest)
    .bind::<Id, _>(row.token)
    .bind::<Moment, _>(row.expires_at)
    .bind::<Integer, _>(number)
    .execute(connection)
    .await?;
    Ok(())
}

/// Parses the number of the lock, and the start time of its server.
pub(crate) fn parse_holder(holder: &str) -> Option<(i32, &str)> {
    let (number, started) = holder.split_once('@')?;
    Some((number.parse().ok()?, started))
}

/// Returns whether no process holds or awaits the lock `number`, on a server that has not lost its
/// locks since.
///
/// It looks at the locks instead of trying to take one: several repetitions of attempts of one
/// process look at the same time, and each would mistake the lock of another for a sign of life.
pub(crate) async fn is_lock_free(
    connection: &mut AsyncPgConnection,
    number: i32,
    started: &str,
) -> QueryResult<bool> {
    // The second number of the lock, with its sign as a bit, and the marker of a lock of two
    // numbers.
    let query = format!(
        "select not exists ( \
             select from pg_catalog.pg_locks \
             where locktype = 'advisory' and mode = 'ShareLock' \
               and database = (select oid from pg_catalog.pg_database where datname = current_database()) \
               and classid = {LIFE_LOCKS}::oid and objid = ({number}::bigint & 4294967295)::oid and objsubid = 2 \
         ) and {SERVER_STARTED} = "
    );
    let query = sql::<Bool>(&query).bind::<Text, _>(started);
    query.get_result(connection).await
}
