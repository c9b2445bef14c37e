//! The results of migrations, and their effect on programs that run beside them.

use std::time::{Duration, Instant};

use keys_store::{Store, StoreOptions};
use keys_testkit::data::{a_key, noon_plus};
use keys_testkit::postgres::{Cluster, Database};
use tokio::time::sleep;

use super::common::rows::MISCOUNTED;
use super::common::{Sql as _, add_account, add_key, revoke};
use super::{by_hand, connect, open};

const COUNTER: &str =
    include_str!("../../../../migrations/postgres/2026-11-30-000200_key_counter/up.sql");
const COUNTER_DOWN: &str =
    include_str!("../../../../migrations/postgres/2026-11-30-000200_key_counter/down.sql");
const REPLICATED: &str =
    include_str!("../../../../migrations/postgres/2026-12-01-000000_replicated_counts/up.sql");
const REPLICATED_DOWN: &str =
    include_str!("../../../../migrations/postgres/2026-12-01-000000_replicated_counts/down.sql");

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_loaded_without_triggers_are_counted_again() {
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
    // In each state of the triggers, no change is counted twice.
    for state in ["enable", "enable always"] {
        let enable = format!(
            "do $$ declare one text; begin \
                 for one in select tgname from pg_trigger where tgname like 'api_key_counted_%' loop \
                     execute format('alter table api_key {state} trigger %I', one); \
                 end loop; \
             end $$"
        );
        database.run(&enable).await.unwrap();
        add_key(&store, a_key().of(&account).without_cap().build_new()).await;
    }
    let copied = database.copy("api_key", &format!("'{}'", account.id.as_uuid()));
    let replicated = format!("set session_replication_role = replica; {copied}");
    database.run(&replicated).await.unwrap();
    assert_eq!(database.number(listed).await, 4);
    store.migrate().await.unwrap();
    assert!(store.recount_keys().await.unwrap());
    assert_eq!(database.number(listed).await, 24);
    let altered = "select count(*) from pg_trigger where tgname like 'api_key_counted_%' \
                   and tgenabled <> case when tgname like '%_replicated_%' then 'R' else 'A' end::\"char\"";
    assert_eq!(database.number(altered).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_keys_that_are_wrong_are_counted_again() {
    let database = Database::create().await;
    let store = open(&database).await;
    let accounts = [
        add_account(&store).await,
        add_account(&store).await,
        add_account(&store).await,
    ];
    for account in &accounts[..2] {
        add_key(&store, a_key().of(account).build_new()).await;
        let ending = a_key().of(account).expires_at(noon_plus(60));
        add_key(&store, ending.build_new()).await;
    }
    let [missing, wrong, without_keys] = accounts.map(|account| account.id.as_uuid());
    database
        .run(&format!(
            "delete from key_count where account_id = '{missing}'; \
             update key_count set unending = 2 where account_id = '{wrong}'; \
             insert into key_count values ('{without_keys}', 1, 0)"
        ))
        .await
        .unwrap();
    assert_eq!(database.number(MISCOUNTED).await, 3);
    assert!(store.recount_keys().await.unwrap());
    assert_eq!(database.number(MISCOUNTED).await, 0);
    assert!(!store.recount_keys().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_counted_right_whatever_the_default_isolation_is() {
    for isolation in ["repeatable read", "serializable"] {
        let database = Database::create().await;
        let store = open(&database).await;
        let account = add_account(&store).await;
        add_key(&store, a_key().of(&account).build_new()).await;
        drop(store);
        database
            .run(&format!(
                "update key_count set listed = 7; \
                 do $$ begin \
                     execute format('alter database %I set default_transaction_isolation = %L', \
                                    current_database(), '{isolation}'); \
                 end $$"
            ))
            .await
            .unwrap();
        let store = connect(&database, StoreOptions::default()).await;
        // The count waits for this insertion, and must include it then.
        let writer = by_hand(&database.url()).await;
        let insertion = format!(
            "begin isolation level read committed; {}",
            database.copy("api_key", &format!("'{}'", account.id.as_uuid()))
        );
        writer.batch_execute(&insertion).await.unwrap();
        let counting = tokio::spawn(async move { store.recount_keys().await });
        let waiting = "select count(*) from pg_locks \
                       where relation = 'api_key'::regclass and mode = 'ShareRowExclusiveLock' and not granted";
        while database.number(waiting).await == 0 {
            assert!(!counting.is_finished());
            sleep(Duration::from_millis(10)).await;
        }
        writer.batch_execute("commit").await.unwrap();
        assert!(counting.await.unwrap().unwrap());
        assert_eq!(database.number(MISCOUNTED).await, 0, "{isolation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicated_keys_are_counted() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start_with("-c wal_level=logical"));
    let cluster = cluster.await.unwrap().unwrap();
    for name in ["source", "target"] {
        cluster.sql("postgres", &format!("create database {name}"));
    }
    let url = |name: &str| cluster.database_url(name).parse().unwrap();
    let source = Store::open(&url("source")).await.unwrap();
    let _target = Store::open(&url("target")).await.unwrap();
    let account = add_account(&source).await;
    let mut keys = Vec::new();
    for _ in 0..6 {
        let key = a_key().of(&account).without_cap().build_new();
        keys.push(add_key(&source, key).await);
    }
    let connection = cluster.database_url("source");
    cluster.sql(
        "source",
        "create publication keys for table account, api_key",
    );
    // Within one cluster the command that subscribes cannot create the slot.
    cluster.sql(
        "source",
        "select pg_create_logical_replication_slot('keys', 'pgoutput')",
    );
    cluster.sql(
        "target",
        &format!(
            "create subscription keys connection '{connection}' publication keys \
             with (create_slot = false, slot_name = 'keys')"
        ),
    );
    let all = "select md5(string_agg(concat(id, account_id, expires_at, revoked_at), ',' order by id)) from api_key";
    let is_counted = async |after: &str| {
        let expected = cluster.sql("source", all);
        let begin = Instant::now();
        while cluster.sql("target", all) != expected {
            assert!(begin.elapsed() < Duration::from_mins(1), "{after}");
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(cluster.sql("target", MISCOUNTED), "0\n", "{after}");
        let listed = "select sum(listed) || ' ' || sum(unending) from key_count";
        let [there, here] = ["target", "source"].map(|name| cluster.sql(name, listed));
        assert_eq!(there, here, "{after}");
    };
    is_counted("the first copy").await;
    let ending = a_key().of(&account).without_cap().expires_at(noon_plus(60));
    add_key(&source, ending.build_new()).await;
    is_counted("an insertion").await;
    revoke(&source, &keys[0]).await;
    is_counted("a revocation").await;
    for statement in [
        "update api_key set expires_at = created_at where expires_at is null",
        "update api_key set expires_at = null",
        "update api_key set use_count = use_count + 1",
        "delete from api_key where id = (select id from api_key where revoked_at is null limit 1)",
        "delete from api_key where revoked_at is not null",
        "truncate api_key",
    ] {
        cluster.sql("source", statement);
        is_counted(statement).await;
    }
    cluster.sql("target", "alter subscription keys disable");
    cluster.sql(
        "target",
        "alter subscription keys set (slot_name = none); drop subscription keys",
    );
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
            "{REPLICATED_DOWN} {COUNTER_DOWN} create role {role}; \
             grant select, insert, update on all tables in schema public to {role}; {COUNTER} {REPLICATED}"
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
async fn role_that_may_only_revoke_keys_does_so_without_rights_on_the_counts() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    for _ in 0..2 {
        add_key(&store, a_key().of(&account).build_new()).await;
    }
    let role = format!("supports_{}", std::process::id());
    database
        .run(&format!(
            "create role {role}; grant select, update (revoked_at) on api_key to {role}; \
             grant insert on key_change to {role}"
        ))
        .await
        .unwrap();
    let client = by_hand(&database.url()).await;
    let revoked = client
        .batch_execute(&format!(
            "set role {role}; update api_key set revoked_at = now() where id = (select id from api_key limit 1)"
        ))
        .await;
    // A temporary table of the role does not shadow the real one.
    let shadowed = client
        .batch_execute(&format!(
            "set role {role}; \
             create temporary table key_count (account_id uuid primary key, listed bigint, unending bigint); \
             update api_key set revoked_at = now() where revoked_at is null"
        ))
        .await;
    let counted = client
        .batch_execute(&format!(
            "set role {role}; create table pg_temp.own (id int); \
             create trigger own after truncate on pg_temp.own for each statement execute function count_keys()"
        ))
        .await;
    client
        .batch_execute(&format!(
            "reset role; drop owned by {role}; drop role {role}"
        ))
        .await
        .unwrap();
    revoked.unwrap();
    shadowed.unwrap();
    assert!(format!("{:?}", counted.unwrap_err()).contains("permission denied for function"));
    assert_eq!(database.number(MISCOUNTED).await, 0);
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
    // As that version does: it records its progress in the same statement.
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
    // By hand, because an instance that comes back later would miss the row.
    database
        .run("insert into key_change (kind, ref, at) values (1, gen_random_uuid(), now() - interval '1 hour')")
        .await
        .unwrap();
    database.run("delete from key_change").await.unwrap();
    assert_eq!(database.number(everything).await, 1);
}
