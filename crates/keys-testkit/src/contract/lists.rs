use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keys_core::{
    Account, ApiKey, CreatedBy, KeyDetails, KeyId, KeyKind, KeyStatus, Metadata, Timestamp,
};
use keys_service::ports::{
    KeyListing, KeyOrder, KeyQuery, KeyStore, KeyUse, ListPosition, ListedKeys, NewKey, OTHERS_MAX,
};

use super::steps::{add_account, add_key, revoke};
use crate::data::{KeyBuilder, NOON, a_caller, a_change, a_key, an_account, noon_plus};

/// The time at which lists are read.
const NOW: Timestamp = noon_plus(1_000);

const DAY: i64 = 24 * 3_600;

async fn page_after(
    store: &dyn KeyStore,
    query: &KeyQuery,
    after: Option<ListPosition>,
) -> ListedKeys {
    let listing = KeyListing::new(query.clone(), NOW).after(after);
    store.list_keys(listing).await.expect("the store answers")
}

/// Returns all pages of a list as one.
async fn listed(store: &dyn KeyStore, query: &KeyQuery) -> Vec<KeyDetails> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = page_after(store, query, after).await;
        assert!(page.keys.len() <= query.limit as usize);
        assert_eq!(page.unreadable, []);
        all.extend(page.keys);
        after = page.next;
        if after.is_none() {
            return all;
        }
    }
}

async fn ids(store: &dyn KeyStore, query: &KeyQuery) -> Vec<KeyId> {
    let keys = listed(store, query).await;
    keys.into_iter().map(|one| one.key.id).collect()
}

async fn add(store: &dyn KeyStore, key: KeyBuilder, edit: impl FnOnce(&mut NewKey)) -> ApiKey {
    let mut new = key.without_cap().build_new();
    edit(&mut new);
    add_key(store, new).await
}

fn order(name: &str) -> KeyOrder {
    name.parse().expect("tests name known orders")
}

async fn used(store: &dyn KeyStore, key: &ApiKey, at: Timestamp) {
    let skipped = store.record_uses(vec![KeyUse::new(key.id, at, 1)]).await;
    assert_eq!(skipped.unwrap(), []);
}

/// Everything about a key is read back, of any kind and in any state.
pub async fn key_is_found_with_everything_about_it(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    let mut new = a_key().of(&account).name("CI").build_new();
    new.key.subject = Some("user 17".parse().unwrap());
    new.key.disabled_at = Some(noon_plus(-1));
    new.metadata = Metadata::new([("team", "billing \"é\"")]).unwrap();
    let change = || a_change().by(&a_caller(&operator)).build();
    let expected = {
        let change = change();
        let mut details = new.details(&change);
        store.insert_key(new.clone(), change).await.unwrap();
        details.use_count = 3;
        details.key.last_used_at = Some(NOON);
        details
    };
    let uses = vec![KeyUse::new(new.key.id, NOON, 3)];
    assert_eq!(store.record_uses(uses).await.unwrap(), []);
    let found = store.find_key(new.key.id).await.unwrap();
    assert_eq!(found, Some(Ok(expected.clone())));
    let all = listed(&*store, &KeyQuery::new(10)).await;
    assert_eq!(all, [expected]);

    let found = store.find_key(operator.id).await.unwrap();
    let found = found.unwrap().unwrap();
    assert_eq!(
        (found.key.kind, found.status(NOW)),
        (KeyKind::Operator, KeyStatus::Active)
    );
    revoke(&*store, &operator).await;
    let found = store.find_key(operator.id).await.unwrap();
    assert_eq!(found.unwrap().unwrap().status(NOW), KeyStatus::Revoked);
    assert_eq!(store.find_key(a_key().build().id).await.unwrap(), None);
}

/// In every order, a key that is there all the time is on exactly one page, whichever others come
/// and go meanwhile, before and after the place that was reached.
pub async fn pages_are_stable_while_keys_come_and_go(store: Arc<dyn KeyStore>) {
    const KEYS: i64 = 24;
    for (name, _) in KeyOrder::ALL {
        for is_of_account in [true, false] {
            let account = add_account(&*store, an_account().build()).await;
            let other = add_account(&*store, an_account().build()).await;
            let new = async |n: i64| {
                // Two at a time have the same values, so that identifiers decide.
                let pair = n / 2;
                let key = a_key().of(&account).created_at(noon_plus(pair));
                let key = if n % 4 < 2 {
                    key.expires_at(noon_plus(2_000 + (pair * 7) % 12))
                } else {
                    key
                };
                let key = add(&*store, key, |_| {}).await;
                if n % 3 > 0 {
                    used(&*store, &key, noon_plus(-((pair * 5) % 12) * DAY)).await;
                }
                key
            };
            let mut steady = BTreeSet::new();
            let mut leaving = Vec::new();
            for n in 0..KEYS {
                let key = new(n).await;
                if n % 4 == 3 {
                    leaving.push(key);
                } else {
                    steady.insert(key.id);
                }
                add(&*store, a_key().of(&other), |_| {}).await;
            }
            let query = KeyQuery::new(5)
                .sort(Some(order(name)))
                .account(is_of_account.then_some(account.id));
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = page_after(&*store, &query, after).await;
                for one in &page.keys {
                    if one.key.account_id == Some(account.id) {
                        seen.push(one.key.id);
                    }
                }
                // Those on the page go as well, also the last one, after which the list continues.
                if let Some(key) = leaving.pop() {
                    revoke(&*store, &key).await;
                }
                if let Some(last) = page.keys.last().filter(|_| seen.len() < 12) {
                    steady.remove(&last.key.id);
                    leaving.retain(|key| key.id != last.key.id);
                    revoke(&*store, &last.key).await;
                }
                new(i64::try_from(seen.len()).unwrap() + 1).await;
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            let distinct: BTreeSet<_> = seen.iter().copied().collect();
            assert_eq!(distinct.len(), seen.len(), "{name}: a key is on two pages");
            let lost: Vec<_> = steady.difference(&distinct).collect();
            assert!(lost.is_empty(), "{name}: {lost:?} are on no page");
        }
    }
}

/// Pages of any size join to the whole list, in every order and in the reverse.
pub async fn listed_pages_join_to_the_whole_list(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let mut keys = Vec::new();
    for n in 0..9 {
        let key = a_key().of(&account).created_at(noon_plus(n / 2));
        let key = match n % 3 {
            0 => key.expires_at(noon_plus(2_000 - n / 4)),
            _ => key,
        };
        let key = add(&*store, key, |_| {}).await;
        if n % 2 == 0 {
            used(&*store, &key, noon_plus(-(n % 4) * DAY)).await;
        }
        keys.push(key);
    }
    revoke(&*store, &keys[4]).await;
    let all = BTreeSet::from(KeyStatus::ALL);
    for (name, _) in KeyOrder::ALL {
        for account in [None, Some(account.id)] {
            let statuses = all
                .iter()
                .copied()
                .filter(|status| *status != KeyStatus::Revoked || name.ends_with("created_at"));
            let query = |limit| {
                KeyQuery::new(limit)
                    .sort(Some(order(name)))
                    .account(account)
                    .statuses(statuses.clone())
            };
            let whole = ids(&*store, &query(1_000)).await;
            let expected = if name.ends_with("created_at") { 9 } else { 8 };
            assert_eq!(whole.len(), expected, "{name}");
            for limit in 1..=10 {
                assert_eq!(
                    ids(&*store, &query(limit)).await,
                    whole,
                    "{name} by {limit}"
                );
            }
        }
    }
    let forward = ids(&*store, &KeyQuery::new(100).sort(Some(order("created_at")))).await;
    let mut backward = ids(&*store, &KeyQuery::new(100)).await;
    backward.reverse();
    assert_eq!(forward, backward);
    assert!(forward.is_sorted());
}

/// By last use, keys that were never used come first, and by expiry, those that never expire come
/// last. The reverse orders are the reverse.
pub async fn keys_without_the_value_have_their_place(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let at = |n| a_key().of(&account).created_at(noon_plus(n));
    let never = add(&*store, at(0), |_| {}).await;
    let early = add(&*store, at(1).expires_at(noon_plus(5_000)), |_| {}).await;
    let late = add(&*store, at(2).expires_at(noon_plus(6_000)), |_| {}).await;
    let unused = add(&*store, at(3).expires_at(noon_plus(7_000)), |_| {}).await;
    used(&*store, &never, noon_plus(-2 * DAY)).await;
    used(&*store, &early, noon_plus(-DAY)).await;
    used(&*store, &late, NOON).await;
    for account in [None, Some(account.id)] {
        for (name, expected) in [
            ("last_used_at", [&unused, &never, &early, &late]),
            ("expires_at", [&early, &late, &unused, &never]),
        ] {
            let expected = expected.map(|key| key.id);
            let query = KeyQuery::new(2).account(account);
            let found = ids(&*store, &query.clone().sort(Some(order(name)))).await;
            assert_eq!(found, expected, "{name}");
            let mut found = ids(&*store, &query.sort(Some(order(&format!("-{name}"))))).await;
            found.reverse();
            assert_eq!(found, expected, "-{name}");
        }
    }
    // A later use moves a key, and an earlier one does not.
    used(&*store, &never, noon_plus(DAY)).await;
    used(&*store, &late, noon_plus(-9 * DAY)).await;
    let found = ids(
        &*store,
        &KeyQuery::new(10).sort(Some(order("-last_used_at"))),
    )
    .await;
    assert_eq!(found, [&never, &late, &early, &unused].map(|key| key.id));
}

/// The keys of [`filters_select_what_they_name`].
struct Filtered {
    plain: ApiKey,
    rich: ApiKey,
    disabled: ApiKey,
    ending: ApiKey,
    foreign: ApiKey,
    operator: ApiKey,
    session: ApiKey,
    account: Account,
}

async fn filtered(store: &dyn KeyStore) -> Filtered {
    let account = add_account(store, an_account().build()).await;
    let other = add_account(store, an_account().build()).await;
    let operator = add_key(store, a_key().created_at(noon_plus(-10)).build_new()).await;
    let plain = add(store, a_key().of(&account), |_| {}).await;
    let rich = {
        let key = a_key()
            .of(&account)
            .name("Nightly BACKUP é")
            .scopes(["orders:read", "orders:write"])
            .created_at(noon_plus(10));
        let mut new = key.without_cap().build_new();
        new.key.subject = Some("user 17".parse().unwrap());
        new.metadata = Metadata::new([("team", "billing"), ("env", "live")]).unwrap();
        let change = a_change().by(&a_caller(&operator)).build();
        store.insert_key(new.clone(), change).await.unwrap();
        new.key
    };
    let disabled = add(
        store,
        a_key().of(&account).created_at(noon_plus(20)),
        |new| {
            new.key.disabled_at = Some(NOON);
            new.metadata = Metadata::new([("team", "billing")]).unwrap();
        },
    )
    .await;
    let ending = a_key().of(&account).created_at(noon_plus(30));
    let ending = add(store, ending.expires_at(noon_plus(2_000)), |_| {}).await;
    let foreign = a_key().of(&other).created_at(noon_plus(40));
    let foreign = add(store, foreign.scopes(["orders:read"]), |_| {}).await;
    let session = a_key().session_of(&account).created_at(noon_plus(50));
    let session = add(store, session, |new| {
        new.key.subject = Some("user 17".parse().unwrap());
    })
    .await;
    used(store, &plain, noon_plus(-40 * DAY)).await;
    used(store, &rich, noon_plus(100)).await;
    Filtered {
        plain,
        rich,
        disabled,
        ending,
        foreign,
        operator,
        session,
        account,
    }
}

/// Each filter leaves exactly the keys that it names, and filters add up. Operator keys and
/// sessions are only on lists of their kind.
#[expect(clippy::too_many_lines, reason = "a list of filters")]
pub async fn filters_select_what_they_name(store: Arc<dyn KeyStore>) {
    let keys = filtered(&*store).await;
    let Filtered {
        plain,
        rich,
        disabled,
        ending,
        foreign,
        operator,
        session,
        account,
    } = &keys;
    let all = || KeyQuery::new(2);
    let of_account = || all().account(Some(account.id));
    let text = |text: &str| Some(text.to_owned());
    let metadata = |entries: &[(&str, &str)]| Metadata::new(entries.iter().copied()).unwrap();
    let subject = || Some(CreatedBy::Subject("user 17".parse().unwrap()));
    for (query, expected) in [
        (all(), vec![foreign, ending, disabled, rich, plain]),
        (of_account(), vec![ending, disabled, rich, plain]),
        (
            all().statuses([KeyStatus::Active]),
            vec![foreign, ending, rich, plain],
        ),
        (of_account().statuses([KeyStatus::Disabled]), vec![disabled]),
        (all().statuses([KeyStatus::Revoked]), vec![]),
        (all().statuses([KeyStatus::Expired]), vec![]),
        (all().prefix(Some(rich.shown_prefix.clone())), vec![rich]),
        (
            of_account().prefix(Some(foreign.shown_prefix.clone())),
            vec![],
        ),
        (of_account().name(text("backup")), vec![rich]),
        (of_account().name(text("É")), vec![rich]),
        (of_account().name(text("%")), vec![]),
        (
            all().scope(Some("orders:read".parse().unwrap())),
            vec![foreign, rich],
        ),
        (all().scope(Some("orders".parse().unwrap())), vec![]),
        (
            all().created_by(Some(CreatedBy::Operator(operator.id))),
            vec![rich],
        ),
        (
            all().created_by(Some(CreatedBy::Operator(plain.id))),
            vec![],
        ),
        (all().created_by(subject()), vec![rich]),
        (
            all().created_by(subject()).kind(KeyKind::Session),
            vec![session],
        ),
        (of_account().kind(KeyKind::Session), vec![session]),
        (all().kind(KeyKind::Operator), vec![operator]),
        (
            all().created_after(Some(noon_plus(20))),
            vec![foreign, ending, disabled],
        ),
        (
            of_account().created_after(Some(noon_plus(20))),
            vec![ending, disabled],
        ),
        (all().created_before(Some(noon_plus(20))), vec![rich, plain]),
        (
            of_account()
                .created_after(Some(noon_plus(10)))
                .created_before(Some(noon_plus(20))),
            vec![rich],
        ),
        // Those that were never used count as used when they were created.
        (
            all().last_used_before(Some(noon_plus(30))),
            vec![disabled, plain],
        ),
        (
            of_account().last_used_before(Some(noon_plus(100))),
            vec![ending, disabled, plain],
        ),
        (
            all().last_used_before(Some(noon_plus(-39 * DAY))),
            vec![plain],
        ),
        (all().last_used_before(Some(noon_plus(-40 * DAY))), vec![]),
        (all().expires_before(Some(noon_plus(2_001))), vec![ending]),
        (all().expires_before(Some(noon_plus(2_000))), vec![]),
        (
            of_account().expires_before(Some(noon_plus(2_001))),
            vec![ending],
        ),
        (
            of_account().metadata(metadata(&[("team", "billing")])),
            vec![disabled, rich],
        ),
        (
            of_account().metadata(metadata(&[("team", "billing"), ("env", "live")])),
            vec![rich],
        ),
        (
            of_account().metadata(metadata(&[("team", "Billing")])),
            vec![],
        ),
        (
            of_account()
                .metadata(metadata(&[("team", "billing")]))
                .statuses([KeyStatus::Active])
                .scope(Some("orders:write".parse().unwrap())),
            vec![rich],
        ),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|key| key.id).collect();
        assert_eq!(ids(&*store, &query).await, expected, "{query:?}");
    }
}

/// A key has the first status that applies, and is on the lists of that status only.
pub async fn keys_are_listed_by_their_status(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = || a_key().of(&account);
    let past = noon_plus(1_000);
    let active = add(&*store, key(), |_| {}).await;
    let last_moment = past.saturating_add(Duration::from_micros(1));
    let ending = add(&*store, key().expires_at(last_moment), |_| {}).await;
    let expired = add(&*store, key().expires_at(past), |_| {}).await;
    let disabled = add(&*store, key(), |new| new.key.disabled_at = Some(NOON)).await;
    let disabled_and_expired = add(&*store, key().expires_at(past), |new| {
        new.key.disabled_at = Some(NOON);
    })
    .await;
    let revoked = add(&*store, key().expires_at(past), |new| {
        new.key.disabled_at = Some(NOON);
    })
    .await;
    revoke(&*store, &revoked).await;
    for account in [None, Some(account.id)] {
        for (statuses, mut expected) in [
            (vec![], vec![&active, &ending, &disabled]),
            (vec![KeyStatus::Active], vec![&active, &ending]),
            (vec![KeyStatus::Disabled], vec![&disabled]),
            (vec![KeyStatus::Rotating], vec![]),
            (
                vec![KeyStatus::Expired],
                vec![&expired, &disabled_and_expired],
            ),
            (vec![KeyStatus::Revoked], vec![&revoked]),
            (
                vec![KeyStatus::Revoked, KeyStatus::Disabled],
                vec![&revoked, &disabled],
            ),
            (
                KeyStatus::ALL.to_vec(),
                vec![
                    &active,
                    &ending,
                    &expired,
                    &disabled,
                    &disabled_and_expired,
                    &revoked,
                ],
            ),
        ] {
            expected.sort_by_key(|key| key.id);
            let expected: Vec<_> = expected.into_iter().map(|key| key.id).collect();
            let query = KeyQuery::new(2).account(account).statuses(statuses);
            let mut found = ids(&*store, &query).await;
            found.sort();
            assert_eq!(found, expected, "{query:?}");
        }
    }
}

/// The first page of a list without a filter by status counts the revoked and expired keys that
/// every other filter matches.
pub async fn keys_with_other_statuses_are_counted(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let other = add_account(&*store, an_account().build()).await;
    let told = async |query: KeyQuery| {
        let page = page_after(&*store, &query, None).await;
        let others = page.others.expect("others are counted");
        assert!(others.count <= OTHERS_MAX && !others.more, "{others:?}");
        others.count
    };
    let all = || KeyQuery::new(3);
    let of_account = || all().account(Some(account.id));
    assert_eq!(told(all()).await, 0);
    assert_eq!(told(of_account()).await, 0);
    let mut revoked = Vec::new();
    for n in 0..5 {
        let key = a_key().of(&account).created_at(noon_plus(n));
        let key = add(&*store, key.scopes(["a"]), |_| {}).await;
        revoked.push(key);
    }
    for key in &revoked {
        revoke(&*store, key).await;
    }
    add(
        &*store,
        a_key().of(&account).expires_at(noon_plus(500)),
        |_| {},
    )
    .await;
    add(
        &*store,
        a_key().of(&other).expires_at(noon_plus(500)),
        |_| {},
    )
    .await;
    for _ in 0..4 {
        add(&*store, a_key().of(&account).name("live"), |_| {}).await;
    }
    assert_eq!(told(all()).await, 7);
    assert_eq!(told(of_account()).await, 6);
    assert_eq!(
        told(of_account().scope(Some("a".parse().unwrap()))).await,
        5
    );
    assert_eq!(told(all().created_after(Some(noon_plus(3)))).await, 2);
    assert_eq!(told(of_account().name(Some("LIVE".to_owned()))).await, 0);
    assert_eq!(
        told(all().prefix(Some(revoked[0].shown_prefix.clone()))).await,
        1
    );
    assert_eq!(told(all().last_used_before(Some(NOW))).await, 7);
    assert_eq!(told(all().kind(KeyKind::Operator)).await, 0);
    assert_eq!(told(of_account().kind(KeyKind::Session)).await, 0);

    let first = page_after(&*store, &of_account(), None).await;
    let second = page_after(&*store, &of_account(), first.next).await;
    assert_eq!((second.keys.len(), second.others), (1, None));
    let named = of_account().statuses([KeyStatus::Active]);
    assert_eq!(page_after(&*store, &named, None).await.others, None);
}
