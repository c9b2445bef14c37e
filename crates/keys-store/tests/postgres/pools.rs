//! Operations that hang must not block others, and unused connections are closed.

use std::time::{Duration, Instant};

use keys_core::Account;
use keys_service::ports::{Accounts as _, ChangeError, Keys as _, Maintenance as _, StoreError};
use keys_store::{Store, StoreOptions};
use keys_testkit::contract::followed;
use keys_testkit::data::{a_change, a_key, an_account};
use keys_testkit::fault_proxy::{Fault, FaultProxy};
use keys_testkit::postgres::{Cluster, Database};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{add_account, add_key, by_hand, chain, connect, open};

/// A loaded machine is slow. An operation that hangs takes longer than this.
const AT_ONCE: Duration = Duration::from_millis(700);

/// Options with short time limits.
fn hasty() -> StoreOptions {
    StoreOptions::default()
        .statement_timeout(Duration::from_secs(2))
        .operation_timeout(Duration::from_secs(6))
}

async fn connections(client: &tokio_postgres::Client) -> i64 {
    let count =
        "select count(*) from pg_stat_activity where application_name in ('keys', 'keys feed')";
    client.query_one(count, &[]).await.unwrap().get(0)
}

/// Connections of the stores of one database, as the server counts them.
async fn connections_of(database: &Database) -> i64 {
    let client = by_hand(&database.url()).await;
    let count = "select count(*) from pg_stat_activity where datname = current_database() \
                 and application_name in ('keys', 'keys feed')";
    client.query_one(count, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_hang_leave_look_ups_and_lists_alone_and_are_cancelled_on_the_server() {
    let database = Database::create().await;
    let store = connect(&database, hasty()).await;
    store.migrate().await.unwrap();
    let account = add_account(&store).await;
    let digest = a_key().build_new().digest;
    let blocker = by_hand(&database.url()).await;
    let lock = format!(
        "begin; select from account where id = '{}' for update",
        account.id.as_uuid()
    );
    blocker.batch_execute(&lock).await.unwrap();
    let mut writes = JoinSet::new();
    for _ in 0..30 {
        let (store, key) = (store.clone(), a_key().of(&account).build_new());
        writes.spawn(async move { store.insert_key(key, a_change().build()).await });
    }
    sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        let look_up = store.find_by_digests(vec![digest]);
        timeout(AT_ONCE, look_up).await.unwrap().unwrap();
        let list = store.find_account(account.id);
        timeout(AT_ONCE, list).await.unwrap().unwrap();
        store.ready().await.unwrap();
    }
    assert!(connections_of(&database).await <= 9);
    for write in writes.join_all().await {
        assert!(matches!(
            write,
            Err(ChangeError::Store(StoreError::Unavailable(_)))
        ));
    }
    // No statement waits in the server any more, although the lock is still held.
    sleep(Duration::from_millis(500)).await;
    let waiting = blocker
        .query_one(
            "select count(*) from pg_stat_activity where datname = current_database() \
             and wait_event_type = 'Lock'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(waiting.get::<_, i64>(0), 0);
    blocker.batch_execute("rollback").await.unwrap();
    add_key(&store, a_key().of(&account).build_new()).await;
}

/// The time limit of the server is far away, so only a request to cancel ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_is_given_up_is_cancelled_on_the_server() {
    let database = Database::create().await;
    let options = StoreOptions::default()
        .statement_timeout(Duration::from_mins(5))
        .operation_timeout(Duration::from_mins(6));
    let store = connect(&database, options).await;
    store.migrate().await.unwrap();
    let blocker = by_hand(&database.url()).await;
    blocker
        .batch_execute("begin; lock table api_key in access exclusive mode")
        .await
        .unwrap();
    let refused = store
        .find_by_digests(vec![a_key().build_new().digest])
        .await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    let waiting =
        "select count(*) from pg_locks where not granted and relation = 'api_key'::regclass";
    let mut left = 1;
    for _ in 0..20 {
        left = blocker.query_one(waiting, &[]).await.unwrap().get(0);
        if left == 0_i64 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_instance_has_two_connections_and_a_busy_one_as_many_as_are_set() {
    const CONNECTIONS_MAX: u32 = 6;
    let database = Database::create().await;
    let options = StoreOptions::default().connections_max(CONNECTIONS_MAX.try_into().unwrap());
    let store = connect(&database, options).await;
    store.migrate().await.unwrap();
    let account = add_account(&store).await;
    let _feed = followed(&store).await;
    let watch = by_hand(&database.url()).await;
    let mut work = JoinSet::new();
    for _ in 0..40 {
        let (store, account) = (store.clone(), account.clone());
        work.spawn(async move {
            for _ in 0..10 {
                let digest = a_key().build_new().digest;
                store.find_by_digests(vec![digest]).await.unwrap();
                store.find_account(account.id).await.unwrap();
                let added = store.insert_account(an_account().build(), a_change().build());
                added.await.unwrap();
            }
        });
    }
    let mut most = 0;
    while !work.is_empty() {
        let count = "select count(*) from pg_stat_activity where datname = current_database() \
                     and application_name in ('keys', 'keys feed')";
        most = most.max(watch.query_one(count, &[]).await.unwrap().get::<_, i64>(0));
        while let Some(done) = work.try_join_next() {
            done.unwrap();
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(most <= i64::from(CONNECTIONS_MAX), "{most}");
    assert!(most >= 4, "{most}");
    // Ten seconds later they have been closed.
    let mut now = most;
    for _ in 0..60 {
        sleep(Duration::from_millis(300)).await;
        now = connections_of(&database).await;
        if now <= 2 {
            break;
        }
    }
    assert_eq!(now, 2);
}

/// A cluster with few connections.
struct Scarce {
    cluster: Cluster,
    client: tokio_postgres::Client,
}

impl Scarce {
    /// With a database `keys` and a role of the same name that may have `limit` connections.
    async fn start(limit: u32) -> Self {
        let cluster = tokio::task::spawn_blocking(Cluster::start);
        let cluster = cluster.await.unwrap().unwrap();
        let client = by_hand(&format!("{}/postgres", cluster.url())).await;
        let role = format!("create role keys login connection limit {limit}");
        client.batch_execute(&role).await.unwrap();
        client
            .batch_execute("create database keys owner keys")
            .await
            .unwrap();
        Self { cluster, client }
    }

    fn url(&self) -> String {
        let address = self.cluster.url().rsplit_once('@').unwrap().1;
        format!("postgres://keys@{address}/keys")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_refused_a_further_connection_waits_for_one_that_it_has() {
    let scarce = Scarce::start(3).await;
    // A loaded machine is slow.
    let options = StoreOptions::default()
        .pool_wait(Duration::from_secs(5))
        .operation_timeout(Duration::from_secs(15));
    let store = Store::connect(&scarce.url().parse().unwrap(), options)
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let account = add_account(&store).await;
    let _feed = followed(&store).await;
    let mut work = JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        let account = account.clone();
        work.spawn(async move {
            for _ in 0..5 {
                let digest = a_key().build_new().digest;
                store.find_by_digests(vec![digest]).await.unwrap();
                store.find_account(account.id).await.unwrap();
                add_account(&store).await;
            }
        });
    }
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    assert!(connections(&scarce.client).await <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_goes_on_while_commits_wait_for_a_standby_that_is_away() {
    let cluster = tokio::task::spawn_blocking(Cluster::start);
    let cluster = cluster.await.unwrap().unwrap();
    let url = format!("{}/postgres", cluster.url());
    let store = Store::connect(&url.parse().unwrap(), hasty())
        .await
        .unwrap();
    store.migrate().await.unwrap();
    let by_hand = by_hand(&url).await;
    let accounts: Vec<Account> = {
        let mut accounts = Vec::new();
        for _ in 0..20 {
            accounts.push(add_account(&store).await);
        }
        accounts
    };
    let digest = {
        let key = a_key().of(&accounts[0]).build_new();
        let digest = key.digest;
        add_key(&store, key).await;
        digest
    };
    let set = |value: &str| format!("alter system set synchronous_standby_names = '{value}'");
    by_hand.batch_execute(&set("missing")).await.unwrap();
    by_hand
        .batch_execute("select pg_reload_conf()")
        .await
        .unwrap();
    sleep(Duration::from_millis(300)).await;

    let mut writes = JoinSet::new();
    for account in accounts.clone() {
        let store = store.clone();
        writes.spawn(async move {
            let began = Instant::now();
            let key = a_key().of(&account).build_new();
            let outcome = store.insert_key(key, a_change().build()).await;
            (outcome, began.elapsed())
        });
    }
    for (outcome, _) in writes.join_all().await {
        assert!(matches!(
            outcome,
            Err(ChangeError::Store(StoreError::Unavailable(_)))
        ));
    }
    // From now on they are refused at once, with the reason.
    for account in &accounts {
        let began = Instant::now();
        let key = a_key().of(account).build_new();
        let refused = store.insert_key(key, a_change().build()).await.unwrap_err();
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert!(
            chain(&refused).contains("synchronous standby"),
            "{}",
            chain(&refused)
        );
    }
    // Verification, lists and readiness are not affected.
    for _ in 0..20 {
        let found = timeout(AT_ONCE, store.find_by_digests(vec![digest]))
            .await
            .unwrap();
        assert_eq!(found.unwrap().len(), 1);
        timeout(AT_ONCE, store.find_account(accounts[0].id))
            .await
            .unwrap()
            .unwrap();
        let ready = timeout(AT_ONCE, store.ready()).await.unwrap();
        assert!(!ready.unwrap().is_writable);
    }
    // The commits that wait for the standby are bounded, and cancelling does not make them visible,
    // because no other server has them.
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let waiting: i64 = by_hand.query_one(waiting, &[]).await.unwrap().get(0);
    assert!((1..=6).contains(&waiting), "{waiting}");
    assert!(connections(&by_hand).await <= 9);
    let keys: i64 = by_hand
        .query_one("select count(*) from api_key", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(keys, 1);

    by_hand.batch_execute(&set("")).await.unwrap();
    by_hand
        .batch_execute("select pg_reload_conf()")
        .await
        .unwrap();
    let began = Instant::now();
    loop {
        let key = a_key().of(&accounts[19]).build_new();
        match store.insert_key(key, a_change().build()).await {
            Ok(()) => break,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(5), "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_tried_without_waiting_for_one_that_is_silent_or_a_standby() {
    let database = Database::create().await;
    let (rest, name) = database
        .url()
        .rsplit_once('/')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let live = rest.rsplit_once('@').unwrap().1;
    // Accepts, and never answers, like a process that was stopped.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap();
    let began = Instant::now();
    for hosts in [
        format!("127.0.0.1:1,{live}"),
        format!("{live},127.0.0.1:1"),
        format!("{silent},127.0.0.1:1,{live}"),
        format!("{silent},{live}"),
    ] {
        let url = format!("postgres://postgres@{hosts}/{name}?target_session_attrs=read-write");
        let store = Store::open(&url.parse().unwrap()).await.unwrap();
        let _feed = followed(&store).await;
        add_account(&store).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    // No host can be reached, and each is named.
    let url = format!("postgres://postgres:hunter2@127.0.0.1:1,127.0.0.1:2/{name}");
    let said = chain(&Store::open(&url.parse().unwrap()).await.unwrap_err());
    assert!(
        said.contains("127.0.0.1:1") && said.contains("127.0.0.1:2"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_utf8_is_refused() {
    let database = Database::create().await;
    let name = "keys_test_latin1";
    let other = format!("{name}_{}", std::process::id());
    let create = format!(
        "create database {other} encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'"
    );
    let _ = database.sql(&create);
    let url = database.url();
    let url = format!("{}/{other}", url.rsplit_once('/').unwrap().0);
    let refused = Store::connect(&url.parse().unwrap(), StoreOptions::default()).await;
    let said = chain(&refused.unwrap_err());
    let _ = database.sql(&format!("drop database {other} with (force)"));
    assert!(said.contains("LATIN1") && said.contains("UTF8"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_is_used_and_its_permissions_are_checked() {
    use std::os::unix::fs::PermissionsExt as _;
    let scarce = Scarce::start(20).await;
    scarce
        .client
        .batch_execute("alter role keys password 'a:b'")
        .await
        .unwrap();
    let row = scarce.client.query_one("show hba_file", &[]).await.unwrap();
    let hba: String = row.get(0);
    let rules = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    scarce
        .client
        .batch_execute(&format!(
            "copy (select 1) to program 'cat > /dev/null; printf \"{}\" > {hba}'; select pg_reload_conf()",
            rules.replace('\n', "\\n")
        ))
        .await
        .unwrap();
    sleep(Duration::from_millis(500)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pgpass");
    let url = format!("{}?passfile={}", scarce.url(), path.display());
    let try_it = async |url: &str| {
        let opened = Store::open(&url.parse().unwrap()).await;
        opened.map(drop).map_err(|error| chain(&error))
    };
    std::fs::write(&path, "other:*:*:*:wrong\n127.0.0.1:*:keys:keys:a\\:b\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = try_it(&url).await.unwrap_err();
    assert!(said.contains("chmod 600"), "{said}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    try_it(&url).await.unwrap();
    std::fs::write(&path, "*:*:*:*:hunter2\n").unwrap();
    let said = try_it(&url).await.unwrap_err();
    assert!(!said.contains("hunter2"), "{said}");
    std::fs::remove_file(&path).unwrap();
    let said = try_it(&url).await.unwrap_err();
    assert!(said.contains("pgpass"), "{said}");

    // An empty password counts as none. The default user is that of the system, and the default
    // database has the same name.
    let user = whoami::username().unwrap();
    if user != "postgres" {
        let role = format!("create role \"{user}\" login password 'c'");
        scarce.client.batch_execute(&role).await.unwrap();
        let database = format!("create database \"{user}\" owner \"{user}\"");
        scarce.client.batch_execute(&database).await.unwrap();
    }
    let text = format!("*:*:keys:keys:a\\:b\n*:*:{user}:{user}:c\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    try_it(&format!("{url}&password=")).await.unwrap();
    let address = scarce.cluster.address();
    let unnamed = format!("postgres://{address}?passfile={}", path.display());
    try_it(&unnamed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_is_read() {
    let database = Database::create().await;
    let store = open(&database).await;
    let account = add_account(&store).await;
    let name = database.sql("select current_database()");
    let _ = database.sql(&format!(
        "alter database {} set default_transaction_read_only = on",
        name.trim()
    ));
    // New connections find the schema, and a start has nothing to migrate.
    let store = open(&database).await;
    assert!(store.find_account(account.id).await.unwrap().is_some());
    assert!(!store.ready().await.unwrap().is_writable);
    let refused = store
        .insert_account(an_account().build(), a_change().build())
        .await;
    assert!(
        matches!(refused, Err(ChangeError::Store(StoreError::Unavailable(_)))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_gone_is_not_ready_though_it_was_there() {
    let database = Database::create().await;
    let store = open(&database).await;
    assert!(store.ready().await.unwrap().is_writable);
    for table in [
        "instance",
        "instance_epoch",
        "key_change_pruned",
        "key_change",
        "idempotency",
        "audit_event",
        "api_key",
    ] {
        let rename = |from: &str, to: &str| format!("alter table {from} rename to {to}");
        let _ = database.sql(&rename(table, "away"));
        let refused = store.ready().await;
        assert!(
            matches!(refused, Err(StoreError::Unexpected(_))),
            "{table}: {refused:?}"
        );
        let _ = database.sql(&rename("away", table));
        store.ready().await.unwrap();
    }
    let _ = database.sql("drop schema public cascade; create schema public");
    let refused = store.ready().await;
    assert!(
        matches!(refused, Err(StoreError::Unexpected(_))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_finds_no_free_connection_waits_for_one() {
    let scarce = Scarce::start(3).await;
    let url = scarce.url();
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(by_hand(&url).await);
    }
    let start = {
        let url = url.parse().unwrap();
        tokio::spawn(async move { Store::open(&url).await })
    };
    sleep(Duration::from_secs(2)).await;
    assert!(!start.is_finished());
    drop(others);
    let store = timeout(Duration::from_secs(20), start).await.unwrap();
    add_account(&store.unwrap().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_finds_no_free_connection_for_long_says_what_to_change() {
    let scarce = Scarce::start(1).await;
    let _other = by_hand(&scarce.url()).await;
    let began = Instant::now();
    let refused = Store::open(&scarce.url().parse().unwrap()).await;
    assert!(
        began.elapsed() > Duration::from_secs(29),
        "{:?}",
        began.elapsed()
    );
    let said = chain(&refused.unwrap_err());
    for part in ["max_connections", "database.connections_max", "30 s"] {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_too_few_connections_is_told_with_the_numbers() {
    let scarce = Scarce::start(25).await;
    let url = scarce.url().parse().unwrap();
    let one = Store::open(&url).await.unwrap();
    assert_eq!(one.connections_short().await.unwrap(), None);
    let _feed = followed(&one).await;
    let other = Store::open(&url).await.unwrap();
    assert_eq!(other.connections_short().await.unwrap(), None);
    let _other_feed = followed(&other).await;
    let third = Store::open(&url).await.unwrap();
    let said = third
        .connections_short()
        .await
        .unwrap()
        .unwrap()
        .to_string();
    for part in ["3 instances", "10 connections", "25", "to 8"] {
        assert!(said.contains(part), "{said}");
    }
}

/// A connection is ready only after its requester has gone. The next request uses it.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_slow_to_be_made_are_kept_for_the_next_requester_and_are_few() {
    const CONNECTIONS_MAX: u32 = 6;
    let database = Database::create().await;
    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
    let options = StoreOptions::default()
        .connections_max(CONNECTIONS_MAX.try_into().unwrap())
        .connect_timeout(Duration::from_mins(1))
        .operation_timeout(Duration::from_mins(2));
    let url = url.parse().unwrap();
    let store = Store::connect(&url, options).await.unwrap();
    store.migrate().await.unwrap();
    let by_hand = by_hand(&database.url()).await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity \
                where datname = current_database() and pid <> pg_backend_pid()";
    by_hand.batch_execute(kill).await.unwrap();
    while proxy.open() > 0 {
        sleep(Duration::from_millis(20)).await;
    }

    // Longer for each connection than the time limit of all that follows.
    proxy.set(Fault::Delay(Duration::from_secs(1))).await;
    let before = proxy.opened();
    let digest = a_key().build_new().digest;
    let mut requesters = JoinSet::new();
    for number in 0..24 {
        let store = store.clone();
        requesters.spawn(async move {
            let patience = Duration::from_millis(200);
            for _ in 0..15 {
                let gave_up = if number % 2 == 0 {
                    timeout(patience, store.find_by_digests(vec![digest]))
                        .await
                        .is_err()
                } else {
                    let key = a_key().build_new();
                    timeout(patience, store.insert_key(key, a_change().build()))
                        .await
                        .is_err()
                };
                assert!(gave_up);
            }
        });
    }
    while !requesters.is_empty() {
        let _ = timeout(Duration::from_millis(20), requesters.join_next()).await;
        assert!(proxy.open() < usize::try_from(CONNECTIONS_MAX).unwrap());
    }
    let made = proxy.opened() - before;
    assert!((1..6).contains(&made), "{made} connections");

    proxy.set(Fault::None).await;
    // Until those under way are ready.
    let begin = Instant::now();
    let idle = "select count(*) from pg_stat_activity where datname = current_database() \
                and application_name = 'keys' and state = 'idle' and state_change < now() - interval '500 ms'";
    while usize::try_from(by_hand.query_one(idle, &[]).await.unwrap().get::<_, i64>(0)).unwrap()
        < made
    {
        assert!(begin.elapsed() < Duration::from_secs(8));
        sleep(Duration::from_millis(50)).await;
    }
    let opened = proxy.opened();
    store.find_by_digests(vec![digest]).await.unwrap();
    assert_eq!(proxy.opened(), opened);
}

/// The last statement of a change waits for a lock that a person holds. It fails by its own time
/// limit, and no other change is refused because of it.
#[tokio::test(flavor = "multi_thread")]
async fn last_statement_that_waits_for_a_lock_is_not_taken_for_a_commit_that_hangs() {
    let database = Database::create().await;
    let options = StoreOptions::default().statement_timeout(Duration::from_millis(600));
    let store = connect(&database, options).await;
    store.migrate().await.unwrap();
    let [locked, free] = [add_account(&store).await, add_account(&store).await];
    let of_locked = add_key(&store, a_key().of(&locked).build_new()).await;
    let by_hand = by_hand(&database.url()).await;
    // The row that counts the keys of this account, which the service locks last.
    let locking = format!(
        "begin; update api_key set revoked_at = now() where id = '{}'",
        of_locked.id.as_uuid()
    );
    by_hand.batch_execute(&locking).await.unwrap();
    let stuck = {
        let store = store.clone();
        let new = a_key().of(&locked).build_new();
        tokio::spawn(async move { store.insert_key(new, a_change().build()).await })
    };
    let begin = Instant::now();
    while !stuck.is_finished() || begin.elapsed() < Duration::from_secs(1) {
        add_key(&store, a_key().of(&free).without_cap().build_new()).await;
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    let error = stuck.await.unwrap().unwrap_err();
    assert!(
        chain(&error).contains("statement timeout"),
        "{}",
        chain(&error)
    );
    by_hand.batch_execute("rollback").await.unwrap();
    add_key(&store, a_key().of(&locked).build_new()).await;
}
