use std::collections::HashSet;
use std::sync::Arc;

use keys_core::{
    Account, AuditActor, Denial, KeyDetails, KeyId, KeyLimits, KeyStatus, KeyVersion, Metadata,
    Quota, Revocation, RevocationReason, Timestamp,
};
use keys_service::ports::{
    AccountPatch, Caller, Change, ChangeError, Changed, Completion, KeyRotation, KeyStore, NewKey,
    Reservation, Reserved, SILENCE_MAX,
};

use super::following::{followed, is_seen_soon, news};
use super::steps::{add_account, add_key, at_once, find, keys_of, revoke, update};
use crate::data::{NOON, a_caller, a_change, a_key, an_account, an_event_id, noon_plus, plan};

/// Returns everything that is stored about a key.
async fn details(store: &dyn KeyStore, id: KeyId) -> KeyDetails {
    let found = store.find_key(id).await.expect("the store answers");
    found
        .expect("the key is there")
        .expect("the row can be read")
}

/// Returns the status of a key at this time.
async fn status(store: &dyn KeyStore, id: KeyId, now: Timestamp) -> KeyStatus {
    details(store, id).await.status(now)
}

/// Returns a rotation of `old` into a new key of `account`.
fn rotation(old: &KeyDetails, account: &Account, ends_at: Timestamp) -> KeyRotation {
    let mut new = a_key().of(account).build_new();
    new.admission.policy.cap = false;
    rotation_into(old, new, ends_at)
}

fn rotation_into(old: &KeyDetails, new: NewKey, ends_at: Timestamp) -> KeyRotation {
    KeyRotation::new(old, new, ends_at, [an_event_id(), an_event_id()])
}

/// Rotates the key of this id at `at`, as it is now. Returns the new one.
async fn rotate(
    store: &dyn KeyStore,
    id: KeyId,
    account: &Account,
    at: Timestamp,
    ends_at: Timestamp,
) -> (NewKey, Option<KeyId>) {
    let rotation = rotation(&details(store, id).await, account, ends_at);
    let new = rotation.new.clone();
    let rotated = store.rotate_key(rotation, a_change().at(at).build()).await;
    (new, rotated.expect("the key is rotated").0)
}

async fn refusal(store: &dyn KeyStore, rotation: KeyRotation, change: Change) -> ChangeError {
    let new = rotation.new.key.id;
    let refused = store.rotate_key(rotation, change).await.unwrap_err();
    assert_eq!(store.find_key(new).await.unwrap(), None, "nothing is made");
    refused
}

/// A rotation of a key that has another version, or does not exist, changes nothing.
pub async fn rotation_of_a_key_that_has_changed_is_refused(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().build()).await;
    let key = add_key(store, a_key().of(&account).build_new()).await;
    let before = details(store, key.id).await;
    let mut other = rotation(&before, &account, noon_plus(60));
    other.version = "0123456789abcdef".parse::<KeyVersion>().unwrap();
    let unknown = KeyDetails::new(a_key().of(&account).build());
    let unknown = rotation(&unknown, &account, noon_plus(60));
    for rotation in [other, unknown] {
        let refused = refusal(store, rotation, a_change().build()).await;
        assert!(matches!(refused, ChangeError::KeyChanged), "{refused:?}");
    }
    assert_eq!(details(store, key.id).await, before);

    let late = rotation(&before, &account, noon_plus(60));
    revoke(store, &key).await;
    let refused = refusal(store, late, a_change().build()).await;
    assert!(matches!(refused, ChangeError::KeyChanged), "{refused:?}");
}

/// The caller is checked again, and the account must be enabled and have a plan with keys.
pub async fn rotation_is_refused_with_its_caller_or_account(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().build()).await;
    let key = add_key(store, a_key().of(&account).build_new()).await;
    let caller = add_key(
        store,
        a_key().of(&account).expires_at(noon_plus(5)).build_new(),
    )
    .await;
    let before = details(store, key.id).await;
    let attempt = async |caller: &Caller, at| {
        let rotation = rotation(&before, &account, noon_plus(60));
        let change = a_change().at(at).by(caller).build();
        refusal(store, rotation, change).await
    };
    let by = a_caller(&caller);
    let expired = attempt(&by, noon_plus(5)).await;
    assert!(matches!(
        expired,
        ChangeError::CallerDenied(Denial::Expired)
    ));
    revoke(store, &caller).await;
    let revoked = attempt(&by, NOON).await;
    assert!(matches!(
        revoked,
        ChangeError::CallerDenied(Denial::Revoked)
    ));

    let operator = add_key(store, a_key().build_new()).await;
    let by = a_caller(&operator);
    update(store, &account, AccountPatch::default().plan(plan("free"))).await;
    let no_plan = attempt(&by, NOON).await;
    assert!(matches!(
        no_plan,
        ChangeError::AccountDenied(Denial::PlanForbidden)
    ));
    update(store, &account, AccountPatch::default().disabled(true)).await;
    let disabled = attempt(&by, NOON).await;
    assert!(matches!(
        disabled,
        ChangeError::AccountDenied(Denial::AccountDisabled)
    ));
    assert_eq!(details(store, key.id).await, before);
}

/// The new key is stored as it was given, and both keys know of each other.
pub async fn rotated_key_and_its_successor_know_of_each_other(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().build()).await;
    let operator = add_key(store, a_key().build_new()).await;
    let old = a_key().of(&account).build_new();
    add_key(store, old.clone()).await;
    let before = details(store, old.key.id).await;

    let mut new = a_key()
        .of(&account)
        .name("the new one")
        .allowed(["10.0.0.0/8"])
        .scopes(["a", "b"])
        .expires_at(noon_plus(1_000))
        .build_new();
    let quota = Quota::per_minute(5).unwrap();
    new.key.limits = KeyLimits::new([("calls".parse().unwrap(), quota)]).unwrap();
    new.key.subject = Some("user-17".parse().unwrap());
    let new = new.metadata(Metadata::new([("team", "billing")]).unwrap());
    let rotation = rotation_into(&before, new.clone(), noon_plus(60));
    let change = a_change().by(&a_caller(&operator)).build();
    let (ended, _) = store.rotate_key(rotation, change).await.unwrap();
    assert_eq!(ended, None);

    let mut replaced = before;
    replaced.successor = Some(new.key.id);
    replaced.key.expires_at = Some(noon_plus(60));
    assert_eq!(details(store, old.key.id).await, replaced);
    assert_eq!(replaced.status(noon_plus(59)), KeyStatus::Rotating);
    let made = details(store, new.key.id).await;
    assert_eq!(made.key, new.key);
    assert_eq!(made.metadata, new.metadata);
    assert_eq!(made.predecessor, Some(old.key.id));
    assert_eq!(made.successor, None);
    let creator = AuditActor::Credential {
        kind: operator.kind,
        id: operator.id,
    };
    assert_eq!(made.created_by, Some(creator));
    // Verification finds both, as they are now.
    assert_eq!(find(store, &new).await.unwrap().key, new.key);
    assert_eq!(find(store, &old).await.unwrap().key, replaced.key);
}

/// The old key ends at the given time, or by itself if that is earlier. Without a grace it is
/// revoked.
pub async fn rotated_key_never_ends_later_than_before(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().build()).await;
    for (own, ends_at, expected) in [
        (None, noon_plus(60), noon_plus(60)),
        (Some(noon_plus(100)), noon_plus(60), noon_plus(60)),
        (Some(noon_plus(60)), noon_plus(60), noon_plus(60)),
        (Some(noon_plus(30)), noon_plus(60), noon_plus(30)),
    ] {
        let key = a_key().of(&account).without_cap();
        let key = match own {
            Some(own) => key.expires_at(own),
            None => key,
        };
        let key = add_key(store, key.build_new()).await;
        rotate(store, key.id, &account, NOON, ends_at).await;
        let after = details(store, key.id).await;
        assert_eq!(after.key.expires_at, Some(expected));
        assert_eq!(after.key.revoked_at, None);
    }
    for ends_at in [NOON, noon_plus(-1)] {
        let key = add_key(store, a_key().of(&account).without_cap().build_new()).await;
        rotate(store, key.id, &account, NOON, ends_at).await;
        let after = details(store, key.id).await;
        assert_eq!(after.key.revoked_at, Some(NOON));
        assert_eq!(after.key.expires_at, None);
        let superseded = Revocation::new(Some(RevocationReason::Superseded));
        assert_eq!(after.revocation, superseded);
    }
}

/// A chain has at most two usable keys: the oldest ends as the newest is made.
pub async fn third_key_of_a_chain_ends_the_first_at_once(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().build()).await;
    let first = add_key(store, a_key().of(&account).build_new()).await;
    let (second, ended) = rotate(store, first.id, &account, NOON, noon_plus(600)).await;
    assert_eq!(ended, None);
    let at = noon_plus(10);
    let (third, ended) = rotate(store, second.key.id, &account, at, noon_plus(600)).await;
    assert_eq!(ended, Some(first.id));
    let oldest = details(store, first.id).await;
    assert_eq!(oldest.key.revoked_at, Some(at));
    let superseded = Revocation::new(Some(RevocationReason::Superseded));
    assert_eq!(oldest.revocation, superseded);
    assert_eq!(oldest.successor, Some(second.key.id));
    for (id, expected) in [
        (second.key.id, KeyStatus::Rotating),
        (third.key.id, KeyStatus::Active),
    ] {
        assert_eq!(status(store, id, at).await, expected);
    }

    // A key whose grace is over has ended already.
    let late = noon_plus(600);
    let (fourth, ended) = rotate(store, third.key.id, &account, late, noon_plus(700)).await;
    assert_eq!(ended, None);
    let expired = details(store, second.key.id).await;
    assert_eq!(expired.key.revoked_at, None);
    assert_eq!(expired.status(late), KeyStatus::Expired);
    assert_eq!(status(store, fourth.key.id, late).await, KeyStatus::Active);
}

/// A rotation at the cap succeeds, and both keys count while they are usable.
pub async fn rotation_needs_no_free_slot(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().plan("tiny").build()).await;
    let first = add_key(store, a_key().of(&account).build_new()).await;
    add_key(store, a_key().of(&account).build_new()).await;
    let (third, _) = rotate(store, first.id, &account, NOON, noon_plus(60)).await;
    assert_eq!(keys_of(store, &account).await.total, 3);
    let create = async |at| {
        let new = a_key().of(&account).build_new();
        store.insert_key(new, a_change().at(at).build()).await
    };
    let full = create(noon_plus(60)).await.unwrap_err();
    assert!(
        matches!(full, ChangeError::CapReached { max: 2 }),
        "{full:?}"
    );
    rotate(store, third.key.id, &account, noon_plus(60), noon_plus(60)).await;
    let usable = keys_of(store, &account).await.keys;
    let usable = usable.iter().filter(|key| key.is_usable(noon_plus(60)));
    assert_eq!(usable.count(), 2);
}

/// Exactly one of many concurrent rotations of a key is made.
pub async fn one_of_many_concurrent_rotations_wins(store: Arc<dyn KeyStore>) {
    for round in 0..4 {
        let account = add_account(&*store, an_account().build()).await;
        let key = add_key(&*store, a_key().of(&account).build_new()).await;
        let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
        let before = details(&*store, key.id).await;
        let attempts = (0..12).map(|number| {
            let rotation = rotation(&before, &account, noon_plus(60));
            let change = match (number + round) % 3 {
                0 => a_change(),
                1 => a_change().by(&a_caller(&key)),
                _ => a_change().by(&a_caller(&session)),
            };
            let (store, change) = (store.clone(), change.build());
            async move {
                let new = rotation.new.key.id;
                match store.rotate_key(rotation, change).await {
                    Ok(_) => Some(new),
                    // A key that was rotated has an end, and makes no key that outlives it.
                    Err(ChangeError::KeyChanged | ChangeError::ExceedsCaller(_)) => None,
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let won: Vec<_> = at_once(attempts).await.into_iter().flatten().collect();
        let [won] = &won[..] else {
            panic!("{won:?}");
        };
        assert_eq!(details(&*store, key.id).await.successor, Some(*won));
        assert_eq!(keys_of(&*store, &account).await.total, 2);
    }
}

/// Rotations along a chain, revocations of its keys by operators and the rotation of operators'
/// keys do not wait for each other for ever.
pub async fn rotations_and_revocations_along_a_chain_do_not_deadlock(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    let caller = a_caller(&operator);
    for _ in 0..8 {
        let first = add_key(&*store, a_key().of(&account).without_cap().build_new()).await;
        let (second, _) = rotate(&*store, first.id, &account, NOON, noon_plus(600)).await;
        let before = details(&*store, second.key.id).await;
        let rotates = {
            let rotation = rotation(&before, &account, noon_plus(600));
            let (store, change) = (store.clone(), a_change().by(&caller).build());
            tokio::spawn(async move { store.rotate_key(rotation, change).await.map(drop) })
        };
        let revokes = [first.id, second.key.id].map(|id| {
            let (store, change) = (store.clone(), a_change().by(&caller).build());
            tokio::spawn(async move {
                store
                    .revoke_key(None, id, Revocation::default(), change)
                    .await
                    .map(drop)
            })
        });
        for revoked in revokes {
            revoked
                .await
                .unwrap()
                .expect("a revocation is never refused");
        }
        match rotates.await.unwrap() {
            Ok(()) | Err(ChangeError::KeyChanged) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(status(&*store, first.id, NOON).await, KeyStatus::Revoked);
    }
}

/// The answer that was reserved is stored with the rotation, and a superseded attempt changes
/// nothing.
pub async fn rotation_completes_its_reservation(store: Arc<dyn KeyStore>) {
    let store = &*store;
    let account = add_account(store, an_account().build()).await;
    let key = add_key(store, a_key().of(&account).build_new()).await;
    let before = details(store, key.id).await;
    let reservation = Reservation::new(vec![[1; 32]], [2; 32], an_event_id(), NOON);
    let completion =
        |token| Completion::new([1; 32], token, b"the answer".to_vec(), noon_plus(600));
    let superseded = a_change().completing(&completion(an_event_id())).build();
    let rotation_of = || rotation(&before, &account, noon_plus(60));
    let refused = refusal(store, rotation_of(), superseded).await;
    assert!(matches!(refused, ChangeError::Superseded), "{refused:?}");
    assert_eq!(details(store, key.id).await, before);

    let reserved = store.reserve(reservation.clone()).await.unwrap();
    assert_eq!(reserved, Reserved::New);
    let completing = a_change().completing(&completion(reservation.token));
    let rotated = store.rotate_key(rotation_of(), completing.build()).await;
    rotated.unwrap();
    match store.reserve(reservation).await.unwrap() {
        Reserved::Done { sealed, .. } => assert_eq!(sealed, b"the answer"),
        other => panic!("{other:?}"),
    }
}

/// Every instance with a cache hears of the end of the old key and of the oldest one.
pub async fn rotation_is_in_the_feed(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let first = add_key(&*store, a_key().of(&account).build_new()).await;
    let mut feed = followed(&*store).await;
    let (second, _) = rotate(&*store, first.id, &account, NOON, noon_plus(60)).await;
    let changed = HashSet::from([Changed::Key(first.id)]);
    assert_eq!(news(&mut *feed).await, changed);

    let before = details(&*store, second.key.id).await;
    let last = rotation(&before, &account, noon_plus(60));
    let rotated = store.rotate_key(last, a_change().build()).await;
    let (_, commit) = rotated.unwrap();
    let seen = store.is_seen_everywhere(&commit, SILENCE_MAX).await;
    assert!(!seen.unwrap());
    let changed = HashSet::from([Changed::Key(first.id), Changed::Key(second.key.id)]);
    assert_eq!(news(&mut *feed).await, changed);
    assert!(is_seen_soon(&*store, commit, &mut [&mut feed]).await);
}
