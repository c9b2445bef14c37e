//! Rotation over the store in memory, with a cache and controlled times.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use keys_core::{
    Account, AllowedNetworks, Denial, KeyKind, KeyLimits, KeyName, KeyStatus, LimitPer, Metadata,
    Operation, Quota, ScopeSet, Timestamp,
};
use keys_service::ports::{AccountPatch, KeyManagement as _};
use keys_service::{
    Actor, AuthenticateError, Clock as _, IdempotencyError, Idempotent, Identity, IssueField,
    Issued, KeyDraft, KeyService, LimitSource, ManagementPolicy, MemoryStore, NewAccount,
    OperatorKeyDraft, Requirement, RotateError, Rotated, Rotation, SessionDraft, VerdictCode,
    VerifyRequest,
};
use keys_testkit::clock::FakeClock;
use keys_testkit::data::{NOON, a_key, noon_plus, pepper_ring};

const MINUTE: Duration = Duration::from_mins(1);
const LOCALHOST: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

struct Fixture {
    store: MemoryStore,
    service: KeyService,
    clock: FakeClock,
    account: Account,
    maintenance: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.maintenance.abort();
    }
}

impl Fixture {
    /// A service that follows changes, so that it answers from its cache.
    async fn new() -> Self {
        let (store, clock) = (MemoryStore::new(), FakeClock::new(NOON));
        let service = KeyService::builder(store.clone(), pepper_ring("p1"))
            .clock(clock.clone())
            .build();
        let maintenance = tokio::spawn({
            let service = service.clone();
            async move { service.maintain().await }
        });
        while service.cache_state().behind.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let account = account(&service).await;
        Self {
            store,
            service,
            clock,
            account,
            maintenance,
        }
    }

    fn draft(&self) -> KeyDraft {
        KeyDraft::new(self.account.id, "sk_live".parse().unwrap())
    }

    async fn issue(&self, draft: KeyDraft) -> Issued {
        let issued = self.service.issue_key(&Actor::system(), draft).await;
        issued.unwrap()
    }

    async fn session(&self, scopes: &[&str]) -> Issued {
        let draft = SessionDraft::new(self.account.id, Duration::from_hours(1))
            .scopes(ScopeSet::parse(scopes).unwrap());
        let opened = self.service.open_session(&Actor::system(), draft).await;
        opened.unwrap()
    }

    async fn rotate(&self, rotation: Rotation) -> Result<Rotated, RotateError> {
        self.service.rotate_key(&Actor::system(), rotation).await
    }

    async fn holder(&self, issued: &Issued) -> Identity {
        let mut requirement = Requirement::account_holder();
        requirement.kinds = KeyKind::ALL.to_vec();
        let secret = issued.secret.expose();
        let identity = self.service.authenticate(secret, LOCALHOST, &requirement);
        identity.await.unwrap()
    }

    async fn manager(&self, issued: &Issued) -> Actor {
        let (identity, policy) = (self.holder(issued).await, ManagementPolicy::default());
        self.service
            .manager(&identity, Operation::Create, &policy)
            .unwrap()
    }

    /// Asserts what verification, from the cache, and management, from the store, say of a key.
    async fn assert_judged(&self, issued: &Issued, expected: Result<(), Denial>) {
        let secret = issued.secret.expose();
        let code = match expected {
            Ok(()) => VerdictCode::Valid,
            Err(denial) => VerdictCode::Denied(denial),
        };
        for fresh in [false, false, true] {
            let request = VerifyRequest::new(secret).fresh(fresh);
            let verdict = self.service.verify(&request).await.unwrap();
            assert_eq!(verdict.code, code, "fresh: {fresh}");
        }
        let requirement = Requirement::account_key();
        match self.service.authenticate(secret, None, &requirement).await {
            Ok(_) => assert_eq!(expected, Ok(())),
            Err(AuthenticateError::Denied(denial)) => assert_eq!(expected, Err(denial)),
            Err(error) => panic!("{error}"),
        }
    }

    async fn status(&self, issued: &Issued) -> KeyStatus {
        let found = self.store.find_key(issued.key.id).await.unwrap();
        found.unwrap().unwrap().status(self.clock.now())
    }
}

async fn account(service: &KeyService) -> Account {
    let new = NewAccount::new("pro".parse().unwrap());
    let created = service.create_account(&Actor::system(), new).await;
    created.unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "as the setter takes it")]
fn scopes(names: &[&str]) -> Option<ScopeSet> {
    Some(ScopeSet::parse(names).unwrap())
}

#[expect(clippy::unnecessary_wraps, reason = "as the setter takes it")]
fn repeatable(key: &str) -> Option<Idempotent> {
    Some(Idempotent::new(key.parse().unwrap(), "rotate", "body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn key_that_cannot_be_rotated_is_refused_with_the_reason() {
    let fixture = Fixture::new().await;
    let key = fixture.issue(fixture.draft()).await;
    let rotation = || Rotation::new(key.key.id);
    let too_long = rotation().grace(Duration::from_hours(7 * 24) + Duration::from_micros(1));
    let refused = fixture.rotate(too_long).await.unwrap_err();
    assert!(matches!(refused, RotateError::GraceTooLong), "{refused:?}");
    for expires_at in [NOON, Timestamp::MIN] {
        let expired = rotation().expires_at(Some(expires_at));
        let refused = fixture.rotate(expired).await.unwrap_err();
        assert!(matches!(refused, RotateError::ExpiryNotInFuture));
    }
    let session = fixture.session(&[]).await;
    for id in [a_key().build().id, session.key.id] {
        let refused = fixture.rotate(Rotation::new(id)).await.unwrap_err();
        assert!(matches!(refused, RotateError::NotFound), "{refused:?}");
    }

    let rotated = fixture.rotate(rotation()).await.unwrap();
    let again = fixture.rotate(rotation()).await.unwrap_err();
    let expected = rotated.issued.key.id;
    assert!(matches!(again, RotateError::Rotated { successor } if successor == expected));

    let revoked = fixture.issue(fixture.draft()).await;
    let system = Actor::system();
    let done = fixture.service.revoke_key(&system, None, revoked.key.id);
    assert!(done.await.unwrap().is_some());
    let expired = fixture.draft().expires_at(Some(noon_plus(1)));
    let expired = fixture.issue(expired).await;
    fixture.clock.advance(Duration::from_secs(1));
    for ended in [&revoked, &expired] {
        let refused = fixture.rotate(Rotation::new(ended.key.id)).await;
        assert!(matches!(refused, Err(RotateError::Ended)), "{refused:?}");
    }

    let patch = AccountPatch::default().disabled(true);
    let id = fixture.account.id;
    let changed = fixture.service.update_account(&system, id, patch).await;
    drop(changed.unwrap());
    let refused = fixture.rotate(Rotation::new(expected)).await.unwrap_err();
    assert!(
        matches!(refused, RotateError::AccountDenied(Denial::AccountDisabled)),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_others_and_other_kinds_are_unknown() {
    let fixture = Fixture::new().await;
    let other = account(&fixture.service).await;
    let strange = KeyDraft::new(other.id, "sk_live".parse().unwrap());
    let strange = fixture.issue(strange).await;
    let name = KeyName::from_name("ops").unwrap();
    let system = Actor::system();
    let operator = fixture
        .service
        .issue_operator_key(&system, OperatorKeyDraft::new(name))
        .await
        .unwrap();
    let own = fixture.issue(fixture.draft()).await;
    let session = fixture.session(&[]).await;
    let by_operator = Actor::operator(&fixture.holder(&operator).await).unwrap();
    for (by, id) in [
        (fixture.manager(&own).await, strange.key.id),
        (fixture.manager(&own).await, operator.key.id),
        (fixture.manager(&own).await, session.key.id),
        (fixture.manager(&session).await, strange.key.id),
        (by_operator.clone(), session.key.id),
        (by_operator.clone(), operator.key.id),
    ] {
        let refused = fixture.service.rotate_key(&by, Rotation::new(id)).await;
        assert!(matches!(refused, Err(RotateError::NotFound)), "{refused:?}");
    }
    for (by, id) in [
        (by_operator, strange.key.id),
        (fixture.manager(&session).await, own.key.id),
        (system, operator.key.id),
    ] {
        let rotated = fixture.service.rotate_key(&by, Rotation::new(id)).await;
        assert_eq!(rotated.unwrap().predecessor, id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_that_may_do_more_than_the_caller_is_not_rotated_by_it() {
    let fixture = Fixture::new().await;
    let networks = |entries: &[&str]| AllowedNetworks::parse(entries).unwrap();
    let quota = |requests| Quota::per_minute(requests).unwrap();
    let limits = |requests| {
        let limit = ("list".parse().unwrap(), quota(requests));
        KeyLimits::new([limit]).unwrap()
    };
    let like_caller = || {
        fixture
            .draft()
            .allowed_networks(networks(&["127.0.0.0/8"]))
            .scopes(scopes(&["a", "b"]))
            .expires_at(Some(noon_plus(1_000)))
            .limits(limits(5))
    };
    let caller = fixture.issue(like_caller()).await;
    let by = fixture.manager(&caller).await;
    for (draft, field) in [
        (
            like_caller().scopes(scopes(&["a", "c"])),
            IssueField::Scopes,
        ),
        (like_caller().expires_at(None), IssueField::ExpiresAt),
        (
            like_caller().expires_at(Some(noon_plus(1_001))),
            IssueField::ExpiresAt,
        ),
        (
            like_caller().allowed_networks(networks(&[])),
            IssueField::AllowedNetworks(0),
        ),
        (
            like_caller().allowed_networks(networks(&["127.0.0.1", "10.0.0.1"])),
            IssueField::AllowedNetworks(1),
        ),
        (like_caller().limits(limits(6)), IssueField::Limits),
        (
            like_caller().limits(KeyLimits::default()),
            IssueField::Limits,
        ),
    ] {
        let wider = fixture.issue(draft).await;
        let rotation = Rotation::new(wider.key.id);
        let refused = fixture.service.rotate_key(&by, rotation).await.unwrap_err();
        assert!(
            matches!(&refused, RotateError::ExceedsCaller(exceeded) if *exceeded == field),
            "{field:?}: {refused:?}"
        );
        assert_eq!(fixture.status(&wider).await, KeyStatus::Active);
        let system = Actor::system();
        let done = fixture.service.revoke_key(&system, None, wider.key.id);
        assert!(done.await.unwrap().is_some());
    }
    let session = fixture.session(&["a"]).await;
    let by_session = fixture.manager(&session).await;
    let rotation = || Rotation::new(caller.key.id);
    let refused = fixture.service.rotate_key(&by_session, rotation()).await;
    assert!(matches!(
        refused,
        Err(RotateError::ExceedsCaller(IssueField::Scopes))
    ));
    // Only operators may let the new key live longer.
    let later = rotation().expires_at(Some(noon_plus(1_001)));
    let refused = fixture.service.rotate_key(&by, later.clone()).await;
    assert!(matches!(refused, Err(RotateError::ExpiryTooLate)));
    let rotated = fixture.rotate(later).await.unwrap();
    assert_eq!(rotated.issued.key.expires_at, Some(noon_plus(1_001)));

    let same = fixture.issue(like_caller()).await;
    let rotated = fixture.service.rotate_key(&by, Rotation::new(same.key.id));
    assert_eq!(rotated.await.unwrap().predecessor, same.key.id);
    // A session without scopes may rotate any key.
    let session = fixture.session(&[]).await;
    let by_session = fixture.manager(&session).await;
    let any = fixture.issue(fixture.draft().scopes(scopes(&["z"]))).await;
    let rotation = Rotation::new(any.key.id);
    let rotated = fixture.service.rotate_key(&by_session, rotation).await;
    assert_eq!(rotated.unwrap().issued.key.scopes, any.key.scopes);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_key_is_like_the_old_one() {
    let fixture = Fixture::new().await;
    let quota = Quota::per_minute(3).unwrap();
    let draft = KeyDraft::new(fixture.account.id, "acme_test".parse().unwrap())
        .name(Some(KeyName::from_name("CI").unwrap()))
        .allowed_networks(AllowedNetworks::parse(["127.0.0.1"]).unwrap())
        .scopes(scopes(&["a", "b"]))
        .expires_at(Some(noon_plus(86_400)))
        .metadata(Metadata::new([("team", "billing")]).unwrap())
        .limits(KeyLimits::new([("list".parse().unwrap(), quota)]).unwrap());
    let subject =
        SessionDraft::new(fixture.account.id, MINUTE).subject(Some("user-17".parse().unwrap()));
    let system = Actor::system();
    let session = fixture.service.open_session(&system, subject).await;
    let by = fixture.manager(&session.unwrap()).await;
    let old = fixture.service.issue_key(&by, draft).await.unwrap();
    let rotated = fixture.rotate(Rotation::new(old.key.id)).await.unwrap();
    let new = &rotated.issued;
    assert!(new.secret.expose().starts_with("acme_test_"));
    assert_ne!(new.secret.expose(), old.secret.expose());
    let mut expected = old.key.clone();
    expected.id = new.key.id;
    expected.shown_prefix = new.secret.shown_prefix();
    assert_eq!(new.key, expected);
    assert_eq!(new.key.subject, Some("user-17".parse().unwrap()));
    let details = fixture.store.find_key(new.key.id).await.unwrap();
    let details = details.unwrap().unwrap();
    assert_eq!(details.key, new.key);
    assert_eq!(details.metadata.get("team"), Some("billing"));
    assert_eq!(details.predecessor, Some(old.key.id));
    assert_eq!(fixture.status(&old).await, KeyStatus::Rotating);
    assert_eq!(fixture.status(new).await, KeyStatus::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_key_is_good_until_its_grace_ends_and_the_new_one_after_it() {
    let fixture = Fixture::new().await;
    let old = fixture.issue(fixture.draft()).await;
    // Both are in the cache before and after the rotation.
    fixture.assert_judged(&old, Ok(())).await;
    let rotation = Rotation::new(old.key.id).grace(MINUTE);
    let rotated = fixture.rotate(rotation).await.unwrap();
    assert_eq!(rotated.predecessor_ends_at, noon_plus(60));
    for _ in 0..59 {
        fixture.assert_judged(&old, Ok(())).await;
        fixture.assert_judged(&rotated.issued, Ok(())).await;
        fixture.clock.advance(Duration::from_secs(1));
    }
    fixture.clock.advance(Duration::from_micros(999_999));
    fixture.assert_judged(&old, Ok(())).await;
    fixture.clock.advance(Duration::from_micros(1));
    fixture.assert_judged(&old, Err(Denial::Expired)).await;
    fixture.assert_judged(&rotated.issued, Ok(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_never_prolongs_a_key_and_none_ends_it_at_once() {
    let fixture = Fixture::new().await;
    let soon = fixture.draft().expires_at(Some(noon_plus(30)));
    let soon = fixture.issue(soon).await;
    let rotated = fixture.rotate(Rotation::new(soon.key.id)).await.unwrap();
    assert_eq!(rotated.predecessor_ends_at, noon_plus(30));
    assert_eq!(rotated.issued.key.expires_at, Some(noon_plus(30)));

    let at_once = fixture.issue(fixture.draft()).await;
    fixture.assert_judged(&at_once, Ok(())).await;
    let rotation = Rotation::new(at_once.key.id).grace(Duration::ZERO);
    let rotated = fixture.rotate(rotation).await.unwrap();
    assert_eq!(rotated.predecessor_ends_at, NOON);
    fixture.assert_judged(&at_once, Err(Denial::Revoked)).await;
    fixture.assert_judged(&rotated.issued, Ok(())).await;
    // A clock that is set back does not bring it back.
    fixture.clock.set(noon_plus(-60));
    fixture.assert_judged(&at_once, Err(Denial::Revoked)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_of_three_has_two_usable_keys() {
    let fixture = Fixture::new().await;
    let first = fixture.issue(fixture.draft()).await;
    fixture.assert_judged(&first, Ok(())).await;
    let second = fixture.rotate(Rotation::new(first.key.id)).await.unwrap();
    fixture.assert_judged(&first, Ok(())).await;
    fixture.assert_judged(&second.issued, Ok(())).await;
    let third = Rotation::new(second.issued.key.id);
    let third = fixture.rotate(third).await.unwrap();
    fixture.assert_judged(&first, Err(Denial::Revoked)).await;
    fixture.assert_judged(&second.issued, Ok(())).await;
    fixture.assert_judged(&third.issued, Ok(())).await;
    // It is applied again if a failover loses it.
    assert_eq!(fixture.service.revocations_remembered(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn key_rotates_itself_only_with_a_grace_of_a_minute() {
    let fixture = Fixture::new().await;
    let key = fixture.issue(fixture.draft()).await;
    let by = fixture.manager(&key).await;
    let short = Rotation::new(key.key.id).grace(Duration::from_micros(59_999_999));
    let refused = fixture.service.rotate_key(&by, short).await;
    assert!(matches!(refused, Err(RotateError::GraceTooShort)));
    let other = fixture.issue(fixture.draft()).await;
    let rotation = Rotation::new(key.key.id).grace(MINUTE);
    let rotated = fixture.service.rotate_key(&by, rotation).await;
    let rotated = rotated.unwrap();
    fixture.assert_judged(&key, Ok(())).await;
    fixture.assert_judged(&rotated.issued, Ok(())).await;
    fixture.clock.advance(MINUTE);
    let expired = fixture.service.rotate_key(&by, Rotation::new(other.key.id));
    assert!(matches!(
        expired.await,
        Err(RotateError::CallerDenied(Denial::Expired))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn repetition_gets_the_same_secret_and_rotates_nothing() {
    let fixture = Fixture::new().await;
    let key = fixture.issue(fixture.draft()).await;
    let by = fixture.manager(&key).await;
    let rotate = async |text: &str| {
        let rotation = Rotation::new(key.key.id).idempotent(repeatable(text));
        fixture.service.rotate_key(&by, rotation).await
    };
    let first = rotate("k").await.unwrap();
    fixture.clock.advance(MINUTE);
    for _ in 0..2 {
        let again = rotate("k").await.unwrap();
        let (one, other) = (&again.issued, &first.issued);
        assert_eq!(one.secret.expose(), other.secret.expose());
        assert_eq!((&one.key, again.predecessor), (&other.key, key.key.id));
        assert_eq!(again.predecessor_ends_at, first.predecessor_ends_at);
        assert!(again.effective.everywhere_by() > fixture.clock.now());
    }
    let other = rotate("l").await.unwrap_err();
    assert!(matches!(other, RotateError::Rotated { .. }), "{other:?}");
    // A refused attempt leaves its idempotency key free.
    let other = rotate("l").await.unwrap_err();
    assert!(matches!(other, RotateError::Rotated { .. }), "{other:?}");
    let body = Idempotent::new("k".parse().unwrap(), "rotate", "another body");
    let rotation = Rotation::new(key.key.id).idempotent(Some(body));
    let refused = fixture.service.rotate_key(&by, rotation).await.unwrap_err();
    assert!(matches!(
        refused,
        RotateError::Idempotency(IdempotencyError::BodyDiffers)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_rotations_at_once_wins_and_the_others_name_its_key() {
    let fixture = Fixture::new().await;
    let key = fixture.issue(fixture.draft()).await;
    let attempts = (0..16).map(|_| {
        let (service, id) = (fixture.service.clone(), key.key.id);
        tokio::spawn(async move {
            let rotation = Rotation::new(id);
            service.rotate_key(&Actor::system(), rotation).await
        })
    });
    let attempts: Vec<_> = attempts.collect();
    let (mut won, mut named) = (Vec::new(), Vec::new());
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(rotated) => won.push(rotated.issued.key.id),
            Err(RotateError::Rotated { successor }) => named.push(successor),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert!(named.iter().all(|named| *named == won[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_with_what_remains_and_nothing_is_taken() {
    let fixture = Fixture::new().await;
    let quota = Quota::new(7, 10).unwrap();
    let own = KeyLimits::new([("list".parse().unwrap(), quota)]).unwrap();
    let key = fixture.issue(fixture.draft().limits(own)).await;
    let identity = fixture.holder(&key).await;
    for _ in 0..3 {
        let counted = fixture
            .service
            .count_operation(&identity, Operation::Create);
        assert!(counted.await.unwrap().unwrap().allowed);
    }
    for _ in 0..20 {
        let limits = fixture.service.limits(&identity).await;
        let told: Vec<_> = limits
            .iter()
            .map(|limit| {
                let remaining = limit.decision.as_ref().map(|decision| decision.remaining);
                (limit.name.as_str(), limit.source, remaining)
            })
            .collect();
        let plan = LimitSource::Plan(LimitPer::Account);
        assert_eq!(
            told,
            [
                ("create", plan, Some(7)),
                ("delete", plan, Some(10)),
                ("list", plan, Some(30)),
                ("list", LimitSource::Key, Some(7)),
            ]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_of_any_kind_revokes_itself_once() {
    let fixture = Fixture::new().await;
    let name = KeyName::from_name("ops").unwrap();
    let system = Actor::system();
    let operator = fixture
        .service
        .issue_operator_key(&system, OperatorKeyDraft::new(name));
    let operator = operator.await.unwrap();
    let key = fixture.issue(fixture.draft()).await;
    let session = fixture.session(&[]).await;
    for issued in [&key, &session, &operator] {
        let identity = fixture.holder(issued).await;
        let revoked = fixture.service.revoke_own_key(&identity).await;
        assert!(revoked.unwrap().is_some());
        assert_eq!(fixture.status(issued).await, KeyStatus::Revoked);
        let again = fixture.service.revoke_own_key(&identity).await;
        assert!(again.is_err() || again.unwrap().is_none());
    }
    fixture.assert_judged(&key, Err(Denial::Revoked)).await;
}
