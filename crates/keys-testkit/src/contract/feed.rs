use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use keys_core::Revocation;
use keys_service::ports::{
    AccountPatch, Changed, Commit, KeyStore, KeyUse, POLL_INTERVAL, Reservation, SILENCE_MAX,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::following::{followed, is_seen_soon, news, time_until};
use super::steps::{add_account, add_key, revoke, update};
use crate::data::{NOON, a_change, a_key, an_account, an_event_id, noon_plus, plan};

/// Changes a key, and returns its entry in the feed.
async fn a_change_of_a_key(store: &dyn KeyStore) -> Changed {
    let key = add_key(store, a_key().build_new()).await;
    revoke(store, &key).await;
    Changed::Key(key.id)
}

async fn a_commit(store: &dyn KeyStore) -> Commit {
    let key = add_key(store, a_key().build_new()).await;
    let revoked = store
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    revoked.unwrap().expect("the key is revoked")
}

/// A new follower starts with a reset, also if there are changes.
pub async fn first_poll_is_a_reset(store: Arc<dyn KeyStore>) {
    add_account(&*store, an_account().build()).await;
    let mut feed = store.feed();
    assert!(!feed.is_live());
    let changes = feed.poll().await.unwrap();
    assert!(changes.reset);
    assert_eq!(changes.changed, []);
    assert!(feed.is_live());
    // The first poll was not applied, so the follower still has no state.
    assert!(feed.poll().await.unwrap().reset);
    feed.applied().await;
    assert!(!feed.poll().await.unwrap().reset);
}

/// The feed has each change of an existing key or account, by its identifier, and nothing else.
pub async fn every_change_is_in_the_feed(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().external_id("u-1").build()).await;
    let mut feed = followed(&*store).await;
    assert_eq!(news(&mut *feed).await, HashSet::new());

    for key in [a_key(), a_key().of(&account), a_key().session_of(&account)] {
        let key = add_key(&*store, key.build_new()).await;
        revoke(&*store, &key).await;
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([Changed::Key(key.id)])
        );
    }
    for patch in [
        AccountPatch::default().disabled(true),
        AccountPatch::default().plan(plan("business")),
        AccountPatch::default().external_id(None),
    ] {
        update(&*store, &account, patch).await;
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([Changed::Account(account.id)])
        );
    }
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// A new account, key or session is in no cache. Uses are frequent and affect no verdict. Refusals
/// and reservations change nothing.
pub async fn what_changes_no_judgement_is_not_in_the_feed(store: Arc<dyn KeyStore>) {
    let key = add_key(&*store, a_key().build_new()).await;
    revoke(&*store, &key).await;
    let mut feed = followed(&*store).await;

    let account = add_account(&*store, an_account().build()).await;
    add_key(&*store, a_key().of(&account).build_new()).await;
    add_key(&*store, a_key().session_of(&account).build_new()).await;
    let used = KeyUse::new(key.id, noon_plus(1), 3);
    store.record_uses(vec![used]).await.unwrap();
    let again = store
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    assert_eq!(again.unwrap(), None);
    let unknown = a_key().of(&an_account().build()).build_new();
    store
        .insert_key(unknown, a_change().build())
        .await
        .unwrap_err();
    let reservation = Reservation::new(vec![[7; 32]], [1; 32], an_event_id(), NOON);
    store.reserve(reservation).await.unwrap();
    store.sweep(NOON).await.unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// A follower that is interrupted between poll and cache gets each of the changes again.
pub async fn what_was_not_applied_comes_again(store: Arc<dyn KeyStore>) {
    let mut feed = followed(&*store).await;
    let first = a_change_of_a_key(&*store).await;
    let changes = feed.poll().await.unwrap();
    assert_eq!(changes.changed, [first]);
    let second = a_change_of_a_key(&*store).await;
    // A poll that is cancelled behaves in the same way.
    let _ = timeout(Duration::ZERO, feed.poll()).await;
    assert_eq!(news(&mut *feed).await, HashSet::from([first, second]));
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// Each feed has a position of its own.
pub async fn feeds_do_not_disturb_each_other(store: Arc<dyn KeyStore>) {
    let mut one = followed(&*store).await;
    let change = a_change_of_a_key(&*store).await;
    let mut other = followed(&*store).await;
    assert_eq!(news(&mut *other).await, HashSet::new());
    assert_eq!(news(&mut *one).await, HashSet::from([change]));
}

/// With many concurrent changes, every follower sees each of them.
pub async fn no_change_is_missed_under_load(store: Arc<dyn KeyStore>) {
    const WRITERS: usize = 4;
    const CHANGES: usize = 25;
    let mut feed = followed(&*store).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut made = Vec::new();
                for _ in 0..CHANGES {
                    made.push(a_change_of_a_key(&*store).await);
                }
                made
            })
        })
        .collect();
    let mut seen = HashSet::new();
    while writers.iter().any(|writer| !writer.is_finished()) {
        feed.wait().await;
        seen.extend(news(&mut *feed).await);
    }
    seen.extend(news(&mut *feed).await);
    for writer in writers {
        for made in writer.await.unwrap() {
            assert!(seen.contains(&made), "{made:?}");
        }
    }
    assert_eq!(seen.len(), WRITERS * CHANGES);
}

/// A change wakes a follower before the next interval.
pub async fn change_wakes_whoever_waits(store: Arc<dyn KeyStore>) {
    const ROUNDS: usize = 9;
    let mut feed = followed(&*store).await;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let change = a_change_of_a_key(&*store).await;
        times.push(time_until(&mut *feed, change).await);
    }
    times.sort_unstable();
    // A busy machine may be late for some of them.
    assert!(times[ROUNDS / 2] < Duration::from_millis(100), "{times:?}");
}

/// Without a change, the wait ends when the next poll is due.
pub async fn waiting_ends_when_the_next_poll_is_due(store: Arc<dyn KeyStore>) {
    let mut feed = followed(&*store).await;
    for _ in 0..3 {
        let polled_at = Instant::now();
        assert_eq!(news(&mut *feed).await, HashSet::new());
        feed.wait().await;
        assert!(polled_at.elapsed() < POLL_INTERVAL * 2);
    }
}

/// Waiting can be cancelled at any time without missing a change.
pub async fn waiting_can_be_given_up(store: Arc<dyn KeyStore>) {
    let mut feed = followed(&*store).await;
    for _ in 0..20 {
        let _ = timeout(Duration::from_millis(3), feed.wait()).await;
    }
    let change = a_change_of_a_key(&*store).await;
    for _ in 0..20 {
        let _ = timeout(Duration::from_millis(3), feed.wait()).await;
    }
    assert_eq!(news(&mut *feed).await, HashSet::from([change]));
}

/// Without any cache, every change has been seen.
pub async fn without_feeds_everything_is_seen(store: Arc<dyn KeyStore>) {
    let commit = a_commit(&*store).await;
    assert!(
        store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
    );
}

/// A change has been seen when every instance has applied it; reading it is not enough.
pub async fn change_is_seen_once_every_feed_has_applied_it(store: Arc<dyn KeyStore>) {
    let mut one = followed(&*store).await;
    let mut other = followed(&*store).await;
    let account = add_account(&*store, an_account().build()).await;
    let patch = AccountPatch::default().disabled(true);
    let (_, update) = store
        .update_account(account.id, patch, a_change().build())
        .await
        .unwrap();
    for commit in [update, a_commit(&*store).await] {
        assert!(
            !store
                .is_seen_everywhere(&commit, SILENCE_MAX)
                .await
                .unwrap()
        );
    }
    let later = a_commit(&*store).await;

    news(&mut *one).await;
    other.poll().await.unwrap();
    assert!(!is_seen_soon(&*store, update, &mut [&mut one, &mut other]).await);
    other.applied().await;
    for commit in [update, later] {
        assert!(is_seen_soon(&*store, commit, &mut [&mut one, &mut other]).await);
    }
    let commit = a_commit(&*store).await;
    assert!(
        !store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
    );
    news(&mut *one).await;
    news(&mut *other).await;
    assert!(is_seen_soon(&*store, commit, &mut [&mut one, &mut other]).await);
}

/// A feed that has ended is waited for as long as its cache may be in use, and no longer.
pub async fn silent_feed_is_waited_for_while_its_cache_may_be_trusted(store: Arc<dyn KeyStore>) {
    let mut alive = followed(&*store).await;
    let begin = Instant::now();
    let silent = followed(&*store).await;
    let gone = followed(&*store).await;
    drop(gone);
    let commit = a_commit(&*store).await;
    let last = loop {
        news(&mut *alive).await;
        if begin.elapsed() + Duration::from_secs(1) > SILENCE_MAX {
            break Instant::now();
        }
        assert!(
            !store
                .is_seen_everywhere(&commit, SILENCE_MAX)
                .await
                .unwrap()
        );
        alive.wait().await;
    };
    // The last sign of both was after `begin`, and not much later.
    sleep_until(last + Duration::from_secs(2)).await;
    news(&mut *alive).await;
    assert!(is_seen_soon(&*store, commit, &mut [&mut alive]).await);
    drop(silent);
}

/// A feed that was silent is waited for again as soon as it polls.
pub async fn feed_that_comes_back_is_waited_for(store: Arc<dyn KeyStore>) {
    let mut feed = followed(&*store).await;
    sleep(SILENCE_MAX + Duration::from_millis(200)).await;
    let before = a_commit(&*store).await;
    assert!(
        store
            .is_seen_everywhere(&before, SILENCE_MAX)
            .await
            .unwrap()
    );
    feed.poll().await.unwrap();
    let commit = a_commit(&*store).await;
    assert!(
        !store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
    );
    news(&mut *feed).await;
    assert!(is_seen_soon(&*store, commit, &mut [&mut feed]).await);
}

/// Spawned work of the store continues when its caller stops waiting.
pub async fn given_work_is_run(store: Arc<dyn KeyStore>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    store.spawn(Box::pin(async move {
        tokio::task::yield_now().await;
        let _ = sender.send(7);
    }));
    assert_eq!(receiver.await.unwrap(), 7);
}
