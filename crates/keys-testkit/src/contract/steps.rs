//! Steps that many cases share.

use keys_core::{Account, ApiKey, Revocation, StoredKey};
use keys_service::ports::{AccountPatch, Change, ChangeError, KeyOwner, KeyPage, KeyStore, NewKey};

use crate::data::a_change;

/// Runs all futures concurrently, and returns their results in order.
pub(super) async fn at_once<T, F>(futures: impl IntoIterator<Item = F>) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.expect("no task panics"));
    }
    results
}

pub(super) async fn add_account(store: &dyn KeyStore, account: Account) -> Account {
    store
        .insert_account(account.clone(), a_change().build())
        .await
        .expect("the account is added");
    account
}

pub(super) async fn add_key(store: &dyn KeyStore, key: NewKey) -> ApiKey {
    let record = key.key.clone();
    store
        .insert_key(key, a_change().build())
        .await
        .expect("the key is added");
    record
}

pub(super) async fn revoke(store: &dyn KeyStore, key: &ApiKey) {
    let revoked = store
        .revoke_key(None, key.id, Revocation::default(), a_change().build())
        .await;
    let revoked = revoked.expect("the store answers");
    assert!(revoked.is_some(), "the key is revoked");
}

pub(super) async fn update(
    store: &dyn KeyStore,
    account: &Account,
    patch: AccountPatch,
) -> Account {
    store
        .update_account(account.id, patch, a_change().build())
        .await
        .expect("the account is updated")
        .0
}

pub(super) async fn find(store: &dyn KeyStore, key: &NewKey) -> Option<StoredKey> {
    let found = store
        .find_by_digests(vec![key.digest])
        .await
        .expect("the store answers");
    assert!(found.len() <= 1, "{found:?}");
    let found = found.into_iter().next()?;
    assert_eq!(found.digest, key.digest);
    Some(found.stored.expect("the row can be read"))
}

pub(super) async fn list(store: &dyn KeyStore, owner: KeyOwner) -> KeyPage {
    const MORE_THAN_ANY_TEST_HAS: u32 = 10_000;
    let page = store.keys(owner, 0, MORE_THAN_ANY_TEST_HAS).await;
    page.expect("the store answers")
}

pub(super) async fn keys_of(store: &dyn KeyStore, account: &Account) -> KeyPage {
    list(store, KeyOwner::Account(account.id)).await
}

/// Adds a key and returns whether it was added, or refused because of the cap.
pub(super) async fn try_add(store: &dyn KeyStore, key: NewKey, change: Change) -> bool {
    match store.insert_key(key, change).await {
        Ok(()) => true,
        Err(ChangeError::CapReached { .. }) => false,
        Err(error) => panic!("neither added nor at the cap: {error:?}"),
    }
}
