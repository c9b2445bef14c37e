//! The store on SQLite.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "sqlite/feed.rs"]
mod feed;
#[path = "sqlite/file.rs"]
mod file;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::{Connection as _, QueryableByName, RunQueryDsl as _, SqliteConnection, sql_query};
use keys_core::{AuditEvent, EventId, Timestamp};
use keys_service::ports::{
    Accounts as _, KeyOwner, KeyStore, Keys as _, Maintenance as _, StoreError,
};
use keys_store::{DatabaseUrl, OpenError, Store, StoreOptions};
use keys_testkit::contract::AuditedStore;
use keys_testkit::data::{a_key, an_account};
use tempfile::TempDir;

use common::{Sql, add_account, add_key};

keys_testkit::store_contract!(contract, fixture());
keys_testkit::store_audit_contract!(audit_contract, audited());

async fn fixture() -> (Arc<dyn KeyStore>, TempDir) {
    let file = File::new();
    (Arc::new(file.open().await), file.folder)
}

async fn audited() -> AuditedStore {
    let file = File::new();
    let store = file.open().await;
    AuditedStore::new(Arc::new(store), move || trail(&file.path()))
}

struct File {
    folder: TempDir,
}

impl File {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.db")
    }

    async fn open(&self) -> Store {
        Store::open(&DatabaseUrl::sqlite(self.path()))
            .await
            .unwrap()
    }

    async fn connect(&self) -> Store {
        let url = DatabaseUrl::sqlite(self.path());
        Store::connect(&url, StoreOptions::default()).await.unwrap()
    }

    fn by_hand(&self) -> SqliteConnection {
        by_hand(&self.path())
    }
}

fn by_hand(path: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
    connection
        .batch_execute("pragma busy_timeout = 5000; pragma foreign_keys = on")
        .unwrap();
    connection
}

impl Sql for File {
    async fn run(&self, statements: &str) -> Result<(), String> {
        let ran = self.by_hand().batch_execute(statements);
        ran.map_err(|error| error.to_string())
    }

    async fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let query = format!("select ({query}) as number");
        let row: Row = sql_query(query).get_result(&mut self.by_hand()).unwrap();
        row.number
    }

    async fn run_without_rules(&self, statements: &str) -> Result<(), String> {
        #[derive(QueryableByName)]
        struct Rule {
            #[diesel(sql_type = Text)]
            name: String,
            #[diesel(sql_type = Text)]
            sql: String,
        }
        let mut open = self.by_hand();
        let rules: Vec<Rule> = sql_query(
            "select name, sql from sqlite_master where type = 'trigger' \
             and (name like '%\\_legal%' escape '\\' or name = 'api_key_identity_fixed')",
        )
        .load(&mut open)
        .unwrap();
        let drops = rules
            .iter()
            .map(|rule| format!("drop trigger {};", rule.name));
        let makes = rules.iter().map(|rule| format!("{};", rule.sql));
        let statements = format!(
            "pragma ignore_check_constraints = on; begin immediate; {} {statements}; {} commit;",
            drops.collect::<String>(),
            makes.collect::<String>()
        );
        let ran = open.batch_execute(&statements);
        ran.map_err(|error| error.to_string())
    }

    fn id(&self, hex: &str) -> String {
        format!("x'{hex}'")
    }

    fn new_id(&self) -> &'static str {
        "randomblob(16)"
    }

    fn new_digest(&self) -> &'static str {
        "randomblob(32)"
    }

    fn text_with_control(&self) -> String {
        "'a' || char(7) || 'b'".to_owned()
    }

    fn empty_list(&self) -> &'static str {
        "'[]'"
    }
}

fn trail(path: &Path) -> Vec<AuditEvent> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        id: String,
        #[diesel(sql_type = BigInt)]
        at: i64,
        #[diesel(sql_type = Text)]
        actor_kind: String,
        #[diesel(sql_type = Nullable<Text>)]
        actor_id: Option<String>,
        #[diesel(sql_type = Text)]
        action: String,
        #[diesel(sql_type = Text)]
        subject_id: String,
        #[diesel(sql_type = Nullable<Text>)]
        address: Option<String>,
        #[diesel(sql_type = Nullable<Text>)]
        reason: Option<String>,
    }
    let rows: Vec<Row> = sql_query(
        "select hex(id) as id, at, actor_kind, iif(actor_id is null, null, hex(actor_id)) as actor_id, \
         action, hex(subject_id) as subject_id, address, reason from audit_event order by at, id",
    )
    .load(&mut by_hand(path))
    .unwrap();
    let events = rows.into_iter().map(|row| {
        let actor = common::actor(&row.actor_kind, row.actor_id.as_deref());
        let (action, subject) = common::action(&row.action, &row.subject_id);
        let id = EventId::from_uuid(row.id.parse().unwrap());
        let at = Timestamp::from_unix_micros(row.at);
        let mut event = AuditEvent::new(id, at, actor, action, subject);
        event.address = row.address.map(|address| address.parse().unwrap());
        event.reason = row.reason;
        event
    });
    events.collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_against_typed_sql() {
    let file = File::new();
    let store = file.open().await;
    common::rules_hold_against_typed_sql(&store, &file, "randomblob(32)").await;
    let replace = "insert or replace into audit_event select * from audit_event";
    assert!(file.run(replace).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_noted() {
    let file = File::new();
    common::changes_are_noted(&file.open().await, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_examines_a_bounded_number_of_keys() {
    let file = File::new();
    let store = file.open().await;
    common::lists::a_page_examines_a_bounded_number_of_keys(&store, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_notes_are_pruned() {
    let file = File::new();
    let store = file.open().await;
    let make_old = "update key_change set at = at - 11 * 60 * 1000000";
    common::old_notes_are_pruned(&store, &file, make_old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn use_count_saturates() {
    let file = File::new();
    common::use_count_saturates(&file.open().await, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_is_repeatable_and_concurrent() {
    let file = File::new();
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(file.connect().await);
    }
    common::migrating_is_repeatable_and_concurrent(stores, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_open_a_missing_file_at_once() {
    let file = Arc::new(File::new());
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let file = Arc::clone(&file);
            tokio::spawn(async move { file.open().await.ready().await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_can_be_undone_and_done_again() {
    let file = File::new();
    file.open().await;
    let mut down = common::migrations("sqlite", "down");
    down.reverse();
    let left = "select count(*) from sqlite_schema \
                where name not like '\\_\\_diesel%' escape '\\' and name not like 'sqlite%'
                and tbl_name not like '\\_\\_diesel%' escape '\\'";
    file.run(&down.concat()).await.unwrap();
    file.run("delete from __diesel_schema_migrations")
        .await
        .unwrap();
    assert_eq!(file.number(left).await, 0);
    add_account(&file.open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_schema_is_used_only_if_it_says_so() {
    let file = File::new();
    let stores = [file.open().await, file.open().await];
    common::every_migration_says_which_programs_can_go_on(&file).await;
    common::newer_schema_is_used_only_if_it_says_so(&stores, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_share_the_file() {
    let file = File::new();
    let stores = [file.open().await, file.open().await, file.open().await];
    common::cap_holds_across_instances(&stores).await;
    common::reservations_hold_across_instances(&stores).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_change_is_made() {
    common::abandoned_change_is_made(&File::new().open().await).await;
}

#[tokio::test]
async fn single_threaded_runtime_will_do() {
    let file = File::new();
    let store = file.open().await;
    let account = add_account(&store).await;
    assert!(store.find_account(account.id).await.unwrap().is_some());
    common::abandoned_change_is_made(&store).await;
}

#[test]
fn runtimes_may_come_and_go() {
    let file = File::new();
    common::runtimes_may_come_and_go(file.open());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new").join("er").join("keys.db");
    let store = Store::open(&DatabaseUrl::sqlite(&path)).await.unwrap();
    add_account(&store).await;
    for suffix in ["", "-wal", "-shm"] {
        let path = PathBuf::from(format!("{}{suffix}", path.display()));
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&folder.path().join("new")), 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_opening_again() {
    let file = File::new();
    let store = file.open().await;
    let account = add_account(&store).await;
    let key = add_key(&store, a_key().of(&account).build_new()).await;
    drop(store);
    let store = file.open().await;
    let page = store.keys(KeyOwner::Account(account.id), 0, 10).await;
    assert_eq!(page.unwrap().keys, [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_row_refuses_its_own_key_only() {
    let file = File::new();
    let store = file.open().await;
    let offences = [
        ("shown_prefix", "'ä'"),
        ("name", "'a' || char(7)"),
        ("name", "'a' || char(0) || 'b'"),
        ("scopes", r#"'["Not A Scope"]'"#),
        ("scopes", r#"'["a", null]'"#),
        ("scopes", "'[1]'"),
        ("scopes", "'{}'"),
        ("scopes", "'no JSON'"),
        ("scopes", "''"),
        ("allowed_networks", r#"'["10.0.0.0/99"]'"#),
        ("allowed_networks", "'[1, null]'"),
        ("allowed_networks", "'null'"),
        ("allowed_networks", "'['"),
        ("kind", "77"),
    ];
    // All but the last, whose key is on no list.
    let listed = &offences[..offences.len() - 1];
    common::rows::unreadable_row_refuses_its_own_key_only(&store, &file, listed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_of_unknown_kind_is_refused_alone() {
    let file = File::new();
    let store = file.open().await;
    let keys = [a_key().build_new(), a_key().build_new()];
    for key in &keys {
        add_key(&store, key.clone()).await;
    }
    let id = file.id(&keys[0].key.id.as_uuid().simple().to_string());
    let set = format!("update api_key set kind = 77 where id = {id}");
    file.run_without_rules(&set).await.unwrap();
    let digests = keys.iter().map(|key| key.digest).collect();
    for found in store.find_by_digests(digests).await.unwrap() {
        assert_eq!(found.stored.is_ok(), found.digest == keys[1].digest);
    }
    assert_eq!(store.check_rows(|_| {}).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_account_is_listed_and_mended() {
    let file = File::new();
    let store = file.open().await;
    common::rows::unreadable_account_is_listed_and_mended(&store, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_pepper_is_left_out() {
    let file = File::new();
    let store = file.open().await;
    common::rows::impossible_pepper_is_left_out(&store, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_counted_whoever_changes_them() {
    let file = File::new();
    let store = file.open().await;
    let many = "with recursive n (n) as (select 1 union all select n + 1 from n where n < 1000) \
         insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, created_at) \
         select randomblob(16), account.id, 2, randomblob(32), 'p1', 'sk', 'many', 0 from account, n";
    common::rows::keys_are_counted_whoever_changes_them(&store, &file, many).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_pages_are_exact() {
    common::rows::deep_pages_are_exact(&File::new().open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_events_follow_rules() {
    let file = File::new();
    let store = file.open().await;
    common::rows::audit_events_follow_rules(&store, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_in_the_schema() {
    /// An expression for a text of this many characters.
    const LONG: &str = "replace(hex(zeroblob(250)), '0', 'ä')";
    let file = File::new();
    let store = file.open().await;
    let many = |count: usize, one: &str| {
        let entries = vec![format!("\"{one}\""); count];
        format!("'[{}]'", entries.join(","))
    };
    let (most_scopes, too_many_scopes) = (many(64, "a"), many(65, "a"));
    let (most_networks, too_many_networks) = (many(128, "::/0"), many(129, "::/0"));
    let [longest_plan, long_scope] = [64, 65].map(|length| "a".repeat(length));
    let (longest_plan, long_plan) = (format!("'{longest_plan}'"), format!("'{long_scope}'"));
    let long_scope = many(1, &long_scope);
    let too_long = format!("{LONG} || 'a'");
    let legal = [
        ("account", "plan", longest_plan.as_str()),
        ("account", "plan", "'a-b_9'"),
        ("account", "external_id", "'ä' || char(8205)"),
        ("account", "external_id", "null"),
        ("api_key", "name", LONG),
        ("api_key", "name", "null"),
        ("api_key", "shown_prefix", "'sk_live_a1b2'"),
        ("api_key", "scopes", r#"'["a", "b:c", "0._-"]'"#),
        ("api_key", "scopes", &most_scopes),
        ("api_key", "scopes", "'[]'"),
        ("api_key", "allowed_networks", &most_networks),
        (
            "api_key",
            "allowed_networks",
            r#"'["0.0.0.0/0", "255.255.255.255/32", "10.0.0.0/8", "2001:db8::1/128", "::1/128", "1:2:3:4:5:6:7:8/64", "fe80::/10", "::2:3:4:5:6:7:8/128"]'"#,
        ),
    ];
    let refused = [
        ("account", "plan", "'Pro'"),
        ("account", "plan", "'a b'"),
        ("account", "plan", "'ä'"),
        ("account", "plan", "'a' || char(0)"),
        ("account", "plan", &long_plan),
        ("account", "external_id", "'a' || char(1)"),
        ("account", "external_id", "'a' || char(0) || 'b'"),
        ("account", "external_id", "char(133)"),
        ("api_key", "name", &too_long),
        ("api_key", "name", "'a' || char(127)"),
        ("api_key", "name", "char(159)"),
        ("api_key", "shown_prefix", "'abcdefghijklmnopqrstuvwxyz'"),
        ("api_key", "shown_prefix", "'ä'"),
        ("api_key", "scopes", r#"'[""]'"#),
        ("api_key", "scopes", r#"'["A"]'"#),
        ("api_key", "scopes", r#"'["a,b"]'"#),
        ("api_key", "scopes", r#"'["a", null]'"#),
        ("api_key", "scopes", "'[1]'"),
        ("api_key", "scopes", r#"'[["a"]]'"#),
        ("api_key", "scopes", r#"'[":a"]'"#),
        ("api_key", "scopes", r#"'["a\u0000"]'"#),
        ("api_key", "scopes", "'{}'"),
        ("api_key", "scopes", "'['"),
        ("api_key", "scopes", &long_scope),
        ("api_key", "scopes", &too_many_scopes),
        ("api_key", "allowed_networks", &too_many_networks),
        ("api_key", "allowed_networks", "'[1]'"),
        ("api_key", "allowed_networks", "'[null]'"),
        ("api_key", "allowed_networks", "'{}'"),
        ("api_key", "allowed_networks", r#"'["10.0.0.0"]'"#),
        ("api_key", "allowed_networks", r#"'["10.0.0.0/"]'"#),
        ("api_key", "allowed_networks", r#"'["10.0.0.0/33"]'"#),
        ("api_key", "allowed_networks", r#"'["10.0.0.0/+8"]'"#),
        ("api_key", "allowed_networks", r#"'["10.0.0.256/32"]'"#),
        ("api_key", "allowed_networks", r#"'["10.0.0/8"]'"#),
        ("api_key", "allowed_networks", r#"'["10.0.0.0.0/8"]'"#),
        ("api_key", "allowed_networks", r#"'["10..0.0/8"]'"#),
        ("api_key", "allowed_networks", r#"'["localhost/32"]'"#),
        ("api_key", "allowed_networks", r#"'["::/129"]'"#),
        ("api_key", "allowed_networks", r#"'["1:2:3/64"]'"#),
        ("api_key", "allowed_networks", r#"'["1::2::3/64"]'"#),
        ("api_key", "allowed_networks", r#"'[":1::/64"]'"#),
        (
            "api_key",
            "allowed_networks",
            r#"'["1:2:3:4:5:6:7:8:9/64"]'"#,
        ),
        ("api_key", "allowed_networks", r#"'["12345::/64"]'"#),
        ("api_key", "allowed_networks", r#"'[":::/64"]'"#),
    ];
    common::rows::rules_hold_in_the_schema(&store, &file, &legal, &refused).await;
    // Scopes of a later version are accepted, though this one does not know them.
    let later = r#"update api_key set scopes = '["*", "orders:*"]'"#;
    assert_eq!(file.run(later).await, Ok(()));
    // No program writes it, though it could be read.
    let zero = r#"update api_key set allowed_networks = '["10.0.0.01/32"]'"#;
    assert!(file.run(zero).await.is_err());
    // A row that would stop every follower of the log is refused.
    let change = "insert into key_change (kind, ref) values (1, x'00')";
    assert!(file.run(change).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_file_is_unavailable_and_then_available_again() {
    let file = File::new();
    file.open().await;
    let options = StoreOptions::default().statement_timeout(Duration::from_millis(200));
    let store = Store::connect(&DatabaseUrl::sqlite(file.path()), options)
        .await
        .unwrap();
    let mut other = file.by_hand();
    other.batch_execute("begin immediate").unwrap();
    let refused = store
        .insert_account(an_account().build(), keys_testkit::data::a_change().build())
        .await;
    assert!(
        matches!(
            refused,
            Err(keys_service::ports::ChangeError::Store(
                StoreError::Unavailable(_)
            ))
        ),
        "{refused:?}"
    );
    // Reading works meanwhile.
    store.ready().await.unwrap();
    other.batch_execute("rollback").unwrap();
    add_account(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn path_that_cannot_be_used_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::sqlite(folder.path());
    let refused = Store::connect(&url, StoreOptions::default()).await;
    assert!(matches!(refused, Err(OpenError::Connect(_))));

    let path = folder.path().join("text.db");
    std::fs::write(
        &path,
        "this is no database, though it is long enough to be one",
    )
    .unwrap();
    let refused = Store::connect(&DatabaseUrl::sqlite(path), StoreOptions::default()).await;
    assert!(matches!(refused, Err(OpenError::Connect(_))));
}

#[test]
fn opening_outside_a_runtime_is_refused() {
    let file = File::new();
    let url = DatabaseUrl::sqlite(file.path());
    let mut opening = Box::pin(Store::open(&url));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let polled = opening.as_mut().poll(&mut context);
    assert!(matches!(
        polled,
        std::task::Poll::Ready(Err(OpenError::NoRuntime))
    ));
}

/// Another process is identified by the lock on a file of its own.
#[tokio::test(flavor = "multi_thread")]
async fn reservation_is_taken_over_at_once_only_if_its_process_has_ended() {
    let file = File::new();
    let store = file.open().await;
    let id = "0123456789abcdef0123456789abcdef";
    let path = file.folder.path().join(format!("keys.db-life-{id}.lock"));
    let leave = async |number| {
        common::leave_reservation(&store, &file, number, &format!("'{id}'")).await;
    };
    // Its own, and one without a holder.
    leave(1).await;
    assert!(!common::is_taken_over(&store, 1).await);
    let living = std::fs::File::create(&path).unwrap();
    living.lock().unwrap();
    for reader in [&store, &file.open().await] {
        assert!(!common::is_taken_over(reader, 1).await);
        store.sweep(keys_testkit::data::NOON).await.unwrap();
    }
    drop(living);
    // The file is kept as long as it is needed.
    store.sweep(keys_testkit::data::NOON).await.unwrap();
    assert!(path.exists());
    assert!(common::is_taken_over(&store, 1).await);
    assert!(!common::is_taken_over(&store, 1).await, "by one alone");
    store.sweep(keys_testkit::data::NOON).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn reservation_of_a_store_that_was_closed_in_another_process_is_not_guessed_about() {
    let file = File::new();
    let [store, other] = [file.open().await, file.open().await];
    common::leave_reservation(&store, &file, 1, "holder").await;
    assert!(!common::is_taken_over(&other, 1).await);
    assert!(!common::is_taken_over(&store, 1).await);
}
