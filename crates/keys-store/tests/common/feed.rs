//! Following changes: cases that need SQL or several stores.

use std::collections::HashSet;
use std::time::Duration;

use keys_service::ports::{CHANGES_MAX, CHANGES_PAGED_MAX, Changed, Maintenance as _};
use keys_store::Store;
use keys_testkit::contract::{followed, news, time_until};
use keys_testkit::data::{NOON, a_key};

use super::{Sql, add_account, add_key, revoke};

/// Changes by SQL are followed like all others.
pub(crate) async fn typed_sql_is_in_the_feed(store: &Store, sql: &impl Sql) {
    let account = add_account(store).await;
    let key = add_key(store, a_key().of(&account).build_new()).await;
    let mut feed = followed(store).await;
    let (of_key, of_account) = (Changed::Key(key.id), Changed::Account(account.id));
    for (statement, expected) in [
        ("update api_key set name = 'by hand'", of_key),
        ("update api_key set expires_at = created_at", of_key),
        ("update account set disabled = not disabled", of_account),
        ("delete from api_key", of_key),
        ("delete from account", of_account),
    ] {
        sql.run(statement).await.unwrap();
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([expected]),
            "{statement}"
        );
    }
    sql.run("insert into key_change (kind) values (3)")
        .await
        .unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::from([Changed::Everything]));
}

/// A change by one store wakes the followers of another.
pub(crate) async fn change_by_another_store_wakes(stores: &[Store; 2]) {
    const ROUNDS: usize = 9;
    let mut feed = followed(&stores[0]).await;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let key = add_key(&stores[1], a_key().build_new()).await;
        revoke(&stores[1], &key).await;
        times.push(time_until(&mut *feed, Changed::Key(key.id)).await);
    }
    times.sort_unstable();
    // A busy machine may be late for some of them.
    assert!(times[ROUNDS / 2] < Duration::from_millis(100), "{times:?}");
}

/// A feed that was away for longer than the log reaches back starts afresh. `sweeper` does not know
/// the feed.
pub(crate) async fn feed_that_missed_pruned_rows_starts_afresh(
    store: &Store,
    sweeper: &Store,
    sql: &impl Sql,
    make_old: &str,
) {
    let mut feed = followed(store).await;
    let key = add_key(store, a_key().build_new()).await;
    sql.run("update api_key set name = 'old'").await.unwrap();
    sql.run(make_old).await.unwrap();
    sweeper.sweep(NOON).await.unwrap();
    assert_eq!(sql.number("select count(*) from key_change").await, 0);

    assert!(feed.poll().await.unwrap().reset);
    // Until the reset has been applied.
    assert!(feed.poll().await.unwrap().reset);
    feed.applied().await;
    revoke(store, &key).await;
    assert_eq!(
        news(&mut *feed).await,
        HashSet::from([Changed::Key(key.id)])
    );
}

/// Changes that a living feed has not applied yet are kept, however old they are.
pub(crate) async fn rows_are_kept_for_whoever_follows(
    store: &Store,
    sql: &impl Sql,
    make_old: &str,
) {
    let mut feed = followed(store).await;
    let key = add_key(store, a_key().build_new()).await;
    revoke(store, &key).await;
    let expected = HashSet::from([Changed::Key(key.id)]);
    sql.run(make_old).await.unwrap();
    store.sweep(NOON).await.unwrap();
    // Read, but not applied.
    feed.poll().await.unwrap();
    store.sweep(NOON).await.unwrap();
    assert_eq!(sql.number("select count(*) from key_change").await, 1);
    assert_eq!(news(&mut *feed).await, expected);
    // Reports take a moment, and concurrent transactions of other tests delay them.
    for _ in 0..100 {
        store.sweep(NOON).await.unwrap();
        if sql.number("select count(*) from key_change").await == 0 {
            assert_eq!(news(&mut *feed).await, HashSet::new());
            return;
        }
        feed.wait().await;
        assert_eq!(news(&mut *feed).await, HashSet::new());
    }
    panic!("the log is not pruned");
}

/// Many changes come in pages of a bounded size, so that other keys are not read again. `insert`
/// writes changes of keys, one for each number from 1 to its argument.
pub(crate) async fn many_changes_come_in_pages(
    store: &Store,
    sql: &impl Sql,
    insert: impl Fn(usize) -> String,
) {
    let mut feed = followed(store).await;
    sql.run(&insert(CHANGES_MAX)).await.unwrap();
    let changes = feed.poll().await.unwrap();
    assert!(!changes.reset && !changes.more);
    assert_eq!(changes.changed.len(), CHANGES_MAX);

    // They were not applied, so they come again.
    sql.run(&insert(2 * CHANGES_MAX + 5)).await.unwrap();
    let mut seen = HashSet::new();
    let mut pages = Vec::new();
    loop {
        let changes = feed.poll().await.unwrap();
        assert!(!changes.reset);
        pages.push(changes.changed.len());
        seen.extend(changes.changed);
        if !changes.more {
            break;
        }
        // Changes made meanwhile belong to the next poll or to one of these pages, and are not
        // lost.
        if pages.len() == 2 {
            sql.run(&insert(1)).await.unwrap();
        }
    }
    feed.applied().await;
    assert!(pages.iter().all(|page| *page <= CHANGES_MAX), "{pages:?}");
    seen.extend(news(&mut *feed).await);
    assert_eq!(seen.len(), 3 * CHANGES_MAX + 6, "{pages:?}");
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// More changes than a cache holds are a reset, after as many pages.
pub(crate) async fn more_changes_than_a_cache_holds_are_a_reset(
    store: &Store,
    sql: &impl Sql,
    insert: impl Fn(usize) -> String,
) {
    let mut feed = followed(store).await;
    sql.run(&insert(CHANGES_PAGED_MAX + 1)).await.unwrap();
    let mut count = 0;
    let last = loop {
        let changes = feed.poll().await.unwrap();
        count += changes.changed.len();
        if !changes.more {
            break changes;
        }
    };
    assert!(last.reset && last.changed.is_empty());
    assert!(count < CHANGES_PAGED_MAX);
    feed.applied().await;
    assert_eq!(news(&mut *feed).await, HashSet::new());
}
