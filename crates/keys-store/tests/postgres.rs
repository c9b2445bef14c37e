//! The store on PostgreSQL.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "postgres/feed.rs"]
mod feed;
#[path = "postgres/held.rs"]
mod held;
#[path = "postgres/identity.rs"]
mod identity;
#[path = "postgres/migrations.rs"]
mod migrations;
#[path = "postgres/poolers.rs"]
mod poolers;
#[path = "postgres/pools.rs"]
mod pools;

use std::sync::Arc;
use std::time::Duration;

use keys_core::{Account, AuditEvent, EventId, IssuePolicy, Plans, Revocation, Timestamp};
use keys_service::ports::{
    Accounts as _, ChangeLog as _, Idempotency as _, KeyOwner, KeyStore, KeyUse, KeyUses as _,
    Keys as _, Maintenance as _, Reservation, StoreError,
};
use keys_service::{Actor, Identity, KeyDraft, KeyService, Requirement};
use keys_store::{OpenError, Store, StoreOptions};
use keys_testkit::contract::AuditedStore;
use keys_testkit::data::{
    NOON, a_caller, a_change, a_key, an_event_id, noon_plus, pepper_ring, plans,
};
use keys_testkit::fault_proxy::{Direction, Fault, FaultProxy};
use keys_testkit::postgres::Database;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::NoTls;

use common::{Sql, add_account, add_key, chain};

keys_testkit::store_contract!(contract, fixture());
keys_testkit::store_audit_contract!(audit_contract, audited());

async fn fixture() -> (Arc<dyn KeyStore>, Database) {
    let database = Database::create().await;
    (Arc::new(open(&database).await), database)
}

async fn audited() -> AuditedStore {
    let database = Database::create().await;
    let store = open(&database).await;
    AuditedStore::new(Arc::new(store), move || trail(&database))
}

async fn open(database: &Database) -> Store {
    Store::open(&database.url().parse().unwrap()).await.unwrap()
}

async fn connect(database: &Database, options: StoreOptions) -> Store {
    let url = database.url().parse().unwrap();
    Store::connect(&url, options).await.unwrap()
}

/// A connection outside of the service.
async fn by_hand(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Sql for Database {
    async fn run(&self, statements: &str) -> Result<(), String> {
        let ran = by_hand(&self.url()).await.batch_execute(statements).await;
        ran.map_err(|error| chain(&error))
    }

    async fn number(&self, query: &str) -> i64 {
        let query = format!("select ({query})::bigint");
        let row = by_hand(&self.url()).await.query_one(&query, &[]).await;
        row.unwrap().get(0)
    }

    async fn run_without_rules(&self, statements: &str) -> Result<(), String> {
        let switch = |state: &str| {
            format!(
                "do $$ declare rule record; begin for rule in select tgname, tgrelid::regclass as name \
                 from pg_trigger where tgname ~ '_legal' or tgname = 'api_key_identity_fixed' loop \
                 execute format('alter table %s {state} trigger %I', rule.name, rule.tgname); \
                 end loop; end $$"
            )
        };
        let statements = format!(
            "begin; {}; {statements}; {}; commit",
            switch("disable"),
            switch("enable always")
        );
        self.run(&statements).await
    }

    fn id(&self, hex: &str) -> String {
        format!("'{hex}'")
    }

    fn new_id(&self) -> &'static str {
        "gen_random_uuid()"
    }

    fn new_digest(&self) -> &'static str {
        "sha256(gen_random_uuid()::text::bytea)"
    }

    fn text_with_control(&self) -> String {
        r"E'a\x07b'".to_owned()
    }

    fn empty_list(&self) -> &'static str {
        "'{}'"
    }
}

/// Adds a key, with a short time limit.
async fn hasty_insert(store: &Store, account: &Account) -> Result<(), String> {
    let key = a_key().of(account).build_new();
    let insert = store.insert_key(key, a_change().build());
    match timeout(Duration::from_secs(5), insert).await {
        Ok(outcome) => outcome.map_err(|error| chain(&error)),
        Err(elapsed) => Err(elapsed.to_string()),
    }
}

fn trail(database: &Database) -> Vec<AuditEvent> {
    let text = database.sql(
        "select id, (extract(epoch from at) * 1000000)::bigint, actor_kind, actor_id, action, subject_id, \
         host(address), reason from audit_event order by at, id",
    );
    let events = text.lines().map(|line| {
        let fields: Vec<&str> = line.split('|').collect();
        let [
            id,
            at,
            actor_kind,
            actor_id,
            action,
            subject,
            address,
            reason,
        ] = fields[..]
        else {
            panic!("{line}");
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let actor = common::actor(actor_kind, some(actor_id).as_deref());
        let (action, subject) = common::action(action, subject);
        let id = EventId::from_uuid(id.parse().unwrap());
        let at = Timestamp::from_unix_micros(at.parse().unwrap());
        let mut event = AuditEvent::new(id, at, actor, action, subject);
        event.address = some(address).map(|address| address.parse().unwrap());
        event.reason = some(reason);
        event
    });
    events.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_against_typed_sql() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::rules_hold_against_typed_sql(&store, &database, "sha256(digest)").await;
    let said = database.run("truncate audit_event").await.unwrap_err();
    assert!(said.contains("append-only"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_row_refuses_its_own_key_only() {
    let database = Database::create().await;
    let store = open(&database).await;
    let offences = [
        ("shown_prefix", "'ä'"),
        ("name", r"E'a\x07b'"),
        ("name", "repeat('a', 501)"),
        ("scopes", "array['orders:read', null]"),
        ("scopes", "array['Not A Scope']"),
        ("scopes", "array[array['a'], array['b']]"),
        ("scopes", "array_fill('a'::text, array[65])"),
        ("allowed_networks", "array['10.0.0.0/8', null]::cidr[]"),
        (
            "allowed_networks",
            "array_fill('10.0.0.0/8'::cidr, array[129])",
        ),
    ];
    common::rows::unreadable_row_refuses_its_own_key_only(&store, &database, &offences).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_account_is_listed_and_mended() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::rows::unreadable_account_is_listed_and_mended(&store, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_pepper_is_left_out() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::rows::impossible_pepper_is_left_out(&store, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_in_the_schema() {
    let database = Database::create().await;
    let store = open(&database).await;
    let legal = [
        ("account", "plan", "repeat('a', 64)"),
        ("account", "plan", "'a-b_9'"),
        ("account", "external_id", "repeat('ä', 254)"),
        ("account", "external_id", "null"),
        ("api_key", "name", "repeat('ä', 500)"),
        ("api_key", "name", "null"),
        ("api_key", "name", "E'\\u200d'"),
        ("api_key", "shown_prefix", "repeat('a', 25)"),
        ("api_key", "scopes", "array['a', 'b:c', '0._-']"),
        (
            "api_key",
            "scopes",
            "array_fill(repeat('a', 64), array[64])",
        ),
        ("api_key", "scopes", "'{}'"),
        (
            "api_key",
            "allowed_networks",
            "array_fill('10.0.0.0/8'::cidr, array[128])",
        ),
        (
            "api_key",
            "allowed_networks",
            "array['::/0', '2001:db8::1']::cidr[]",
        ),
    ];
    let refused = [
        ("account", "plan", "'Pro'"),
        ("account", "plan", "E'pro\\n'"),
        ("account", "plan", "'a b'"),
        ("account", "plan", "'ä'"),
        ("account", "external_id", "E'a\\x01'"),
        ("account", "external_id", "E'a\\n'"),
        ("account", "external_id", "E'\\u0085'"),
        ("api_key", "name", "repeat('a', 501)"),
        ("api_key", "name", "E'a\\x7f'"),
        ("api_key", "name", "E'\\u009f'"),
        ("api_key", "shown_prefix", "repeat('a', 26)"),
        ("api_key", "shown_prefix", "'ä'"),
        ("api_key", "scopes", "array['']"),
        ("api_key", "scopes", "array['A']"),
        ("api_key", "scopes", "array['a,b']"),
        ("api_key", "scopes", "array['a', null]"),
        ("api_key", "scopes", "array[null::text]"),
        ("api_key", "scopes", "array[':a']"),
        ("api_key", "scopes", "array[repeat('a', 65)]"),
        ("api_key", "scopes", "array_fill('a'::text, array[65])"),
        ("api_key", "scopes", "array[array['a'], array['b']]"),
        (
            "api_key",
            "allowed_networks",
            "array['10.0.0.0/8', null]::cidr[]",
        ),
        ("api_key", "allowed_networks", "array[null]::cidr[]"),
        (
            "api_key",
            "allowed_networks",
            "array_fill('10.0.0.0/8'::cidr, array[129])",
        ),
    ];
    common::rows::rules_hold_in_the_schema(&store, &database, &legal, &refused).await;
    // Scopes of a later version are accepted, though this one does not know them.
    let later = "update api_key set scopes = array['*', 'orders:*']";
    assert_eq!(database.run(later).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_counted_whoever_changes_them() {
    let database = Database::create().await;
    let store = open(&database).await;
    let many = "insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, created_at) \
         select gen_random_uuid(), account.id, 2, sha256(gen_random_uuid()::text::bytea), 'p1', 'sk', 'many', now() \
         from account, generate_series(1, 5000)";
    common::rows::keys_are_counted_whoever_changes_them(&store, &database, many).await;
    database.run(many).await.unwrap();
    database.run("truncate api_key").await.unwrap();
    let counted = "select count(*) from key_count where listed <> 0 or unending <> 0";
    assert_eq!(database.number(counted).await, 0);
    // Also for rows that a replica writes.
    let replicated = format!("set session_replication_role = replica; {many}");
    database.run(&replicated).await.unwrap();
    let listed = "select sum(listed) from key_count";
    assert_eq!(database.number(listed).await, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_pages_are_exact() {
    let database = Database::create().await;
    common::rows::deep_pages_are_exact(&open(&database).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_events_follow_rules() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::rows::audit_events_follow_rules(&store, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_noted() {
    let database = Database::create().await;
    common::changes_are_noted(&open(&database).await, &database).await;

    // Truncating tables changes everything.
    database.run("truncate account, api_key").await.unwrap();
    let everything = "select count(*) from key_change where kind = 3 and ref is null";
    assert_eq!(database.number(everything).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_examines_a_bounded_number_of_keys() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::lists::a_page_examines_a_bounded_number_of_keys(&store, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_noted_under_any_search_path() {
    let database = Database::create().await;
    database.run("create schema apart").await.unwrap();
    let url = format!("{}?options=-c%20search_path%3Dapart", database.url());
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    add_key(&store, a_key().build_new()).await;
    database
        .run(
            "set search_path = pg_catalog; update apart.api_key set name = 'by hand'; \
             truncate apart.key_change; update apart.api_key set name = 'again'",
        )
        .await
        .unwrap();
    let notes = "select count(*) from apart.key_change where kind in (1, 3)";
    assert_eq!(database.number(notes).await, 2);
}

/// Rows have the number of their transaction, so that "everything since" misses none that commits
/// late.
#[tokio::test(flavor = "multi_thread")]
async fn notes_of_one_transaction_carry_its_number() {
    let database = Database::create().await;
    let store = open(&database).await;
    add_key(&store, a_key().build_new()).await;
    add_key(&store, a_key().build_new()).await;
    database.run("update api_key set name = 'x'").await.unwrap();
    let distinct = "select count(distinct xid) from key_change";
    assert_eq!(database.number(distinct).await, 1);
    assert_eq!(database.number("select count(*) from key_change").await, 2);
}

/// Keys of a service on this store, each of which was accepted once.
async fn used_keys(store: &Store, count: usize) -> (KeyService, Vec<Identity>) {
    let service = KeyService::builder(store.clone(), pepper_ring("p1")).build();
    let account = add_account(store).await;
    let mut used = Vec::new();
    for _ in 0..count {
        let draft = KeyDraft::new(account.id, "sk_live".parse().unwrap())
            .policy(IssuePolicy::default().without_cap());
        let issued = service.issue_key(&Actor::system(), draft).await;
        let issued = issued.unwrap();
        let identity = service
            .authenticate(issued.secret.expose(), None, &Requirement::account_key())
            .await
            .unwrap();
        service.record_success(&identity);
        used.push(identity);
    }
    (service, used)
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_row_keeps_only_its_own_uses_from_being_written() {
    const KEYS: usize = 40;
    let database = Database::create().await;
    let store = open(&database).await;
    let (service, used) = used_keys(&store, KEYS).await;
    let mut other = by_hand(&database.url()).await;
    let lock = other.transaction().await.unwrap();
    let id = used[7].key.id.as_uuid();
    lock.execute(
        &format!("select from api_key where id = '{id}' for update"),
        &[],
    )
    .await
    .unwrap();
    let written = "select sum(use_count) from api_key";
    let wrote = i64::try_from(KEYS).unwrap();

    timeout(Duration::from_secs(4), service.flush_uses())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(database.number(written).await, wrote - 1);
    assert_eq!(service.unwritten_uses(), 1);

    // At the stop all others are written as well. Locked ones are tried until the time is over, and
    // kept.
    service.record_success(&used[8]);
    let last = timeout(Duration::from_secs(2), service.flush_last_uses()).await;
    assert!(last.is_err(), "the row is locked");
    assert_eq!(database.number(written).await, wrote);
    assert_eq!(service.unwritten_uses(), 1);

    lock.rollback().await.unwrap();
    timeout(Duration::from_secs(4), service.flush_last_uses())
        .await
        .unwrap();
    assert_eq!(database.number(written).await, wrote + 1);
    assert_eq!(service.unwritten_uses(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sweep_goes_on_until_old_changes_are_gone() {
    const OLD: i64 = 12_345;
    let database = Database::create().await;
    let store = open(&database).await;
    let fill = format!(
        "insert into key_change (kind, ref, at) select 1, gen_random_uuid(), \
         now() - interval '11 minutes' - n * interval '1 second' from generate_series(1, {OLD}) as n"
    );
    database.run(&fill).await.unwrap();
    add_account(&store).await;
    let oldest = store.oldest_change().await.unwrap().unwrap();
    assert!(oldest > Duration::from_mins(11), "{oldest:?}");
    let count = "select count(*) from key_change where at < now() - interval '10 minutes'";
    assert_eq!(database.number(count).await, OLD);

    // One instance at a time.
    let mut other = by_hand(&database.url()).await;
    let sweeping = other.transaction().await.unwrap();
    sweeping
        .execute("select pg_advisory_xact_lock(7738725071471469936)", &[])
        .await
        .unwrap();
    store.sweep(NOON).await.unwrap();
    assert_eq!(database.number(count).await, OLD);
    sweeping.rollback().await.unwrap();

    // An old transaction elsewhere in the cluster may delay some, for as long as it lasts.
    for _ in 0..300 {
        store.sweep(NOON).await.unwrap();
        if database.number(count).await == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(database.number(count).await, 0);
    let young = store.oldest_change().await.unwrap().unwrap_or_default();
    assert!(young < Duration::from_mins(10), "{young:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_kind_that_cannot_be_swept_is_named_and_stops_no_other() {
    let database = Database::create().await;
    let store = open(&database).await;
    let reservation = Reservation::new(vec![[1; 32]], [2; 32], an_event_id(), NOON);
    store.reserve(reservation).await.unwrap();
    let refuse = "insert into key_change (kind, ref, at) values \
         (1, gen_random_uuid(), now() - interval '11 minutes'); \
         create function refuse() returns trigger language plpgsql as \
         $$ begin raise exception 'not today'; end $$; \
         create trigger refused before delete on key_change for each statement execute function refuse()";
    database.run(refuse).await.unwrap();
    let error = store.sweep(noon_plus(60)).await.unwrap_err();
    let said = chain(&error);
    assert!(
        said.contains("could not be deleted") && said.contains("not today"),
        "{said}"
    );
    assert!(said.contains("log"), "{said}");
    assert_eq!(database.number("select count(*) from idempotency").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_notes_are_pruned() {
    let database = Database::create().await;
    let store = open(&database).await;
    let make_old = "update key_change set at = at - interval '11 minutes'";
    common::old_notes_are_pruned(&store, &database, make_old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_count_saturates() {
    let database = Database::create().await;
    common::use_count_saturates(&open(&database).await, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_is_repeatable_and_concurrent() {
    let database = Database::create().await;
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(connect(&database, StoreOptions::default()).await);
    }
    common::migrating_is_repeatable_and_concurrent(stores, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_can_be_undone_and_done_again() {
    let database = Database::create().await;
    open(&database).await;
    let mut down = common::migrations("postgres", "down");
    down.reverse();
    let left = "select count(*) from pg_class join pg_namespace on pg_namespace.oid = relnamespace \
                where nspname = 'public' and relname not like '\\_\\_diesel%'";
    database.run(&down.concat()).await.unwrap();
    database
        .run("delete from __diesel_schema_migrations")
        .await
        .unwrap();
    assert_eq!(database.number(left).await, 0);
    add_account(&open(&database).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_schema_is_used_only_if_it_says_so() {
    let database = Database::create().await;
    let stores = [open(&database).await, open(&database).await];
    common::every_migration_says_which_programs_can_go_on(&database).await;
    common::newer_schema_is_used_only_if_it_says_so(&stores, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_database() {
    let database = Database::create().await;
    let stores = [
        open(&database).await,
        open(&database).await,
        open(&database).await,
    ];
    common::cap_holds_across_instances(&stores).await;
    common::reservations_hold_across_instances(&stores).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_change_is_made() {
    let database = Database::create().await;
    common::abandoned_change_is_made(&open(&database).await).await;
}

#[tokio::test]
async fn single_threaded_runtime_will_do() {
    let database = Database::create().await;
    common::abandoned_change_is_made(&open(&database).await).await;
}

#[test]
fn runtimes_may_come_and_go() {
    let database = Database::create_blocking();
    common::runtimes_may_come_and_go(open(&database));
}

const TERMINATE_OTHERS: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
                                where datname = current_database() and pid <> pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn terminated_connections_are_replaced() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    for _ in 0..3 {
        // Several connections, so that more than one dead one waits in the pool.
        let mut reads = JoinSet::new();
        for _ in 0..8 {
            let (store, id) = (store.clone(), account.id);
            reads.spawn(async move { store.find_account(id).await });
        }
        while let Some(read) = reads.join_next().await {
            read.unwrap().unwrap();
        }
        database.run(TERMINATE_OTHERS).await.unwrap();
        // The end of the sockets takes a moment to arrive.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(store.find_account(account.id).await.unwrap().is_some());
        store.ready().await.unwrap();
        add_account(&store).await;
    }
}

/// No end of the connections arrives, and a look-up waits for one of them only.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_found_out_all_at_once_and_in_time() {
    const IN_TIME: Duration = Duration::from_secs(3);
    let database = Database::create().await;
    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let digest = a_key().build_new().digest;
    for fault in [Fault::HalfOpen, Fault::Swallow(Direction::ToClient)] {
        let mut reads = JoinSet::new();
        for _ in 0..8 {
            let store = store.clone();
            reads.spawn(async move { store.find_by_digests(vec![digest]).await });
        }
        for read in reads.join_all().await {
            read.unwrap();
        }
        proxy.set(fault).await;
        let look_up = store.find_by_digests(vec![digest]);
        let refused = timeout(IN_TIME, look_up).await.unwrap();
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
        proxy.set(Fault::None).await;
        let look_up = store.find_by_digests(vec![digest]);
        timeout(IN_TIME, look_up).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_lost_during_a_change_is_unavailable_and_changes_nothing() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    let blocker = by_hand(&database.url()).await;
    blocker
        .batch_execute("begin; lock table api_key in access exclusive mode")
        .await
        .unwrap();
    let insert = {
        let (store, key) = (store.clone(), a_key().of(&account).build_new());
        tokio::spawn(async move { store.insert_key(key, a_change().build()).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    database
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity \
             where datname = current_database() and application_name = 'keys'",
        )
        .await
        .unwrap();
    let error = insert.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            keys_service::ports::ChangeError::Store(StoreError::Unavailable(_))
        ),
        "{error:?}"
    );
    blocker.batch_execute("rollback").await.unwrap();
    assert_eq!(database.number("select count(*) from api_key").await, 0);
    add_key(&store, a_key().of(&account).build_new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_statements_are_given_up() {
    let database = Database::create().await;
    let second = Duration::from_secs(1);
    let options = StoreOptions::default().statement_timeout(second / 5);
    let store = connect(&database, options).await;
    store.migrate().await.unwrap();
    let account = add_account(&store).await;
    let blocker = by_hand(&database.url()).await;
    blocker
        .batch_execute("begin; lock table account in access exclusive mode")
        .await
        .unwrap();
    let started = Instant::now();
    let refused = store.find_account(account.id).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    assert!(started.elapsed() < second * 3);
    blocker.batch_execute("rollback").await.unwrap();
    assert!(store.find_account(account.id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn store_is_not_opened_with_time_limits_that_contradict_each_other() {
    let database = Database::create().await;
    let options = StoreOptions::default().operation_timeout(Duration::from_secs(8));
    let url = database.url().parse().unwrap();
    let Err(error) = Store::connect(&url, options).await else {
        panic!("it was opened");
    };
    let message = chain(&error);
    for named in [
        "operation_timeout (8s)",
        "pool_wait (1s)",
        "connect_timeout (3s)",
        "statement_timeout (5s)",
    ] {
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_pool_is_unavailable_within_its_time() {
    let database = Database::create().await;
    open(&database).await;
    let store = connect(
        &database,
        StoreOptions::default()
            .connections_max(std::num::NonZeroU32::MIN)
            .pool_wait(Duration::from_millis(200)),
    )
    .await;
    let account = add_account(&store).await;
    let blocker = by_hand(&database.url()).await;
    blocker
        .batch_execute("begin; lock table account in access exclusive mode")
        .await
        .unwrap();
    let waiting = {
        let (store, id) = (store.clone(), account.id);
        tokio::spawn(async move { store.find_account(id).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = tokio::time::Instant::now();
    assert!(matches!(
        store.find_account(account.id).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(started.elapsed() < Duration::from_secs(1));
    blocker.batch_execute("rollback").await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_some());
}

/// Each locks both keys in the same order. Otherwise some of these would end as deadlocks.
#[tokio::test(flavor = "multi_thread")]
async fn operators_revoking_each_other_do_not_deadlock() {
    let database = Database::create().await;
    let store = open(&database).await;
    for _ in 0..20 {
        let one = add_key(&store, a_key().build_new()).await;
        let other = add_key(&store, a_key().build_new()).await;
        let mut revocations = JoinSet::new();
        for (caller, target) in [(&one, &other), (&other, &one), (&one, &one)] {
            let (store, target) = (store.clone(), target.id);
            let change = a_change().by(&a_caller(caller)).build();
            revocations.spawn(async move {
                store
                    .revoke_key(None, target, Revocation::default(), change)
                    .await
            });
        }
        while let Some(outcome) = revocations.join_next().await {
            let outcome = outcome.unwrap();
            assert!(
                !matches!(outcome, Err(keys_service::ports::ChangeError::Store(_))),
                "{outcome:?}"
            );
        }
    }
}

/// An index is needed for a cost that does not grow with the tables. This test asks the planner.
#[tokio::test(flavor = "multi_thread")]
async fn hot_queries_use_an_index() {
    let database = Database::create().await;
    open(&database).await;
    let client = by_hand(&database.url()).await;
    client
        .batch_execute(
            "insert into account (id, plan, created_at) \
               select gen_random_uuid(), 'pro', now() from generate_series(1, 2000); \
             insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, created_at) \
               select gen_random_uuid(), id, 2, sha256(id::text::bytea || n::text::bytea), 'p1', 'sk', now() \
               from account, generate_series(1, 5) n; \
             insert into api_key (id, kind, digest, pepper_id, shown_prefix, created_at) \
               select gen_random_uuid(), 1, sha256(n::text::bytea), 'p1', 'sk', now() \
               from generate_series(1, 5000) n; \
             analyze",
        )
        .await
        .unwrap();
    let id = "(select id from account limit 1)";
    let usable = "kind = 2 and revoked_at is null and (expires_at is null or expires_at > now())";
    for (query, index) in [
        (
            "select * from api_key where digest = any(array[sha256('a'), sha256('b')])".to_owned(),
            "api_key_digest_key",
        ),
        (
            format!("select count(*) from api_key where account_id = {id} and {usable}"),
            "api_key_owner",
        ),
        (
            format!(
                "select * from api_key where account_id = {id} and kind = 2 and revoked_at is null \
                 order by account_id, created_at desc, id desc limit 50"
            ),
            "api_key_owner",
        ),
        (
            "select * from api_key where account_id is null and kind = 1 and revoked_at is null \
             order by account_id, created_at desc, id desc limit 50"
                .to_owned(),
            "api_key_owner",
        ),
        (
            "select min(pepper_id) from api_key where revoked_at is null and pepper_id > 'p0'"
                .to_owned(),
            "api_key_pepper",
        ),
    ] {
        let rows = client.query(&format!("explain {query}"), &[]).await;
        let lines = rows.unwrap();
        let plan: Vec<&str> = lines.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index), "{query}\n{plan}");
        assert!(!plan.contains("Seq Scan on api_key"), "{query}\n{plan}");
        // There are many operator keys here. Sorting them for the first page would be slow.
        let is_long = query.contains("account_id is null");
        assert!(!(is_long && plan.contains("Sort")), "{query}\n{plan}");
    }
}

/// Maximum number of measurements of an operation.
const ATTEMPTS: usize = 8;

/// Round-trip time to the server.
const ROUND_TRIP: Duration = Duration::from_millis(80);

/// Fails unless an operation takes at most that many round trips. A busy machine may delay some
/// attempts.
async fn takes_round_trips(count: u32, what: &str, mut operation: impl AsyncFnMut()) {
    let mut quickest = Duration::MAX;
    for _ in 0..ATTEMPTS {
        let begin = Instant::now();
        operation().await;
        let took = begin.elapsed();
        assert!(took >= ROUND_TRIP, "{what}: the network is not slow");
        if took < ROUND_TRIP * count + ROUND_TRIP * 9 / 10 {
            return;
        }
        quickest = quickest.min(took);
    }
    panic!("{what}: {quickest:?}, with {ROUND_TRIP:?} for a round trip");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_created_and_revoked_in_two_round_trips() {
    let database = Database::create().await;
    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let account = add_account(&store).await;
    // With room for more keys than attempts.
    let documented = plans();
    let roomy = documented.iter().map(|(name, plan)| {
        let mut plan = plan.clone();
        plan.keys_max = 100;
        (name.clone(), plan)
    });
    let roomy = Arc::new(Plans::new(roomy));
    let new_key = || {
        let mut key = a_key().of(&account).build_new();
        key.admission.plans = Arc::clone(&roomy);
        key
    };
    // Both as an operator and as an account for itself, whose key is checked again in the
    // transaction.
    let caller = add_key(&store, a_key().of(&account).build_new()).await;
    let caller = a_caller(&caller);
    let changes = [
        (None, a_change()),
        (Some(KeyOwner::Account(account.id)), a_change().by(&caller)),
    ];
    // The first time, statements are prepared.
    store.find_account(account.id).await.unwrap();
    let mut keys = Vec::new();
    for (owner, change) in &changes {
        for _ in 0..=ATTEMPTS {
            let key = new_key();
            keys.push(key.key.id);
            store.insert_key(key, change.clone().build()).await.unwrap();
        }
        let id = keys.pop().unwrap();
        let revoked = store
            .revoke_key(*owner, id, Revocation::default(), change.clone().build())
            .await;
        assert!(revoked.unwrap().is_some());
    }
    proxy.set(Fault::Delay(ROUND_TRIP / 2)).await;
    takes_round_trips(1, "look-up", async || {
        store.find_account(account.id).await.unwrap().unwrap();
    })
    .await;
    for (owner, change) in &changes {
        let what = format!("{owner:?}");
        takes_round_trips(2, &format!("creation, {what}"), async || {
            store
                .insert_key(new_key(), change.clone().build())
                .await
                .unwrap();
        })
        .await;
        takes_round_trips(2, &format!("revocation, {what}"), async || {
            let id = keys.pop().unwrap();
            let revoked = store
                .revoke_key(*owner, id, Revocation::default(), change.clone().build())
                .await;
            assert!(revoked.unwrap().is_some());
        })
        .await;
    }
}

/// The commit is sent together with the statement, before its failure is known.
#[tokio::test(flavor = "multi_thread")]
async fn change_whose_last_statement_fails_is_rolled_back() {
    let database = Database::create().await;
    let store = open(&database).await;
    let key = add_key(&store, a_key().build_new()).await;
    database
        .run(
            "create function refuse() returns trigger language plpgsql as \
             $$ begin raise exception 'no events today'; end $$; \
             create trigger refused before insert on audit_event execute function refuse()",
        )
        .await
        .unwrap();
    let keys = "select count(*) from api_key where revoked_at is null";
    // The second time the statements are prepared already.
    for _ in 0..2 {
        let revoked = store
            .revoke_key(None, key.id, Revocation::default(), a_change().build())
            .await;
        assert!(chain(&revoked.unwrap_err()).contains("no events today"));
        let made = store.insert_key(a_key().build_new(), a_change().build());
        assert!(chain(&made.await.unwrap_err()).contains("no events today"));
        assert_eq!(database.number(keys).await, 1);
    }
    database
        .run("drop trigger refused on audit_event")
        .await
        .unwrap();
    let revoked = store
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    assert!(revoked.unwrap().is_some());
    assert_eq!(database.number(keys).await, 0);
}

/// Recording uses touches no index, so that it stays cheap with any number of indexes.
#[tokio::test(flavor = "multi_thread")]
async fn recording_uses_rewrites_no_index() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut keys = Vec::new();
    for _ in 0..20 {
        keys.push(add_key(&store, a_key().build_new()).await);
    }
    // A page has room for new versions of some of its rows, not of all.
    for keys in keys.chunks(5).cycle().take(12) {
        let uses = keys.iter().map(|key| KeyUse::new(key.id, NOON, 1));
        store.record_uses(uses.collect()).await.unwrap();
    }
    // The statistics arrive after a while.
    for _ in 0..100 {
        let updated = "select n_tup_upd from pg_stat_user_tables where relname = 'api_key'";
        if database.number(updated).await == 60 {
            let hot = "select n_tup_hot_upd from pg_stat_user_tables where relname = 'api_key'";
            // Some find their page full. If an index were affected, it would be all of them.
            assert!(database.number(hot).await >= 30);
            return;
        }
        // Other connections report when they end.
        database.run(TERMINATE_OTHERS).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no statistics");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_connections_are_the_safe_ones() {
    let database = Database::create().await;
    let url = format!(
        "{}?options=-c%20synchronous_commit%3Doff%20-c%20statement_timeout%3D0",
        database.url()
    );
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    add_account(&store).await;
    // A trigger of this test records the start-up options of the connections.
    database
        .run(
            "create table seen (name text, value text); \
             create function see() returns trigger language plpgsql as $$ begin \
               insert into seen values \
                 ('synchronous_commit', current_setting('synchronous_commit')), \
                 ('isolation', current_setting('transaction_isolation')), \
                 ('timeout', current_setting('statement_timeout')); return null; end $$; \
             create trigger see after insert on account execute function see()",
        )
        .await
        .unwrap();
    add_account(&store).await;
    let seen = database.sql("select name || '=' || value from seen order by name");
    assert_eq!(
        seen.lines().collect::<Vec<_>>(),
        [
            "isolation=read committed",
            "synchronous_commit=on",
            "timeout=5s"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_never_repeat_a_password() {
    let database = Database::create().await;
    let (address, name) = database.url().rsplit_once('/').map_or_else(
        || unreachable!("it has a name"),
        |(left, right)| (left.to_owned(), right.to_owned()),
    );
    let host = address.rsplit_once('@').unwrap().1;
    for url in [
        format!("postgres://nobody:hunter2@{host}/{name}"),
        format!("postgres://postgres:hunter2@{host}/there_is_no_such_database"),
        format!("postgres://postgres:hunter2@127.0.0.1:1/{name}"),
        format!("postgres://postgres:hunter2@{host}/{name}?sslmode=require"),
    ] {
        let url = url.parse().unwrap();
        let error = Store::connect(&url, StoreOptions::default())
            .await
            .unwrap_err();
        assert!(matches!(error, OpenError::Connect(_) | OpenError::Tls(_)));
        let said = format!("{} {error:?} {url:?}", chain(&error));
        assert!(!said.contains("hunter2"), "{said}");
    }
    let store = open(&database).await;
    assert_eq!(format!("{store:?}"), "Store(postgres)");
}

/// Another process is identified by an advisory lock of its own.
#[tokio::test(flavor = "multi_thread")]
async fn reservation_is_taken_over_at_once_only_if_its_process_has_ended() {
    const LOCKS: i32 = 0x6b65_7973;
    let database = Database::create().await;
    let store = open(&database).await;
    let started = "extract(epoch from pg_postmaster_start_time())::text";
    // Its own.
    common::leave_reservation(&store, &database, 1, "holder").await;
    assert!(!common::is_taken_over(&store, 1).await);
    // A server that has lost its locks since.
    for (number, holder) in [(2, "'7@1795816016.5'"), (3, "'nonsense'"), (4, "null")] {
        common::leave_reservation(&store, &database, number, holder).await;
        assert!(!common::is_taken_over(&store, number).await, "{holder}");
        database.run("delete from idempotency").await.unwrap();
    }

    let living = format!("select pg_advisory_lock_shared({LOCKS}, 7); select pg_sleep(1)");
    let url = database.url();
    let lives = std::thread::spawn(move || {
        std::process::Command::new(keys_testkit::postgres::tool("psql"))
            .args([&url, "-c", &living])
            .output()
            .unwrap()
    });
    common::leave_reservation(&store, &database, 5, &format!("'7@' || {started}")).await;
    let held = format!(
        "select count(*) from pg_locks where locktype = 'advisory' and classid = {LOCKS} and objid = 7"
    );
    while database.number(&held).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!common::is_taken_over(&store, 5).await);
    assert!(lives.join().unwrap().status.success());
    assert!(common::is_taken_over(&store, 5).await);
    assert!(!common::is_taken_over(&store, 5).await, "by one alone");
}
