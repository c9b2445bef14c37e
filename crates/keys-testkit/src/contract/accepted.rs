//! Callers that come with the records by which they were accepted: the store may take these for its
//! own, and a change is made only if they still are.

use std::sync::Arc;

use keys_core::{AllowedNetworks, ApiKey, Denial, ExceededBound, Revocation, Timestamp};
use keys_service::ports::{AccountPatch, Caller, ChangeError, KeyOwner, KeyStore};

use super::steps::{add_account, add_key, at_once, find, keys_of, revoke, update};
use crate::data::{
    KeyBuilder, NOON, a_caller, a_change, a_key, an_accepted_caller, an_account, noon_plus, plan,
    plans,
};

fn disabled() -> AccountPatch {
    AccountPatch::default().disabled(true)
}

fn on(name: &str) -> AccountPatch {
    AccountPatch::default().plan(plan(name))
}

/// Tries both changes that a holder makes, and looks that each was refused for `denial` and left
/// nothing.
async fn assert_refused(
    store: &dyn KeyStore,
    caller: &Caller,
    victim: &ApiKey,
    at: Timestamp,
    denial: Denial,
) {
    let stored = caller.accepted.as_ref().unwrap();
    let account = stored.account.as_ref().unwrap();
    let before = keys_of(store, account).await;
    let change = || a_change().at(at).by(caller).build();
    let owner = Some(KeyOwner::Account(account.id));
    let refusals = [
        store
            .insert_key(a_key().of(account).without_cap().build_new(), change())
            .await
            .unwrap_err(),
        store
            .revoke_key(owner, victim.id, Revocation::default(), change())
            .await
            .unwrap_err(),
    ];
    for refusal in refusals {
        assert!(
            matches!(&refusal, ChangeError::CallerDenied(reason) if *reason == denial),
            "expected {denial:?}, got {refusal:?}"
        );
    }
    assert_eq!(keys_of(store, account).await, before);
}

/// The records say that the caller is in good standing, and are out of date.
pub async fn accepted_caller_that_was_refused_since_changes_nothing(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = add_key(
        &*store,
        a_key().of(&account).expires_at(noon_plus(5)).build_new(),
    )
    .await;
    let victim = &add_key(&*store, a_key().of(&account).build_new()).await;
    let mut caller = an_accepted_caller(&key, &account);
    caller.plans = Some(plans());
    assert_refused(&*store, &caller, victim, noon_plus(5), Denial::Expired).await;
    update(&*store, &account, on("free")).await;
    assert_refused(&*store, &caller, victim, NOON, Denial::PlanForbidden).await;
    update(&*store, &account, disabled()).await;
    assert_refused(&*store, &caller, victim, NOON, Denial::AccountDisabled).await;
    revoke(&*store, &key).await;
    assert_refused(&*store, &caller, victim, NOON, Denial::Revoked).await;
}

/// What else has changed counts as it is now: another maximum, another account.
pub async fn accepted_caller_acts_on_the_account_as_it_is_now(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
    let caller = an_accepted_caller(&session, &account);
    let create = async |account| {
        let change = a_change().by(&caller).build();
        store
            .insert_key(a_key().of(account).build_new(), change)
            .await
    };
    for _ in 0..3 {
        create(&account).await.unwrap();
    }
    update(&*store, &account, on("tiny")).await;
    let refused = create(&account).await.unwrap_err();
    assert!(
        matches!(refused, ChangeError::CapReached { max: 2 }),
        "{refused:?}"
    );
    update(&*store, &account, on("business")).await;
    create(&account).await.unwrap();

    let other = add_account(&*store, an_account().build()).await;
    let victim = add_key(&*store, a_key().of(&other).build_new()).await;
    let owner = Some(KeyOwner::Account(account.id));
    let change = a_change().by(&caller).build();
    let revoked = store
        .revoke_key(owner, victim.id, Revocation::default(), change)
        .await;
    assert!(revoked.unwrap().is_none());
}

/// The stored key is narrower than the record by which its holder was accepted, and the limits of
/// the new key were derived from that record.
pub async fn key_is_within_its_caller_as_the_caller_is_now(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let limited = || {
        a_key()
            .of(&account)
            .without_cap()
            .allowed(["192.0.2.0/24", "2001:db8::/32"])
            .scopes(["orders:read", "orders:write"])
            .expires_at(noon_plus(60))
    };
    let key = add_key(&*store, limited().build_new()).await;
    let mut former = key.clone();
    former.allowed_networks = AllowedNetworks::default();
    former.scopes = a_key().scopes(["admin", "orders:read"]).build().scopes;
    former.expires_at = None;
    let callers = [
        a_caller(&key),
        an_accepted_caller(&key, &account),
        an_accepted_caller(&former, &account),
    ];
    let unlimited = || a_key().of(&account).without_cap();
    let networks = ExceededBound::AllowedNetworks;
    let too_wide: [(KeyBuilder, ExceededBound); 6] = [
        (
            limited().expires_at(noon_plus(61)),
            ExceededBound::ExpiresAt,
        ),
        (limited().allowed(["192.0.2.1", "192.0.3.1"]), networks(1)),
        (limited().allowed([]), networks(0)),
        (limited().scopes(["admin"]), ExceededBound::Scopes),
        (
            limited().scopes(["orders:read", "x"]),
            ExceededBound::Scopes,
        ),
        // It never expires, and may be used from everywhere.
        (unlimited(), ExceededBound::ExpiresAt),
    ];
    for mut caller in callers {
        caller.address = Some("192.0.2.9".parse().unwrap());
        for (wide, exceeded) in &too_wide {
            let new = wide.clone().build_new();
            let change = a_change().by(&caller).build();
            let refused = store.insert_key(new.clone(), change).await.unwrap_err();
            assert!(
                matches!(refused, ChangeError::ExceedsCaller(limit) if limit == *exceeded),
                "expected {exceeded:?}, got {refused:?}"
            );
            assert_eq!(find(&*store, &new).await, None);
        }
        let narrower = limited()
            .allowed(["192.0.2.128/25"])
            .scopes([])
            .expires_at(noon_plus(59));
        for within in [limited(), narrower] {
            let change = a_change().by(&caller).build();
            store.insert_key(within.build_new(), change).await.unwrap();
        }
    }
    assert_eq!(keys_of(&*store, &account).await.total, 7);

    // The caller itself comes first: it is no longer authorized.
    revoke(&*store, &key).await;
    let change = a_change()
        .by(&an_accepted_caller(&former, &account))
        .build();
    let refused = store.insert_key(unlimited().build_new(), change).await;
    assert!(matches!(
        refused,
        Err(ChangeError::CallerDenied(Denial::Revoked))
    ));
}

/// A session stands for a person, and a key that is created in a session outlives it. An operator
/// issues keys to others.
pub async fn sessions_and_operators_do_not_limit_what_they_create(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let session = a_key().session_of(&account).expires_at(noon_plus(60));
    let session = add_key(&*store, session.build_new()).await;
    let operator = add_key(&*store, a_key().expires_at(noon_plus(60)).build_new()).await;
    for caller in [
        a_caller(&session),
        an_accepted_caller(&session, &account),
        a_caller(&operator),
    ] {
        let new = a_key().of(&account).scopes(["admin"]).build_new();
        let change = a_change().by(&caller).build();
        store.insert_key(new, change).await.unwrap();
    }
}

/// As without the records: the cap is exact, also for the first keys of an account and with keys
/// that have expired.
pub async fn forty_concurrent_creates_of_accepted_callers_give_ten(store: Arc<dyn KeyStore>) {
    for expired in [0, 3] {
        let account = add_account(&*store, an_account().build()).await;
        for _ in 0..expired {
            add_key(&*store, a_key().of(&account).expires_at(NOON).build_new()).await;
        }
        let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
        let creates = (0..40).map(|_| {
            let (store, new) = (store.clone(), a_key().of(&account).build_new());
            let change = a_change()
                .by(&an_accepted_caller(&session, &account))
                .build();
            async move {
                match store.insert_key(new, change).await {
                    Ok(()) => true,
                    Err(ChangeError::CapReached { max: 10 }) => false,
                    Err(error) => panic!("neither added nor at the cap: {error:?}"),
                }
            }
        });
        let added = at_once(creates).await;
        assert_eq!(added.iter().filter(|added| **added).count(), 10);
        assert_eq!(keys_of(&*store, &account).await.total, 10 + expired);
    }
}

/// Keys are made and revoked on the word of a key while it, or its account, loses its right to
/// that. Once that is answered, nothing more happens.
pub async fn nothing_happens_once_an_accepted_caller_is_refused(store: Arc<dyn KeyStore>) {
    for round in 0..6 {
        let account = add_account(&*store, an_account().build()).await;
        let key = add_key(&*store, a_key().session_of(&account).build_new()).await;
        let holders: Vec<_> = (0..6)
            .map(|_| {
                let (store, account) = (store.clone(), account.clone());
                let mut caller = an_accepted_caller(&key, &account);
                caller.plans = Some(plans());
                tokio::spawn(async move {
                    let owner = Some(KeyOwner::Account(account.id));
                    let mut last = None;
                    loop {
                        let new = a_key().of(&account).without_cap().build_new();
                        let change = || a_change().by(&caller).build();
                        let outcome = match last.replace(new.key.id) {
                            Some(last) => store
                                .revoke_key(owner, last, Revocation::default(), change())
                                .await
                                .map(drop),
                            None => Ok(()),
                        };
                        let outcome = match outcome {
                            Ok(()) => store.insert_key(new, change()).await,
                            refused => refused,
                        };
                        match outcome {
                            Ok(()) => {}
                            Err(ChangeError::CallerDenied(_)) => break,
                            Err(error) => panic!("neither made nor denied: {error:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        while keys_of(&*store, &account).await.total == 0 {
            tokio::task::yield_now().await;
        }
        match round % 3 {
            0 => revoke(&*store, &key).await,
            1 => drop(update(&*store, &account, disabled()).await),
            _ => drop(update(&*store, &account, on("free")).await),
        }
        let at_answer = keys_of(&*store, &account).await;
        for holder in holders {
            holder.await.expect("no task panics");
        }
        assert_eq!(keys_of(&*store, &account).await, at_answer);
    }
}

/// Many keys of one account revoke one another at once: each revocation that is answered was made
/// by a key that was not revoked before, and none waits for ever.
pub async fn accepted_callers_revoke_one_another(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let mut keys = Vec::new();
    for _ in 0..10 {
        keys.push(add_key(&*store, a_key().of(&account).build_new()).await);
    }
    let attempts = (0..keys.len() * keys.len()).map(|place| {
        let (by, of) = (&keys[place % keys.len()], &keys[place / keys.len()]);
        let (store, id) = (store.clone(), of.id);
        let change = a_change().by(&an_accepted_caller(by, &account)).build();
        let owner = Some(KeyOwner::Account(account.id));
        async move {
            match store
                .revoke_key(owner, id, Revocation::default(), change)
                .await
            {
                Ok(revoked) => revoked.is_some(),
                Err(ChangeError::CallerDenied(Denial::Revoked)) => false,
                Err(error) => panic!("neither revoked nor denied: {error:?}"),
            }
        }
    });
    let revoked = at_once(attempts).await;
    let count = revoked.iter().filter(|revoked| **revoked).count();
    let left = keys_of(&*store, &account).await.total;
    assert_eq!(u64::try_from(count).unwrap() + left, 10);
    assert!(left <= 1, "{left} keys could still revoke another");
}
