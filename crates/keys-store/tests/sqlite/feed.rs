//! Following changes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use keys_core::Revocation;
use keys_service::ports::{ChangeLog as _, Changed, Keys as _, SILENCE_MAX};
use keys_testkit::contract::{followed, is_seen_soon, news};
use keys_testkit::data::{a_change, a_key};
use tokio::time::timeout;

use crate::common::{self, Sql as _, add_key};
use crate::{File, mode};

const MAKE_OLD: &str = "update key_change set at = at - 11 * 60 * 1000000";

#[tokio::test(flavor = "multi_thread")]
async fn typed_sql_is_in_the_feed() {
    let file = File::new();
    common::feed::typed_sql_is_in_the_feed(&file.open().await, &file).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_by_another_store_wakes() {
    let file = File::new();
    common::feed::change_by_another_store_wakes(&[file.open().await, file.open().await]).await;
}

/// Like a person at the command line, or another process.
#[tokio::test(flavor = "multi_thread")]
async fn typed_sql_wakes() {
    let file = File::new();
    let store = file.open().await;
    let key = add_key(&store, a_key().build_new()).await;
    let mut feed = followed(&store).await;
    let mut times = Vec::new();
    for name in 0..5 {
        file.run(&format!("update api_key set name = '{name}'"))
            .await
            .unwrap();
        let time = keys_testkit::contract::time_until(&mut *feed, Changed::Key(key.id)).await;
        times.push(time);
    }
    times.sort_unstable();
    assert!(times[2] < Duration::from_millis(200), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_that_missed_pruned_rows_starts_afresh() {
    let file = File::new();
    let [store, sweeper] = [file.open().await, file.open().await];
    common::feed::feed_that_missed_pruned_rows_starts_afresh(&store, &sweeper, &file, MAKE_OLD)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_kept_for_whoever_follows() {
    let file = File::new();
    common::feed::rows_are_kept_for_whoever_follows(&file.open().await, &file, MAKE_OLD).await;
}

fn insert_changes(count: usize) -> String {
    format!(
        "with recursive n (n) as (select 1 union all select n + 1 from n where n < {count}) \
         insert into key_change (kind, ref) select 1, randomblob(16) from n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_come_in_pages() {
    let file = File::new();
    common::feed::many_changes_come_in_pages(&file.open().await, &file, insert_changes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_changes_than_a_cache_holds_are_a_reset() {
    let file = File::new();
    let store = file.open().await;
    common::feed::more_changes_than_a_cache_holds_are_a_reset(&store, &file, insert_changes).await;
}

/// A clean-up by hand deletes rows that have not been read yet.
#[tokio::test(flavor = "multi_thread")]
async fn log_that_is_emptied_by_hand_is_a_reset() {
    let file = File::new();
    let store = file.open().await;
    let key = add_key(&store, a_key().build_new()).await;
    let mut feed = followed(&store).await;
    file.run("update api_key set name = 'x'; delete from key_change")
        .await
        .unwrap();
    assert!(feed.poll().await.unwrap().reset);
    feed.applied().await;
    file.run("update api_key set name = 'y'").await.unwrap();
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
    let edited = file.run("update key_change set kind = 2").await;
    assert!(edited.unwrap_err().contains("append-only"));
}

/// A file that replaces the previous one may have fewer changes.
#[tokio::test(flavor = "multi_thread")]
async fn log_that_ends_before_the_last_poll_is_another_one() {
    let file = File::new();
    let store = file.open().await;
    add_key(&store, a_key().build_new()).await;
    file.run("update api_key set name = 'x'").await.unwrap();
    let mut feed = followed(&store).await;
    file.run(
        "delete from key_change; update key_change_pruned set mark = 0; \
         update sqlite_sequence set seq = 0 where name = 'key_change'",
    )
    .await
    .unwrap();
    assert!(feed.poll().await.unwrap().reset);
    feed.applied().await;
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// If another process follows as well, its progress is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_for_other_processes() {
    let file = File::new();
    let [server, other, command] = [file.open().await, file.open().await, file.open().await];
    let commit = async || {
        let key = add_key(&command, a_key().build_new()).await;
        let revoked = command
            .revoke_key(None, key.id, Revocation::default(), a_change().build())
            .await;
        revoked.unwrap().unwrap()
    };
    let first = commit().await;
    for store in [&server, &other, &command] {
        assert!(store.is_seen_everywhere(&first, SILENCE_MAX).await.unwrap());
    }

    let mut feed = followed(&server).await;
    assert!(is_seen_soon(&server, first, &mut [&mut feed]).await);
    assert!(
        !command
            .is_seen_everywhere(&first, SILENCE_MAX)
            .await
            .unwrap()
    );

    let second = followed(&other).await;
    for store in [&server, &other, &command] {
        assert!(!store.is_seen_everywhere(&first, SILENCE_MAX).await.unwrap());
    }
    drop((second, other));
    assert!(is_seen_soon(&server, first, &mut [&mut feed]).await);
    for suffix in ["-feed.lock", "-feeds.lock"] {
        let path = format!("{}{suffix}", file.path().display());
        assert_eq!(mode(path.as_ref()), 0o600);
    }
}

/// A restored file comes without the lock files, and so does one of a version that had none.
#[tokio::test(flavor = "multi_thread")]
async fn change_in_a_restored_file_is_seen_everywhere_after_a_while() {
    let file = File::new();
    drop(file.open().await);
    for suffix in ["-feed.lock", "-feeds.lock"] {
        std::fs::remove_file(format!("{}{suffix}", file.path().display())).unwrap();
    }
    let server = file.open().await;
    let mut feed = followed(&server).await;
    let key = add_key(&server, a_key().build_new()).await;
    let revoked = server
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    let commit = revoked.unwrap().unwrap();
    let begin = Instant::now();
    // Until then another process may have locks on files that were removed.
    while begin.elapsed() < SILENCE_MAX + Duration::from_millis(100) {
        let _ = timeout(Duration::from_millis(100), feed.wait()).await;
        feed.poll().await.unwrap();
        feed.applied().await;
    }
    assert!(is_seen_soon(&server, commit, &mut [&mut feed]).await);
}
