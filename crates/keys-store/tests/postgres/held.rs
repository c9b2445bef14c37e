//! Changes in one statement, on the condition that their caller is as it was when it was accepted.

use std::time::Duration;

use keys_core::{Account, ApiKey, Denial, ExceededBound, Revocation};
use keys_service::ports::{ChangeError, KeyOwner, Keys as _, Maintenance as _, NewKey};
use keys_store::{Store, StoreOptions};
use keys_testkit::data::{a_caller, a_change, a_key, an_accepted_caller, noon_plus};
use keys_testkit::postgres::Database;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use super::{add_account, add_key, by_hand, connect, open};

/// The last statements of idle connections of the store that were such a change.
const LAST_HELD: &str = "select count(*) from pg_stat_activity where datname = current_database() \
                         and application_name = 'keys' and query like 'with held as %'";

/// Statements of the store that wait for a lock.
const WAITING: &str = "select count(*) from pg_stat_activity where datname = current_database() \
                       and application_name = 'keys' and wait_event_type = 'Lock' \
                       and query like 'with held as %'";

/// Waits until this many statements of the store wait for a lock.
async fn until_waiting(watching: &Client, count: i64, statement: &str) {
    let begin = Instant::now();
    let waiting = async || {
        let row = watching.query_one(WAITING, &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    while waiting().await < count {
        assert!(begin.elapsed() < Duration::from_secs(25), "{statement}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn create(store: &Store, account: &Account, caller: &ApiKey) -> Result<ApiKey, ChangeError> {
    let new = a_key().of(account).build_new();
    let key = new.key.clone();
    let change = a_change().by(&an_accepted_caller(caller, account)).build();
    store.insert_key(new, change).await.map(|()| key)
}

#[tokio::test(flavor = "multi_thread")]
async fn key_is_made_by_an_accepted_caller_in_one_statement() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    let caller = add_key(&store, a_key().of(&account).build_new()).await;
    let held = async || {
        let client = by_hand(&database.url()).await;
        client
            .query_one(LAST_HELD, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
    };
    assert_eq!(held().await, 0);
    create(&store, &account, &caller).await.unwrap();
    assert_eq!(held().await, 1);
    store.ready().await.unwrap();
    assert_eq!(held().await, 0);
}

/// The condition of the statement holds for rows as they are once they are locked, not as they were
/// when it began.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_while_the_statement_waits_for_a_lock_counts() {
    let database = Database::create().await;
    let options = StoreOptions::default()
        .statement_timeout(Duration::from_secs(30))
        .operation_timeout(Duration::from_secs(40));
    let store = connect(&database, options).await;
    store.migrate().await.unwrap();
    let client = by_hand(&database.url()).await;
    // Of its own, because a transaction sees the activity of others as it was when it first looked.
    let watching = by_hand(&database.url()).await;
    let fill = "insert into api_key (id, account_id, kind, digest, pepper_id, shown_prefix, created_at) \
                select gen_random_uuid(), '{account}', 2, sha256(gen_random_uuid()::text::bytea), 'p1', 'p', now() \
                from generate_series(1, 9)";
    // And why the caller is refused then. `None` if the account is full instead.
    let cases = [
        (
            "update account set disabled = true where id = '{account}'",
            Some(Denial::AccountDisabled),
        ),
        (
            "update api_key set revoked_at = now() where id = '{caller}'",
            Some(Denial::Revoked),
        ),
        (
            "update api_key set expires_at = to_timestamp(0) where id = '{caller}'",
            Some(Denial::Expired),
        ),
        (fill, None),
    ];
    for (by_hand, denial) in cases {
        let is_expected = |error: &ChangeError| match error {
            ChangeError::CallerDenied(why) => denial == Some(*why),
            ChangeError::CapReached { max } => denial.is_none() && *max == 10,
            _ => false,
        };
        let account = add_account(&store).await;
        let caller = add_key(&store, a_key().session_of(&account).build_new()).await;
        // The counter is there from the first key on.
        let victim = create(&store, &account, &caller).await.unwrap();
        let statement = by_hand
            .replace("{account}", &account.id.as_uuid().to_string())
            .replace("{caller}", &caller.id.as_uuid().to_string());
        client
            .batch_execute(&format!("begin; {statement}"))
            .await
            .unwrap();
        let creating = {
            let (store, account, caller) = (store.clone(), account.clone(), caller.clone());
            tokio::spawn(async move { create(&store, &account, &caller).await })
        };
        let revoking = {
            let (store, owner) = (store.clone(), Some(KeyOwner::Account(account.id)));
            let change = a_change()
                .by(&an_accepted_caller(&caller, &account))
                .build();
            tokio::spawn(async move {
                store
                    .revoke_key(owner, victim.id, Revocation::default(), change)
                    .await
            })
        };
        until_waiting(&watching, 2, &statement).await;
        client.batch_execute("commit").await.unwrap();
        let (created, revoked) = (creating.await.unwrap(), revoking.await.unwrap());
        if denial.is_none() {
            // Whichever came first.
            assert!(revoked.unwrap().is_some(), "{statement}");
            assert!(
                created.as_ref().err().is_none_or(&is_expected),
                "{statement}: {created:?}"
            );
            let count = format!(
                "select listed from key_count where account_id = '{}'",
                account.id.as_uuid()
            );
            let count: i64 = client.query_one(&count, &[]).await.unwrap().get(0);
            assert_eq!(count, 9 + i64::from(created.is_ok()), "{statement}");
        } else {
            let errors = [
                created.map(drop).unwrap_err(),
                revoked.map(drop).unwrap_err(),
            ];
            assert!(errors.iter().all(&is_expected), "{statement}: {errors:?}");
        }
    }
}

/// The limits of the new key were derived from the caller as it was when it was accepted.
#[tokio::test(flavor = "multi_thread")]
async fn limits_that_the_caller_loses_while_the_statement_waits_are_not_passed_on() {
    let database = Database::create().await;
    let options = StoreOptions::default()
        .statement_timeout(Duration::from_secs(30))
        .operation_timeout(Duration::from_secs(40));
    let store = connect(&database, options).await;
    store.migrate().await.unwrap();
    let client = by_hand(&database.url()).await;
    let watching = by_hand(&database.url()).await;
    for (restriction, exceeded) in [
        ("scopes = '{orders:read}'", ExceededBound::Scopes),
        (
            "expires_at = timestamptz '2100-01-01T00:00:00Z'",
            ExceededBound::ExpiresAt,
        ),
        (
            "allowed_networks = '{192.0.2.0/25}'",
            ExceededBound::AllowedNetworks(0),
        ),
    ] {
        let account = add_account(&store).await;
        let limited = || {
            a_key()
                .of(&account)
                .allowed(["192.0.2.0/24"])
                .scopes(["orders:read", "orders:write"])
        };
        let key = add_key(&store, limited().build_new()).await;
        let mut caller = an_accepted_caller(&key, &account);
        caller.address = Some("192.0.2.9".parse().unwrap());
        let create = async |store: &Store, new: NewKey| {
            let change = a_change().by(&caller).build();
            store.insert_key(new, change).await
        };
        create(&store, limited().build_new()).await.unwrap();
        let id = key.id.as_uuid();
        let statement = format!("begin; update api_key set {restriction} where id = '{id}'");
        client.batch_execute(&statement).await.unwrap();
        let (created, ()) = tokio::join!(create(&store, limited().build_new()), async {
            until_waiting(&watching, 1, &statement).await;
            client.batch_execute("commit").await.unwrap();
        });
        assert!(
            matches!(created, Err(ChangeError::ExceedsCaller(limit)) if limit == exceeded),
            "{restriction}: {created:?}"
        );
        // One that is within the caller by now is made, although the record is out of date.
        let within = a_key()
            .of(&account)
            .allowed(["192.0.2.1"])
            .scopes(["orders:read"])
            .expires_at(noon_plus(60));
        create(&store, within.build_new()).await.unwrap();
    }
}

/// As `pg_restore --disable-triggers` leaves the table if it is interrupted.
#[tokio::test(flavor = "multi_thread")]
async fn cap_is_exact_while_new_keys_are_not_counted() {
    let database = Database::create().await;
    let store = open(&database).await;
    let client = by_hand(&database.url()).await;
    let [account, other] = [add_account(&store).await, add_account(&store).await];
    let session = add_key(&store, a_key().session_of(&account).build_new()).await;
    let operator = add_key(&store, a_key().build_new()).await;
    // The counters are there from the first key on.
    create(&store, &account, &session).await.unwrap();
    add_key(&store, a_key().of(&other).build_new()).await;
    let disable = "alter table api_key disable trigger api_key_counted_insert";
    client.batch_execute(disable).await.unwrap();

    let callers = [
        (&account, an_accepted_caller(&session, &account)),
        (&other, a_caller(&operator)),
    ];
    for (account, caller) in callers {
        for count in 1..14 {
            let new = a_key().of(account);
            let new = if count % 3 == 0 {
                new.expires_at(noon_plus(60))
            } else {
                new
            };
            let change = a_change().by(&caller).build();
            let created = store.insert_key(new.build_new(), change).await;
            if count < 10 {
                created.unwrap();
            } else {
                assert!(
                    matches!(created, Err(ChangeError::CapReached { max: 10 })),
                    "{count}: {created:?}"
                );
            }
        }
    }
    // Counted again, keys are made in one statement again.
    store.migrate().await.unwrap();
    assert!(store.recount_keys().await.unwrap());
    let refused = create(&store, &account, &session).await;
    assert!(matches!(refused, Err(ChangeError::CapReached { max: 10 })));
    let free = add_account(&store).await;
    let session = add_key(&store, a_key().session_of(&free).build_new()).await;
    create(&store, &free, &session).await.unwrap();
    create(&store, &free, &session).await.unwrap();
    let row = client.query_one(LAST_HELD, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}
