use std::collections::BTreeSet;
use std::sync::Arc;

use keys_core::{
    Account, ApiKey, CreatedBy, Denial, ExternalId, KeyId, OperatorScope, Revocation,
    RevocationReason, ScopeSet,
};
use keys_service::ports::{
    Change, ChangeError, KeySelection, KeyStore, NewKey, REVOKED_MAX, RevokedKeys,
};

use super::following::{followed, news};
use super::steps::{add_account, add_key, at_once, find, keys_of, revoke};
use crate::data::{NOON, a_caller, a_change, a_key, an_account, noon_plus};

fn because(reason: RevocationReason) -> Revocation {
    Revocation::new(Some(reason))
}

async fn revoke_all(store: &dyn KeyStore, selection: KeySelection) -> RevokedKeys {
    let change = a_change().build();
    let revoked = store.revoke_keys(selection, Revocation::default(), change);
    revoked.await.unwrap()
}

async fn revoke_leaked(store: &dyn KeyStore, key: &ApiKey) -> BTreeSet<KeyId> {
    let change = a_change().build();
    let selection = KeySelection::ids([key.id]);
    let revoked = store.revoke_keys(selection, because(RevocationReason::Leaked), change);
    let revoked = revoked.await.unwrap();
    assert_eq!(revoked.remaining, 0);
    revoked.keys.into_iter().collect()
}

async fn add_by(store: &dyn KeyStore, maker: &ApiKey, key: NewKey) -> ApiKey {
    let record = key.key.clone();
    let change = a_change().by(&a_caller(maker)).build();
    store.insert_key(key, change).await.unwrap();
    record
}

async fn is_revoked(store: &dyn KeyStore, key: &ApiKey) -> bool {
    let details = store.find_key(key.id).await.unwrap().unwrap().unwrap();
    details.key.revoked_at.is_some()
}

fn ids<'a>(keys: impl IntoIterator<Item = &'a ApiKey>) -> BTreeSet<KeyId> {
    keys.into_iter().map(|key| key.id).collect()
}

/// The reason and the note of a revocation are stored, and a second one does not change them.
pub async fn reason_and_note_are_stored(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for reason in RevocationReason::ALL {
        let why = because(reason).note(Some("left the company".parse().unwrap()));
        let one = add_key(&*store, a_key().of(&account).build_new()).await;
        let other = add_key(&*store, a_key().of(&account).build_new()).await;
        let change = a_change().build();
        let revoked = store.revoke_key(None, one.id, why.clone(), change).await;
        assert!(revoked.unwrap().is_some());
        let selection = KeySelection::ids([other.id]);
        let change = a_change().build();
        let revoked = store.revoke_keys(selection, why.clone(), change).await;
        assert_eq!(revoked.unwrap().keys, [other.id]);
        for key in [one, other] {
            let again = because(RevocationReason::Other);
            let change = a_change().at(noon_plus(1)).build();
            let second = store.revoke_key(None, key.id, again, change).await;
            assert_eq!(second.unwrap(), None);
            let details = store.find_key(key.id).await.unwrap().unwrap().unwrap();
            assert_eq!(details.key.revoked_at, Some(NOON));
            assert_eq!(details.revocation, why);
        }
    }
}

/// Nothing is revoked for a caller that is refused, or in an account that does not exist.
pub async fn refused_bulk_revocations_change_nothing(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let caller = add_key(&*store, a_key().build_new()).await;
    revoke(&*store, &caller).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    for (caller, denial) in [
        (caller, Denial::Revoked),
        (a_key().build(), Denial::NotFound),
    ] {
        let change = || a_change().by(&a_caller(&caller)).build();
        let scopes = ScopeSet::parse(["keys:read"]).unwrap();
        let refusals = [
            store
                .revoke_keys(
                    KeySelection::of_account(account.id),
                    Revocation::default(),
                    change(),
                )
                .await
                .err(),
            store
                .revoke_keys(
                    KeySelection::ids([key.id]),
                    because(RevocationReason::Leaked),
                    change(),
                )
                .await
                .err(),
            store
                .set_operator_scopes(operator.id, scopes, true, change())
                .await
                .err(),
        ];
        for refusal in refusals {
            match refusal {
                Some(ChangeError::CallerDenied(reason)) => assert_eq!(reason, denial),
                other => panic!("expected {denial:?}, got {other:?}"),
            }
        }
    }
    let unknown = KeySelection::of_account(an_account().build().id);
    let change = a_change().build();
    let refused = store.revoke_keys(unknown, Revocation::default(), change);
    assert!(matches!(refused.await, Err(ChangeError::AccountNotFound)));
    let nothing = revoke_all(&*store, KeySelection::ids([a_key().build().id])).await;
    assert_eq!(nothing, RevokedKeys::default());
    assert_eq!(keys_of(&*store, &account).await.keys, [key]);
}

/// Identifiers select keys of the kind and the account that are named, and no others.
pub async fn only_selected_keys_are_revoked(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let other = add_account(&*store, an_account().build()).await;
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
    let others = add_key(&*store, a_key().of(&other).build_new()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    let named = || {
        let keys = [&key, &session, &others, &operator];
        KeySelection::ids(keys.map(|key| key.id))
    };
    let own = named()
        .of_kind(keys_core::KeyKind::Account)
        .within(account.id);
    assert_eq!(revoke_all(&*store, own.clone()).await.keys, [key.id]);
    assert_eq!(revoke_all(&*store, own).await.keys, []);
    let sessions = KeySelection::sessions_of(account.id);
    assert_eq!(revoke_all(&*store, sessions).await.keys, [session.id]);
    for key in [&others, &operator] {
        assert!(!is_revoked(&*store, key).await);
    }
    let rest = revoke_all(&*store, named()).await;
    assert_eq!(rest.keys.len(), 2);
    assert!(rest.commit.is_some());
}

/// Keys and sessions are selected by the operator that made them, and by the person.
pub async fn keys_are_revoked_by_their_maker(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let other = add_account(&*store, an_account().build()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    let person = |mut key: NewKey, person: &str| {
        key.key.subject = Some(person.parse().unwrap());
        key
    };
    let made = add_by(&*store, &operator, a_key().of(&account).build_new()).await;
    let elsewhere = add_by(&*store, &operator, a_key().of(&other).build_new()).await;
    let hers = person(a_key().of(&account).build_new(), "user-17");
    let hers = add_key(&*store, hers).await;
    let session = |end| a_key().expires_at(noon_plus(end)).session_of(&account);
    let session_of_hers = person(session(60).build_new(), "user-17");
    let session_of_hers = add_key(&*store, session_of_hers).await;
    let ended = add_key(&*store, person(session(0).build_new(), "user-17")).await;
    let his = person(session(60).build_new(), "user-1");
    let his = add_key(&*store, his).await;

    let by_operator = KeySelection::created_by(CreatedBy::Operator(operator.id));
    let within = by_operator.clone().within(account.id);
    assert_eq!(revoke_all(&*store, within).await.keys, [made.id]);
    assert_eq!(revoke_all(&*store, by_operator).await.keys, [elsewhere.id]);
    let subject: ExternalId = "user-17".parse().unwrap();
    let by_person = KeySelection::created_by(CreatedBy::Subject(subject.clone()));
    assert_eq!(revoke_all(&*store, by_person).await.keys, [hers.id]);
    let mut sessions = KeySelection::sessions_of(account.id);
    sessions.of = keys_service::ports::Selected::CreatedBy(
        CreatedBy::Subject(subject),
        keys_core::KeyKind::Session,
    );
    assert_eq!(
        revoke_all(&*store, sessions).await.keys,
        [session_of_hers.id]
    );
    for key in [&ended, &his, &operator] {
        assert!(!is_revoked(&*store, key).await);
    }
}

/// A thousand keys are revoked in one transaction, and the answer says how many remain.
pub async fn thousand_keys_are_revoked_in_one_transaction(store: Arc<dyn KeyStore>) {
    const MORE: usize = 5;
    let account = add_account(&*store, an_account().build()).await;
    let mut all = BTreeSet::new();
    for _ in 0..REVOKED_MAX + MORE {
        let key = a_key().of(&account).without_cap().build_new();
        all.insert(add_key(&*store, key).await.id);
    }
    let mut feed = followed(&*store).await;
    let first = revoke_all(&*store, KeySelection::of_account(account.id)).await;
    assert_eq!((first.keys.len(), first.remaining), (REVOKED_MAX, 5));
    assert_eq!(keys_of(&*store, &account).await.total, 5);
    let changed = news(&mut *feed).await;
    assert_eq!(changed.len(), REVOKED_MAX);
    let second = revoke_all(&*store, KeySelection::of_account(account.id)).await;
    assert_eq!((second.keys.len(), second.remaining), (MORE, 0));
    let revoked: BTreeSet<KeyId> = first.keys.into_iter().chain(second.keys).collect();
    assert_eq!(revoked, all);
    let third = revoke_all(&*store, KeySelection::of_account(account.id)).await;
    assert_eq!(third, RevokedKeys::default());
}

/// With a leaked key its successors and all keys that the chain made are revoked, and no others.
pub async fn leaked_key_takes_its_chain_with_it(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let leaked = add_key(&*store, a_key().of(&account).build_new()).await;
    let bystander = add_key(&*store, a_key().of(&account).build_new()).await;
    let child = add_by(&*store, &leaked, a_key().of(&account).build_new()).await;
    let grandchild = add_by(&*store, &child, a_key().of(&account).build_new()).await;
    let of_bystander = add_by(&*store, &bystander, a_key().of(&account).build_new()).await;
    let revoked = revoke_leaked(&*store, &leaked).await;
    assert_eq!(revoked, ids([&leaked, &child, &grandchild]));
    for key in [&leaked, &child, &grandchild] {
        let details = store.find_key(key.id).await.unwrap().unwrap().unwrap();
        assert_eq!(details.revocation, because(RevocationReason::Leaked));
    }
    for key in [&bystander, &of_bystander] {
        assert!(!is_revoked(&*store, key).await);
    }
    // Other reasons follow no chain.
    let selection = KeySelection::ids([bystander.id]);
    let revoked = revoke_all(&*store, selection).await;
    assert_eq!(revoked.keys, [bystander.id]);
    assert!(!is_revoked(&*store, &of_bystander).await);
    // The chain of a key that was revoked before is followed.
    let revoked = revoke_leaked(&*store, &bystander).await;
    assert_eq!(revoked, ids([&of_bystander]));
}

/// What a leaked operator key made is revoked in any account: keys, sessions, and what was made in
/// these.
pub async fn leaked_operator_key_takes_what_it_made(store: Arc<dyn KeyStore>) {
    let leaked = add_key(&*store, a_key().build_new()).await;
    let mut chain = vec![leaked.clone()];
    for _ in 0..2 {
        let account = add_account(&*store, an_account().build()).await;
        let session = a_key().session_of(&account).build_new();
        let session = add_by(&*store, &leaked, session).await;
        chain.push(add_by(&*store, &session, a_key().of(&account).build_new()).await);
        chain.push(session);
        chain.push(add_by(&*store, &leaked, a_key().of(&account).build_new()).await);
        let kept = add_key(&*store, a_key().of(&account).build_new()).await;
        assert!(!is_revoked(&*store, &kept).await);
    }
    chain.push(add_by(&*store, &leaked, a_key().build_new()).await);
    assert_eq!(revoke_leaked(&*store, &leaked).await, ids(&chain));
}

/// No key that a leaked key makes meanwhile is left.
pub async fn leaked_key_leaves_no_key_behind(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for _ in 0..5 {
        let leaked = add_key(&*store, a_key().of(&account).without_cap().build_new()).await;
        let making = (0..8).map(|_| {
            let (store, leaked, account) = (store.clone(), leaked.clone(), account.clone());
            async move {
                let key = a_key().of(&account).without_cap().build_new();
                let id = key.key.id;
                let change = a_change().by(&a_caller(&leaked)).build();
                store.insert_key(key, change).await.is_ok().then_some(id)
            }
        });
        let (made, revoked) = tokio::join!(at_once(making), revoke_leaked(&*store, &leaked));
        assert!(revoked.contains(&leaked.id));
        for id in made.into_iter().flatten() {
            assert!(revoked.contains(&id), "{id} was left");
        }
    }
}

fn administrator() -> NewKey {
    a_key()
        .scopes([OperatorScope::OperatorsWrite.as_str()])
        .build_new()
}

fn is_last<T>(outcome: &Result<T, ChangeError>) -> bool {
    matches!(outcome, Err(ChangeError::LastOperator))
}

/// The last usable operator key with `operators:write` is neither revoked nor loses that scope,
/// unless it is permitted.
pub async fn last_operator_is_kept(store: Arc<dyn KeyStore>) {
    let none = || Revocation::default();
    let last = add_key(&*store, administrator()).await;
    // None of these can take its place.
    add_key(&*store, a_key().scopes(["keys:write"]).build_new()).await;
    let expired = a_key()
        .scopes([OperatorScope::OperatorsWrite.as_str()])
        .expires_at(NOON);
    let expired = add_key(&*store, expired.build_new()).await;
    let revoked = add_key(&*store, administrator()).await;
    revoke(&*store, &revoked).await;

    let narrow = || ScopeSet::parse(["operators:read"]).unwrap();
    let selection = || KeySelection::ids([last.id]);
    let refused = store.revoke_keys(selection(), none(), a_change().build());
    assert!(is_last(&refused.await));
    let refused = store.set_operator_scopes(last.id, narrow(), true, a_change().build());
    assert!(is_last(&refused.await));
    assert!(!is_revoked(&*store, &last).await);
    // A key that cannot be used any more is revoked.
    let ended = revoke_all(&*store, KeySelection::ids([expired.id])).await;
    assert_eq!(ended.keys, [expired.id]);

    let narrowed = store.set_operator_scopes(last.id, narrow(), false, a_change().build());
    assert!(narrowed.await.unwrap().is_some());
    let details = store.find_key(last.id).await.unwrap().unwrap().unwrap();
    assert_eq!(details.key.scopes, narrow());
    let again = add_key(&*store, administrator()).await;
    let forced = KeySelection::ids([again.id]).even_the_last_operator();
    let forced = store.revoke_keys(forced, none(), a_change().build()).await;
    assert_eq!(forced.unwrap().keys, [again.id]);
}

/// Two operators that revoke each other concurrently never end each other's wait, and one is left.
pub async fn operators_never_revoke_the_last_of_them(store: Arc<dyn KeyStore>) {
    for _ in 0..10 {
        let pair = [
            add_key(&*store, administrator()).await,
            add_key(&*store, administrator()).await,
        ];
        let attempts = [(0, 1), (1, 0)].map(|(by, of)| {
            let (store, by, of) = (store.clone(), pair[by].clone(), pair[of].clone());
            async move {
                let change: Change = a_change().by(&a_caller(&by)).build();
                let selection = KeySelection::ids([of.id]);
                store
                    .revoke_keys(selection, Revocation::default(), change)
                    .await
            }
        });
        let outcomes = at_once(attempts).await;
        let revoked = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(revoked, 1, "{outcomes:?}");
        for outcome in outcomes {
            match outcome {
                Ok(_) | Err(ChangeError::CallerDenied(Denial::Revoked)) => {}
                other => panic!("{other:?}"),
            }
        }
        // So that the next pair are the only ones.
        let both = KeySelection::ids(pair.map(|key| key.id)).even_the_last_operator();
        assert_eq!(revoke_all(&*store, both).await.keys.len(), 1);
    }
}

/// Only operator keys that are not revoked are given scopes, and every feed sees it.
pub async fn scopes_are_given_to_operator_keys_only(store: Arc<dyn KeyStore>) {
    let account: Account = add_account(&*store, an_account().build()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let revoked = add_key(&*store, a_key().build_new()).await;
    revoke(&*store, &revoked).await;
    let scopes = || ScopeSet::parse(["events:read", "keys:read"]).unwrap();
    for id in [key.id, revoked.id, a_key().build().id] {
        let refused = store.set_operator_scopes(id, scopes(), true, a_change().build());
        assert_eq!(refused.await.unwrap(), None);
    }
    let mut feed = followed(&*store).await;
    let changed = store.set_operator_scopes(operator.id, scopes(), true, a_change().build());
    assert!(changed.await.unwrap().is_some());
    assert_eq!(news(&mut *feed).await.len(), 1);
    let details = store.find_key(operator.id).await.unwrap().unwrap().unwrap();
    assert_eq!(details.key.scopes, scopes());
    let untouched = a_key().of(&account).build_new();
    add_key(&*store, untouched.clone()).await;
    assert!(find(&*store, &untouched).await.is_some());
}
