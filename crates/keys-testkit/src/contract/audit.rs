use std::sync::Arc;

use keys_core::{AuditAction, AuditActor, AuditEvent, AuditSubject, KeyKind, Revocation};
use keys_service::ports::{
    AccountPatch, Caller, Change, Completion, KeyRotation, KeySelection, KeyStore, KeyUse,
    Reservation,
};

use super::steps::at_once;
use crate::data::{NOON, a_caller, a_change, a_key, an_account, an_event_id, noon_plus};

/// A store whose audit trail can be read.
pub struct AuditedStore {
    store: Arc<dyn KeyStore>,
    trail: Box<dyn Fn() -> Vec<AuditEvent> + Send>,
}

impl AuditedStore {
    /// `trail` reads all events of `store` in the order of their time, and may block. Values that
    /// must live as long as the store can be moved into it.
    pub fn new(
        store: Arc<dyn KeyStore>,
        trail: impl Fn() -> Vec<AuditEvent> + Send + 'static,
    ) -> Self {
        Self {
            store,
            trail: Box::new(trail),
        }
    }

    pub(super) fn store(&self) -> &dyn KeyStore {
        &*self.store
    }

    pub(super) fn trail(&self) -> Vec<AuditEvent> {
        tokio::task::block_in_place(|| (self.trail)())
    }
}

/// Makes one change of each kind, a second apart, for `caller` or without one.
async fn change_everything(audited: &AuditedStore, caller: Option<&Caller>) -> Vec<AuditEvent> {
    let store = &*audited.store;
    let mut next = 0;
    let mut change = || -> Change {
        next += 1;
        let change = a_change().at(noon_plus(next));
        match caller {
            Some(caller) => change.by(caller).build(),
            None => change.build(),
        }
    };
    let mut expected = Vec::new();

    let account = an_account().external_id("u-1").build();
    let about_account = AuditSubject::Account(account.id);
    let created = change();
    expected.push(created.event(AuditAction::AccountCreated, about_account));
    store
        .insert_account(account.clone(), created)
        .await
        .unwrap();

    let updated = change();
    expected.push(updated.event(AuditAction::AccountUpdated, about_account));
    let patch = AccountPatch::default().external_id(None);
    store
        .update_account(account.id, patch, updated)
        .await
        .unwrap();

    for key in [a_key(), a_key().of(&account), a_key().session_of(&account)] {
        let key = key.build_new();
        let about_key = AuditSubject::Key(key.key.id);
        let created = change();
        expected.push(created.event(AuditAction::KeyCreated, about_key));
        store.insert_key(key.clone(), created).await.unwrap();

        let revoked = change();
        expected.push(revoked.event(AuditAction::KeyRevoked, about_key));
        let revoked = store
            .revoke_key(None, key.key.id, Revocation::default(), revoked)
            .await;
        assert!(revoked.unwrap().is_some());
    }
    expected
}

/// Each change leaves one event with all details.
pub async fn every_change_leaves_its_trace(audited: AuditedStore) {
    let expected = change_everything(&audited, None).await;
    assert_eq!(audited.trail(), expected);
    for event in expected {
        assert_eq!(event.actor, AuditActor::System);
        assert_eq!(event.address, None);
    }
}

/// An event has the id and the kind of the credential that made the change, and the client address.
pub async fn trace_names_the_caller(audited: AuditedStore) {
    let holder = an_account().build();
    let change = a_change().build();
    let mut expected = vec![change.event(
        AuditAction::AccountCreated,
        AuditSubject::Account(holder.id),
    )];
    audited
        .store
        .insert_account(holder.clone(), change)
        .await
        .unwrap();
    let key = a_key().session_of(&holder).build_new();
    let change = a_change().build();
    expected.push(change.event(AuditAction::KeyCreated, AuditSubject::Key(key.key.id)));
    audited.store.insert_key(key.clone(), change).await.unwrap();
    // Both happened at the same time, so their order is undefined.
    expected.sort_by_key(|event| event.id);

    for address in ["192.0.2.9", "2001:db8::9"] {
        let mut caller = a_caller(&key.key);
        caller.address = Some(address.parse().unwrap());
        let events = change_everything(&audited, Some(&caller)).await;
        for event in &events {
            let (kind, id) = (KeyKind::Session, key.key.id);
            assert_eq!(event.actor, AuditActor::Credential { kind, id });
            assert_eq!(event.address, caller.address);
        }
        expected.extend(events);
    }
    let mut trail = audited.trail();
    trail.sort_by_key(|event| (event.at, event.id));
    expected.sort_by_key(|event| (event.at, event.id));
    assert_eq!(trail, expected);
}

/// A rotation leaves an event of the old key, one of the new key, and one of the end of the oldest
/// key.
pub async fn rotation_leaves_a_trace_of_each_key(audited: AuditedStore) {
    let store = &*audited.store;
    let account = an_account().build();
    store
        .insert_account(account.clone(), a_change().build())
        .await
        .unwrap();
    let session = a_key().session_of(&account).build_new();
    let first = a_key().of(&account).build_new();
    for key in [&session, &first] {
        store
            .insert_key(key.clone(), a_change().build())
            .await
            .unwrap();
    }
    let mut caller = a_caller(&session.key);
    caller.address = Some("192.0.2.9".parse().unwrap());
    let mut last = first.key.id;
    let mut oldest = None;
    for number in 1..=2 {
        let before = store.find_key(last).await.unwrap().unwrap().unwrap();
        let new = a_key().of(&account).build_new();
        let new_id = new.key.id;
        let events = [an_event_id(), an_event_id()];
        let rotation = KeyRotation::new(&before, new, noon_plus(600), events);
        let change = a_change().at(noon_plus(number)).by(&caller).build();
        let about = AuditSubject::Key;
        let mut expected = vec![change.event(AuditAction::KeyRotated, about(last))];
        let mut created = change.event(AuditAction::KeyCreated, about(new_id));
        created.id = events[0];
        expected.push(created);
        if let Some(oldest) = oldest {
            let mut ended = change.event(AuditAction::KeyRevoked, about(oldest));
            ended.id = events[1];
            ended.reason = Some("superseded".to_owned());
            expected.push(ended);
        }
        store.rotate_key(rotation, change).await.unwrap();
        let mut left = audited.trail();
        left.retain(|event| event.at == noon_plus(number));
        for events in [&mut left, &mut expected] {
            events.sort_by_key(|event| event.id);
        }
        assert_eq!(left, expected);
        assert!(left.iter().all(|event| event.address == caller.address));
        (oldest, last) = (Some(last), new_id);
    }
}

/// A refused change leaves no event.
pub async fn refused_changes_leave_no_trace(audited: AuditedStore) {
    let store = &*audited.store;
    let taken = an_account().external_id("u-1").build();
    let full = an_account().plan("free").build();
    for account in [&taken, &full] {
        store
            .insert_account(account.clone(), a_change().build())
            .await
            .unwrap();
    }
    let before = audited.trail();
    assert_eq!(before.len(), 2);

    let nobody = a_caller(&a_key().build());
    let never_reserved = Completion::new([1; 32], an_event_id(), vec![1], noon_plus(600));
    let superseded = || a_change().completing(&never_reserved).build();
    let take = AccountPatch::default().external_id(taken.external_id.clone());
    let same = an_account().external_id("u-1").build();
    let key = a_key().of(&taken).build_new();
    let unknown = an_account().build();

    let by_nobody = a_change().by(&nobody).build();
    assert!(store.insert_key(key.clone(), by_nobody).await.is_err());
    assert!(store.insert_key(key, superseded()).await.is_err());
    let refused_key = a_key().of(&full).build_new();
    assert!(
        store
            .insert_key(refused_key, a_change().build())
            .await
            .is_err()
    );
    let stray_key = a_key().of(&unknown).build_new();
    assert!(
        store
            .insert_key(stray_key, a_change().build())
            .await
            .is_err()
    );
    assert!(
        store
            .insert_account(same, a_change().build())
            .await
            .is_err()
    );
    assert!(
        store
            .insert_account(an_account().build(), superseded())
            .await
            .is_err()
    );
    for id in [full.id, unknown.id] {
        let refused = store.update_account(id, take.clone(), a_change().build());
        assert!(refused.await.is_err());
    }
    let unknown = store.revoke_key(
        None,
        a_key().build().id,
        Revocation::default(),
        a_change().build(),
    );
    assert_eq!(unknown.await.unwrap(), None);
    assert_eq!(audited.trail(), before);
}

/// Uses and reservations are not changes of records.
pub async fn what_changes_no_record_leaves_no_trace(audited: AuditedStore) {
    let store = &*audited.store;
    let key = a_key().build_new();
    store
        .insert_key(key.clone(), a_change().build())
        .await
        .unwrap();
    let before = audited.trail();

    let used = KeyUse::new(key.key.id, NOON, 1);
    store.record_uses(vec![used]).await.unwrap();
    let reservation = Reservation::new(vec![[1; 32]], [2; 32], an_event_id(), NOON);
    store.reserve(reservation.clone()).await.unwrap();
    store.release([1; 32], reservation.token).await.unwrap();
    store.sweep(noon_plus(100)).await.unwrap();
    assert_eq!(audited.trail(), before);
}

/// Under load, too, there are as many events as changes.
pub async fn concurrent_changes_leave_one_trace_each(audited: AuditedStore) {
    let account = an_account().build();
    audited
        .store
        .insert_account(account.clone(), a_change().build())
        .await
        .unwrap();
    let attempts = (0..30).map(|_| {
        let store = audited.store.clone();
        let key = a_key().of(&account).build_new();
        async move {
            let id = key.key.id;
            let added = store.insert_key(key, a_change().build()).await.is_ok();
            added.then_some(id)
        }
    });
    let mut created: Vec<_> = at_once(attempts).await.into_iter().flatten().collect();
    assert_eq!(created.len(), 10);
    created.sort();
    let mut traced: Vec<_> = audited
        .trail()
        .into_iter()
        .filter_map(|event| match event.subject {
            AuditSubject::Key(id) => Some(id),
            AuditSubject::Account(_) => None,
        })
        .collect();
    traced.sort();
    assert_eq!(traced, created);
}

/// A revocation of several keys leaves one event for each, with the reason of the change.
pub async fn each_key_of_a_bulk_revocation_leaves_its_trace(audited: AuditedStore) {
    let store = &*audited.store;
    let account = an_account().build();
    let created = a_change().build();
    store
        .insert_account(account.clone(), created)
        .await
        .unwrap();
    for _ in 0..3 {
        let key = a_key().of(&account).build_new();
        store.insert_key(key, a_change().build()).await.unwrap();
    }
    let before = audited.trail().len();
    let change = a_change().at(noon_plus(1)).because("offboarded").build();
    let selection = KeySelection::of_account(account.id);
    let revoked = store.revoke_keys(selection, Revocation::default(), change.clone());
    let revoked = revoked.await.unwrap();
    let trail = audited.trail().split_off(before);
    let mut expected: Vec<AuditEvent> = Vec::new();
    for (index, id) in revoked.keys.iter().enumerate() {
        let mut event = change.event(AuditAction::KeyRevoked, AuditSubject::Key(*id));
        event.id = change.event_id_of(index);
        expected.push(event);
    }
    assert_eq!(trail.len(), 3);
    let subjects = |events: &[AuditEvent]| -> std::collections::BTreeSet<_> {
        events.iter().map(|event| event.subject.as_uuid()).collect()
    };
    assert_eq!(subjects(&trail), subjects(&expected));
    let ids = |events: &[AuditEvent]| -> std::collections::BTreeSet<_> {
        events.iter().map(|event| event.id).collect()
    };
    assert_eq!(ids(&trail), ids(&expected));
    for event in trail {
        assert_eq!(event.action, AuditAction::KeyRevoked);
        assert_eq!(event.at, noon_plus(1));
        assert_eq!(event.reason.as_deref(), Some("offboarded"));
    }
}
