//! Changes of keys.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use keys_core::{
    AllowedNetworks, ApiKey, AuditAction, AuditSubject, Denial, ExceededBound, KeyDetails,
    KeyLimits, KeyName, Metadata, Quota, Revocation, ScopeSet, StoredKey,
};
use keys_service::ports::{
    Caller, Change, ChangeError, Changed, InvalidKeyPatch, KeyOwner, KeyPatch, KeyStore,
    LimitsPatch, MetadataPatch, NewKey,
};

use super::audit::AuditedStore;
use super::following::{followed, news};
use super::steps::{add_account, add_key, at_once, find, keys_of, revoke};
use crate::data::{NOON, a_caller, a_change, a_key, an_accepted_caller, an_account, noon_plus};

fn scopes(names: &[&str]) -> ScopeSet {
    ScopeSet::parse(names).unwrap()
}

fn networks(entries: &[&str]) -> AllowedNetworks {
    AllowedNetworks::parse(entries).unwrap()
}

fn limits(requests: u32) -> KeyLimits {
    let quota = Quota::per_minute(requests).unwrap();
    KeyLimits::new([("calls".parse().unwrap(), quota)]).unwrap()
}

fn named(name: &str) -> KeyPatch {
    KeyPatch::default().name(Some(KeyName::from_name(name).unwrap()))
}

/// A patch of every field.
fn every_field() -> KeyPatch {
    named("changed")
        .allowed_networks(networks(&["192.0.2.0/24", "2001:db8::1"]))
        .scopes(scopes(&["a", "b:c"]))
        .expires_at(Some(noon_plus(3_600)))
        .disabled(true)
        .limits(LimitsPatch::Replace(limits(5)))
        .metadata(MetadataPatch::Replace(
            Metadata::new([("team", "a \"b\"")]).unwrap(),
        ))
}

async fn details(store: &dyn KeyStore, key: &ApiKey) -> KeyDetails {
    let found = store.find_key(key.id).await.unwrap();
    found.expect("the key exists").expect("it can be read")
}

async fn change(
    store: &dyn KeyStore,
    owner: KeyOwner,
    key: &ApiKey,
    patch: KeyPatch,
    change: Change,
) -> Result<KeyDetails, ChangeError> {
    let changed = store.update_key(owner, key.id, patch, change).await?;
    Ok(changed.expect("the owner has the key").0)
}

/// All columns are written, by themselves and together, and removed again.
pub async fn update_changes_what_is_named_in_a_key_and_nothing_else(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    for (new, owner) in [
        (a_key().of(&account), KeyOwner::Account(account.id)),
        (a_key(), KeyOwner::Operators),
    ] {
        let new = new.build_new();
        let key = add_key(&*store, new.clone()).await;
        let neighbor = add_key(&*store, a_key().of(&account).build_new()).await;
        let untouched = details(&*store, &neighbor).await;
        let before = details(&*store, &key).await;
        let all = every_field();
        let mut expected = before.clone();
        let steps = [
            KeyPatch::default(),
            named("changed"),
            KeyPatch::default().scopes(all.scopes.clone().unwrap()),
            KeyPatch::default().metadata(all.metadata.clone().unwrap()),
            all,
            KeyPatch::default().disabled(false),
            KeyPatch::default()
                .name(None)
                .allowed_networks(AllowedNetworks::default())
                .scopes(ScopeSet::default())
                .expires_at(None)
                .limits(LimitsPatch::Merge(BTreeMap::from([(
                    "calls".parse().unwrap(),
                    None,
                )])))
                .metadata(MetadataPatch::Merge(BTreeMap::from([(
                    "team".into(),
                    None,
                )]))),
        ];
        for patch in steps {
            expected = patch.apply(&expected, None, NOON).unwrap();
            let changed = change(&*store, owner, &key, patch, a_change().build()).await;
            assert_eq!(changed.unwrap(), expected);
            assert_eq!(details(&*store, &key).await, expected);
            // Verification reads the same.
            let stored = find(&*store, &new)
                .await
                .map(|stored: StoredKey| stored.key);
            assert_eq!(stored, Some(expected.key.clone()));
        }
        assert_eq!(expected, before);
        assert_eq!(details(&*store, &neighbor).await, untouched);
    }
}

/// A key of another owner is unknown.
pub async fn keys_of_others_are_not_changed(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let other = add_account(&*store, an_account().build()).await;
    let unknown = a_key().of(&account).build_new().key;
    let session = add_key(&*store, a_key().session_of(&account).build_new()).await;
    let operator = add_key(&*store, a_key().build_new()).await;
    let own = add_key(&*store, a_key().of(&account).build_new()).await;
    for (owner, key) in [
        (KeyOwner::Account(account.id), &unknown),
        (KeyOwner::Account(account.id), &session),
        (KeyOwner::Account(account.id), &operator),
        (KeyOwner::Account(other.id), &own),
        (KeyOwner::Operators, &own),
        (KeyOwner::Operators, &session),
    ] {
        let change = a_change().build();
        let changed = store.update_key(owner, key.id, every_field(), change).await;
        assert!(changed.unwrap().is_none(), "{owner:?}");
    }
    for key in [&session, &operator, &own] {
        assert_eq!(&details(&*store, key).await.key, key);
    }
}

/// A key that has ended stays as it is, to the exact moment.
pub async fn ended_key_is_not_changed(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let expiring = a_key().of(&account).expires_at(noon_plus(5)).build_new();
    let expiring = add_key(&*store, expiring).await;
    let revoked = add_key(&*store, a_key().of(&account).build_new()).await;
    revoke(&*store, &revoked).await;
    for key in [&expiring, &revoked] {
        let before = details(&*store, key).await;
        for patch in [every_field(), KeyPatch::default().expires_at(None)] {
            let at = a_change().at(noon_plus(5)).build();
            let refused = change(&*store, owner, key, patch, at).await;
            assert!(matches!(refused, Err(ChangeError::KeyEnded)), "{refused:?}");
        }
        assert_eq!(details(&*store, key).await, before);
    }
    let just_before = a_change().at(noon_plus(4)).build();
    let longer = KeyPatch::default().expires_at(Some(noon_plus(60)));
    let changed = change(&*store, owner, &expiring, longer, just_before).await;
    assert_eq!(changed.unwrap().key.expires_at, Some(noon_plus(60)));
}

/// What would break a rule is refused, and nothing is changed.
pub async fn patch_that_breaks_a_rule_changes_nothing(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let before = details(&*store, &key).await;
    let patch = named("changed").expires_at(Some(NOON));
    let refused = change(&*store, owner, &key, patch, a_change().build()).await;
    let expected = InvalidKeyPatch::ExpiryNotInFuture;
    assert!(matches!(refused, Err(ChangeError::KeyInvalid(error)) if error == expected));
    let other = named("changed").if_version([]);
    let refused = change(&*store, owner, &key, other, a_change().build()).await;
    assert!(matches!(refused, Err(ChangeError::KeyChanged)));
    assert_eq!(details(&*store, &key).await, before);
}

/// Of many changes to the same version one is made.
pub async fn one_of_many_concurrent_changes_of_a_version_is_made(store: Arc<dyn KeyStore>) {
    const CHANGES: usize = 20;
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let version = details(&*store, &key).await.version();
    let changes = (0..CHANGES).map(|number| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move {
            let patch = named(&format!("change {number}")).if_version([version]);
            change(&*store, owner, &key, patch, a_change().build()).await
        }
    });
    let mut made = Vec::new();
    for outcome in at_once(changes).await {
        match outcome {
            Ok(details) => made.push(details),
            Err(ChangeError::KeyChanged) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(made, [details(&*store, &key).await]);
}

/// Changes of different entries of the metadata do not undo each other.
pub async fn concurrent_changes_of_metadata_are_all_made(store: Arc<dyn KeyStore>) {
    const CHANGES: usize = 20;
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let entry = |number: usize| (format!("name_{number}"), number.to_string());
    let changes = (0..CHANGES).map(|number| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move {
            let (name, value) = entry(number);
            let entry = (name.into(), Some(value.into()));
            let patch = KeyPatch::default().metadata(MetadataPatch::Merge([entry].into()));
            change(&*store, owner, &key, patch, a_change().build()).await
        }
    });
    for outcome in at_once(changes).await {
        outcome.unwrap();
    }
    let expected = Metadata::new((0..CHANGES).map(entry)).unwrap();
    assert_eq!(details(&*store, &key).await.metadata, expected);
}

/// The key of the caller as it is now bounds what it makes of others, not as it was accepted.
pub async fn key_is_widened_within_its_caller_as_the_caller_is_now(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let limited = a_key()
        .of(&account)
        .allowed(["192.0.2.0/24"])
        .scopes(["a", "b"])
        .expires_at(noon_plus(60));
    let own = add_key(&*store, limited.build_new()).await;
    let mut former = own.clone();
    former.scopes = scopes(&["a", "admin"]);
    former.allowed_networks = AllowedNetworks::default();
    former.expires_at = None;
    let target = a_key().of(&account).allowed(["192.0.2.1"]).scopes(["a"]);
    let target = add_key(&*store, target.expires_at(noon_plus(9)).build_new()).await;
    let before = details(&*store, &target).await;
    for mut caller in [
        a_caller(&own),
        an_accepted_caller(&own, &account),
        an_accepted_caller(&former, &account),
    ] {
        caller.address = Some("192.0.2.9".parse().unwrap());
        let by = |caller: &Caller| a_change().by(caller).build();
        for (patch, exceeded) in [
            (
                KeyPatch::default().scopes(scopes(&["admin"])),
                ExceededBound::Scopes,
            ),
            (
                KeyPatch::default().expires_at(None),
                ExceededBound::ExpiresAt,
            ),
            (
                KeyPatch::default().allowed_networks(networks(&["192.0.2.1", "192.0.3.1"])),
                ExceededBound::AllowedNetworks(1),
            ),
        ] {
            // Itself neither.
            for key in [&target, &own] {
                let refused = change(&*store, owner, key, patch.clone(), by(&caller)).await;
                assert!(
                    matches!(refused, Err(ChangeError::ExceedsCaller(limit)) if limit == exceeded),
                    "expected {exceeded:?}, got {refused:?}"
                );
            }
        }
        assert_eq!(details(&*store, &target).await, before);
        let wider = KeyPatch::default().scopes(scopes(&["a", "b"]));
        change(&*store, owner, &target, wider, by(&caller))
            .await
            .unwrap();
        let back = KeyPatch::default().scopes(scopes(&["a"]));
        change(&*store, owner, &target, back, by(&caller))
            .await
            .unwrap();
    }
}

/// A caller that may no longer act changes nothing, and a disabled key is such a caller.
pub async fn refused_caller_changes_no_key(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let own = add_key(&*store, a_key().of(&account).build_new()).await;
    let target = add_key(&*store, a_key().of(&account).build_new()).await;
    let before = details(&*store, &target).await;
    let callers = [a_caller(&own), an_accepted_caller(&own, &account)];
    let disable = KeyPatch::default().disabled(true);
    change(&*store, owner, &own, disable, a_change().build())
        .await
        .unwrap();
    let attempts = async |denial: Denial| {
        for caller in &callers {
            let by = || a_change().by(caller).build();
            let updated = store.update_key(owner, target.id, named("x"), by()).await;
            let new: NewKey = a_key().of(&account).build_new();
            let outcomes = [
                updated.map(drop),
                store.insert_key(new, by()).await,
                store
                    .revoke_key(Some(owner), target.id, Revocation::default(), by())
                    .await
                    .map(drop),
            ];
            for outcome in outcomes {
                assert!(
                    matches!(&outcome, Err(ChangeError::CallerDenied(reason)) if *reason == denial),
                    "expected {denial:?}, got {outcome:?}"
                );
            }
        }
    };
    attempts(Denial::Disabled).await;
    revoke(&*store, &own).await;
    attempts(Denial::Revoked).await;
    assert_eq!(details(&*store, &target).await, before);
}

/// A disabled key counts and is listed as before, and one that expires no longer counts as one that
/// never does.
pub async fn changed_keys_are_counted(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().plan("tiny").build()).await;
    let owner = KeyOwner::Account(account.id);
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let other = add_key(&*store, a_key().of(&account).build_new()).await;
    let disable = KeyPatch::default().disabled(true);
    change(&*store, owner, &key, disable, a_change().build())
        .await
        .unwrap();
    assert_eq!(keys_of(&*store, &account).await.total, 2);
    let create = async |at| {
        let change = a_change().at(noon_plus(at)).build();
        store
            .insert_key(a_key().of(&account).build_new(), change)
            .await
    };
    assert!(matches!(
        create(0).await,
        Err(ChangeError::CapReached { max: 2 })
    ));
    let ends = KeyPatch::default().expires_at(Some(noon_plus(5)));
    change(&*store, owner, &other, ends, a_change().build())
        .await
        .unwrap();
    assert!(matches!(
        create(4).await,
        Err(ChangeError::CapReached { max: 2 })
    ));
    create(5).await.unwrap();
    let unends = KeyPatch::default().expires_at(None);
    let late = a_change().at(noon_plus(4)).build();
    change(&*store, owner, &other, unends, late).await.unwrap();
    assert_eq!(keys_of(&*store, &account).await.total, 3);
    assert!(matches!(
        create(6).await,
        Err(ChangeError::CapReached { max: 2 })
    ));
}

/// Caches hear of each change that concerns a judgement, and of no other.
pub async fn changes_of_keys_are_in_the_feed(store: Arc<dyn KeyStore>) {
    let account = add_account(&*store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let key = add_key(&*store, a_key().of(&account).build_new()).await;
    let mut feed = followed(&*store).await;
    let all = every_field();
    for (patch, is_noted) in [
        (KeyPatch::default(), false),
        (
            KeyPatch::default().metadata(all.metadata.clone().unwrap()),
            false,
        ),
        (named("changed"), true),
        (named("changed"), false),
        (KeyPatch::default().disabled(true), true),
        (KeyPatch::default().disabled(true), false),
        (KeyPatch::default().disabled(false), true),
        (all, true),
    ] {
        change(&*store, owner, &key, patch.clone(), a_change().build())
            .await
            .unwrap();
        let expected = is_noted.then_some(Changed::Key(key.id));
        assert_eq!(
            news(&mut *feed).await,
            HashSet::from_iter(expected),
            "{patch:?}"
        );
    }
}

/// Each change of a key leaves one event that says what it did. A refused one, and one that changes
/// nothing, leave none.
pub async fn changes_of_a_key_leave_their_trace(audited: AuditedStore) {
    let store = audited.store();
    let account = add_account(store, an_account().build()).await;
    let owner = KeyOwner::Account(account.id);
    let key = add_key(store, a_key().of(&account).build_new()).await;
    let former = audited.trail();
    let about = AuditSubject::Key(key.id);
    let mut expected = Vec::new();
    for (patch, action) in [
        (KeyPatch::default(), None),
        (named("a"), Some(AuditAction::KeyUpdated)),
        (named("a"), None),
        (named("b").if_version([]), None),
        (named("b").expires_at(Some(NOON)), None),
        (
            KeyPatch::default().disabled(true),
            Some(AuditAction::KeyDisabled),
        ),
        (KeyPatch::default().disabled(true), None),
        (named("b").disabled(false), Some(AuditAction::KeyEnabled)),
        (
            KeyPatch::default().metadata(MetadataPatch::Merge(BTreeMap::from([(
                "a".into(),
                Some("b".into()),
            )]))),
            Some(AuditAction::KeyUpdated),
        ),
    ] {
        let at = noon_plus(i64::try_from(expected.len()).unwrap() + 1);
        // The refused expiry is then not in the future.
        let at = if patch.expires_at.is_some() { NOON } else { at };
        let made = a_change().at(at).build();
        expected.extend(action.map(|action| made.event(action, about)));
        let _ = store.update_key(owner, key.id, patch, made).await;
    }
    let mut trail = audited.trail();
    trail.retain(|event| !former.contains(event));
    assert_eq!(trail, expected);
}
