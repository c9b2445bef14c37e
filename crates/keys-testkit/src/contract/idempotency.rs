use std::sync::Arc;

use keys_core::{Account, Timestamp};
use keys_service::ports::{
    ChangeError, Completion, KeyStore, NewKey, RESERVATION_KEPT, RESERVATION_PENDING, Reservation,
    Reserved,
};

use super::steps::{add_account, add_key, at_once, find, keys_of, revoke};
use crate::data::{NOON, a_change, a_key, an_account, an_event_id, noon_plus, seconds};

const BODY: [u8; 32] = [0xb0; 32];
const PENDING_UNTIL: Timestamp = noon_plus(seconds(RESERVATION_PENDING));
const KEPT_UNTIL: Timestamp = noon_plus(seconds(RESERVATION_KEPT));

/// Returns the digest of an idempotency key, made from a number. It contains zero bytes and bytes
/// that are not UTF-8.
fn lookup(number: u8) -> [u8; 32] {
    let mut digest = [0xff; 32];
    digest[0] = number;
    digest[31] = 0;
    digest
}

/// Returns an attempt under the look-ups of these numbers, made at [`NOON`].
fn attempt(numbers: &[u8]) -> Reservation {
    attempt_at(numbers, NOON)
}

/// Like [`attempt`], made at another time.
fn attempt_at(numbers: &[u8], at: Timestamp) -> Reservation {
    let lookups = numbers.iter().copied().map(lookup).collect();
    Reservation::new(lookups, BODY, an_event_id(), at)
}

fn sealed() -> Vec<u8> {
    (0..=255).cycle().take(1_000).collect()
}

/// Returns the completion of `reservation`.
fn completion(reservation: &Reservation) -> Completion {
    Completion::new(
        reservation.lookups[0],
        reservation.token,
        sealed(),
        KEPT_UNTIL,
    )
}

async fn reserve(store: &dyn KeyStore, reservation: &Reservation) -> Reserved {
    let reserved = store.reserve(reservation.clone()).await;
    reserved.expect("the store answers")
}

/// Reserves, and expects to be the first.
async fn reserve_new(store: &dyn KeyStore, numbers: &[u8]) -> Reservation {
    let reservation = attempt(numbers);
    assert_eq!(reserve(store, &reservation).await, Reserved::New);
    reservation
}

/// Asserts that the attempt has to wait until the time of the other one is over.
fn assert_pending(reserved: &Reserved) {
    assert!(matches!(reserved, Reserved::Pending { .. }), "{reserved:?}");
}

fn done(number: u8) -> Reserved {
    Reserved::Done {
        body_digest: BODY,
        lookup: lookup(number),
        sealed: sealed(),
    }
}

async fn insert(
    store: &dyn KeyStore,
    key: &NewKey,
    reservation: &Reservation,
) -> Result<(), ChangeError> {
    let change = a_change().completing(&completion(reservation)).build();
    store.insert_key(key.clone(), change).await
}

/// Creates a key that completes the reservation.
async fn complete(store: &dyn KeyStore, reservation: &Reservation) -> NewKey {
    let key = a_key().build_new();
    insert(store, &key, reservation)
        .await
        .expect("the key is added");
    key
}

/// Tries to create a key and an account, and checks that both are refused and leave no trace.
async fn assert_superseded(store: &dyn KeyStore, reservation: &Reservation) {
    let key = a_key().build_new();
    let refused = insert(store, &key, reservation).await;
    assert!(
        matches!(refused, Err(ChangeError::Superseded)),
        "{refused:?}"
    );
    assert_eq!(find(store, &key).await, None);

    let account = an_account().build();
    let change = a_change().completing(&completion(reservation)).build();
    let refused = store.insert_account(account.clone(), change).await;
    assert!(
        matches!(refused, Err(ChangeError::Superseded)),
        "{refused:?}"
    );
    assert_eq!(store.find_account(account.id).await.unwrap(), None);
}

/// Of many concurrent requests under the same idempotency key, one is executed.
pub async fn one_of_many_concurrent_reservations_is_new(store: Arc<dyn KeyStore>) {
    for numbers in [&[1][..], &[2, 3]] {
        let attempts = (0..20).map(|_| {
            let (store, reservation) = (store.clone(), attempt(numbers));
            async move { reserve(&*store, &reservation).await }
        });
        let results = at_once(attempts).await;
        let new = results.iter().filter(|result| **result == Reserved::New);
        assert_eq!(new.count(), 1);
        let pending = results
            .iter()
            .filter(|result| matches!(result, Reserved::Pending { .. }));
        assert_eq!(pending.count(), 19);
    }
}

/// The second request waits, also with another body.
pub async fn reservation_under_way_is_pending_for_others(store: Arc<dyn KeyStore>) {
    let first = reserve_new(&*store, &[1]).await;
    let pending = Reserved::Pending {
        until: first.pending_until,
    };
    assert_eq!(reserve(&*store, &attempt(&[1])).await, pending);
    let later = attempt_at(&[1], noon_plus(7));
    assert_eq!(reserve(&*store, &later).await, pending);
    let mut other_body = attempt(&[1]);
    other_body.body_digest = [1; 32];
    assert_pending(&reserve(&*store, &other_body).await);
    // The request of the second did not change the owner.
    complete(&*store, &first).await;
}

/// A repetition gets the answer, and the digest of the original body to compare its own with.
pub async fn done_reservation_hands_back_digest_and_answer(store: Arc<dyn KeyStore>) {
    let first = reserve_new(&*store, &[1]).await;
    let key = complete(&*store, &first).await;
    assert!(find(&*store, &key).await.is_some());
    for body_digest in [BODY, [1; 32]] {
        let mut again = attempt(&[1]);
        again.body_digest = body_digest;
        assert_eq!(reserve(&*store, &again).await, done(1));
        assert_superseded(&*store, &again).await;
    }
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
}

/// Keys of every kind and accounts can be created under idempotency keys.
pub async fn every_kind_of_creation_completes_its_reservation(store: Arc<dyn KeyStore>) {
    let reservation = reserve_new(&*store, &[1]).await;
    let account = an_account().build();
    let change = a_change().completing(&completion(&reservation)).build();
    store.insert_account(account.clone(), change).await.unwrap();
    for (number, key) in [
        (2, a_key()),
        (3, a_key().of(&account)),
        (4, a_key().session_of(&account)),
    ] {
        let reservation = reserve_new(&*store, &[number]).await;
        insert(&*store, &key.build_new(), &reservation)
            .await
            .unwrap();
    }
    for number in 1..=4 {
        assert_eq!(reserve(&*store, &attempt(&[number])).await, done(number));
    }
}

/// After a change of the pepper the answer is found under the former one, and so is an attempt
/// under way.
pub async fn answer_under_a_former_pepper_is_found(store: Arc<dyn KeyStore>) {
    let former = reserve_new(&*store, &[1]).await;
    assert_pending(&reserve(&*store, &attempt(&[9, 1])).await);
    complete(&*store, &former).await;
    for numbers in [&[9, 1][..], &[9, 8, 1], &[1, 9]] {
        assert_eq!(reserve(&*store, &attempt(numbers)).await, done(1));
    }
    // Nothing was reserved under the current one meanwhile.
    reserve_new(&*store, &[9]).await;
}

/// An answer is kept until its time is over, and no longer.
pub async fn answer_is_taken_over_at_the_exact_moment_it_expires(store: Arc<dyn KeyStore>) {
    let first = reserve_new(&*store, &[1]).await;
    complete(&*store, &first).await;
    let just_before = Timestamp::from_unix_micros(KEPT_UNTIL.unix_micros() - 1);
    let second = attempt_at(&[1], just_before);
    assert_eq!(reserve(&*store, &second).await, done(1));

    let other_body = [7; 32];
    let mut third = attempt_at(&[1], KEPT_UNTIL);
    third.body_digest = other_body;
    assert_eq!(reserve(&*store, &third).await, Reserved::New);
    let fourth = attempt_at(&[1], KEPT_UNTIL);
    assert_pending(&reserve(&*store, &fourth).await);

    // From then on the new answer is kept.
    let mut completion = completion(&third);
    completion.sealed = vec![1, 2, 3];
    completion.expires_at = KEPT_UNTIL.saturating_add(RESERVATION_KEPT);
    let change = a_change().at(KEPT_UNTIL).completing(&completion).build();
    store.insert_key(a_key().build_new(), change).await.unwrap();
    let expected = Reserved::Done {
        body_digest: other_body,
        lookup: lookup(1),
        sealed: vec![1, 2, 3],
    };
    assert_eq!(reserve(&*store, &fourth).await, expected);
}

/// An attempt that died does not block the idempotency key for ever, and blocks it exactly as long
/// as announced.
pub async fn pending_reservation_is_taken_over_at_the_exact_moment_its_time_is_up(
    store: Arc<dyn KeyStore>,
) {
    reserve_new(&*store, &[1]).await;
    let just_before = Timestamp::from_unix_micros(PENDING_UNTIL.unix_micros() - 1);
    let early = attempt_at(&[1], just_before);
    assert_pending(&reserve(&*store, &early).await);

    let attempts: Vec<Reservation> = (0..10).map(|_| attempt_at(&[1], PENDING_UNTIL)).collect();
    let results = at_once(attempts.into_iter().map(|reservation| {
        let store = store.clone();
        async move { (reserve(&*store, &reservation).await, reservation) }
    }))
    .await;
    let mut winners = results
        .iter()
        .filter(|(reserved, _)| *reserved == Reserved::New);
    let (_, winner) = winners.next().expect("one takes over");
    assert!(winners.next().is_none(), "only one takes over");
    complete(&*store, winner).await;
}

/// An attempt that was taken for dead and comes back late creates nothing; the one that took over
/// does.
pub async fn superseded_attempt_creates_nothing(store: Arc<dyn KeyStore>) {
    let slow = reserve_new(&*store, &[1]).await;
    let second = attempt_at(&[1], PENDING_UNTIL);
    assert_eq!(reserve(&*store, &second).await, Reserved::New);
    assert_superseded(&*store, &slow).await;
    complete(&*store, &second).await;
    assert_superseded(&*store, &slow).await;
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
}

/// The same after a change of the pepper, so that both know the reservation by different digests.
pub async fn attempt_superseded_under_a_former_pepper_creates_nothing(store: Arc<dyn KeyStore>) {
    let slow = reserve_new(&*store, &[1]).await;
    let second = attempt_at(&[9, 1], PENDING_UNTIL);
    assert_eq!(reserve(&*store, &second).await, Reserved::New);
    assert_superseded(&*store, &slow).await;
    complete(&*store, &second).await;
    assert_eq!(reserve(&*store, &attempt(&[9, 1])).await, done(9));
}

/// An attempt that is only late succeeds.
pub async fn late_attempt_that_nobody_superseded_completes(store: Arc<dyn KeyStore>) {
    let slow = reserve_new(&*store, &[1]).await;
    let late = PENDING_UNTIL.saturating_add(RESERVATION_PENDING);
    let change = a_change().at(late).completing(&completion(&slow)).build();
    store.insert_key(a_key().build_new(), change).await.unwrap();
    assert_eq!(reserve(&*store, &attempt_at(&[1], late)).await, done(1));
}

/// A reservation that was released, or never made, cannot be completed.
pub async fn released_attempt_creates_nothing(store: Arc<dyn KeyStore>) {
    let first = reserve_new(&*store, &[1]).await;
    store.release(lookup(1), first.token).await.unwrap();
    assert_superseded(&*store, &first).await;
    assert_superseded(&*store, &attempt(&[2])).await;
}

/// One reservation creates one record.
pub async fn reservation_is_completed_once(store: Arc<dyn KeyStore>) {
    let reservation = reserve_new(&*store, &[1]).await;
    complete(&*store, &reservation).await;
    assert_superseded(&*store, &reservation).await;
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
}

/// After a refusal the same idempotency key can be used for a corrected request.
pub async fn released_reservation_can_be_made_again(store: Arc<dyn KeyStore>) {
    let first = reserve_new(&*store, &[1]).await;
    store.release(lookup(1), first.token).await.unwrap();
    // Releasing again, or releasing an unknown reservation, is not an error.
    store.release(lookup(1), first.token).await.unwrap();
    store.release(lookup(2), first.token).await.unwrap();
    let second = reserve_new(&*store, &[1]).await;
    complete(&*store, &second).await;
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
}

/// An attempt that was superseded cannot release the reservation of its successor.
pub async fn superseded_attempt_releases_nothing(store: Arc<dyn KeyStore>) {
    let slow = reserve_new(&*store, &[1]).await;
    let second = attempt_at(&[1], PENDING_UNTIL);
    assert_eq!(reserve(&*store, &second).await, Reserved::New);
    store.release(lookup(1), slow.token).await.unwrap();
    let third = attempt_at(&[1], PENDING_UNTIL);
    assert_pending(&reserve(&*store, &third).await);
    complete(&*store, &second).await;
}

/// A completed reservation stays completed, also for its owner: releasing it would let the next
/// request create again.
pub async fn done_reservation_is_not_released(store: Arc<dyn KeyStore>) {
    let reservation = reserve_new(&*store, &[1]).await;
    complete(&*store, &reservation).await;
    store.release(lookup(1), reservation.token).await.unwrap();
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
}

async fn full_account(store: &dyn KeyStore) -> Account {
    let account = add_account(store, an_account().plan("tiny").build()).await;
    for _ in 0..2 {
        add_key(store, a_key().of(&account).build_new()).await;
    }
    account
}

/// A refused change stores no answer: the attempt is still under way until it is released.
pub async fn refused_change_leaves_the_reservation_pending(store: Arc<dyn KeyStore>) {
    let account = full_account(&*store).await;
    let reservation = reserve_new(&*store, &[1]).await;
    let key = a_key().of(&account).build_new();
    let refused = insert(&*store, &key, &reservation).await;
    assert!(
        matches!(refused, Err(ChangeError::CapReached { max: 2 })),
        "{refused:?}"
    );
    assert_pending(&reserve(&*store, &attempt(&[1])).await);

    let first = keys_of(&*store, &account).await.keys.swap_remove(0);
    revoke(&*store, &first).await;
    insert(&*store, &key, &reservation).await.unwrap();
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
}

/// Idempotency keys are independent of each other.
pub async fn reservations_do_not_disturb_each_other(store: Arc<dyn KeyStore>) {
    let one = reserve_new(&*store, &[1]).await;
    let two = reserve_new(&*store, &[2]).await;
    // The token of another reservation does not complete it.
    let mut crossed = one.clone();
    crossed.token = two.token;
    assert_superseded(&*store, &crossed).await;
    store.release(lookup(1), two.token).await.unwrap();
    complete(&*store, &one).await;
    assert_eq!(reserve(&*store, &attempt(&[1])).await, done(1));
    assert_pending(&reserve(&*store, &attempt(&[2])).await);
    complete(&*store, &two).await;
}

/// Expired answers are deleted. Others, and attempts under way, stay.
pub async fn sweep_deletes_expired_answers_only(store: Arc<dyn KeyStore>) {
    assert_eq!(store.sweep(NOON).await.unwrap(), 0);
    for number in 1..=3 {
        let reservation = reserve_new(&*store, &[number]).await;
        complete(&*store, &reservation).await;
    }
    let kept = reserve_new(&*store, &[4]).await;
    let mut completion = completion(&kept);
    completion.expires_at = Timestamp::from_unix_micros(KEPT_UNTIL.unix_micros() + 1);
    let change = a_change().completing(&completion).build();
    store.insert_key(a_key().build_new(), change).await.unwrap();
    let under_way = attempt_at(&[5], KEPT_UNTIL);
    assert_eq!(reserve(&*store, &under_way).await, Reserved::New);

    let just_before = Timestamp::from_unix_micros(KEPT_UNTIL.unix_micros() - 1);
    assert_eq!(store.sweep(just_before).await.unwrap(), 0);
    assert_eq!(store.sweep(KEPT_UNTIL).await.unwrap(), 3);
    assert_eq!(store.sweep(KEPT_UNTIL).await.unwrap(), 0);
    let pending = Reserved::Pending {
        until: under_way.pending_until,
    };
    for (number, expected) in [(1, Reserved::New), (4, done(4)), (5, pending)] {
        let again = attempt_at(&[number], KEPT_UNTIL);
        assert_eq!(reserve(&*store, &again).await, expected);
    }
    complete(&*store, &under_way).await;
}
