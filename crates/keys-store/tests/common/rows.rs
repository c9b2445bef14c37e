//! Rows that break a rule of the program: each refuses its own key only, and no new one is
//! accepted.

use keys_core::{Account, ApiKey, Denial, KeyId, PepperId, Revocation};
use keys_service::ports::{
    AccountPatch, AccountQuery, Accounts as _, ChangeError, KeyOwner, KeyUse, KeyUses as _,
    Keys as _, Maintenance as _, NewKey, StoreError,
};
use keys_store::Store;
use keys_testkit::data::{NOON, a_caller, a_change, a_key, an_account, noon_plus, plan};
use uuid::Uuid;

use super::{Sql, add_account, add_key, revoke};

/// A column of `api_key`, and an expression in SQL for a value that cannot be read.
pub(crate) type Offence = (&'static str, &'static str);

/// Returns the id of a row in a form that SQL of both databases can compare.
fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

async fn offend(sql: &impl Sql, table: &str, column: &str, value: &str, id: Uuid) {
    let id = sql.id(&hex(id));
    let statement = format!("update {table} set {column} = {value} where id = {id}");
    sql.run_without_rules(&statement).await.unwrap();
}

async fn keys(store: &Store, account: &Account, count: usize) -> Vec<NewKey> {
    let mut keys = Vec::new();
    for _ in 0..count {
        let key = a_key().of(account).without_cap().build_new();
        add_key(store, key.clone()).await;
        keys.push(key);
    }
    keys.sort_by_key(|key| key.key.id);
    keys
}

/// Of 256 keys that are looked up together, those with a row that cannot be read are refused and
/// all others are found. Lists mark them, their uses are recorded, and they can be revoked.
pub(crate) async fn unreadable_row_refuses_its_own_key_only(
    store: &Store,
    sql: &impl Sql,
    offences: &[Offence],
) {
    const GATHERED: usize = 256;
    let account = add_account(store).await;
    let keys = keys(store, &account, GATHERED).await;
    let broken = &keys[..offences.len()];
    for ((column, value), key) in offences.iter().zip(broken) {
        offend(sql, "api_key", column, value, key.key.id.as_uuid()).await;
    }
    let is_broken = |id: KeyId| broken.iter().any(|key| key.key.id == id);

    let digests = keys.iter().map(|key| key.digest).collect();
    let found = store.find_by_digests(digests).await.unwrap();
    assert_eq!(found.len(), GATHERED);
    for found in found {
        let key = keys.iter().find(|key| key.digest == found.digest).unwrap();
        match found.stored {
            Ok(stored) => {
                assert_eq!(stored.key, key.key);
                assert!(!is_broken(key.key.id));
            }
            Err(refused) => {
                assert_eq!(refused.id, Some(key.key.id));
                assert_eq!(refused.denial(), Denial::Unreadable);
                assert!(is_broken(key.key.id));
            }
        }
    }

    let owner = KeyOwner::Account(account.id);
    let page = store.keys(owner, 0, 1_000).await.unwrap();
    assert_eq!((page.keys.len(), page.total), (GATHERED, GATHERED as u64));
    for key in &page.keys {
        assert_eq!(page.is_unreadable(key.id), is_broken(key.id), "{}", key.id);
    }
    let peppers = store.pepper_ids(NOON).await.unwrap();
    assert_eq!(peppers, [keys[0].digest.pepper]);

    // The uses of all are written together.
    let uses = keys.iter().map(|key| KeyUse::new(key.key.id, NOON, 2));
    store.record_uses(uses.collect()).await.unwrap();
    let used = "select count(*) from api_key where use_count = 2";
    assert_eq!(u64::try_from(sql.number(used).await), Ok(GATHERED as u64));

    // A caller whose own row cannot be read may change nothing.
    let caller = a_caller(&broken[0].key);
    let change = a_change().by(&caller).build();
    let refused = store.revoke_key(Some(owner), keys[255].key.id, Revocation::default(), change);
    assert!(matches!(
        refused.await,
        Err(ChangeError::CallerDenied(Denial::Unreadable))
    ));

    // Named once for each column, in the order of ids.
    let mut named = Vec::new();
    let count = store.check_rows(|fault| named.push(fault)).await.unwrap();
    assert_eq!(
        (count, named.len()),
        (offences.len() as u64, offences.len())
    );
    assert!(named.is_sorted_by_key(|fault| fault.uuid));
    for (fault, (column, _)) in named.iter().zip(offences) {
        assert_eq!((fault.table, fault.column), ("api_key", *column));
        assert!(!fault.why.is_empty());
    }

    for key in broken {
        revoke(store, &key.key).await;
        let found = store.find_by_digests(vec![key.digest]).await.unwrap();
        let refused = found[0].stored.as_ref().unwrap_err();
        assert_eq!(refused.denial(), Denial::Revoked);
    }
    let page = store.keys(owner, 0, 1_000).await.unwrap();
    assert_eq!(page.total, (GATHERED - broken.len()) as u64);
    assert!(page.unreadable.is_empty());
}

/// An account that cannot be read refuses its own keys, is listed with a mark, and is repaired by
/// an update of the invalid columns.
pub(crate) async fn unreadable_account_is_listed_and_mended(store: &Store, sql: &impl Sql) {
    let mut accounts = [
        add_account(store).await,
        add_account(store).await,
        add_account(store).await,
    ];
    accounts.sort_by_key(|account| account.id);
    let [before, broken, after] = accounts;
    let [good, bad] = [&before, &broken].map(|account| a_key().of(account).build_new());
    add_key(store, good.clone()).await;
    add_key(store, bad.clone()).await;
    let id = broken.id.as_uuid();
    offend(sql, "account", "plan", "'Pro'", id).await;
    let control = sql.text_with_control();
    offend(sql, "account", "external_id", &control, id).await;

    let digests = vec![good.digest, bad.digest];
    for found in store.find_by_digests(digests.clone()).await.unwrap() {
        match found.stored {
            Ok(stored) => assert_eq!(stored.key.id, good.key.id),
            Err(refused) => assert_eq!(
                (refused.id, refused.denial()),
                (Some(bad.key.id), Denial::Unreadable)
            ),
        }
    }
    let everything = || AccountQuery::new(10);
    let listed = store.account_entries(everything()).await.unwrap();
    let ids: Vec<_> = listed
        .iter()
        .map(|entry| match entry {
            Ok(account) => account.id,
            Err(row) => row.id,
        })
        .collect();
    assert_eq!(ids, [before.id, broken.id, after.id]);
    let row = listed[1].as_ref().unwrap_err();
    assert_eq!(row.columns, ["external_id", "plan"]);
    assert_eq!(row.plan.as_deref(), Some("Pro"));
    let entry = store.account_entry(broken.id).await.unwrap().unwrap();
    assert_eq!(entry.as_ref().unwrap_err(), row);
    assert_eq!(store.accounts(everything()).await.unwrap(), [before, after]);
    assert!(matches!(
        store.find_account(broken.id).await,
        Err(StoreError::Unexpected(_))
    ));

    let add = store.insert_key(a_key().of(&broken).build_new(), a_change().build());
    assert!(matches!(
        add.await,
        Err(ChangeError::AccountDenied(Denial::Unreadable))
    ));

    // A column that is not set stays invalid, and is named.
    let mend = |patch| store.update_account(broken.id, patch, a_change().build());
    let only_plan = AccountPatch::default().plan(plan("pro"));
    match mend(only_plan.clone()).await {
        Err(ChangeError::AccountUnreadable { columns }) => assert_eq!(columns, ["external_id"]),
        outcome => panic!("{outcome:?}"),
    }
    let both = only_plan.external_id(None);
    let (account, _) = mend(both).await.unwrap();
    assert_eq!(account, broken);
    let found = store.find_by_digests(digests).await.unwrap();
    assert!(found.iter().all(|found| found.stored.is_ok()));
    assert_eq!(store.check_rows(|_| {}).await.unwrap(), 0);
}

/// Keys under a pepper of an impossible name do not hide the peppers of others.
pub(crate) async fn impossible_pepper_is_left_out(store: &Store, sql: &impl Sql) {
    let key = add_key(store, a_key().build_new()).await;
    let other = a_key().build_new();
    add_key(store, other.clone()).await;
    let (id, pepper) = (key.id.as_uuid(), other.digest.pepper);
    offend(sql, "api_key", "pepper_id", "'Not A Pepper'", id).await;
    let peppers: Vec<PepperId> = store.pepper_ids(NOON).await.unwrap();
    assert_eq!(peppers, [pepper]);
    let mut named = Vec::new();
    store.check_rows(|fault| named.push(fault)).await.unwrap();
    assert_eq!(named.len(), 1);
    assert_eq!(
        (named[0].column, named[0].uuid),
        ("pepper_id", Some(key.id.as_uuid()))
    );
}

/// The schema refuses values that the program cannot read, from every writer. It accepts all values
/// that the program can read.
pub(crate) async fn rules_hold_in_the_schema(
    store: &Store,
    sql: &impl Sql,
    legal: &[(&str, &str, &str)],
    refused: &[(&str, &str, &str)],
) {
    add_account(store).await;
    let account = add_account_named(store).await;
    let ApiKey { .. } = add_key(store, a_key().of(&account).build_new()).await;
    let id = sql.id(&hex(account.id.as_uuid()));
    let set = |table: &str, column: &str, value: &str| {
        let of = if table == "account" {
            "id"
        } else {
            "account_id"
        };
        format!("update {table} set {column} = {value} where {of} = {id}")
    };
    for (table, column, value) in legal {
        let statement = set(table, column, value);
        assert_eq!(sql.run(&statement).await, Ok(()), "{statement}");
        assert_eq!(store.check_rows(|_| {}).await.unwrap(), 0, "{statement}");
        // A row like it can be added.
        let copy = sql.copy(table, &id);
        assert_eq!(sql.run(&copy).await, Ok(()), "{statement}; {copy}");
        let remove = format!("delete from account where external_id is not null and id <> {id}");
        sql.run(&remove).await.unwrap();
    }
    for (table, column, value) in refused {
        let statement = set(table, column, value);
        assert!(sql.run(&statement).await.is_err(), "{statement}");
        // A row like it cannot be added either.
        sql.run_without_rules(&statement).await.unwrap();
        let copy = sql.copy(table, &id);
        assert!(sql.run(&copy).await.is_err(), "{statement}; {copy}");
        assert!(store.check_rows(|_| {}).await.unwrap() > 0, "{statement}");
        // An invalid row can be changed in other ways, and repaired.
        let other = match *table {
            "account" => set("account", "disabled", "not disabled"),
            _ => set("api_key", "use_count", "use_count + 1"),
        };
        assert_eq!(sql.run(&other).await, Ok(()), "{statement}; {other}");
        let harmless = match *column {
            "plan" => "'pro'",
            "scopes" | "allowed_networks" => sql.empty_list(),
            "shown_prefix" => "'sk'",
            _ => "null",
        };
        let mend = set(table, column, harmless);
        assert_eq!(sql.run(&mend).await, Ok(()), "{statement}; {mend}");
    }
}

async fn add_account_named(store: &Store) -> Account {
    let account = an_account().external_id("named").build();
    let added = store.insert_account(account.clone(), a_change().build());
    added.await.unwrap();
    account
}

/// The fields of an audit event follow rules too.
pub(crate) async fn audit_events_follow_rules(store: &Store, sql: &impl Sql) {
    add_account(store).await;
    let copy = |kind: &str, actor: &str, action: &str| {
        let id = sql.new_id();
        format!(
            "insert into audit_event (id, at, actor_kind, actor_id, action, subject_id) \
             select {id}, at, {kind}, {actor}, {action}, subject_id from audit_event limit 1"
        )
    };
    let subject = "subject_id";
    for (kind, actor, action) in [
        ("'system'", "null", "'account.created'"),
        ("'operator'", subject, "'key.revoked'"),
        ("'session'", subject, "'a_b.c_d'"),
    ] {
        let statement = copy(kind, actor, action);
        assert_eq!(sql.run(&statement).await, Ok(()), "{statement}");
    }
    assert_eq!(store.check_rows(|_| {}).await.unwrap(), 0);
    for (kind, actor, action) in [
        ("'stranger'", subject, "'key.revoked'"),
        ("'system'", subject, "'key.revoked'"),
        ("'account'", "null", "'key.revoked'"),
        ("'system'", "null", "''"),
        ("'system'", "null", "'key'"),
        ("'system'", "null", "'key.'"),
        ("'system'", "null", "'Key.revoked'"),
        ("'system'", "null", "'key.revoked.twice'"),
    ] {
        let statement = copy(kind, actor, action);
        assert!(sql.run(&statement).await.is_err(), "{statement}");
    }
}

/// Counts the accounts for which the counters of the triggers are wrong.
pub(crate) const MISCOUNTED: &str = "select count(*) from ( \
     select id, coalesce((select listed from key_count where account_id = account.id), 0) as listed, \
            coalesce((select unending from key_count where account_id = account.id), 0) as unending, \
            (select count(*) from api_key where account_id = account.id and kind = 2 \
             and revoked_at is null) as all_of_them, \
            (select count(*) from api_key where account_id = account.id and kind = 2 \
             and revoked_at is null and expires_at is null) as without_end \
     from account) as compared where listed <> all_of_them or unending <> without_end";

/// The numbers for lists and the cap are right, also if keys are changed by SQL, one at a time or
/// thousands at once.
pub(crate) async fn keys_are_counted_whoever_changes_them(
    store: &Store,
    sql: &impl Sql,
    many: &str,
) {
    let is_right = async |after: &str| assert_eq!(sql.number(MISCOUNTED).await, 0, "{after}");
    let accounts = [add_account(store).await, add_account(store).await];
    for account in &accounts {
        for _ in 0..3 {
            let key = a_key().of(account).without_cap();
            add_key(store, key.build_new()).await;
        }
    }
    let ending = a_key().of(&accounts[0]).without_cap();
    add_key(store, ending.expires_at(noon_plus(60)).build_new()).await;
    is_right("keys were made").await;
    let owner = KeyOwner::Account(accounts[0].id);
    let page = store.keys(owner, 0, 10).await.unwrap();
    assert_eq!(page.total, 4);
    revoke(store, &page.keys[0]).await;
    assert_eq!(store.keys(owner, 0, 10).await.unwrap().total, 3);
    is_right("a key was revoked").await;
    for statement in [
        many,
        "update api_key set expires_at = created_at where expires_at is null",
        "update api_key set expires_at = null",
        "update api_key set use_count = use_count + 1, last_used_at = created_at",
        "update api_key set revoked_at = created_at where use_count = 1 and name = 'many'",
        "delete from api_key where name = 'many'",
        "update api_key set revoked_at = created_at where revoked_at is null",
        "delete from api_key",
    ] {
        assert_eq!(sql.run(statement).await, Ok(()), "{statement}");
        is_right(statement).await;
    }
}

/// Each page equals that part of the whole list, from whichever end it is found.
pub(crate) async fn deep_pages_are_exact(store: &Store) {
    const KEYS: u32 = 60;
    let account = add_account(store).await;
    for second in 0..KEYS {
        let key = a_key().of(&account).without_cap();
        let key = key.created_at(noon_plus(i64::from(second / 3)));
        let key = add_key(store, key.build_new()).await;
        if second % 10 == 9 {
            revoke(store, &key).await;
        }
    }
    let owner = KeyOwner::Account(account.id);
    let whole = store.keys(owner, 0, 1_000).await.unwrap().keys;
    assert_eq!(whole.len(), 54);
    for limit in [1_u32, 7, 50, 100] {
        for offset in (0..70_u64).chain([u64::MAX]) {
            let page = store.keys(owner, offset, limit).await.unwrap();
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            let expected = whole.iter().skip(skip).take(limit as usize);
            assert!(page.keys.iter().eq(expected), "{offset} {limit}");
            assert_eq!(page.total, 54);
        }
    }
}
