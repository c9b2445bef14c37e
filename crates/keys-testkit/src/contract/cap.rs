use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use keys_core::{Account, AccountId, Denial, Revocation, Timestamp};
use keys_service::ports::{AccountPatch, ChangeError, KeyOwner, KeyStore, NewKey};

use super::steps::{add_account, add_key, at_once, find, keys_of, list, revoke, try_add, update};
use crate::data::{NOON, a_change, a_key, an_account, noon_plus, plan};

/// Returns the number of keys of the account that are usable at [`NOON`].
async fn usable(store: &dyn KeyStore, account_id: AccountId) -> usize {
    let page = list(store, KeyOwner::Account(account_id)).await;
    page.keys.iter().filter(|key| key.is_usable(NOON)).count()
}

async fn fill(store: &dyn KeyStore, account: &Account, count: usize) {
    for _ in 0..count {
        add_key(store, a_key().of(account).build_new()).await;
    }
}

/// Counting and inserting race unless the account is locked first.
pub async fn forty_concurrent_creates_at_a_cap_of_ten_give_ten(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let creates = (0..40).map(|_| {
        let store = store.clone();
        let key = a_key().of(&account).build_new();
        async move {
            match store.insert_key(key.clone(), a_change().build()).await {
                Ok(()) => Ok(key),
                Err(ChangeError::CapReached { max }) => {
                    assert_eq!(max, 10);
                    Err(key)
                }
                Err(error) => panic!("neither added nor at the cap: {error:?}"),
            }
        }
    });
    let results = at_once(creates).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 10);
    assert_eq!(keys_of(&*store, &account).await.total, 10);
    for result in results {
        let (added, key) = match result {
            Ok(key) => (true, key),
            Err(key) => (false, key),
        };
        assert_eq!(find(&*store, &key).await.is_some(), added);
    }
}

/// Keys are created and revoked at once; there are never more than ten.
pub async fn revocations_interleaved_never_let_more_than_ten_be_usable(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let account_id = account.id;
    fill(&*store, &account, 10).await;
    let created = Arc::new(AtomicUsize::new(0));

    // One revocation after every fourth create.
    let mut tasks: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for key in keys_of(&*store, &account).await.keys {
        for _ in 0..4 {
            let (store, created) = (store.clone(), created.clone());
            let new = a_key().of(&account).build_new();
            tasks.push(Box::pin(async move {
                if try_add(&*store, new, a_change().build()).await {
                    created.fetch_add(1, SeqCst);
                }
                assert!(usable(&*store, account_id).await <= 10);
            }));
        }
        let store = store.clone();
        tasks.push(Box::pin(async move {
            let owner = Some(KeyOwner::Account(account_id));
            let revoked = store
                .revoke_key(owner, key.id, Revocation::default(), a_change().build())
                .await;
            assert!(revoked.unwrap().is_some());
            assert!(usable(&*store, account_id).await <= 10);
        }));
    }
    at_once(tasks).await;

    assert_eq!(usable(&*store, account_id).await, created.load(SeqCst));
    for _ in 0..11 {
        try_add(
            &*store,
            a_key().of(&account).build_new(),
            a_change().build(),
        )
        .await;
    }
    assert_eq!(usable(&*store, account_id).await, 10);
}

/// The maximum of one account does not affect another, even when both are written at once.
pub async fn accounts_at_their_cap_do_not_disturb_each_other(store: Arc<dyn KeyStore>) {
    let mut accounts = Vec::new();
    for _ in 0..3 {
        accounts.push(add_account(&*store, an_account().build()).await);
    }
    let creates = (0..45).map(|n| {
        let store = store.clone();
        let key = a_key().of(&accounts[n % 3]).build_new();
        async move { try_add(&*store, key, a_change().build()).await }
    });
    at_once(creates).await;
    for account in &accounts {
        assert_eq!(keys_of(&*store, account).await.total, 10);
    }
}

/// A revoked key makes room at once.
pub async fn revoked_key_frees_its_slot(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    fill(&*store, &account, 10).await;
    for _ in 0..3 {
        assert!(
            !try_add(
                &*store,
                a_key().of(&account).build_new(),
                a_change().build()
            )
            .await
        );
        let key = keys_of(&*store, &account).await.keys.swap_remove(0);
        revoke(&*store, &key).await;
        assert!(
            try_add(
                &*store,
                a_key().of(&account).build_new(),
                a_change().build()
            )
            .await
        );
    }
    assert_eq!(usable(&*store, account.id).await, 10);
}

/// Expired means `now >= expires_at`, for the maximum as for everything else. The time of the
/// change decides.
pub async fn expired_key_frees_its_slot_at_the_exact_moment(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    fill(&*store, &account, 9).await;
    let end = noon_plus(60);
    add_key(&*store, a_key().of(&account).expires_at(end).build_new()).await;

    let just_before = Timestamp::from_unix_micros(end.unix_micros() - 1);
    for (at, added) in [
        (NOON, false),
        (just_before, false),
        (end, true),
        (end, false),
    ] {
        let key = a_key().of(&account).created_at(at).build_new();
        let change = a_change().at(at).build();
        assert_eq!(try_add(&*store, key, change).await, added, "{at:?}");
    }
    assert_eq!(keys_of(&*store, &account).await.total, 11);
}

/// Only keys of kind account count towards the maximum and are limited by it.
pub async fn sessions_and_operator_keys_are_neither_counted_nor_capped(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for _ in 0..12 {
        add_key(&*store, a_key().session_of(&account).build_new()).await;
        add_key(&*store, a_key().build_new()).await;
    }
    assert_eq!(keys_of(&*store, &account).await.total, 0);
    fill(&*store, &account, 10).await;
    assert!(
        !try_add(
            &*store,
            a_key().of(&account).build_new(),
            a_change().build()
        )
        .await
    );
    add_key(&*store, a_key().session_of(&account).build_new()).await;
    add_key(&*store, a_key().build_new()).await;
    assert_eq!(keys_of(&*store, &account).await.total, 10);
    assert_eq!(list(&*store, KeyOwner::Operators).await.total, 13);
}

/// A change without the cap can exceed it; the next one with the cap is refused with the maximum.
pub async fn cap_holds_only_where_it_is_asked_for(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for _ in 0..12 {
        add_key(&*store, a_key().of(&account).without_cap().build_new()).await;
    }
    let refused = store
        .insert_key(a_key().of(&account).build_new(), a_change().build())
        .await;
    assert!(
        matches!(refused, Err(ChangeError::CapReached { max: 10 })),
        "{refused:?}"
    );
}

/// A downgrade to fewer keys removes none; new ones are refused until there is room under the new
/// maximum.
pub async fn lower_cap_keeps_all_keys_and_refuses_new_ones(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    fill(&*store, &account, 4).await;
    let patch = AccountPatch::default().plan(plan("tiny"));
    update(&*store, &account, patch).await;
    assert_eq!(usable(&*store, account.id).await, 4);
    for left in [4, 3, 2] {
        let refused = store
            .insert_key(a_key().of(&account).build_new(), a_change().build())
            .await;
        assert!(
            matches!(refused, Err(ChangeError::CapReached { max: 2 })),
            "{left} {refused:?}"
        );
        let key = keys_of(&*store, &account).await.keys.swap_remove(0);
        revoke(&*store, &key).await;
    }
    assert!(
        try_add(
            &*store,
            a_key().of(&account).build_new(),
            a_change().build()
        )
        .await
    );
}

async fn assert_denied(store: &dyn KeyStore, key: NewKey, denial: Denial) {
    match store.insert_key(key.clone(), a_change().build()).await {
        Err(ChangeError::AccountDenied(reason)) => assert_eq!(reason, denial),
        other => panic!("expected {denial:?}, got {other:?}"),
    }
    assert_eq!(find(store, &key).await, None);
}

/// With the plan gate, the account must not be disabled and its plan must be configured and have
/// keys.
pub async fn account_that_may_not_have_keys_is_refused(store: Arc<dyn KeyStore>) {
    for (account, denial) in [
        (an_account().plan("free"), Denial::PlanForbidden),
        (an_account().plan("gone"), Denial::PlanForbidden),
        (an_account().disabled(), Denial::AccountDisabled),
        (
            an_account().plan("free").disabled(),
            Denial::AccountDisabled,
        ),
    ] {
        let account = add_account(&*store, account.build()).await;
        assert_denied(&*store, a_key().of(&account).build_new(), denial).await;
        assert_denied(&*store, a_key().session_of(&account).build_new(), denial).await;
        assert_eq!(keys_of(&*store, &account).await.total, 0);
    }
}

/// Without the plan gate, which sessions on every plan use, a disabled account is still refused.
pub async fn without_plan_gate_only_disabled_accounts_are_refused(store: Arc<dyn KeyStore>) {
    for name in ["free", "gone", "pro"] {
        let account = add_account(&*store, an_account().plan(name).build()).await;
        let session = a_key().session_of(&account).without_plan_gate();
        add_key(&*store, session.build_new()).await;
    }
    let account = add_account(&*store, an_account().disabled().build()).await;
    let session = a_key().session_of(&account).without_plan_gate().build_new();
    assert_denied(&*store, session, Denial::AccountDisabled).await;

    let account = add_account(&*store, an_account().plan("free").build()).await;
    let key = a_key().of(&account).without_plan_gate().build_new();
    let refused = store.insert_key(key, a_change().build()).await;
    assert!(
        matches!(refused, Err(ChangeError::CapReached { max: 0 })),
        "{refused:?}"
    );
}

/// A key for an unknown account is not created.
pub async fn unknown_account_is_not_given_a_key(store: Arc<dyn KeyStore>) {
    let account = an_account().build();
    for key in [a_key().of(&account), a_key().session_of(&account)] {
        let key = key.without_plan_gate().without_cap().build_new();
        let refused = store.insert_key(key.clone(), a_change().build()).await;
        assert!(
            matches!(refused, Err(ChangeError::AccountNotFound)),
            "{refused:?}"
        );
        assert_eq!(find(&*store, &key).await, None);
    }
}

/// Keys are created while the account loses the right to have keys. After the answer to that change
/// no further key appears.
pub async fn change_of_plan_or_state_counts_from_its_answer_on(store: Arc<dyn KeyStore>) {
    let disable = AccountPatch::default().disabled(true);
    let downgrade = AccountPatch::default().plan(plan("free"));
    for patch in [disable, downgrade] {
        let account = add_account(&*store, an_account().build()).await;
        let creators: Vec<_> = (0..6)
            .map(|_| {
                let (store, account) = (store.clone(), account.clone());
                tokio::spawn(async move {
                    loop {
                        let key = a_key().of(&account).without_cap().build_new();
                        match store.insert_key(key, a_change().build()).await {
                            Ok(()) => {}
                            Err(ChangeError::AccountDenied(_)) => break,
                            Err(error) => panic!("neither added nor denied: {error:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        while keys_of(&*store, &account).await.total == 0 {
            tokio::task::yield_now().await;
        }
        update(&*store, &account, patch).await;
        let at_answer = keys_of(&*store, &account).await.total;
        for creator in creators {
            creator.await.expect("no task panics");
        }
        assert_eq!(keys_of(&*store, &account).await.total, at_answer);
    }
}
