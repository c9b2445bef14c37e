//! Management and verification judge alike: the row of the database, the record that the cache
//! makes of it, and the caller of a change.
//!
//! Each case draws a key, its account and a question at random. The key is then authenticated as
//! management does it, verified before and after it is in the cache, and judged as the caller of a
//! change. All four must say the same. A change of the rules in one place only shows up here.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use keys_core::{
    Account, AllowedNetworks, ApiKey, Denial, IssuePolicy, KeyId, KeyKind, PepperRing, Plan, Plans,
    Revocation, ScopeSet, SecretKey, StoredKey, Timestamp,
};
use keys_service::ports::{AccountPatch, Accounts as _, Admission, Caller, Keys as _, NewKey};
use keys_service::{
    AuthenticateError, KeyService, MemoryStore, Requirement, VerdictCode, VerifyRequest,
};
use keys_testkit::clock::FakeClock;
use keys_testkit::data::{NOON, a_change, an_account, pepper_ring};
use keys_testkit::report;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, TestRunner};

/// Cases in the normal run and in the full one.
const CASES: u32 = 2_000;
const CASES_IN_FULL: u32 = 100_000;

const KINDS: [KeyKind; 3] = [KeyKind::Operator, KeyKind::Account, KeyKind::Session];

/// Plans an account may be on. The last one is not configured.
const PLANS: [&str; 3] = ["pro", "free", "legacy"];

const SCOPES: [&str; 3] = ["orders:read", "orders:write", "orders"];
const NETWORKS: [&str; 4] = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "0.0.0.0/0"];
const ADDRESSES: [&str; 4] = ["10.1.2.3", "192.0.2.1", "::ffff:10.1.2.3", "2001:db8::1"];

/// A key with its account, and a question about it.
#[derive(Debug, Clone)]
struct Case {
    kind: KeyKind,
    is_revoked: bool,
    is_key_disabled: bool,
    /// Microseconds from now.
    expires_in: Option<i64>,
    networks: Vec<&'static str>,
    scopes: Vec<&'static str>,
    plan: &'static str,
    is_disabled: bool,
    kinds: Vec<KeyKind>,
    address: Option<&'static str>,
    wanted: Vec<&'static str>,
}

/// Mostly permitted values, so that cases reach the last rule as well as the first one.
fn cases() -> impl Strategy<Value = Case> {
    let expires_in = prop_oneof![
        2 => Just(None),
        2 => Just(Some(1)),
        1 => select(&[-1, 0, i64::MAX, i64::MIN][..]).prop_map(Some),
    ];
    let networks = prop_oneof![
        1 => Just(Vec::new()),
        1 => subsequence(&NETWORKS[..], 0..=NETWORKS.len()),
    ];
    let wanted = prop_oneof![
        1 => Just(Vec::new()),
        1 => subsequence(&SCOPES[..], 0..=SCOPES.len()),
    ];
    let kinds = prop_oneof![
        3 => Just(KINDS.to_vec()),
        1 => subsequence(&KINDS[..], 0..=KINDS.len()),
    ];
    let key = (
        select(&KINDS[..]),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        expires_in,
        networks,
        subsequence(&SCOPES[..], 0..=SCOPES.len()),
    );
    let account = (
        prop_oneof![3 => Just(PLANS[0]), 1 => select(&PLANS[..])],
        prop::bool::weighted(0.1),
    );
    let question = (kinds, prop::option::of(select(&ADDRESSES[..])), wanted);
    (key, account, question).prop_map(|(key, account, question)| {
        let (kind, is_revoked, is_key_disabled, expires_in, networks, scopes) = key;
        let (plan, is_disabled) = account;
        let (kinds, address, wanted) = question;
        Case {
            kind,
            is_revoked,
            is_key_disabled,
            expires_in,
            networks,
            scopes,
            plan,
            is_disabled,
            kinds,
            address,
            wanted,
        }
    })
}

/// One service and its store, to which the keys of all cases are added.
struct World {
    store: MemoryStore,
    service: KeyService,
    plans: Arc<Plans>,
    peppers: PepperRing,
}

impl World {
    /// The clock stands still and no further changes are followed, so the cache serves everything
    /// that it has read.
    async fn new() -> Self {
        let plans = Plans::new([
            ("pro".parse().unwrap(), Plan::with_keys(10)),
            ("free".parse().unwrap(), Plan::without_keys()),
        ]);
        let store = MemoryStore::default();
        let service = KeyService::builder(store.clone(), pepper_ring("p1"))
            .plans(plans.clone())
            .clock(FakeClock::default())
            .build();
        let following = tokio::spawn({
            let service = service.clone();
            async move { service.maintain().await }
        });
        while service.cache_state().behind.is_none() {
            tokio::task::yield_now().await;
        }
        following.abort();
        let _ = following.await;
        Self {
            store,
            service,
            plans: Arc::new(plans),
            peppers: pepper_ring("p1"),
        }
    }

    /// Stores the key of a case.
    async fn add(&self, case: &Case) -> (SecretKey, StoredKey) {
        let rng = &mut getrandom::SysRng;
        let secret = SecretKey::generate(&"sk_live".parse().unwrap(), rng).unwrap();
        let mut account = None;
        if case.kind != KeyKind::Operator {
            let new = an_account().plan(case.plan).build();
            let change = a_change().build();
            self.store
                .insert_account(new.clone(), change)
                .await
                .unwrap();
            account = Some(new);
        }
        let expires_at = case
            .expires_in
            .map(|micros| Timestamp::from_unix_micros(NOON.unix_micros().saturating_add(micros)));
        let id = KeyId::generate(NOON, rng).unwrap();
        let mut key = ApiKey::new(id, case.kind, secret.shown_prefix(), NOON);
        key.account_id = account.as_ref().map(|account| account.id);
        key.allowed_networks = AllowedNetworks::parse(&case.networks).unwrap();
        key.scopes = ScopeSet::parse(&case.scopes).unwrap();
        key.expires_at = expires_at;
        key.disabled_at = case.is_key_disabled.then_some(NOON);
        let admission = Admission::new(Arc::clone(&self.plans), IssuePolicy::NONE);
        let digest = self.peppers.digest(&secret);
        let new = NewKey::new(key.clone(), digest, admission);
        self.store
            .insert_key(new, a_change().build())
            .await
            .unwrap();
        if case.is_revoked {
            let change = a_change().build();
            let revoked = self
                .store
                .revoke_key(None, key.id, Revocation::default(), change)
                .await;
            assert!(revoked.unwrap().is_some());
            key.revoked_at = Some(NOON);
        }
        if let Some(account) = account.as_mut().filter(|_| case.is_disabled) {
            account.disabled = true;
            self.disable(account).await;
        }
        (secret, StoredKey::new(key, account))
    }

    async fn disable(&self, account: &Account) {
        let patch = AccountPatch::default().disabled(true);
        let change = a_change().build();
        self.store
            .update_account(account.id, patch, change)
            .await
            .unwrap();
    }

    /// Judges the case in each of the four ways, and returns the verdict.
    async fn judge(&self, case: &Case) -> Result<Option<Denial>, TestCaseError> {
        let (secret, stored) = self.add(case).await;
        let address: Option<IpAddr> = case.address.map(|address| address.parse().unwrap());
        let scopes = ScopeSet::parse(&case.wanted).unwrap();

        let mut requirement = Requirement::account_key().scopes(scopes.clone());
        requirement.kinds.clone_from(&case.kinds);
        let authenticated = self
            .service
            .authenticate(secret.expose(), address, &requirement);
        let by_row = match authenticated.await {
            Ok(_) => None,
            Err(AuthenticateError::Denied(denial)) => Some(denial),
            Err(error) => panic!("no verdict: {error}"),
        };

        let request = VerifyRequest::new(secret.expose())
            .address(address)
            .scopes(&scopes)
            .kinds(&case.kinds);
        let reads = self.service.read_state().reads;
        for when in ["as it is read", "from the cache"] {
            let by_record = match self.service.verify(&request).await.unwrap().code {
                VerdictCode::Valid => None,
                VerdictCode::Denied(denial) => Some(denial),
                VerdictCode::RateLimited => panic!("no limit was asked"),
            };
            prop_assert_eq!(by_row, by_record, "{}", when);
        }
        // A key that authentication has found revoked is cached then.
        let expected = reads + u64::from(by_row != Some(Denial::Revoked));
        prop_assert_eq!(self.service.read_state().reads, expected);

        let mut caller = Caller::new(stored.key.id, case.kind, stored.key.account_id);
        caller.address = address;
        caller.scopes = scopes;
        caller.plans = Some(Arc::clone(&self.plans));
        let by_transaction = caller.check(Some(&stored), NOON).err();
        // The kind of a caller is its own.
        if by_row != Some(Denial::KindNotAllowed) {
            prop_assert_eq!(by_row, by_transaction, "inside a transaction");
        }
        Ok(by_row)
    }
}

#[test]
fn a_row_and_its_cached_record_are_judged_alike() {
    let cases_count = if report::is_full() {
        CASES_IN_FULL
    } else {
        CASES
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(World::new());
    let verdicts = std::cell::RefCell::new(BTreeMap::<_, u32>::new());
    let mut runner = TestRunner::new(Config {
        cases: cases_count,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&cases(), |case| {
        let verdict = runtime.block_on(world.judge(&case))?;
        let code = verdict.map_or("valid", Denial::code);
        *verdicts.borrow_mut().entry(code).or_default() += 1;
        Ok(())
    });
    report::figure(
        "keys, accounts and questions at random, judged alike by row, record and transaction",
        cases_count,
        "no verdict differs",
        outcome.is_ok(),
    );
    outcome.unwrap();

    // Every reason to refuse a stored key occurred.
    let seen: BTreeSet<_> = verdicts.borrow().keys().copied().collect();
    let before_the_judgement = [Denial::Malformed, Denial::NotFound, Denial::Unreadable];
    let reasons = Denial::ALL.into_iter();
    let reasons = reasons.filter(|denial| !before_the_judgement.contains(denial));
    let expected: BTreeSet<_> = reasons.map(Denial::code).chain(["valid"]).collect();
    assert_eq!(seen, expected);
}
