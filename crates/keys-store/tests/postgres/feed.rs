//! Following changes.

use std::collections::HashSet;
use std::time::Duration;

use keys_core::{KeyId, Revocation};
use keys_service::ports::{
    ChangeFeed, ChangeLog as _, Changed, Keys as _, Maintenance as _, POLL_INTERVAL, SILENCE_MAX,
    StoreError,
};
use keys_store::Store;
use keys_testkit::contract::{followed, is_seen_soon, news};
use keys_testkit::data::{NOON, a_change, a_key};
use keys_testkit::fault_proxy::{Direction, Fault, FaultProxy};
use keys_testkit::postgres::{Cluster, Database};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{self, Sql as _, add_key, revoke};
use crate::{by_hand, open};

const MAKE_OLD: &str = "update key_change set at = at - interval '11 minutes'";

const KILL_LISTENERS: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
                              where datname = current_database() and application_name = 'keys feed'";

#[tokio::test(flavor = "multi_thread")]
async fn typed_sql_is_in_the_feed() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::feed::typed_sql_is_in_the_feed(&store, &database).await;
    let mut feed = followed(&store).await;
    database.run("truncate account, api_key").await.unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::from([Changed::Everything]));
}

#[tokio::test(flavor = "multi_thread")]
async fn change_by_another_store_wakes() {
    let database = Database::create().await;
    let stores = [open(&database).await, open(&database).await];
    common::feed::change_by_another_store_wakes(&stores).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_that_missed_pruned_rows_starts_afresh() {
    let database = Database::create().await;
    let store = open(&database).await;
    let make_old =
        format!("{MAKE_OLD}; update instance set seen_at = seen_at - interval '11 minutes'");
    common::feed::feed_that_missed_pruned_rows_starts_afresh(&store, &store, &database, &make_old)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_kept_for_whoever_follows() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::feed::rows_are_kept_for_whoever_follows(&store, &database, MAKE_OLD).await;
}

fn insert_changes(count: usize) -> String {
    format!(
        "insert into key_change (kind, ref) select 1, gen_random_uuid() from generate_series(1, {count})"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_come_in_pages() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::feed::many_changes_come_in_pages(&store, &database, insert_changes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_changes_than_a_cache_holds_are_a_reset() {
    let database = Database::create().await;
    let store = open(&database).await;
    common::feed::more_changes_than_a_cache_holds_are_a_reset(&store, &database, insert_changes)
        .await;
}

/// A transaction that began first and commits last is not lost between two polls. While it is open
/// no change comes twice, and no feed waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_commits_late_is_in_the_feed() {
    let database = Database::create().await;
    let store = open(&database).await;
    let [early, late] = [
        add_key(&store, a_key().build_new()).await.id,
        add_key(&store, a_key().build_new()).await.id,
    ];
    let mut feed = followed(&store).await;
    let rename = |id: KeyId| {
        format!(
            "update api_key set name = 'x' where id = '{}'",
            id.as_uuid()
        )
    };

    let slow = by_hand(&database.url()).await;
    slow.batch_execute(&format!("begin; {}", rename(early)))
        .await
        .unwrap();
    database.run(&rename(late)).await.unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::from([Changed::Key(late)]));
    assert_eq!(news(&mut *feed).await, HashSet::new());

    let other = add_key(&store, a_key().build_new()).await;
    assert_eq!(news(&mut *feed).await, HashSet::new());
    let revoked = store
        .revoke_key(None, other.id, Revocation::default(), a_change().build())
        .await;
    let commit = revoked.unwrap().unwrap();
    news(&mut *feed).await;
    assert!(is_seen_soon(&store, commit, &mut [&mut feed]).await);

    slow.batch_execute("commit").await.unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::from([Changed::Key(early)]));
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_connection_is() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    for _ in 0..5 {
        assert!(feed.is_live());
        database.run(KILL_LISTENERS).await.unwrap();
        let key = add_key(&store, a_key().build_new()).await;
        revoke(&store, &key).await;
        let begin = Instant::now();
        while feed.is_live() {
            feed.wait().await;
        }
        assert!(begin.elapsed() < Duration::from_millis(250));
        // While it is down, no caller has to wait before asking again.
        assert!(
            timeout(Duration::from_millis(100), feed.wait())
                .await
                .is_ok()
        );
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([Changed::Key(key.id)])
        );
    }
}

/// A wake-up arrives on the new connection as on the previous one.
#[tokio::test(flavor = "multi_thread")]
async fn listening_goes_on_after_a_reconnection() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    database.run(KILL_LISTENERS).await.unwrap();
    feed.wait().await;
    news(&mut *feed).await;
    let key = add_key(&store, a_key().build_new()).await;
    revoke(&store, &key).await;
    let time = keys_testkit::contract::time_until(&mut *feed, Changed::Key(key.id)).await;
    assert!(time < POLL_INTERVAL / 2, "{time:?}");
}

/// A feed does not trust a row that others have changed or deleted.
#[tokio::test(flavor = "multi_thread")]
async fn feed_whose_row_is_another_starts_afresh() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    for tampered in [
        "delete from instance",
        "update instance set seen = '900000:900000:'",
    ] {
        database
            .run(&format!("{tampered}; {KILL_LISTENERS}"))
            .await
            .unwrap();
        while feed.is_live() {
            feed.wait().await;
        }
        assert!(feed.poll().await.unwrap().reset, "{tampered}");
        let nothing = "select count(*) from instance where seen::text = '1:1:'";
        assert_eq!(database.number(nothing).await, 1, "{tampered}");
        feed.applied().await;
        assert_eq!(news(&mut *feed).await, HashSet::new());
    }

    // Without losing the connection, it notices when the next report finds no row.
    database.run("delete from instance").await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !feed.poll().await.is_ok_and(|changes| changes.reset) {
        assert!(Instant::now() < deadline);
        feed.applied().await;
        feed.wait().await;
    }
}

/// A dump contains numbers of transactions that its new server has not reached.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_another_server_do_no_harm() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feed = followed(&store).await;
    database
        .run(
            "update key_change_pruned set mark = '900000000000'; \
             insert into key_change (xid, kind) values ('900000000000', 3)",
        )
        .await
        .unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::new());
    store.sweep(NOON).await.unwrap();
    let left = "select (select count(*) from key_change) + (select mark::text::bigint from key_change_pruned)";
    assert_eq!(database.number(left).await, 0);
    let key = add_key(&store, a_key().build_new()).await;
    revoke(&store, &key).await;
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_long_gone_are_forgotten() {
    let database = Database::create().await;
    let store = open(&database).await;
    let feeds = [followed(&store).await, followed(&store).await];
    drop(feeds);
    store.sweep(NOON).await.unwrap();
    let count = "select count(*) from instance";
    assert_eq!(database.number(count).await, 2);
    let old = "update instance set seen_at = now() - interval '61 minutes'";
    database.run(old).await.unwrap();
    store.sweep(NOON).await.unwrap();
    assert_eq!(database.number(count).await, 0);
}

/// A crash empties the table of instances. Until their caches have expired, no store claims that
/// every instance has seen a change.
#[tokio::test(flavor = "multi_thread")]
async fn crash_of_the_server_is_no_proof_that_all_have_seen() {
    let cluster = Cluster::start().unwrap();
    let url = format!("{}/postgres", cluster.url());
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let mut feed = followed(&store).await;

    let client = by_hand(&url).await;
    let row = client.query_one("select pg_backend_pid()", &[]).await;
    let pid: i32 = row.unwrap().get(0);
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.unwrap().success());
    while feed.is_live() {
        feed.wait().await;
    }
    // The server recovers by itself.
    let begin = Instant::now();
    let commit = loop {
        assert!(begin.elapsed() < Duration::from_secs(30));
        let key = a_key().build_new();
        let id = key.key.id;
        if store.insert_key(key, a_change().build()).await.is_ok()
            && let Ok(Some(commit)) = store
                .revoke_key(None, id, Revocation::default(), a_change().build())
                .await
        {
            break commit;
        }
        sleep(Duration::from_millis(50)).await;
    };
    let client = by_hand(&url).await;
    let instances = client.query("select from instance", &[]).await.unwrap();
    assert_eq!(instances.len(), 0);
    assert!(
        !store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
    );
    let noticed = Instant::now();

    let mut resets = 0;
    while noticed.elapsed() + Duration::from_millis(300) < SILENCE_MAX {
        if let Ok(changes) = feed.poll().await {
            resets += usize::from(changes.reset);
            feed.applied().await;
        }
        assert!(
            !store
                .is_seen_everywhere(&commit, SILENCE_MAX)
                .await
                .unwrap()
        );
        feed.wait().await;
    }
    assert_eq!(resets, 1);
    sleep(Duration::from_millis(500)).await;
    assert!(is_seen_soon(&store, commit, &mut [&mut feed]).await);
}

/// A connection whose other end has vanished without closing it.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connection_is_given_up_in_time() {
    let database = Database::create().await;
    let direct = open(&database).await;
    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
    let store = Store::open(&url.parse().unwrap()).await.unwrap();
    let mut feed = followed(&store).await;
    for _ in 0..2 {
        proxy.set(Fault::Swallow(Direction::Both)).await;
        let key = add_key(&direct, a_key().build_new()).await;
        let rename = format!(
            "update api_key set name = 'x' where id = '{}'",
            key.id.as_uuid()
        );
        database.run(&rename).await.unwrap();
        let begin = Instant::now();
        while feed.is_live() {
            feed.wait().await;
            if feed.poll().await.is_ok() {
                feed.applied().await;
            }
        }
        // A report of 500 ms without an answer, and an attempt to connect of 1,500.
        assert!(begin.elapsed() < Duration::from_millis(2_900));
        for _ in 0..2 {
            let begin = Instant::now();
            feed.wait().await;
            let refused = feed.poll().await;
            assert!(
                matches!(refused, Err(StoreError::Unavailable(_))),
                "{refused:?}"
            );
            assert!(begin.elapsed() < Duration::from_secs(3));
        }
        proxy.set(Fault::None).await;
        let begin = Instant::now();
        let seen = loop {
            if let Ok(changes) = feed.poll().await {
                assert!(!changes.reset);
                feed.applied().await;
                break changes.changed;
            }
        };
        assert!(begin.elapsed() < Duration::from_secs(3));
        assert_eq!(seen, [Changed::Key(key.id)]);
        revoke(&direct, &key).await;
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([Changed::Key(key.id)])
        );
    }
}

/// Each feed is an instance with a row of its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_feed_is_an_instance() {
    let database = Database::create().await;
    let store = open(&database).await;
    let mut feeds: Vec<Box<dyn ChangeFeed>> = Vec::new();
    for _ in 0..3 {
        feeds.push(followed(&store).await);
    }
    let count = "select count(distinct id) from instance";
    assert_eq!(database.number(count).await, 3);
    // A feed that continues, or comes back, is not a new instance.
    database.run(KILL_LISTENERS).await.unwrap();
    for feed in &mut feeds {
        feed.wait().await;
        news(&mut **feed).await;
    }
    assert_eq!(database.number(count).await, 3);
}
