//! Large numbers of keys for benchmarks, written into a database without the service.

use std::fmt::Write as _;

use keys_core::{Pepper, PepperRing, SecretKey};

use crate::postgres::Database;
use crate::rng;
use crate::server::PEPPER;

/// Number of keys of each account.
pub const KEYS_PER_ACCOUNT: usize = 10;

/// The plan of all accounts.
const PLAN: &str = "pro";

/// The name of all keys.
const NAME: &str = "Production Server";

/// A key that can be verified under [`peppers`].
#[derive(Debug)]
pub struct ManyKey {
    /// The whole key.
    pub secret: String,
    /// The stored digest, in hexadecimal.
    digest: String,
}

/// Returns the ring with the only pepper of the keys, as `p1`.
#[must_use]
pub fn peppers() -> PepperRing {
    let pepper = Pepper::from_base64(PEPPER).expect("the pepper of tests is legal");
    PepperRing::new("p1".parse().expect("a legal id"), pepper)
}

/// Returns `count` keys, always the same.
#[must_use]
pub fn keys(count: usize) -> Vec<ManyKey> {
    let (mut rng, peppers) = (rng::seeded(1), peppers());
    let prefix = "sk_live".parse().expect("a legal prefix");
    let one = |_| {
        let Ok(key) = SecretKey::generate(&prefix, &mut rng);
        let digest = *peppers.digest(&key).digest.as_bytes();
        ManyKey {
            secret: key.expose().to_owned(),
            digest: hexadecimal(&digest),
        }
    };
    (0..count).map(one).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the identifier of the account with this number, in the notation of UUIDs. Accounts are
/// numbered from 0.
#[must_use]
pub fn account_id(number: usize) -> String {
    format!("0190a000-0000-7000-8000-{number:012x}")
}

/// Writes `total` keys into a database that has the schema: `keys`, evenly spread among others
/// whose secrets do not exist. Each account has [`KEYS_PER_ACCOUNT`] of them.
pub fn fill_postgres(database: &Database, keys: &[ManyKey], total: usize) {
    /// An argument of a program has at most 128 KiB.
    const KEYS_PER_STATEMENT: usize = 1_000;
    let sql = |statement: &str| drop(database.sql(statement));
    sql("create unlogged table many (n bigint primary key, digest bytea)");
    for (index, chunk) in keys.chunks(KEYS_PER_STATEMENT).enumerate() {
        let digests: Vec<&str> = chunk.iter().map(|key| key.digest.as_str()).collect();
        sql(&format!(
            "insert into many select ({} + ordinality - 1) * {}, decode(digest, 'hex') \
             from unnest(string_to_array('{}', ',')) with ordinality as one (digest, ordinality)",
            index * KEYS_PER_STATEMENT,
            total / keys.len(),
            digests.join(","),
        ));
    }
    let id =
        |start: &str, number: &str| format!("('{start}' || lpad(to_hex({number}), 12, '0'))::uuid");
    let (account, key) = ("0190a000-0000-7000-8000-", "0190a000-0000-7000-9000-");
    // `enable trigger all` does not restore which of them fire always, or for replicas only.
    sql("create unlogged table many_enabled as \
         select tgrelid::regclass as of, tgname as name, \
                case tgenabled when 'A' then 'always' else 'replica' end as enabled \
         from pg_trigger \
         where tgenabled in ('A', 'R') and tgrelid in ('account'::regclass, 'api_key'::regclass)");
    sql("alter table account disable trigger all; alter table api_key disable trigger all");
    sql(&format!(
        "insert into account (id, plan, created_at) select {}, '{PLAN}', now() from generate_series(0, {}) n",
        id(account, "n"),
        total / KEYS_PER_ACCOUNT,
    ));
    sql(&format!(
        "insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, created_at) \
         select {}, {}, 2, coalesce(digest, sha256(n::text::bytea)), 'p1', 'sk_live_many', '{NAME}', now() \
         from generate_series(0, {total} - 1) n left join many using (n) order by n",
        id(key, "n"),
        id(account, &format!("n / {KEYS_PER_ACCOUNT}")),
    ));
    sql(
        "alter table account enable trigger all; alter table api_key enable trigger all; drop table many; \
         do $$ declare one record; begin \
             for one in select * from many_enabled loop \
                 execute format('alter table %s enable %s trigger %I', one.of, one.enabled, one.name); \
             end loop; \
         end $$; \
         drop table many_enabled",
    );
    // The counts that the triggers would have written.
    sql("insert into key_count (account_id, listed, unending) \
         select account_id, count(*), count(*) filter (where expires_at is null) \
         from api_key where kind = 2 and revoked_at is null group by account_id \
         on conflict (account_id) do update set listed = excluded.listed, unending = excluded.unending");
    sql("vacuum (analyze) api_key, account");
    sql("checkpoint");
}

/// Returns the statements that do the same in SQLite.
#[must_use]
pub fn fill_sqlite(keys: &[ManyKey], total: usize) -> String {
    let numbers = |count: usize| {
        format!(
            "with recursive numbers (n) as (select 0 union all select n + 1 from numbers where n + 1 < {count})"
        )
    };
    let id = |start: &str, number: &str| format!("unhex('{start}' || printf('%012x', {number}))");
    let (account, key) = ("0190a000000070008000", "0190a000000070009000");
    // The benchmarks only read, so the triggers are not needed.
    let mut statements = format!(
        "begin; drop trigger api_key_no_replace; drop trigger if exists api_key_insert_noted; drop trigger if exists account_insert_noted;\n\
         create temporary table many (n integer primary key, digest blob);\n\
         insert into account (id, plan, created_at) {} select {}, '{PLAN}', 1800000000000000 from numbers;\n",
        numbers(total / KEYS_PER_ACCOUNT + 1),
        id(account, "n"),
    );
    for (index, one) in keys.iter().enumerate() {
        let number = index * (total / keys.len());
        let _ = writeln!(
            statements,
            "insert into many values ({number}, x'{}');",
            one.digest
        );
    }
    let _ = write!(
        statements,
        "insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, created_at) {} \
         select {}, {}, 2, coalesce(digest, randomblob(32)), 'p1', 'sk_live_many', '{NAME}', 1800000000000000 \
         from numbers left join many using (n);\n\
         drop table many; commit; analyze; pragma wal_checkpoint(truncate);",
        numbers(total),
        id(key, "n"),
        id(account, &format!("n / {KEYS_PER_ACCOUNT}")),
    );
    statements
}
