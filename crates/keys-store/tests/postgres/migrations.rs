//! What migrations leave behind, and what they do to programs that go on beside them.

use std::time::{Duration, Instant};

use keys_testkit::data::a_key;
use keys_testkit::postgres::Database;
use tokio::time::sleep;

use super::common::{Sql as _, add_account, add_key};
use super::{by_hand, open};

const COUNTER: &str =
    include_str!("../../../../migrations/postgres/2026-11-30-000200_key_counter/up.sql");
const COUNTER_DOWN: &str =
    include_str!("../../../../migrations/postgres/2026-11-30-000200_key_counter/down.sql");

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_loaded_without_triggers_are_counted_by_migrating() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    add_key(&store, a_key().of(&account).build_new()).await;
    database
        .run(
            "alter table api_key disable trigger all; \
             insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, created_at) \
             select gen_random_uuid(), account.id, 2, sha256(gen_random_uuid()::text::bytea), 'p1', 'sk', 'many', now() \
             from account, generate_series(1, 20); \
             alter table api_key enable trigger all",
        )
        .await
        .unwrap();
    let listed = "select sum(listed)::bigint from key_count";
    assert_eq!(database.number(listed).await, 1);
    store.migrate().await.unwrap();
    assert_eq!(database.number(listed).await, 21);
    let altered = "select count(*) from pg_trigger where tgname like 'api_key_counted_%' and tgenabled <> 'A'";
    assert_eq!(database.number(altered).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_change_keys_may_count_them() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    let key = add_key(&store, a_key().of(&account).build_new()).await;
    drop(store);
    let role = format!("serves_{}", std::process::id());
    database
        .run(&format!(
            "{COUNTER_DOWN} create role {role}; \
             grant select, insert, update on all tables in schema public to {role}; {COUNTER}"
        ))
        .await
        .unwrap();
    let client = by_hand(&database.url()).await;
    let revoke = format!(
        "set role {role}; update api_key set revoked_at = now() where id = '{}'",
        key.id.as_uuid()
    );
    let outcome = client.batch_execute(&revoke).await;
    client
        .batch_execute(&format!(
            "reset role; drop owned by {role}; drop role {role}"
        ))
        .await
        .unwrap();
    outcome.unwrap();
    let listed = "select sum(listed)::bigint from key_count";
    assert_eq!(database.number(listed).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_lets_readers_through_while_it_waits_for_a_table() {
    let database = Database::create().await;
    let store = open(&database).await;
    database
        .run(
            "alter table idempotency drop column holder; \
             delete from schema_compatibility where migration = '20261130000400'; \
             delete from __diesel_schema_migrations where version = '20261130000400'",
        )
        .await
        .unwrap();
    let reader = by_hand(&database.url()).await;
    let reading = tokio::spawn(async move {
        reader
            .batch_execute("begin; select from idempotency; select pg_sleep(4); commit")
            .await
    });
    sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    let migrating = tokio::spawn(async move { store.migrate().await });
    sleep(Duration::from_millis(300)).await;
    // Queued behind the migration, and let through when that gives up for a moment.
    let other = by_hand(&database.url()).await;
    other
        .batch_execute("select from idempotency")
        .await
        .unwrap();
    assert!(!migrating.is_finished());
    migrating.await.unwrap().unwrap();
    assert!(begin.elapsed() > Duration::from_secs(2));
    reading.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_by_the_version_before_resets_no_cache() {
    let database = Database::create().await;
    open(&database).await;
    let everything = "select count(*) from key_change where kind = 3";
    database
        .run("insert into key_change (kind, ref, at) values (1, gen_random_uuid(), now() - interval '1 hour')")
        .await
        .unwrap();
    // As that version does: it notes in the same statement how far it went.
    database
        .run(
            "with gone as (delete from key_change where at < now() - interval '10 minutes' returning xid) \
             insert into key_change_pruned as pruned (mark) \
             select coalesce((select xid from gone order by xid desc limit 1), '0') \
             on conflict (one) do update set mark = excluded.mark where pruned.mark < excluded.mark; \
             delete from instance where seen_at < now() - interval '1 hour'",
        )
        .await
        .unwrap();
    assert_eq!(database.number(everything).await, 0);
    assert_eq!(
        database
            .number("select count(*) from instance_epoch where since = '-infinity'")
            .await,
        1
    );
    // By hand, an instance that comes back later would miss the row.
    database
        .run("insert into key_change (kind, ref, at) values (1, gen_random_uuid(), now() - interval '1 hour')")
        .await
        .unwrap();
    database.run("delete from key_change").await.unwrap();
    assert_eq!(database.number(everything).await, 1);
}
