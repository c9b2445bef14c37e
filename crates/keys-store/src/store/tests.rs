//! Operations that reach the time limit of a whole operation. Each has one statement that hangs, so
//! the time limits here contradict each other: that of the statement is never reached.

use keys_testkit::data::{a_change, a_key, an_account};

use super::*;

/// Time after which operations are given up.
const SHORT: Duration = Duration::from_millis(500);

/// A loaded machine is slow.
const SOON: Duration = Duration::from_secs(3);

fn hasty() -> StoreOptions {
    let options = StoreOptions::default().operation_timeout(SHORT);
    options.statement_timeout(SOON * 2)
}

async fn account_in(store: &Store) -> Account {
    let account = an_account().build();
    let change = a_change().build();
    store.insert_account(account.clone(), change).await.unwrap();
    account
}

#[cfg(feature = "postgres")]
mod on_postgres {
    use keys_testkit::postgres::Database;
    use tokio_postgres::{Client, NoTls};

    use super::*;

    async fn stores(database: &Database) -> (Store, Store) {
        let url = database.url().parse().unwrap();
        let patient = Store::open(&url).await.unwrap();
        let hasty = Store::connect_unchecked(&url, hasty()).await.unwrap();
        (patient, hasty)
    }

    async fn blocker(database: &Database, statements: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(&database.url(), NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client.batch_execute(statements).await.unwrap();
        client
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn slow_operation_is_given_up() {
        let database = Database::create().await;
        let (patient, hasty) = stores(&database).await;
        let account = account_in(&patient).await;
        let lock = "begin; lock table account in access exclusive mode";
        let blocker = blocker(&database, lock).await;
        let started = Instant::now();
        let refused = hasty.find_account(account.id).await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable(_))),
            "{refused:?}"
        );
        assert!(started.elapsed() < SOON);
        blocker.batch_execute("rollback").await.unwrap();
        assert_eq!(hasty.find_account(account.id).await.unwrap(), Some(account));
    }

    /// A change that is given up releases its locks at once, not when its connection is needed
    /// again.
    #[tokio::test(flavor = "multi_thread")]
    async fn change_given_up_holds_no_lock() {
        let database = Database::create().await;
        let (patient, hasty) = stores(&database).await;
        let account = account_in(&patient).await;
        let lock = "begin; lock table audit_event in exclusive mode";
        let blocker = blocker(&database, lock).await;
        let new = || a_key().of(&account).build_new();
        let refused = hasty.insert_key(new(), a_change().build()).await;
        assert!(refused.is_err());
        blocker.batch_execute("rollback").await.unwrap();
        let change = a_change().build();
        patient.insert_key(new(), change).await.unwrap();
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn operation_that_takes_too_long_frees_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let url = DatabaseUrl::sqlite(folder.path().join("keys.db"));
    let patient = Store::open(&url).await.unwrap();
    let hasty = Store::connect_unchecked(&url, hasty()).await.unwrap();
    let writing = patient.pools().begin().await.unwrap();
    let started = Instant::now();
    let unused = KeyUse::new(a_key().build().id, keys_testkit::data::NOON, 1);
    let refused = hasty.record_uses(vec![unused]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    assert!(started.elapsed() < SOON);
    let ended: Result<(), StoreError> = writing.finish(Ok(())).await;
    ended.unwrap();
    account_in(&hasty).await;
}
