use std::sync::Arc;

use keys_core::{Denial, KeyKind, Revocation, ScopeSet, Timestamp};
use keys_service::ports::{
    AccountPatch, AccountQuery, Caller, Change, ChangeError, KeyOwner, KeyStore,
};

use super::steps::{add_account, add_key, at_once, find, keys_of, list, revoke, update};
use crate::data::{NOON, a_caller, a_change, a_key, an_account, noon_plus, plan, plans};

/// Tries every kind of change for `caller`, and checks that each is refused with `denial` and
/// leaves no trace.
async fn assert_refused_everywhere(
    store: &dyn KeyStore,
    caller: &Caller,
    at: Timestamp,
    denial: Denial,
) {
    let change = || -> Change { a_change().at(at).by(caller).build() };
    let account = add_account(store, an_account().build()).await;
    let key = a_key().of(&account).build_new();
    add_key(store, key.clone()).await;
    let operator = a_key().build_new();

    let new_account = an_account().build();
    let new_key = a_key().of(&account).build_new();
    let patch = AccountPatch::default().disabled(true);
    let owner = Some(KeyOwner::Account(account.id));
    let refusals = [
        store
            .insert_account(new_account.clone(), change())
            .await
            .err(),
        store
            .update_account(account.id, patch, change())
            .await
            .err(),
        store.insert_key(new_key.clone(), change()).await.err(),
        store.insert_key(operator.clone(), change()).await.err(),
        store
            .revoke_key(owner, key.key.id, Revocation::default(), change())
            .await
            .err(),
        store
            .revoke_key(None, key.key.id, Revocation::default(), change())
            .await
            .err(),
    ];
    for refusal in refusals {
        match refusal {
            Some(ChangeError::CallerDenied(reason)) => assert_eq!(reason, denial),
            other => panic!("expected {denial:?}, got {other:?}"),
        }
    }
    assert_eq!(store.find_account(new_account.id).await.unwrap(), None);
    assert_eq!(
        store.find_account(account.id).await.unwrap(),
        Some(account.clone())
    );
    assert_eq!(find(store, &new_key).await, None);
    assert_eq!(find(store, &operator).await, None);
    assert_eq!(keys_of(store, &account).await.keys, [key.key]);
}

/// Keys of every kind, from an allowed address, with the scopes, before their expiry.
pub async fn caller_in_good_standing_may_change_things(store: Arc<dyn KeyStore>) {
    let holder = add_account(&*store, an_account().build()).await;
    for key in [a_key(), a_key().of(&holder), a_key().session_of(&holder)] {
        let key = key
            .scopes(["accounts:write", "keys:read", "keys:write"])
            .allowed(["192.0.2.0/24"])
            .expires_at(noon_plus(1));
        let mut caller = a_caller(&add_key(&*store, key.build_new()).await);
        caller.address = Some("192.0.2.9".parse().unwrap());
        caller.scopes = ScopeSet::parse(["accounts:write", "keys:write"]).unwrap();
        caller.plans = Some(plans());
        let change = || a_change().by(&caller).build();

        let account = an_account().build();
        store
            .insert_account(account.clone(), change())
            .await
            .unwrap();
        store
            .update_account(account.id, AccountPatch::default(), change())
            .await
            .unwrap();
        // An account's key creates no key that may do more than itself.
        let created = a_key().of(&account);
        let created = created.allowed(["192.0.2.0/24"]).expires_at(noon_plus(1));
        let created = created.build_new();
        store.insert_key(created.clone(), change()).await.unwrap();
        let owner = Some(KeyOwner::Account(account.id));
        let revoked = store
            .revoke_key(owner, created.key.id, Revocation::default(), change())
            .await;
        assert!(revoked.unwrap().is_some());
    }
}

/// A key that was never stored is refused.
pub async fn unknown_caller_is_refused(store: Arc<dyn KeyStore>) {
    let caller = a_caller(&a_key().build());
    assert_refused_everywhere(&*store, &caller, NOON, Denial::NotFound).await;
}

/// The transaction sees a revocation that happened after the caller was accepted.
pub async fn revoked_caller_is_refused(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for key in [
        // Revoked comes before expired.
        a_key().expires_at(NOON),
        a_key().of(&account),
        a_key().session_of(&account),
    ] {
        let key = add_key(&*store, key.build_new()).await;
        revoke(&*store, &key).await;
        assert_refused_everywhere(&*store, &a_caller(&key), NOON, Denial::Revoked).await;
    }
}

/// The time of the change decides: a microsecond earlier the caller is still accepted.
pub async fn caller_is_refused_at_the_exact_moment_it_expires(store: Arc<dyn KeyStore>) {
    let key = add_key(&*store, a_key().expires_at(noon_plus(5)).build_new()).await;
    let caller = a_caller(&key);
    assert_refused_everywhere(&*store, &caller, noon_plus(5), Denial::Expired).await;
    let just_before = Timestamp::from_unix_micros(noon_plus(5).unix_micros() - 1);
    let change = a_change().at(just_before).by(&caller).build();
    store
        .insert_account(an_account().build(), change)
        .await
        .unwrap();
}

/// Independent of whether the change requires a plan with keys.
pub async fn caller_of_a_disabled_account_is_refused(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
    let patch = AccountPatch::default().disabled(true);
    update(&*store, &account, patch).await;
    for key in [key, session] {
        for plans in [None, Some(plans())] {
            let mut caller = a_caller(&key);
            caller.plans = plans;
            assert_refused_everywhere(&*store, &caller, NOON, Denial::AccountDisabled).await;
        }
    }
}

/// A session of an account on a plan without keys may still revoke keys, which requires no plan.
pub async fn caller_on_a_plan_without_keys_is_refused_where_the_plan_matters(
    store: Arc<dyn KeyStore>,
) {
    let account = add_account(&*store, an_account().build()).await;
    let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
    let left_over = add_key(&*store, a_key().of(&account).build_new()).await;
    for name in ["free", "gone"] {
        let patch = AccountPatch::default().plan(plan(name));
        update(&*store, &account, patch).await;
        let mut caller = a_caller(&session);
        caller.plans = Some(plans());
        assert_refused_everywhere(&*store, &caller, NOON, Denial::PlanForbidden).await;
    }
    let change = a_change().by(&a_caller(&session)).build();
    let owner = Some(KeyOwner::Account(account.id));
    let revoked = store
        .revoke_key(owner, left_over.id, Revocation::default(), change)
        .await;
    assert!(revoked.unwrap().is_some());
}

/// An unknown address is in no list.
pub async fn caller_from_outside_its_networks_is_refused(store: Arc<dyn KeyStore>) {
    let key = a_key().allowed(["192.0.2.0/24", "2001:db8::1"]).build_new();
    let key = add_key(&*store, key).await;
    for address in [None, Some("192.0.3.1"), Some("2001:db8::2")] {
        let mut caller = a_caller(&key);
        caller.address = address.map(|address| address.parse().unwrap());
        assert_refused_everywhere(&*store, &caller, NOON, Denial::IpNotAllowed).await;
    }
    let mut caller = a_caller(&key);
    caller.address = Some("::ffff:192.0.2.1".parse().unwrap());
    store
        .insert_account(an_account().build(), a_change().by(&caller).build())
        .await
        .unwrap();
}

/// The stored scopes of the key decide, not those that the caller claims.
pub async fn caller_without_the_scopes_is_refused(store: Arc<dyn KeyStore>) {
    for held in [&[][..], &["keys:read"], &["accounts:write", "keys:read"]] {
        let key = a_key().scopes(held.iter().copied()).build_new();
        let mut caller = a_caller(&add_key(&*store, key).await);
        caller.scopes = ScopeSet::parse(["accounts:write", "keys:write"]).unwrap();
        assert_refused_everywhere(&*store, &caller, NOON, Denial::InsufficientScope).await;
    }
}

/// Creates keys with a key while that key is revoked. After the answer to the revocation no further
/// key appears: a change is either before it, or sees it.
async fn assert_nothing_appears_after_revocation(store: Arc<dyn KeyStore>, kind: KeyKind) {
    for _ in 0..3 {
        let account = add_account(&*store, an_account().build()).await;
        let key = match kind {
            KeyKind::Operator => a_key(),
            KeyKind::Account => a_key().of(&account),
            KeyKind::Session => a_key().session_of(&account),
        };
        let key = add_key(&*store, key.build_new()).await;
        let creators: Vec<_> = (0..6)
            .map(|_| {
                let (store, account) = (store.clone(), account.clone());
                let caller = a_caller(&key);
                tokio::spawn(async move {
                    loop {
                        let new = a_key().of(&account).without_cap().build_new();
                        let change = a_change().by(&caller).build();
                        match store.insert_key(new, change).await {
                            Ok(()) => {}
                            Err(ChangeError::CallerDenied(Denial::Revoked)) => break,
                            Err(error) => panic!("neither added nor denied: {error:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        while keys_of(&*store, &account).await.total < 3 {
            tokio::task::yield_now().await;
        }
        revoke(&*store, &key).await;
        let at_answer = keys_of(&*store, &account).await.total;
        for creator in creators {
            creator.await.expect("no task panics");
        }
        assert_eq!(keys_of(&*store, &account).await.total, at_answer);
    }
}

/// An account's key creates keys of its own account while it is revoked.
pub async fn no_key_of_an_account_key_appears_after_its_revocation(store: Arc<dyn KeyStore>) {
    assert_nothing_appears_after_revocation(store, KeyKind::Account).await;
}

/// An operator key creates keys of an account. The lock of the account does not cover the operator
/// key.
pub async fn no_key_of_an_operator_key_appears_after_its_revocation(store: Arc<dyn KeyStore>) {
    assert_nothing_appears_after_revocation(store, KeyKind::Operator).await;
}

/// Many callers revoke themselves at once: one succeeds, the others are unknown from then on, and
/// none waits for ever.
pub async fn caller_may_revoke_itself_once(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for (key, owner) in [
        (a_key(), KeyOwner::Operators),
        (a_key().of(&account), KeyOwner::Account(account.id)),
    ] {
        let key = add_key(&*store, key.build_new()).await;
        let attempts = (0..10).map(|_| {
            let store = store.clone();
            let change = a_change().by(&a_caller(&key)).build();
            let id = key.id;
            async move {
                match store
                    .revoke_key(Some(owner), id, Revocation::default(), change)
                    .await
                {
                    Ok(revoked) => revoked.is_some(),
                    Err(ChangeError::CallerDenied(Denial::Revoked)) => false,
                    Err(error) => panic!("neither revoked nor denied: {error:?}"),
                }
            }
        });
        let revoked = at_once(attempts).await;
        assert_eq!(revoked.iter().filter(|revoked| **revoked).count(), 1);
        assert_eq!(list(&*store, owner).await.keys, []);
    }
    // The lock of the account is free again.
    let query = AccountQuery::new(1);
    assert_eq!(store.accounts(query).await.unwrap(), [account]);
}
