use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use keys_service::ports::{
    AccountPatch, Changed, Commit, KeyStore, KeyUse, POLL_INTERVAL, Reservation, SILENCE_MAX,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::following::{followed, is_seen_soon, news, time_until};
use super::steps::{add_account, add_key, revoke, update};
use crate::data::{NOON, a_change, a_key, an_account, an_event_id, noon_plus, plan};

/// Changes a key, and returns what the feed says of it.
async fn a_change_of_a_key(store: &dyn KeyStore) -> Changed {
    let key = add_key(store, a_key().build_new()).await;
    revoke(store, &key).await;
    Changed::Key(key.id)
}

async fn a_commit(store: &dyn KeyStore) -> Commit {
    let key = add_key(store, a_key().build_new()).await;
    let revoked = store.revoke_key(None, key.id, a_change().build()).await;
    revoked.unwrap().expect("the key is revoked")
}

/// Whoever follows begins with nothing, whatever there is.
pub async fn first_poll_is_a_reset(store: Arc<dyn KeyStore>) {
    add_account(&*store, an_account().build()).await;
    let mut feed = store.feed();
    assert!(!feed.is_live());
    let changes = feed.poll().await.unwrap();
    assert!(changes.reset);
    assert_eq!(changes.changed, []);
    assert!(feed.is_live());
    // It was not applied, so nothing is known yet.
    assert!(feed.poll().await.unwrap().reset);
    feed.applied().await;
    assert!(!feed.poll().await.unwrap().reset);
}

/// Each change of a key or an account that was there before, by the identifier of what was changed, and nothing else.
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
        AccountPatch {
            disabled: Some(true),
            ..AccountPatch::default()
        },
        AccountPatch {
            plan: Some(plan("business")),
            ..AccountPatch::default()
        },
        AccountPatch {
            external_id: Some(None),
            ..AccountPatch::default()
        },
    ] {
        update(&*store, &account, patch).await;
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from([Changed::Account(account.id)])
        );
    }
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// Nothing of a new account, key or session is in any cache. Uses happen all the time and change no judgement; refusals and reservations change nothing
/// either.
pub async fn what_changes_no_judgement_is_not_in_the_feed(store: Arc<dyn KeyStore>) {
    let key = add_key(&*store, a_key().build_new()).await;
    revoke(&*store, &key).await;
    let mut feed = followed(&*store).await;

    let account = add_account(&*store, an_account().build()).await;
    add_key(&*store, a_key().of(&account).build_new()).await;
    add_key(&*store, a_key().session_of(&account).build_new()).await;
    let used = KeyUse {
        key_id: key.id,
        last_used_at: noon_plus(1),
        count: 3,
    };
    store.record_uses(vec![used]).await.unwrap();
    let again = store.revoke_key(None, key.id, a_change().build()).await;
    assert_eq!(again.unwrap(), None);
    let unknown = a_key().of(&an_account().build()).build_new();
    store
        .insert_key(unknown, a_change().build())
        .await
        .unwrap_err();
    let reservation = Reservation {
        lookups: vec![[7; 32]],
        body_digest: [1; 32],
        token: an_event_id(),
        at: NOON,
        pending_until: noon_plus(30),
    };
    store.reserve(reservation).await.unwrap();
    store.sweep(NOON).await.unwrap();
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// Whoever was interrupted between poll and cache gets the changes again, each of them.
pub async fn what_was_not_applied_comes_again(store: Arc<dyn KeyStore>) {
    let mut feed = followed(&*store).await;
    let first = a_change_of_a_key(&*store).await;
    let changes = feed.poll().await.unwrap();
    assert_eq!(changes.changed, [first]);
    let second = a_change_of_a_key(&*store).await;
    // This is also what a poll does that nobody waits for to the end.
    let _ = timeout(Duration::ZERO, feed.poll()).await;
    assert_eq!(news(&mut *feed).await, HashSet::from([first, second]));
    assert_eq!(news(&mut *feed).await, HashSet::new());
}

/// Each feed has its own place.
pub async fn feeds_do_not_disturb_each_other(store: Arc<dyn KeyStore>) {
    let mut one = followed(&*store).await;
    let change = a_change_of_a_key(&*store).await;
    let mut other = followed(&*store).await;
    assert_eq!(news(&mut *other).await, HashSet::new());
    assert_eq!(news(&mut *one).await, HashSet::from([change]));
}

/// While many change things at once, those who follow see every one.
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

/// Nobody has to wait for the next interval to see a change.
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

/// Without a change, the next poll is due all the same.
pub async fn waiting_ends_when_the_next_poll_is_due(store: Arc<dyn KeyStore>) {
    let mut feed = followed(&*store).await;
    for _ in 0..3 {
        let polled_at = Instant::now();
        assert_eq!(news(&mut *feed).await, HashSet::new());
        feed.wait().await;
        assert!(polled_at.elapsed() < POLL_INTERVAL * 2);
    }
}

/// Waiting can be given up at any moment without missing anything.
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

/// Where nobody has a cache, everybody has seen everything.
pub async fn without_feeds_everything_is_seen(store: Arc<dyn KeyStore>) {
    let commit = a_commit(&*store).await;
    assert!(
        store
            .is_seen_everywhere(&commit, SILENCE_MAX)
            .await
            .unwrap()
    );
}

/// Only what every instance has applied is seen: having read it is not enough.
pub async fn change_is_seen_once_every_feed_has_applied_it(store: Arc<dyn KeyStore>) {
    let mut one = followed(&*store).await;
    let mut other = followed(&*store).await;
    let account = add_account(&*store, an_account().build()).await;
    let patch = AccountPatch {
        disabled: Some(true),
        ..AccountPatch::default()
    };
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

/// Whoever has gone is waited for as long as its cache may be in use, and no longer.
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
    // Both were heard of after `begin`, and not much later.
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

/// What the store is given to run goes on when nobody waits for it.
pub async fn given_work_is_run(store: Arc<dyn KeyStore>) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    store.spawn(Box::pin(async move {
        tokio::task::yield_now().await;
        let _ = sender.send(7);
    }));
    assert_eq!(receiver.await.unwrap(), 7);
}
