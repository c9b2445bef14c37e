//! Cases for both databases, written once: with SQL by hand, and with time.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use keys_core::{
    Account, AccountId, ApiKey, AuditAction, AuditActor, AuditSubject, KeyId, KeyKind, Revocation,
};
use keys_service::ports::{
    Accounts as _, ChangeError, Idempotency as _, KeyOwner, KeyUse, KeyUses as _, Keys as _,
    Maintenance as _, NewKey, Reservation, Reserved, StoreError,
};
use keys_store::Store;
use keys_testkit::data::{NOON, a_change, a_key, an_account, an_event_id, noon_plus};
pub(crate) use keys_testkit::error::chain;
use tokio::task::JoinSet;

pub(crate) mod feed;
pub(crate) mod lists;
pub(crate) mod rows;

/// The actor of an audit event, from its columns.
pub(crate) fn actor(kind: &str, id: Option<&str>) -> AuditActor {
    let Some(id) = id else {
        assert_eq!(kind, AuditActor::System.kind());
        return AuditActor::System;
    };
    let kinds = [KeyKind::Operator, KeyKind::Account, KeyKind::Session];
    let known = kinds.into_iter().find(|known| known.as_str() == kind);
    AuditActor::Credential {
        kind: known.expect("the kind of the actor is known"),
        id: KeyId::from_uuid(id.parse().expect("the id is one")),
    }
}

/// The action of an audit event, and what it was done to, from their columns.
pub(crate) fn action(name: &str, subject: &str) -> (AuditAction, AuditSubject) {
    let known = AuditAction::ALL
        .into_iter()
        .find(|known| known.as_str() == name);
    let subject = subject.parse().expect("the id is one");
    let subject = if name.starts_with("account.") {
        AuditSubject::Account(AccountId::from_uuid(subject))
    } else {
        AuditSubject::Key(KeyId::from_uuid(subject))
    };
    (known.expect("the action is known"), subject)
}

/// A database as seen from outside the service.
pub(crate) trait Sql {
    /// Runs statements. Returns the error of the database, if any.
    async fn run(&self, statements: &str) -> Result<(), String>;

    /// Returns the only number of a query.
    async fn number(&self, query: &str) -> i64;

    /// Runs statements as on a database from before the rules for rows. The rules apply again
    /// afterwards.
    async fn run_without_rules(&self, statements: &str) -> Result<(), String>;

    /// Returns the id with these 32 hexadecimal digits.
    fn id(&self, hex: &str) -> String;

    /// Returns an expression for an id that does not exist.
    fn new_id(&self) -> &'static str;

    /// Returns an expression for a text with a control character.
    fn text_with_control(&self) -> String;

    /// Returns an expression for an empty list.
    fn empty_list(&self) -> &'static str;

    /// Returns a statement that copies the row of an account, or those of its keys, with new ids
    /// and digests.
    fn copy(&self, table: &str, account: &str) -> String {
        let id = self.new_id();
        match table {
            "account" => format!(
                "insert into account (id, external_id, plan, disabled, created_at) \
                 select {id}, external_id || 'x', plan, disabled, created_at from account where id = {account}"
            ),
            _ => format!(
                "insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, name, \
                 allowed_networks, scopes, created_at) \
                 select {id}, account_id, kind, {}, pepper_id, shown_prefix, name, allowed_networks, \
                 scopes, created_at from api_key where account_id = {account} limit 1",
                self.new_digest()
            ),
        }
    }

    /// Returns an expression for a digest that no key has.
    fn new_digest(&self) -> &'static str;
}

pub(crate) async fn add_account(store: &Store) -> Account {
    let account = an_account().build();
    let added = store.insert_account(account.clone(), a_change().build());
    added.await.unwrap();
    account
}

pub(crate) async fn add_key(store: &Store, key: NewKey) -> ApiKey {
    let record = key.key.clone();
    store.insert_key(key, a_change().build()).await.unwrap();
    record
}

pub(crate) async fn revoke(store: &Store, key: &ApiKey) {
    let revoked = store
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    assert!(revoked.unwrap().is_some());
}

/// Adds two operator keys and two of an account, one of which is revoked.
async fn populate(store: &Store) -> [ApiKey; 4] {
    let account = add_account(store).await;
    let keys = [
        add_key(store, a_key().build_new()).await,
        add_key(store, a_key().build_new()).await,
        add_key(store, a_key().of(&account).build_new()).await,
        add_key(store, a_key().of(&account).build_new()).await,
    ];
    revoke(store, &keys[3]).await;
    keys
}

/// Invalid changes are refused, also by SQL. `other_digest` is an expression that gives some 32
/// bytes.
pub(crate) async fn rules_hold_against_typed_sql(
    store: &Store,
    sql: &impl Sql,
    other_digest: &str,
) {
    populate(store).await;
    let fixed = "what a key is and whose it is never changes";
    let refused = [
        (
            "update api_key set revoked_at = null where revoked_at is not null",
            "a revocation is final",
        ),
        (
            "update api_key set revoked_at = expires_at where revoked_at is not null",
            "a revocation is final",
        ),
        ("update api_key set kind = 3 where kind = 2", fixed),
        (
            "update api_key set kind = 1, account_id = null where kind = 2",
            fixed,
        ),
        ("update api_key set pepper_id = 'other'", fixed),
        ("update audit_event set action = 'nothing'", "append-only"),
        ("delete from audit_event", "append-only"),
        // Keys still belong to it. The databases have different messages for this.
        ("delete from account", ""),
    ];
    for (statement, message) in refused {
        let said = sql.run(statement).await.expect_err(statement);
        assert!(said.contains(message), "{statement}: {said}");
    }
    let statement = format!("update api_key set digest = {other_digest}");
    let said = sql.run(&statement).await.expect_err(&statement);
    assert!(said.contains(fixed), "{said}");

    // Revoking by SQL is allowed, once.
    let revoke = "update api_key set revoked_at = created_at where kind = 1";
    sql.run(revoke).await.unwrap();
    let unrevoke = "update api_key set revoked_at = null where kind = 1";
    assert!(sql.run(unrevoke).await.is_err());
}

/// Every change writes a row for the caches, from every writer. Recording uses writes none.
pub(crate) async fn changes_are_noted(store: &Store, sql: &impl Sql) {
    let noted = async |kind: i64| {
        sql.number(&format!(
            "select count(*) from key_change where kind = {kind}"
        ))
        .await
    };
    let keys = populate(store).await;
    // Four keys and an account were created, which no cache can contain, and one key was revoked.
    assert_eq!((noted(1).await, noted(2).await), (1, 0));

    let uses = keys.iter().map(|key| KeyUse::new(key.id, NOON, 3));
    store.record_uses(uses.collect()).await.unwrap();
    assert_eq!(
        sql.number("select sum(use_count) from api_key").await,
        3 * 4
    );
    sql.run("update api_key set last_used_at = created_at, use_count = use_count + 1")
        .await
        .unwrap();
    assert_eq!((noted(1).await, noted(2).await), (1, 0));

    for (statement, keys, accounts) in [
        ("update account set disabled = not disabled", 0, 1),
        ("update account set plan = 'other'", 0, 1),
        ("update account set external_id = 'other'", 0, 1),
        ("update api_key set shown_prefix = 'other'", 4, 0),
        ("update api_key set name = 'other'", 4, 0),
        ("update api_key set expires_at = created_at", 4, 0),
        (
            "update api_key set revoked_at = created_at where kind = 1",
            2,
            0,
        ),
        ("delete from api_key", 4, 0),
        ("delete from account", 0, 1),
    ] {
        let before = (noted(1).await, noted(2).await);
        sql.run(statement).await.expect(statement);
        let after = (noted(1).await, noted(2).await);
        assert_eq!(
            (after.0 - before.0, after.1 - before.1),
            (keys, accounts),
            "{statement}"
        );
    }
    assert_eq!(
        sql.number("select count(*) from key_change where (ref is null) <> (kind = 3)")
            .await,
        0
    );
}

/// Sweeping deletes old rows for the caches and keeps recent ones.
pub(crate) async fn old_notes_are_pruned(store: &Store, sql: &impl Sql, make_old: &str) {
    populate(store).await;
    let notes = sql.number("select count(*) from key_change").await;
    assert_eq!(store.sweep(NOON).await.unwrap(), 0);
    assert_eq!(sql.number("select count(*) from key_change").await, notes);
    sql.run(make_old).await.unwrap();
    store.sweep(NOON).await.unwrap();
    assert_eq!(sql.number("select count(*) from key_change").await, 0);
}

/// A use count at the end of its range stays there instead of failing the batch for ever.
pub(crate) async fn use_count_saturates(store: &Store, sql: &impl Sql) {
    let key = add_key(store, a_key().build_new()).await;
    for count in [u64::MAX, 1, u64::MAX] {
        let one = KeyUse::new(key.id, noon_plus(1), count);
        store.record_uses(vec![one]).await.unwrap();
    }
    assert_eq!(sql.number("select use_count from api_key").await, i64::MAX);
}

/// Returns the migrations for one kind of database, in order; `way` is `up` or `down`.
pub(crate) fn migrations(database: &str, way: &str) -> Vec<String> {
    let folder = format!("{}/migrations/{database}", env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let text =
        |folder: std::path::PathBuf| std::fs::read_to_string(folder.join(format!("{way}.sql")));
    folders
        .into_iter()
        .map(|folder| text(folder).unwrap())
        .collect()
}

/// Migrating again, and concurrently, changes nothing.
pub(crate) async fn migrating_is_repeatable_and_concurrent(stores: Vec<Store>, sql: &impl Sql) {
    let stores = Arc::new(stores);
    assert!(matches!(
        stores[0].ready().await,
        Err(StoreError::Unexpected(_))
    ));
    let tasks: Vec<_> = (0..stores.len())
        .map(|index| {
            let stores = Arc::clone(&stores);
            tokio::spawn(async move { stores[index].migrate().await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    stores[0].migrate().await.unwrap();
    for store in stores.iter() {
        store.ready().await.unwrap();
    }
    let versions = "select count(*) from __diesel_schema_migrations";
    assert_eq!(
        sql.number(versions).await,
        i64::try_from(migrations("postgres", "up").len()).unwrap()
    );
}

/// The latest migration of this program.
const LATEST: &str = "(select max(version) from __diesel_schema_migrations where version < '2999')";

/// A database that a newer program has migrated is refused with this reason, unless the migration
/// allows older programs.
pub(crate) async fn newer_schema_is_used_only_if_it_says_so(stores: &[Store; 2], sql: &impl Sql) {
    let [running, starting] = stores;
    running.ready().await.unwrap();
    let add = "insert into __diesel_schema_migrations (version) values";
    let say = "insert into schema_compatibility (migration, oldest) select";
    sql.run(&format!(
        "{add} ('29991231000000'); {say} '29991231000000', {LATEST}"
    ))
    .await
    .unwrap();
    for store in [running, starting] {
        store.migrate().await.unwrap();
        store.ready().await.unwrap();
    }
    add_account(running).await;

    // One without a row, one that forbids it, and one whose table is gone.
    for (number, broken) in [
        format!("{add} ('29991231000001')"),
        format!("{say} '29991231000001', '29991231000001'"),
        "drop table schema_compatibility".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        sql.run(broken).await.unwrap();
        for store in [running, starting] {
            let said = [
                chain(&store.migrate().await.unwrap_err()),
                chain(&store.ready().await.unwrap_err()),
            ];
            for said in said {
                assert!(said.contains("29991231000001"), "{number}: {said}");
                assert!(said.contains("newer than this program"), "{number}: {said}");
            }
        }
    }
}

/// An older program checks this before it uses a newer schema.
pub(crate) async fn every_migration_says_which_programs_can_go_on(sql: &impl Sql) {
    let silent = "select count(*) from __diesel_schema_migrations \
                  where version >= '20261130000300' \
                  and version not in (select migration from schema_compatibility)";
    assert_eq!(sql.number(silent).await, 0);
}

/// Several instances share the database, and the cap applies to all of them together.
pub(crate) async fn cap_holds_across_instances(stores: &[Store]) {
    const CAP: usize = 10;
    let account = add_account(&stores[0]).await;
    let mut creates = JoinSet::new();
    for store in stores.iter().cycle().take(40) {
        let (store, key) = (store.clone(), a_key().of(&account).build_new());
        creates.spawn(async move { store.insert_key(key, a_change().build()).await });
    }
    let mut made = 0;
    while let Some(outcome) = creates.join_next().await {
        match outcome.unwrap() {
            Ok(()) => made += 1,
            Err(ChangeError::CapReached { max: 10 }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made, CAP);
    let page = stores[0].keys(KeyOwner::Account(account.id), 0, 100).await;
    assert_eq!(page.unwrap().total, CAP as u64);
}

/// While peppers are rotated, instances know the same ones but disagree on the current one. Still,
/// exactly one attempt is the first.
pub(crate) async fn reservations_hold_across_instances(stores: &[Store]) {
    for round in 0..10 {
        let (former, current) = ([round; 32], [100 + round; 32]);
        let mut attempts = JoinSet::new();
        for (index, store) in stores.iter().cycle().take(8).enumerate() {
            let lookups = match index % 2 {
                0 => vec![former, current],
                _ => vec![current, former],
            };
            let reservation = Reservation::new(lookups, [1; 32], an_event_id(), NOON);
            let store = store.clone();
            attempts.spawn(async move { store.reserve(reservation).await });
        }
        let outcomes = attempts.join_all().await;
        let new = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Ok(Reserved::New)))
            .count();
        assert_eq!(new, 1, "{outcomes:?}");
    }
}

/// The future of a change is dropped at once, and the change is still made.
pub(crate) async fn abandoned_change_is_made(store: &Store) {
    let account = an_account().build();
    {
        let mut change = Box::pin(store.insert_account(account.clone(), a_change().build()));
        // Polling the future once is enough to start it.
        let _ = tokio::time::timeout(Duration::ZERO, &mut change).await;
    }
    for _ in 0..500 {
        if store.find_account(account.id).await.unwrap().is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the change was not made");
}

/// Connections made for a request on one runtime serve others after that runtime has ended.
pub(crate) fn runtimes_may_come_and_go(open: impl Future<Output = Store>) {
    let own = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let store = own.block_on(open);
    for _ in 0..3 {
        let passing = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        passing.block_on(async {
            let account = add_account(&store).await;
            let found = store.find_account(account.id).await.unwrap();
            assert_eq!(found, Some(account));
        });
    }
    own.block_on(async { drop(store) });
}

fn reservation_at(number: u8, seconds: i64) -> Reservation {
    Reservation::new(
        vec![[number; 32]],
        [1; 32],
        an_event_id(),
        noon_plus(seconds),
    )
}

/// Leaves a reservation of another process, with the holder that it wrote.
pub(crate) async fn leave_reservation(store: &Store, sql: &impl Sql, number: u8, holder: &str) {
    let reserved = store.reserve(reservation_at(number, 0)).await;
    assert_eq!(reserved.unwrap(), Reserved::New);
    let own = "select count(*) from idempotency where holder is not null and sealed is null";
    assert!(sql.number(own).await > 0);
    let holder = format!(
        "update idempotency set holder = {holder} where expires_at = \
                          (select max(expires_at) from idempotency) and sealed is null"
    );
    sql.run(&holder).await.unwrap();
}

/// Returns whether the reservation is taken over before its time is over. The time is known in both
/// cases.
pub(crate) async fn is_taken_over(store: &Store, number: u8) -> bool {
    match store.reserve(reservation_at(number, 7)).await.unwrap() {
        Reserved::New => true,
        Reserved::Pending { until } => {
            // That of the first attempt, or of the one that has taken over.
            assert!([noon_plus(30), noon_plus(37)].contains(&until), "{until:?}");
            false
        }
        done @ Reserved::Done { .. } => panic!("{done:?}"),
    }
}
