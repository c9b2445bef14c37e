use std::sync::Arc;

use keys_core::{Account, ExternalId, Timestamp};
use keys_service::ports::{AccountPatch, AccountQuery, ChangeError, KeyStore};

use super::steps::{add_account, at_once, update};
use crate::data::{NOON, a_change, an_account, noon_plus, plan};

fn external_id(text: &str) -> ExternalId {
    text.parse().expect("tests use legal external ids")
}

fn rename(text: &str) -> AccountPatch {
    AccountPatch::default().external_id(Some(external_id(text)))
}

async fn find_account(store: &dyn KeyStore, account: &Account) -> Option<Account> {
    let found = store.find_account(account.id).await;
    found.expect("the store answers")
}

async fn with_external_id(store: &dyn KeyStore, text: &str) -> Vec<Account> {
    let query = AccountQuery::new(100).external_id(Some(external_id(text)));
    store.accounts(query).await.expect("the store answers")
}

/// Every field is stored and read without loss, to the microsecond.
pub async fn account_comes_back_as_it_was(store: Arc<dyn KeyStore>) {
    let longest: String = "ä€𝄞 '\"\\%_".chars().cycle().take(255).collect();
    let odd_micros = Timestamp::from_unix_micros(NOON.unix_micros() + 123_457);
    for account in [
        an_account(),
        an_account().external_id(longest),
        an_account().external_id("null").plan("a-plan_0"),
        an_account().disabled().created_at(odd_micros),
    ] {
        let account = add_account(&*store, account.build()).await;
        assert_eq!(find_account(&*store, &account).await, Some(account));
    }
}

/// A missing account is an answer, not an error.
pub async fn unknown_account_is_none(store: Arc<dyn KeyStore>) {
    let account = an_account().build();
    assert_eq!(find_account(&*store, &account).await, None);
}

/// The second account with an external id is refused and leaves no trace.
pub async fn external_id_is_unique(store: Arc<dyn KeyStore>) {
    let first = add_account(&*store, an_account().external_id("u-1").build()).await;
    let second = an_account().external_id("u-1").build();
    let refused = store
        .insert_account(second.clone(), a_change().build())
        .await;
    assert!(
        matches!(refused, Err(ChangeError::ExternalIdTaken)),
        "{refused:?}"
    );
    assert_eq!(find_account(&*store, &second).await, None);
    assert_eq!(with_external_id(&*store, "u-1").await, [first]);

    // Any number of accounts may have none.
    add_account(&*store, an_account().build()).await;
    add_account(&*store, an_account().build()).await;
}

fn count_taken<T: std::fmt::Debug>(results: &[Result<T, ChangeError>]) -> usize {
    let taken = |result: &&Result<T, ChangeError>| match result {
        Ok(_) => false,
        Err(ChangeError::ExternalIdTaken) => true,
        Err(error) => panic!("neither done nor taken: {error:?}"),
    };
    results.iter().filter(taken).count()
}

/// Of many concurrent inserts of the same external id one succeeds, and the others get the reason.
pub async fn external_id_is_unique_under_concurrent_inserts(store: Arc<dyn KeyStore>) {
    let inserts = (0..20).map(|_| {
        let store = store.clone();
        let account = an_account().external_id("u-1").build();
        async move { store.insert_account(account, a_change().build()).await }
    });
    let results = at_once(inserts).await;
    assert_eq!(count_taken(&results), 19);
    assert_eq!(with_external_id(&*store, "u-1").await.len(), 1);
}

/// Of many concurrent updates to the same external id one succeeds, and the other accounts do not
/// change.
pub async fn external_id_is_unique_under_concurrent_updates(store: Arc<dyn KeyStore>) {
    let mut accounts = Vec::new();
    for n in 0..10 {
        let account = an_account().external_id(format!("former-{n}")).build();
        accounts.push(add_account(&*store, account).await);
    }
    let updates = accounts.iter().map(|account| {
        let (store, id) = (store.clone(), account.id);
        async move {
            store
                .update_account(id, rename("u-1"), a_change().build())
                .await
        }
    });
    let results = at_once(updates).await;
    assert_eq!(count_taken(&results), 9);
    for (before, result) in accounts.iter().zip(results) {
        let expected = result.map_or_else(|_| before.clone(), |(account, _)| account);
        assert_eq!(find_account(&*store, before).await, Some(expected));
    }
}

/// No folding of case, no trimming, no normalization: identifiers belong to the host system.
pub async fn external_ids_are_equal_only_to_the_letter(store: Arc<dyn KeyStore>) {
    // The last two look alike: one precomposed letter, and a letter with a combining mark.
    let ids = [
        "user", "User", "user ", " user", "use%", "us_r", "\u{e9}", "e\u{301}",
    ];
    for id in ids {
        add_account(&*store, an_account().external_id(id).build()).await;
    }
    for id in ids {
        let found = with_external_id(&*store, id).await;
        assert_eq!(found.len(), 1, "{id:?}");
        assert_eq!(found[0].external_id, Some(external_id(id)));
    }
    assert_eq!(with_external_id(&*store, "USER").await, []);
}

/// A patch, and what it should do.
type Step = (AccountPatch, fn(&mut Account));

/// Fields in the patch are changed, others are not. The result is the account after the change.
pub async fn update_changes_what_is_named_and_nothing_else(store: Arc<dyn KeyStore>) {
    let bystander = add_account(&*store, an_account().external_id("other").build()).await;
    let mut account = add_account(&*store, an_account().external_id("u-1").build()).await;
    let patch = AccountPatch::default;
    let patches: [Step; 8] = [
        (patch(), |_| {}),
        (patch().plan(plan("business")), |account| {
            account.plan = plan("business");
        }),
        (patch().disabled(true), |account| account.disabled = true),
        // The external id that it already has.
        (rename("u-1"), |_| {}),
        (rename("u-2"), |account| {
            account.external_id = Some(external_id("u-2"));
        }),
        (patch().external_id(None), |account| {
            account.external_id = None;
        }),
        // Removes an external id that does not exist.
        (patch().external_id(None), |_| {}),
        (
            AccountPatch::default()
                .plan(plan("free"))
                .disabled(false)
                .external_id(Some(external_id("u-3"))),
            |account| {
                account.plan = plan("free");
                account.disabled = false;
                account.external_id = Some(external_id("u-3"));
            },
        ),
    ];
    for (patch, apply) in patches {
        apply(&mut account);
        assert_eq!(update(&*store, &account, patch).await, account);
        assert_eq!(find_account(&*store, &account).await, Some(account.clone()));
    }
    assert_eq!(find_account(&*store, &bystander).await, Some(bystander));
}

/// An external id that was given up, by removal or by a change, can be taken by another account.
pub async fn removed_external_id_is_free_for_others(store: Arc<dyn KeyStore>) {
    let first = add_account(&*store, an_account().external_id("u-1").build()).await;
    let second = add_account(&*store, an_account().external_id("u-2").build()).await;
    let taken = store
        .update_account(second.id, rename("u-1"), a_change().build())
        .await;
    assert!(
        matches!(taken, Err(ChangeError::ExternalIdTaken)),
        "{taken:?}"
    );

    let remove = AccountPatch::default().external_id(None);
    update(&*store, &first, remove).await;
    let second = update(&*store, &second, rename("u-1")).await;
    assert_eq!(with_external_id(&*store, "u-1").await, [second]);
    let third = add_account(&*store, an_account().external_id("u-2").build()).await;
    assert_eq!(with_external_id(&*store, "u-2").await, [third]);
}

/// An unknown account is not updated, also not by an empty patch.
pub async fn unknown_account_is_not_updated(store: Arc<dyn KeyStore>) {
    let account = an_account().build();
    for patch in [AccountPatch::default(), rename("u-1")] {
        let refused = store
            .update_account(account.id, patch, a_change().build())
            .await;
        assert!(
            matches!(refused, Err(ChangeError::AccountNotFound)),
            "{refused:?}"
        );
    }
    assert_eq!(with_external_id(&*store, "u-1").await, []);
}

/// Pages follow each other by identifier, oldest first, with each account on exactly one page.
pub async fn accounts_are_listed_by_id(store: Arc<dyn KeyStore>) {
    let mut accounts = Vec::new();
    for seconds in [5, 1, 1, 4, -7, 1, 0] {
        let account = an_account().created_at(noon_plus(seconds)).build();
        accounts.push(add_account(&*store, account).await);
    }
    accounts.sort_by_key(|account| account.id);
    for limit in [1, 2, 3, 7, 100, u32::MAX] {
        let mut joined: Vec<Account> = Vec::new();
        loop {
            let query = AccountQuery::new(limit).after(joined.last().map(|account| account.id));
            let page = store.accounts(query).await.unwrap();
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                break;
            }
            joined.extend(page);
            assert!(joined.len() <= accounts.len(), "pages of {limit} repeat");
        }
        assert_eq!(joined, accounts, "pages of {limit}");
    }
}

/// The filter returns the one account, and an empty page after it.
pub async fn account_is_listed_by_its_external_id(store: Arc<dyn KeyStore>) {
    add_account(&*store, an_account().build()).await;
    let account = add_account(&*store, an_account().external_id("u-1").build()).await;
    add_account(&*store, an_account().external_id("u-2").build()).await;
    let found = with_external_id(&*store, "u-1").await;
    assert_eq!(found, std::slice::from_ref(&account));
    assert_eq!(with_external_id(&*store, "u-3").await, []);
    let after = AccountQuery::new(100)
        .external_id(account.external_id)
        .after(Some(account.id));
    assert_eq!(store.accounts(after).await.unwrap(), []);
}
