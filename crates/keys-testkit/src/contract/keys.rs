use std::sync::Arc;
use std::time::Duration;

use keys_core::{ApiKey, KeyKind, PepperedDigest, Revocation, Timestamp};
use keys_service::ports::{AccountPatch, ChangeError, KeyOwner, KeyStore, KeyUse, NewKey};

use super::steps::{add_account, add_key, at_once, find, keys_of, list, revoke, update};
use crate::data::{NOON, a_change, a_key, an_account, noon_plus, pepper_id, plan};

/// Returns one key of each kind, with every field set to a value that is easily damaged.
async fn delicate_keys(store: &dyn KeyStore) -> Vec<NewKey> {
    let account = add_account(store, an_account().build()).await;
    let odd_micros = Timestamp::from_unix_micros(NOON.unix_micros() + 123_457);
    let long_name: String = "ä€𝄞 '\"\\%".chars().cycle().take(500).collect();
    let networks = [
        "192.0.2.7",
        "10.0.0.0/8",
        "2001:db8::/32",
        "::1",
        "0.0.0.0/0",
        "::/0",
    ];
    let many: Vec<String> = (0..128).map(|n| format!("198.51.100.{n}")).collect();
    vec![
        a_key()
            .of(&account)
            .name(&long_name)
            .allowed(networks)
            .scopes(["orders:read", "a.b_c-d:e", "0"])
            .expires_at(odd_micros.saturating_add(Duration::from_micros(1)))
            .created_at(odd_micros)
            .build_new(),
        a_key().of(&account).name("{\"a\",NULL}").build_new(),
        a_key()
            .session_of(&account)
            .expires_at(Timestamp::MAX)
            .allowed(many.iter().map(String::as_str))
            .build_new(),
        a_key()
            .name("Production Server")
            .scopes(["accounts:read", "accounts:write"])
            .pepper("p2")
            .build_new(),
        a_key().build_new(),
    ]
}

/// Networks, scopes, names and times are stored and read without loss, for every kind of key.
pub async fn keys_come_back_as_they_were(store: Arc<dyn KeyStore>) {
    let keys = delicate_keys(&*store).await;
    for key in &keys {
        add_key(&*store, key.clone()).await;
    }
    for key in &keys {
        let found = find(&*store, key).await.expect("the key is found");
        assert_eq!(found.key, key.key);
        assert_eq!(found.account.map(|account| account.id), key.key.account_id);
    }
}

/// A list has the same values as a look-up.
pub async fn listed_keys_are_as_they_were(store: Arc<dyn KeyStore>) {
    for key in delicate_keys(&*store).await {
        let key = add_key(&*store, key).await;
        let owner = match (key.kind, key.account_id) {
            (KeyKind::Account, Some(id)) => KeyOwner::Account(id),
            (KeyKind::Operator, None) => KeyOwner::Operators,
            _ => continue,
        };
        assert!(list(&*store, owner).await.keys.contains(&key));
    }
}

/// The right digest under another pepper finds nothing, nor does another digest under the right
/// pepper.
pub async fn key_is_found_only_when_digest_and_pepper_are_equal(store: Arc<dyn KeyStore>) {
    let key = a_key().build_new();
    let other = a_key().build_new();
    add_key(&*store, key.clone()).await;

    let mut other_pepper = key.digest;
    other_pepper.pepper = pepper_id("p2");
    let misses = vec![other_pepper, other.digest];
    assert_eq!(store.find_by_digests(misses.clone()).await.unwrap(), []);
    assert_eq!(store.find_by_digests(vec![]).await.unwrap(), []);

    for position in 0..=misses.len() {
        let mut digests = misses.clone();
        digests.insert(position, key.digest);
        let found = store.find_by_digests(digests).await.unwrap();
        let [found] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(found.digest, key.digest);
        assert_eq!(found.stored.as_ref().unwrap().key.id, key.key.id);
    }
}

/// One look-up finds any number of keys, each once, with the digest that found it.
pub async fn many_keys_are_found_at_once(store: Arc<dyn KeyStore>) {
    const WANTED: usize = 1_200;
    const STORED: usize = 30;
    let account = add_account(&*store, an_account().build()).await;
    let wanted: Vec<_> = (0..WANTED)
        .map(|n| match n % 2 {
            0 => a_key().of(&account).without_cap().build_new(),
            _ => a_key().build_new(),
        })
        .collect();
    let stored: Vec<_> = wanted.iter().step_by(WANTED / STORED).collect();
    for key in &stored {
        add_key(&*store, (*key).clone()).await;
    }
    let mut digests: Vec<_> = wanted.iter().map(|key| key.digest).collect();
    // Twice the same, and once under another pepper.
    digests.push(stored[0].digest);
    digests.push(PepperedDigest {
        pepper: pepper_id("p2"),
        ..stored[1].digest
    });
    let found = store.find_by_digests(digests).await.unwrap();
    assert_eq!(found.len(), STORED);
    for key in stored {
        let found = found.iter().find(|found| found.digest == key.digest);
        let found = found.expect("the key is found").stored.as_ref().unwrap();
        assert_eq!(found.key, key.key);
        assert_eq!(found.account.as_ref(), key.key.account_id.map(|_| &account));
    }
}

/// A look-up returns the account as it is at that time, not as it was when the key was created.
pub async fn key_comes_with_its_account_as_it_is_now(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().external_id("u-1").build()).await;
    let key = a_key().of(&account).build_new();
    add_key(&*store, key.clone()).await;
    assert_eq!(
        find(&*store, &key).await.unwrap().account,
        Some(account.clone())
    );

    let patch = AccountPatch::default()
        .plan(plan("business"))
        .disabled(true)
        .external_id(None);
    let account = update(&*store, &account, patch).await;
    assert_eq!(find(&*store, &key).await.unwrap().account, Some(account));

    let operator = a_key().build_new();
    add_key(&*store, operator.clone()).await;
    assert_eq!(find(&*store, &operator).await.unwrap().account, None);
}

/// A revoked key is still found, with the time of its revocation.
pub async fn revoked_key_is_found_as_revoked(store: Arc<dyn KeyStore>) {
    let moment = Timestamp::from_unix_micros(NOON.unix_micros() + 1);
    let account = add_account(&*store, an_account().build()).await;
    for key in [
        a_key().build_new(),
        a_key().of(&account).build_new(),
        a_key().session_of(&account).build_new(),
    ] {
        add_key(&*store, key.clone()).await;
        let change = a_change().at(moment).build();
        let revoked = store
            .revoke_key(None, key.key.id, Revocation::default(), change)
            .await;
        assert!(revoked.unwrap().is_some());

        let found = find(&*store, &key).await.expect("the key is found");
        let mut revoked = key.key;
        revoked.revoked_at = Some(moment);
        assert_eq!(found.key, revoked);
    }
}

/// The store does not check expiry: it finds an expired key.
pub async fn expired_key_is_found(store: Arc<dyn KeyStore>) {
    let key = a_key()
        .created_at(noon_plus(-60))
        .expires_at(noon_plus(-30))
        .build_new();
    add_key(&*store, key.clone()).await;
    assert_eq!(find(&*store, &key).await.unwrap().key, key.key);
}

/// Neither an identifier nor a digest is ever stored twice, and the attempt is an error, not a
/// refusal.
pub async fn same_key_cannot_be_stored_twice(store: Arc<dyn KeyStore>) {
    let key = a_key().name("first").build_new();
    add_key(&*store, key.clone()).await;

    let mut same_id = key.clone();
    same_id.digest = a_key().build_new().digest;
    let mut same_digest = a_key().name("second").build_new();
    same_digest.digest = key.digest;
    for again in [same_id, same_digest] {
        let refused = store.insert_key(again, a_change().build()).await;
        assert!(matches!(refused, Err(ChangeError::Store(_))), "{refused:?}");
    }
    assert_eq!(list(&*store, KeyOwner::Operators).await.keys, [key.key]);
}

/// Adds 12 keys of one account, four at each of three times a microsecond or more apart, in no
/// order. Returns them in the order of a list: newest first, and with the same time the highest
/// identifier first.
async fn listed_in_order(store: &dyn KeyStore) -> (KeyOwner, Vec<ApiKey>) {
    let account = add_account(store, an_account().plan("pro").build()).await;
    let mut keys = Vec::new();
    for _ in 0..4 {
        for micros in [1, 5_000_000, 2] {
            let created_at = Timestamp::from_unix_micros(NOON.unix_micros() + micros);
            let key = a_key()
                .of(&account)
                .created_at(created_at)
                .without_cap()
                .build_new();
            keys.push(add_key(store, key).await);
        }
    }
    keys.sort_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
    (KeyOwner::Account(account.id), keys)
}

/// Newest first; of keys created at the same time the highest identifier first.
pub async fn keys_are_listed_newest_first_with_ties_by_id(store: Arc<dyn KeyStore>) {
    let (owner, keys) = listed_in_order(&*store).await;
    let page = list(&*store, owner).await;
    assert_eq!(page.keys, keys);
    assert_eq!(page.total, 12);
}

/// Every key is on exactly one page, whatever the size of the pages.
pub async fn pages_join_to_the_whole_list(store: Arc<dyn KeyStore>) {
    let (owner, keys) = listed_in_order(&*store).await;
    for limit in [1, 5, 12, 100, u32::MAX] {
        let mut joined = Vec::new();
        for offset in (0..12).step_by(limit.min(100) as usize) {
            let page = store.keys(owner, offset, limit).await.unwrap();
            assert!(page.keys.len() <= limit as usize);
            assert_eq!(page.total, 12);
            joined.extend(page.keys);
        }
        assert_eq!(joined, keys, "pages of {limit}");
    }
}

/// No offset is too large, up to the largest number of its type.
pub async fn page_past_the_end_is_empty_and_knows_the_total(store: Arc<dyn KeyStore>) {
    let (owner, keys) = listed_in_order(&*store).await;
    let last = store.keys(owner, 11, 50).await.unwrap();
    assert_eq!(last.keys, keys[11..]);
    for offset in [
        12,
        13,
        1 << 32,
        i64::MAX as u64,
        i64::MAX as u64 + 1,
        u64::MAX,
    ] {
        for limit in [1, 100, u32::MAX] {
            let page = store.keys(owner, offset, limit).await.unwrap();
            assert_eq!(page.keys, [], "offset {offset}");
            assert_eq!(page.total, 12, "offset {offset}");
        }
    }
    let unknown = KeyOwner::Account(an_account().build().id);
    assert_eq!(list(&*store, unknown).await.total, 0);
}

/// An account sees its own API keys, operators see operator keys, and sessions are never listed.
pub async fn only_keys_of_the_owner_are_listed(store: Arc<dyn KeyStore>) {
    let one = add_account(&*store, an_account().build()).await;
    let two = add_account(&*store, an_account().build()).await;
    let key_of_one = add_key(&*store, a_key().of(&one).build_new()).await;
    let key_of_two = add_key(&*store, a_key().of(&two).build_new()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    add_key(&*store, a_key().session_of(&one).build_new()).await;

    for (owner, key) in [
        (KeyOwner::Account(one.id), key_of_one),
        (KeyOwner::Account(two.id), key_of_two),
        (KeyOwner::Operators, operator),
    ] {
        let page = list(&*store, owner).await;
        assert_eq!(page.keys, [key]);
        assert_eq!(page.total, 1);
    }
}

/// Revoked keys leave the list and its total at once; expired ones stay.
pub async fn revoked_keys_are_not_listed_and_expired_ones_are(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let expired = a_key()
        .of(&account)
        .created_at(noon_plus(-60))
        .expires_at(noon_plus(-30))
        .build_new();
    let expired = add_key(&*store, expired).await;
    let revoked = add_key(&*store, a_key().of(&account).build_new()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    assert_eq!(keys_of(&*store, &account).await.total, 2);

    revoke(&*store, &revoked).await;
    revoke(&*store, &operator).await;
    let page = keys_of(&*store, &account).await;
    assert_eq!(page.keys, [expired]);
    assert_eq!(page.total, 1);
    let operators = list(&*store, KeyOwner::Operators).await;
    assert_eq!(operators.keys, []);
    assert_eq!(operators.total, 0);
}

/// Revocation is final: the second one finds nothing to revoke, and the first time stays.
pub async fn revoking_twice_is_false_and_changes_nothing(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = a_key().of(&account).build_new();
    add_key(&*store, key.clone()).await;
    revoke(&*store, &key.key).await;
    for owner in [None, Some(KeyOwner::Account(account.id))] {
        let later = a_change().at(noon_plus(10)).build();
        let again = store
            .revoke_key(owner, key.key.id, Revocation::default(), later)
            .await;
        assert_eq!(again.unwrap(), None);
    }
    let found = find(&*store, &key).await.unwrap();
    assert_eq!(found.key.revoked_at, Some(NOON));
}

/// Of many concurrent revocations of a key, one returns `true`.
pub async fn one_of_many_concurrent_revocations_is_true(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let attempts = (0..10).map(|_| {
        let store = store.clone();
        let owner = Some(KeyOwner::Account(account.id));
        async move {
            store
                .revoke_key(owner, key.id, Revocation::default(), a_change().build())
                .await
                .unwrap()
        }
    });
    let revoked = at_once(attempts).await;
    assert_eq!(revoked.iter().flatten().count(), 1);
}

/// A key of another account is unknown, and so is any key that the owner's list does not contain.
pub async fn keys_of_others_are_not_revoked(store: Arc<dyn KeyStore>) {
    let owner = add_account(&*store, an_account().build()).await;
    let other = add_account(&*store, an_account().build()).await;
    let key = a_key().of(&owner).build_new();
    let session = a_key().session_of(&owner).build_new();
    let operator = a_key().build_new();
    for key in [&key, &session, &operator] {
        add_key(&*store, key.clone()).await;
    }

    let [own, others, operators] = [
        KeyOwner::Account(owner.id),
        KeyOwner::Account(other.id),
        KeyOwner::Operators,
    ];
    let unknown = a_key().build_new();
    for (who, what) in [
        (others, &key),
        (operators, &key),
        (own, &session),
        (others, &session),
        (operators, &session),
        (own, &operator),
        (own, &unknown),
        (operators, &unknown),
    ] {
        let revoked = store.revoke_key(
            Some(who),
            what.key.id,
            Revocation::default(),
            a_change().build(),
        );
        let revoked = revoked.await.unwrap();
        assert_eq!(revoked, None, "{who:?} {:?}", what.key.kind);
    }
    let unowned = store.revoke_key(
        None,
        unknown.key.id,
        Revocation::default(),
        a_change().build(),
    );
    assert_eq!(unowned.await.unwrap(), None);
    for key in [key, session, operator] {
        assert_eq!(find(&*store, &key).await.unwrap().key.revoked_at, None);
    }
}

/// Without an owner, keys of every kind can be revoked.
pub async fn without_an_owner_any_kind_is_revoked(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for key in [
        a_key().build_new(),
        a_key().of(&account).build_new(),
        a_key().session_of(&account).build_new(),
    ] {
        add_key(&*store, key.clone()).await;
        revoke(&*store, &key.key).await;
        assert!(find(&*store, &key).await.unwrap().key.revoked_at.is_some());
    }
}

/// A listed key can be revoked, expired or not.
pub async fn expired_key_can_be_revoked(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = a_key()
        .of(&account)
        .created_at(noon_plus(-60))
        .expires_at(noon_plus(-30))
        .build_new();
    let key = add_key(&*store, key).await;
    let owner = Some(KeyOwner::Account(account.id));
    let revoked = store
        .revoke_key(owner, key.id, Revocation::default(), a_change().build())
        .await;
    assert!(revoked.unwrap().is_some());
    assert_eq!(keys_of(&*store, &account).await.total, 0);
}

fn used(key: &ApiKey, last_used_at: Timestamp) -> KeyUse {
    KeyUse::new(key.id, last_used_at, 3)
}

/// The last use is `None` at first, then the latest one reported, to the microsecond, and never
/// goes back.
pub async fn last_use_moves_forward_only(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let key = a_key().of(&account).build_new();
    let unused = a_key().of(&account).build_new();
    let record = add_key(&*store, key.clone()).await;
    add_key(&*store, unused.clone()).await;
    let unknown = a_key().build();

    let odd = Timestamp::from_unix_micros(NOON.unix_micros() + 7);
    let later = odd.saturating_add(Duration::from_micros(1));
    for (uses, expected) in [
        (vec![], None),
        (vec![used(&unknown, later)], None),
        (vec![used(&record, odd)], Some(odd)),
        (vec![used(&record, NOON)], Some(odd)),
        // The same key twice in one batch, the later use first.
        (
            vec![
                used(&record, later),
                used(&unknown, later),
                used(&record, odd),
            ],
            Some(later),
        ),
        (vec![used(&record, Timestamp::MIN)], Some(later)),
    ] {
        store.record_uses(uses).await.unwrap();
        let found = find(&*store, &key).await.unwrap();
        assert_eq!(found.key.last_used_at, expected);
        let listed = keys_of(&*store, &account).await.keys;
        let listed = listed.iter().find(|listed| listed.id == record.id);
        assert_eq!(listed.unwrap().last_used_at, expected);
    }
    assert_eq!(find(&*store, &unused).await.unwrap().key.last_used_at, None);
}

/// Several processes write at once, each in its own order: none waits for ever, and the latest use
/// wins.
pub async fn last_use_survives_concurrent_batches(store: Arc<dyn KeyStore>) {
    let mut keys = Vec::new();
    for _ in 0..20 {
        keys.push(add_key(&*store, a_key().build_new()).await);
    }
    let batches = (0..10_i64).map(|batch| {
        let store = store.clone();
        let mut uses: Vec<KeyUse> = keys
            .iter()
            .map(|key| used(key, noon_plus((batch * 7) % 10)))
            .collect();
        if batch % 2 == 0 {
            uses.reverse();
        }
        async move { store.record_uses(uses).await.unwrap() }
    });
    at_once(batches).await;
    for key in list(&*store, KeyOwner::Operators).await.keys {
        assert_eq!(key.last_used_at, Some(noon_plus(9)));
    }
}

/// A batch may be as large as a busy interval makes it.
pub async fn large_batch_of_uses_is_recorded(store: Arc<dyn KeyStore>) {
    let key = a_key().build_new();
    let record = add_key(&*store, key.clone()).await;
    let mut uses: Vec<KeyUse> = (0..5_000).map(|_| used(&a_key().build(), NOON)).collect();
    uses.push(used(&record, NOON));
    store.record_uses(uses).await.unwrap();
    let found = find(&*store, &key).await.unwrap();
    assert_eq!(found.key.last_used_at, Some(NOON));
}

/// Sessions that ended more than a day ago are deleted. Others, and expired keys of accounts, stay.
pub async fn sweep_deletes_sessions_that_ended_a_day_ago(store: Arc<dyn KeyStore>) {
    const DAY: i64 = 24 * 3_600;
    let account = add_account(&*store, an_account().build()).await;
    let end = noon_plus(60);
    let session = a_key().expires_at(end).session_of(&account).build_new();
    let key = a_key().of(&account).expires_at(end).build_new();
    for new in [&session, &key] {
        add_key(&*store, new.clone()).await;
    }
    store.sweep(noon_plus(60 + DAY)).await.unwrap();
    assert!(find(&*store, &session).await.is_some());
    store.sweep(noon_plus(61 + DAY)).await.unwrap();
    assert!(find(&*store, &session).await.is_none());
    assert!(find(&*store, &key).await.is_some());
}

/// A pepper is needed as long as a usable key of any kind is stored under it. After that it can be
/// removed.
pub async fn pepper_ids_are_those_of_living_keys(store: Arc<dyn KeyStore>) {
    assert_eq!(store.pepper_ids(NOON).await.unwrap(), []);
    let account = add_account(&*store, an_account().build()).await;
    let mut keys = Vec::new();
    for key in [
        a_key().pepper("p1"),
        a_key().of(&account).pepper("p1"),
        a_key().of(&account).pepper("p2"),
        a_key().session_of(&account).pepper("p3"),
    ] {
        keys.push(add_key(&*store, key.build_new()).await);
    }
    let ids = async || {
        let mut ids = store.pepper_ids(NOON).await.unwrap();
        ids.sort();
        ids
    };
    assert_eq!(ids().await, ["p1", "p2", "p3"].map(pepper_id));
    revoke(&*store, &keys[0]).await;
    revoke(&*store, &keys[3]).await;
    assert_eq!(ids().await, ["p1", "p2"].map(pepper_id));
    revoke(&*store, &keys[1]).await;
    assert_eq!(ids().await, ["p2"].map(pepper_id));
    let ending = a_key().of(&account).pepper("p4").expires_at(noon_plus(1));
    add_key(&*store, ending.build_new()).await;
    assert_eq!(ids().await, ["p2", "p4"].map(pepper_id));
    let later = store.pepper_ids(noon_plus(1)).await.unwrap();
    assert_eq!(later, ["p2"].map(pepper_id));
}

/// A new store is ready.
pub async fn store_is_ready(store: Arc<dyn KeyStore>) {
    store.ready().await.unwrap();
}
