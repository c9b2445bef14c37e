//! The use cases over the store in memory, with controlled times and randomness.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use keys_core::{
    Account, AllowedNetworks, Denial, KeyKind, KeyName, Operation, Plans, Quota, ScopeSet,
    Timestamp,
};
use keys_service::ports::{AccountPatch, KeyOwner};
use keys_service::{
    AccountError, Actor, AuthenticateError, IdempotencyError, Idempotent, Identity, IssueError,
    IssueField, Issued, KeyDraft, KeyManagement, KeyService, ManagementPolicy, MemoryStore,
    NewAccount, OperatorKeyDraft, Requirement, SessionDraft,
};
use keys_testkit::clock::FakeClock;
use keys_testkit::data::{NOON, pepper_ring};
use keys_testkit::rng::seeded;

const HOUR: Duration = Duration::from_hours(1);

struct Fixture {
    service: KeyService,
    clock: FakeClock,
    account: Account,
}

impl Fixture {
    async fn on_plan(plan: &str) -> Self {
        let clock = FakeClock::new(NOON);
        let service = KeyService::builder(MemoryStore::default(), pepper_ring("p1"))
            .clock(clock.clone())
            .rng(seeded(1))
            .build();
        let new =
            NewAccount::new(plan.parse().unwrap()).external_id(Some("user-1".parse().unwrap()));
        let account = service.create_account(&Actor::system(), new).await.unwrap();
        Self {
            service,
            clock,
            account,
        }
    }

    fn draft(&self) -> KeyDraft {
        KeyDraft::new(self.account.id, "sk_live".parse().unwrap())
    }

    async fn issue(&self, draft: KeyDraft) -> Issued {
        self.service
            .issue_key(&Actor::system(), draft)
            .await
            .unwrap()
    }

    async fn session(&self) -> Issued {
        self.service
            .open_session(&Actor::system(), SessionDraft::new(self.account.id, HOUR))
            .await
            .unwrap()
    }

    async fn holder(&self, issued: &Issued) -> Identity {
        self.service
            .authenticate(
                issued.secret.expose(),
                LOCALHOST,
                &Requirement::account_holder(),
            )
            .await
            .unwrap()
    }

    async fn manager(&self, issued: &Issued) -> Actor {
        let identity = self.holder(issued).await;
        self.service
            .manager(&identity, Operation::Create, &ManagementPolicy::default())
            .unwrap()
    }

    async fn denial(&self, issued: &Issued, requirement: &Requirement) -> Option<Denial> {
        match self
            .service
            .authenticate(issued.secret.expose(), LOCALHOST, requirement)
            .await
        {
            Ok(_) => None,
            Err(AuthenticateError::Denied(denial)) => Some(denial),
            Err(error) => panic!("{error}"),
        }
    }

    async fn put_on(&self, patch: AccountPatch) {
        let _ = self
            .service
            .update_account(&Actor::system(), self.account.id, patch)
            .await
            .unwrap();
    }

    async fn usable(&self) -> u64 {
        let owner = KeyOwner::Account(self.account.id);
        self.service.list_keys(owner, 0, 100).await.unwrap().total
    }
}

const LOCALHOST: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

fn networks(entries: &[&str]) -> AllowedNetworks {
    AllowedNetworks::parse(entries).unwrap()
}

fn to_plan(name: &str) -> AccountPatch {
    AccountPatch::default().plan(name.parse().unwrap())
}

fn idempotent(key: &str, body: &str) -> Idempotent {
    Idempotent::new(
        key.parse().unwrap(),
        "create".to_owned(),
        body.as_bytes().to_vec(),
    )
}

#[tokio::test]
async fn malformed_keys_are_refused_before_the_unknown() {
    let fixture = Fixture::on_plan("pro").await;
    let issued = fixture.issue(fixture.draft()).await;
    let mut text = issued.secret.expose().to_owned();
    let last = if text.ends_with('0') { "1" } else { "0" };
    text.replace_range(text.len() - 1.., last);
    let refused = fixture
        .service
        .authenticate(&text, None, &Requirement::account_key())
        .await;
    assert!(matches!(
        refused,
        Err(AuthenticateError::Denied(Denial::Malformed))
    ));
}

#[tokio::test]
async fn kinds_never_pass_for_one_another() {
    let fixture = Fixture::on_plan("pro").await;
    let operator = fixture
        .service
        .issue_operator_key(
            &Actor::system(),
            OperatorKeyDraft::new(KeyName::from_name("ops").unwrap())
                .scopes(ScopeSet::parse(["keys:write"]).unwrap()),
        )
        .await
        .unwrap();
    let scopes = ScopeSet::parse(["keys:write"]).unwrap();
    let account_key = fixture
        .issue(fixture.draft().scopes(Some(scopes.clone())))
        .await;
    let session = fixture.session().await;
    let as_operator = Requirement::operator(scopes);
    assert_eq!(fixture.denial(&operator, &as_operator).await, None);
    for other in [&account_key, &session] {
        let denial = fixture.denial(other, &as_operator).await;
        assert_eq!(denial, Some(Denial::KindNotAllowed));
    }
    for requirement in [Requirement::account_key(), Requirement::account_holder()] {
        let denial = fixture.denial(&operator, &requirement).await;
        assert_eq!(denial, Some(Denial::KindNotAllowed));
    }
    let denial = fixture.denial(&session, &Requirement::account_key()).await;
    assert_eq!(denial, Some(Denial::KindNotAllowed));
}

#[tokio::test]
async fn reserved_prefixes_are_for_their_kinds() {
    let fixture = Fixture::on_plan("pro").await;
    for prefix in ["operator", "session"] {
        let draft = KeyDraft::new(fixture.account.id, prefix.parse().unwrap());
        let refused = fixture.service.issue_key(&Actor::system(), draft).await;
        assert!(matches!(refused, Err(IssueError::ReservedPrefix)));
    }
}

#[tokio::test]
async fn downgrade_stops_keys_and_upgrade_brings_them_back() {
    let fixture = Fixture::on_plan("pro").await;
    let issued = fixture.issue(fixture.draft()).await;
    fixture.put_on(to_plan("free")).await;
    let requirement = Requirement::account_key();
    let denial = fixture.denial(&issued, &requirement).await;
    assert_eq!(denial, Some(Denial::PlanForbidden));
    fixture.put_on(to_plan("business")).await;
    assert_eq!(fixture.denial(&issued, &requirement).await, None);
}

#[tokio::test]
async fn on_a_plan_without_keys_sessions_may_clean_up_and_keys_may_not() {
    let fixture = Fixture::on_plan("pro").await;
    let key = fixture.issue(fixture.draft()).await;
    fixture.put_on(to_plan("free")).await;
    let session = fixture.session().await;
    let verdict = |identity: Identity, operation| {
        fixture
            .service
            .manager(&identity, operation, &ManagementPolicy::default())
            .err()
    };
    for operation in Operation::ALL {
        let by_key = verdict(fixture.holder(&key).await, operation);
        assert_eq!(by_key, Some(Denial::PlanForbidden));
        let by_session = verdict(fixture.holder(&session).await, operation);
        let expected = (operation == Operation::Create).then_some(Denial::PlanForbidden);
        assert_eq!(by_session, expected);
    }
}

#[tokio::test]
async fn management_can_be_reserved_to_sessions() {
    let fixture = Fixture::on_plan("pro").await;
    let mut policy = ManagementPolicy::default();
    policy.management = KeyManagement::SessionOnly;
    let key = fixture.issue(fixture.draft()).await;
    let identity = fixture.holder(&key).await;
    let refused = fixture.service.manager(&identity, Operation::List, &policy);
    assert_eq!(refused.unwrap_err(), Denial::KindNotAllowed);
    let identity = fixture.holder(&fixture.session().await).await;
    assert!(
        fixture
            .service
            .manager(&identity, Operation::List, &policy)
            .is_ok()
    );
}

#[tokio::test]
async fn disabled_account_is_known_and_forbidden() {
    let fixture = Fixture::on_plan("pro").await;
    let key = fixture.issue(fixture.draft()).await;
    let session = fixture.session().await;
    fixture.put_on(AccountPatch::default().disabled(true)).await;
    for issued in [&key, &session] {
        let denial = fixture.denial(issued, &Requirement::account_holder()).await;
        assert_eq!(denial, Some(Denial::AccountDisabled));
    }
}

#[tokio::test]
async fn a_key_creates_nothing_that_may_do_more_than_itself() {
    let fixture = Fixture::on_plan("pro").await;
    let noon_tomorrow = NOON.saturating_add(24 * HOUR);
    let parent = fixture
        .issue(
            fixture
                .draft()
                .allowed_networks(networks(&["127.0.0.1", "10.0.0.0/8"]))
                .scopes(Some(ScopeSet::parse(["a", "b"]).unwrap()))
                .expires_at(Some(noon_tomorrow)),
        )
        .await;
    let by = fixture.manager(&parent).await;
    let refusal = async |draft| match fixture.service.issue_key(&by, draft).await {
        Err(IssueError::ExceedsCreator(field)) => field,
        other => panic!("{other:?}"),
    };
    let later = fixture
        .draft()
        .expires_at(Some(noon_tomorrow.saturating_add(Duration::from_micros(1))));
    assert_eq!(refusal(later).await, IssueField::ExpiresAt);
    let elsewhere = fixture
        .draft()
        .allowed_networks(networks(&["10.0.0.1", "192.0.2.1"]));
    assert_eq!(refusal(elsewhere).await, IssueField::AllowedNetworks(1));
    let more = fixture
        .draft()
        .scopes(Some(ScopeSet::parse(["a", "c"]).unwrap()));
    assert_eq!(refusal(more).await, IssueField::Scopes);

    // A field that is left open is inherited from the creator.
    let child = fixture
        .service
        .issue_key(&by, fixture.draft())
        .await
        .unwrap()
        .key;
    assert_eq!(child.expires_at, Some(noon_tomorrow));
    assert_eq!(child.allowed_networks, parent.key.allowed_networks);
    assert_eq!(child.scopes, parent.key.scopes);
}

/// The creating key is restricted between its authentication and the change.
#[tokio::test]
async fn a_key_that_was_restricted_a_moment_ago_creates_nothing_wider() {
    let fixture = Fixture::on_plan("pro").await;
    let parent = fixture
        .issue(
            fixture
                .draft()
                .allowed_networks(networks(&["127.0.0.1"]))
                .scopes(Some(ScopeSet::parse(["a"]).unwrap()))
                .expires_at(Some(NOON.saturating_add(HOUR))),
        )
        .await;
    let now = fixture.holder(&parent).await;
    let mut later = now.clone();
    later.key.expires_at = None;
    let mut elsewhere = now.clone();
    elsewhere.key.allowed_networks = AllowedNetworks::default();
    let mut more = now.clone();
    more.key.scopes = ScopeSet::parse(["a", "b"]).unwrap();
    let beyond = Some(NOON.saturating_add(2 * HOUR));
    let list = networks(&["127.0.0.1", "192.0.2.1"]);
    for (former, draft, field) in [
        (
            later,
            fixture.draft().expires_at(beyond),
            IssueField::ExpiresAt,
        ),
        (
            elsewhere,
            fixture.draft().allowed_networks(list),
            IssueField::AllowedNetworks(1),
        ),
        (
            more.clone(),
            fixture.draft().scopes(Some(more.key.scopes)),
            IssueField::Scopes,
        ),
    ] {
        let policy = ManagementPolicy::default();
        let by = fixture
            .service
            .manager(&former, Operation::Create, &policy)
            .unwrap();
        let request = || Some(idempotent(&format!("{field:?}"), ""));
        let before = fixture.usable().await;
        // As at the start: the field of the request is at fault.
        let refused = fixture.service.issue_key(&by, draft).await.unwrap_err();
        assert!(
            matches!(refused, IssueError::ExceedsCreator(at) if at == field),
            "{field:?}: {refused:?}"
        );
        // The request has no such field, so it is not at fault.
        let inherited = fixture.draft().idempotent(request());
        let refused = fixture.service.issue_key(&by, inherited).await.unwrap_err();
        assert!(
            matches!(refused, IssueError::CreatorRestricted),
            "{field:?}: {refused:?}"
        );
        assert_eq!(fixture.usable().await, before);
        // A repetition, authenticated again, inherits what the key has now.
        let by = fixture.manager(&parent).await;
        let inherited = fixture.draft().idempotent(request());
        fixture.service.issue_key(&by, inherited).await.unwrap();
    }
}

#[tokio::test]
async fn keys_made_in_a_session_outlive_it() {
    let fixture = Fixture::on_plan("pro").await;
    let session = fixture.session().await;
    let by = fixture.manager(&session).await;
    let issued = fixture
        .service
        .issue_key(&by, fixture.draft())
        .await
        .unwrap();
    assert_eq!(issued.key.expires_at, None);
    fixture.clock.advance(HOUR);
    let denial = fixture
        .denial(&session, &Requirement::account_holder())
        .await;
    assert_eq!(denial, Some(Denial::Expired));
    let denial = fixture.denial(&issued, &Requirement::account_key()).await;
    assert_eq!(denial, None);
}

#[tokio::test]
async fn a_key_revoked_since_it_was_authenticated_cannot_mint_its_successor() {
    let fixture = Fixture::on_plan("pro").await;
    let issued = fixture.issue(fixture.draft()).await;
    let by = fixture.manager(&issued).await;
    assert!(
        fixture
            .service
            .revoke_key(&Actor::system(), None, issued.key.id)
            .await
            .unwrap()
            .is_some()
    );
    let refused = fixture.service.issue_key(&by, fixture.draft()).await;
    assert!(matches!(
        refused,
        Err(IssueError::CallerDenied(Denial::Revoked))
    ));
    assert_eq!(fixture.usable().await, 0);
}

#[tokio::test]
async fn sessions_live_for_a_second_to_a_day_and_are_neither_listed_nor_counted() {
    let fixture = Fixture::on_plan("pro").await;
    for ttl in [Duration::ZERO, 24 * HOUR + Duration::from_secs(1)] {
        let refused = fixture
            .service
            .open_session(&Actor::system(), SessionDraft::new(fixture.account.id, ttl))
            .await;
        assert!(matches!(refused, Err(IssueError::SessionTtl)));
    }
    for _ in 0..12 {
        let session = fixture.session().await;
        assert_eq!(session.key.kind, KeyKind::Session);
    }
    assert_eq!(fixture.usable().await, 0);
    fixture.issue(fixture.draft()).await;
    assert_eq!(fixture.usable().await, 1);
}

#[tokio::test]
async fn the_eleventh_key_is_refused_until_one_is_revoked_or_expires() {
    let fixture = Fixture::on_plan("pro").await;
    let expiring = fixture.draft().expires_at(Some(NOON.saturating_add(HOUR)));
    fixture.issue(expiring).await;
    let mut last = None;
    for _ in 0..9 {
        last = Some(fixture.issue(fixture.draft()).await);
    }
    let system = Actor::system();
    let attempt = || fixture.service.issue_key(&system, fixture.draft());
    assert!(matches!(
        attempt().await,
        Err(IssueError::CapReached { max: 10 })
    ));
    let id = last.unwrap().key.id;
    let _ = fixture
        .service
        .revoke_key(&Actor::system(), None, id)
        .await
        .unwrap();
    attempt().await.unwrap();
    assert!(attempt().await.is_err());
    fixture.clock.advance(HOUR);
    attempt().await.unwrap();
}

#[tokio::test]
async fn expiry_must_lie_in_the_future() {
    let fixture = Fixture::on_plan("pro").await;
    for expires_at in [NOON, Timestamp::MIN] {
        let draft = fixture.draft().expires_at(Some(expires_at));
        let refused = fixture.service.issue_key(&Actor::system(), draft).await;
        assert!(matches!(refused, Err(IssueError::ExpiryNotInFuture)));
    }
}

#[tokio::test]
async fn creator_that_expired_meanwhile_is_refused_and_no_field_is_at_fault() {
    let fixture = Fixture::on_plan("pro").await;
    let parent = fixture
        .issue(fixture.draft().expires_at(Some(NOON.saturating_add(HOUR))))
        .await;
    let by = fixture.manager(&parent).await;
    fixture.clock.advance(HOUR);
    let refused = fixture.service.issue_key(&by, fixture.draft()).await;
    assert!(matches!(
        refused,
        Err(IssueError::CallerDenied(Denial::Expired))
    ));
}

#[tokio::test]
async fn repetition_gets_the_same_key_and_makes_nothing_new() {
    let fixture = Fixture::on_plan("pro").await;
    let system = Actor::system();
    let create = |key: &str, body: &str| {
        let draft = fixture
            .draft()
            .name(Some(KeyName::from_name("once").unwrap()))
            .allowed_networks(networks(&["10.0.0.0/8", "2001:db8::1"]))
            .expires_at(Some(NOON.saturating_add(HOUR)));
        fixture
            .service
            .issue_key(&system, draft.idempotent(Some(idempotent(key, body))))
    };
    let first = create("k", "body").await.unwrap();
    fixture.clock.advance(Duration::from_secs(599));
    let second = create("k", "body").await.unwrap();
    assert_eq!(first.secret.expose(), second.secret.expose());
    assert_eq!(first.key, second.key);
    assert_eq!(fixture.usable().await, 1);

    let differs = create("k", "another body").await.unwrap_err();
    assert!(matches!(
        differs,
        IssueError::Idempotency(IdempotencyError::BodyDiffers)
    ));
    fixture.clock.advance(Duration::from_secs(1));
    let third = create("k", "body").await.unwrap();
    assert_ne!(first.key.id, third.key.id, "ten minutes are over");
}

#[tokio::test]
async fn repetition_after_the_keys_expiry_still_gets_the_same_answer() {
    let fixture = Fixture::on_plan("pro").await;
    let system = Actor::system();
    let create = || {
        let draft = fixture
            .draft()
            .expires_at(Some(NOON.saturating_add(Duration::from_mins(1))));
        fixture
            .service
            .issue_key(&system, draft.idempotent(Some(idempotent("k", "body"))))
    };
    let first = create().await.unwrap();
    fixture.clock.advance(Duration::from_secs(61));
    let second = create().await.unwrap();
    assert_eq!(first.secret.expose(), second.secret.expose());
}

#[tokio::test]
async fn another_credential_does_not_get_what_the_first_was_given() {
    let fixture = Fixture::on_plan("pro").await;
    let wide = fixture.manager(&fixture.issue(fixture.draft()).await).await;
    let narrow = fixture.draft().allowed_networks(networks(&["127.0.0.1"]));
    let narrow = fixture.manager(&fixture.issue(narrow).await).await;
    let create = |by| {
        let repeated = Some(idempotent("k", "body"));
        fixture
            .service
            .issue_key(by, fixture.draft().idempotent(repeated))
    };
    let first = create(&wide).await.unwrap();
    let second = create(&narrow).await.unwrap();
    assert_ne!(first.secret.expose(), second.secret.expose());
    assert!(first.key.allowed_networks.is_unrestricted());
    assert!(!second.key.allowed_networks.is_unrestricted());
}

#[tokio::test]
async fn refused_attempt_leaves_its_idempotency_key_free() {
    let fixture = Fixture::on_plan("free").await;
    let system = Actor::system();
    let create = || {
        fixture.service.issue_key(
            &system,
            fixture.draft().idempotent(Some(idempotent("k", "body"))),
        )
    };
    assert!(matches!(
        create().await,
        Err(IssueError::AccountDenied(Denial::PlanForbidden))
    ));
    fixture.put_on(to_plan("pro")).await;
    create().await.unwrap();
}

#[tokio::test]
async fn accounts_are_repeated_too_and_external_ids_are_unique() {
    let fixture = Fixture::on_plan("pro").await;
    let system = Actor::system();
    let create = |external_id: &str, idempotent| {
        let new =
            NewAccount::new("pro".parse().unwrap()).external_id(Some(external_id.parse().unwrap()));
        fixture
            .service
            .create_account(&system, new.idempotent(idempotent))
    };
    let first = create("user-2", Some(idempotent("k", "body")))
        .await
        .unwrap();
    let again = create("user-2", Some(idempotent("k", "body")))
        .await
        .unwrap();
    assert_eq!(first, again);
    assert!(matches!(
        create("user-2", None).await,
        Err(AccountError::ExternalIdTaken)
    ));
    let unknown = NewAccount::new("gold".parse().unwrap());
    assert!(matches!(
        fixture.service.create_account(&system, unknown).await,
        Err(AccountError::UnknownPlan)
    ));
}

#[tokio::test]
async fn limits_are_per_account_and_operation() {
    let fixture = Fixture::on_plan("pro").await;
    let first = fixture.holder(&fixture.issue(fixture.draft()).await).await;
    let second = fixture.holder(&fixture.issue(fixture.draft()).await).await;
    let count = async |identity: &Identity, operation| {
        fixture
            .service
            .count_operation(identity, operation)
            .await
            .unwrap()
            .unwrap()
    };
    for turn in 0..10 {
        let identity = if turn % 2 == 0 { &first } else { &second };
        assert!(count(identity, Operation::Create).await.allowed);
    }
    for identity in [&first, &second] {
        let decision = count(identity, Operation::Create).await;
        assert!(!decision.allowed);
        assert_eq!(decision.retry_after, Duration::from_secs(6));
    }
    assert!(count(&first, Operation::List).await.allowed);
}

#[tokio::test]
async fn failures_are_counted_per_address() {
    let fixture = Fixture::on_plan("pro").await;
    let two = Quota::per_minute(2).unwrap();
    let fail = async |address: Option<IpAddr>| {
        let counted = fixture.service.count_failure(address, two).await;
        counted.unwrap().allowed
    };
    let other = Some(IpAddr::from([192, 0, 2, 1]));
    assert!(fail(LOCALHOST).await);
    assert!(fail(LOCALHOST).await);
    assert!(!fail(LOCALHOST).await);
    assert!(fail(other).await);
}

#[tokio::test]
async fn last_use_is_written_by_the_flush_and_never_goes_back() {
    let fixture = Fixture::on_plan("pro").await;
    let issued = fixture.issue(fixture.draft()).await;
    let identity = fixture.holder(&issued).await;
    let last_used_at = async || {
        let owner = KeyOwner::Account(fixture.account.id);
        let page = fixture.service.list_keys(owner, 0, 1).await.unwrap();
        page.keys[0].last_used_at
    };
    fixture.clock.advance(HOUR);
    fixture.service.record_success(&identity);
    assert_eq!(last_used_at().await, None);
    fixture.service.flush_uses().await.unwrap();
    assert_eq!(last_used_at().await, Some(NOON.saturating_add(HOUR)));
    fixture.clock.set(NOON);
    fixture.service.record_success(&identity);
    fixture.service.flush_uses().await.unwrap();
    assert_eq!(last_used_at().await, Some(NOON.saturating_add(HOUR)));
}

#[tokio::test]
async fn a_plan_that_left_the_configuration_forbids_keys_and_still_limits() {
    let store = MemoryStore::default();
    let clock = FakeClock::new(NOON);
    let build = |plans: Plans, store: MemoryStore| {
        KeyService::builder(store, pepper_ring("p1"))
            .plans(plans)
            .clock(clock.clone())
            .build()
    };
    let before = build(Plans::documented(), store.clone());
    let new = NewAccount::new("business".parse().unwrap());
    let account = before.create_account(&Actor::system(), new).await.unwrap();
    let draft = KeyDraft::new(account.id, "sk_live".parse().unwrap());
    let issued = before.issue_key(&Actor::system(), draft).await.unwrap();

    let remaining = Plans::documented()
        .iter()
        .filter(|(name, _)| name.as_str() != "business")
        .map(|(name, plan)| (name.clone(), plan.clone()))
        .collect::<Vec<_>>();
    let after = build(Plans::new(remaining), store);
    let refused = after
        .authenticate(issued.secret.expose(), None, &Requirement::account_key())
        .await;
    assert!(matches!(
        refused,
        Err(AuthenticateError::Denied(Denial::PlanForbidden))
    ));
    let identity = after
        .authenticate(issued.secret.expose(), None, &Requirement::account_holder())
        .await
        .unwrap();
    for _ in 0..10 {
        let counted = after.count_operation(&identity, Operation::Create).await;
        assert!(counted.unwrap().unwrap().allowed);
    }
    let counted = after.count_operation(&identity, Operation::Create).await;
    assert!(!counted.unwrap().unwrap().allowed);
}

#[tokio::test]
async fn keys_under_a_pepper_that_is_not_configured_are_reported() {
    let store = MemoryStore::default();
    let before = KeyService::builder(store.clone(), pepper_ring("p1")).build();
    let draft = OperatorKeyDraft::new(KeyName::from_name("ops").unwrap())
        .allowed_networks(AllowedNetworks::default())
        .scopes(ScopeSet::default());
    before
        .issue_operator_key(&Actor::system(), draft)
        .await
        .unwrap();
    assert!(before.missing_peppers().await.unwrap().is_empty());
    let after = KeyService::builder(store, pepper_ring("p2")).build();
    assert_eq!(
        after.missing_peppers().await.unwrap(),
        ["p1".parse().unwrap()]
    );
}

#[tokio::test]
async fn an_accounts_credential_acts_for_no_other_account_and_never_as_an_operator() {
    let fixture = Fixture::on_plan("pro").await;
    let stranger = fixture
        .service
        .create_account(&Actor::system(), NewAccount::new("pro".parse().unwrap()))
        .await
        .unwrap();
    let strangers_draft = || KeyDraft::new(stranger.id, "sk_live".parse().unwrap());
    let strangers = fixture.issue(strangers_draft()).await;
    for issued in [
        fixture.issue(fixture.draft()).await,
        fixture.session().await,
    ] {
        let identity = fixture.holder(&issued).await;
        assert_eq!(
            Actor::operator(&identity).unwrap_err(),
            Denial::KindNotAllowed
        );
        let by = fixture.manager(&issued).await;
        let service = &fixture.service;
        let refused = service.issue_key(&by, strangers_draft()).await;
        assert!(matches!(refused, Err(IssueError::AccountNotFound)));
        let theirs = Some(KeyOwner::Account(stranger.id));
        for owner in [theirs, Some(KeyOwner::Operators), None] {
            let revoked = service.revoke_key(&by, owner, strangers.key.id).await;
            assert!(revoked.unwrap().is_none());
        }
        let upgrade = service
            .update_account(&by, fixture.account.id, to_plan("business"))
            .await;
        assert!(matches!(
            upgrade,
            Err(AccountError::CallerDenied(Denial::KindNotAllowed))
        ));
        let longer = service.open_session(&by, SessionDraft::new(fixture.account.id, HOUR));
        assert!(longer.await.is_err());
    }
    let denial = fixture
        .denial(&strangers, &Requirement::account_key())
        .await;
    assert_eq!(denial, None);
}
