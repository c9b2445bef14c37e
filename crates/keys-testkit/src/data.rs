//! Builders of test data. Every property that a test does not set has a sane default.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keys_core::{
    Account, AccountId, AllowedNetworks, ApiKey, EventId, IssuePolicy, KeyId, KeyKind, KeyName,
    Pepper, PepperId, PepperRing, PepperedDigest, PlanName, Plans, ScopeSet, SecretKey, StoredKey,
    Timestamp,
};
use keys_service::ports::{Admission, Authority, Caller, Change, Completion, NewKey};
use rand_chacha::ChaCha20Rng;

use crate::rng::seeded;

/// 2026-01-01T12:00:00Z: the time of tests.
pub const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

/// Returns [`NOON`] plus this many seconds, which may be negative.
#[must_use]
pub const fn noon_plus(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(NOON.unix_micros() + seconds * 1_000_000)
}

/// Returns the documented plans `free`, `pro` (10 keys) and `business`, and `tiny`, which is `pro`
/// with 2 keys.
#[must_use]
pub fn plans() -> Arc<Plans> {
    let documented = Plans::documented();
    let pro = documented.find(&plan("pro")).expect("pro is documented");
    let mut tiny = pro.clone();
    tiny.keys_max = 2;
    let all = documented
        .iter()
        .map(|(name, plan)| (name.clone(), plan.clone()))
        .chain([(plan("tiny"), tiny)]);
    Arc::new(Plans::new(all))
}

/// Returns the plan name `name`.
#[must_use]
pub fn plan(name: &str) -> PlanName {
    name.parse().expect("tests name legal plans")
}

/// Returns the pepper name `id`.
#[must_use]
pub fn pepper_id(id: &str) -> PepperId {
    id.parse().expect("tests name legal peppers")
}

/// Returns a ring with only the pepper `id`. The same id is always the same pepper.
#[must_use]
pub fn pepper_ring(id: &str) -> PepperRing {
    let mut bytes = [0x5a; Pepper::MIN_LEN];
    bytes[..id.len()].copy_from_slice(id.as_bytes());
    let pepper = Pepper::from_bytes(&bytes).expect("the length is right");
    PepperRing::new(pepper_id(id), pepper)
}

/// Returns a generator that no other test data uses.
fn fresh_rng() -> ChaCha20Rng {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    seeded(NEXT.fetch_add(1, Relaxed))
}

/// Returns a new event identifier.
#[must_use]
pub fn an_event_id() -> EventId {
    let Ok(id) = EventId::generate(NOON, &mut fresh_rng());
    id
}

/// Returns an account on `pro`, enabled, without external id, created a day ago.
pub fn an_account() -> AccountBuilder {
    AccountBuilder {
        plan: plan("pro"),
        disabled: false,
        external_id: None,
        created_at: noon_plus(-86_400),
    }
}

/// Builds an [`Account`].
#[derive(Debug, Clone)]
#[must_use]
pub struct AccountBuilder {
    plan: PlanName,
    disabled: bool,
    external_id: Option<String>,
    created_at: Timestamp,
}

impl AccountBuilder {
    /// Sets the plan by its name.
    pub fn plan(mut self, name: &str) -> Self {
        self.plan = plan(name);
        self
    }

    /// Disabled.
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }

    /// Sets the external id.
    pub fn external_id(mut self, external_id: impl Into<String>) -> Self {
        self.external_id = Some(external_id.into());
        self
    }

    /// Sets the time of creation, which the identifier contains too.
    pub fn created_at(mut self, created_at: Timestamp) -> Self {
        self.created_at = created_at;
        self
    }

    /// Builds the account, with a new identifier.
    #[must_use]
    pub fn build(self) -> Account {
        let Ok(id) = AccountId::generate(self.created_at, &mut fresh_rng());
        let mut account = Account::new(id, self.plan, self.created_at);
        account.external_id = self
            .external_id
            .map(|text| text.parse().expect("tests use legal external ids"));
        account.disabled = self.disabled;
        account
    }
}

/// Returns a key without restrictions and expiry; an operator key, unless an account is set.
///
/// Its admission has the plan gate and the cap, under [`plans`].
pub fn a_key() -> KeyBuilder {
    KeyBuilder {
        kind: KeyKind::Operator,
        account_id: None,
        name: None,
        allowed_networks: AllowedNetworks::default(),
        scopes: ScopeSet::default(),
        expires_at: None,
        created_at: NOON,
        pepper: "p1".to_owned(),
        admission: Admission::new(plans(), IssuePolicy::default()),
    }
}

/// Builds an [`ApiKey`], or a [`NewKey`] to store.
#[derive(Debug, Clone)]
#[must_use]
pub struct KeyBuilder {
    kind: KeyKind,
    account_id: Option<AccountId>,
    name: Option<KeyName>,
    allowed_networks: AllowedNetworks,
    scopes: ScopeSet,
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    pepper: String,
    admission: Admission,
}

impl KeyBuilder {
    /// Makes it an API key of this account.
    pub fn of(mut self, account: &Account) -> Self {
        self.kind = KeyKind::Account;
        self.account_id = Some(account.id);
        self
    }

    /// Makes it a session of this account.
    pub fn session_of(mut self, account: &Account) -> Self {
        self.kind = KeyKind::Session;
        self.account_id = Some(account.id);
        // Every session has an expiry.
        self.expires_at = self.expires_at.or(Some(noon_plus(3_600)));
        self
    }

    /// Sets the name, of up to 500 characters.
    pub fn name(mut self, name: &str) -> Self {
        self.name = KeyName::from_memo(name).expect("tests use legal names");
        self
    }

    /// Limits it to these networks.
    pub fn allowed<'a>(mut self, networks: impl IntoIterator<Item = &'a str>) -> Self {
        self.allowed_networks = AllowedNetworks::parse(networks).expect("tests use legal networks");
        self
    }

    /// Sets the scopes.
    pub fn scopes<'a>(mut self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        self.scopes = ScopeSet::parse(scopes).expect("tests use legal scopes");
        self
    }

    /// Sets the time from which it is no longer valid.
    pub fn expires_at(mut self, expires_at: Timestamp) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Sets the time of creation, which the identifier contains too.
    pub fn created_at(mut self, created_at: Timestamp) -> Self {
        self.created_at = created_at;
        self
    }

    /// Stores it under this pepper of [`pepper_ring`].
    pub fn pepper(mut self, id: &str) -> Self {
        id.clone_into(&mut self.pepper);
        self
    }

    /// Ignores the plan's maximum of keys.
    pub fn without_cap(mut self) -> Self {
        self.admission.policy.cap = false;
        self
    }

    /// Accepts a plan without keys.
    pub fn without_plan_gate(mut self) -> Self {
        self.admission.policy.plan_gate = false;
        self
    }

    /// Builds the record, with a new identifier and the shown prefix of a new secret.
    #[must_use]
    pub fn build(self) -> ApiKey {
        self.build_new().key
    }

    /// Builds the record and its stored digest.
    #[must_use]
    pub fn build_new(self) -> NewKey {
        self.issue().1
    }

    /// Builds the secret, and the stored record with its digest.
    #[must_use]
    pub fn issue(self) -> (SecretKey, NewKey) {
        let prefix = match self.kind {
            KeyKind::Operator => "op",
            KeyKind::Account => "sk_live",
            KeyKind::Session => "session",
        };
        let prefix = prefix.parse().expect("the prefixes are legal");
        let mut rng = fresh_rng();
        let Ok(secret) = SecretKey::generate(&prefix, &mut rng);
        let Ok(id) = KeyId::generate(self.created_at, &mut rng);
        let digest: PepperedDigest = pepper_ring(&self.pepper).digest(&secret);
        let mut key = ApiKey::new(id, self.kind, secret.shown_prefix(), self.created_at);
        key.account_id = self.account_id;
        key.name = self.name;
        key.allowed_networks = self.allowed_networks;
        key.scopes = self.scopes;
        key.expires_at = self.expires_at;
        let new = NewKey::new(key, digest, self.admission);
        (secret, new)
    }
}

/// Returns a change made at [`NOON`] without a caller, which completes nothing.
pub fn a_change() -> ChangeBuilder {
    ChangeBuilder {
        at: NOON,
        authority: Authority::Trusted,
        completion: None,
        reason: None,
    }
}

/// Builds a [`Change`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ChangeBuilder {
    at: Timestamp,
    authority: Authority,
    completion: Option<Completion>,
    reason: Option<&'static str>,
}

impl ChangeBuilder {
    /// Sets the time.
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = at;
        self
    }

    /// Sets the caller.
    pub fn by(mut self, caller: &Caller) -> Self {
        self.authority = Authority::Caller(caller.clone());
        self
    }

    /// Completes this reservation.
    pub fn completing(mut self, completion: &Completion) -> Self {
        self.completion = Some(completion.clone());
        self
    }

    /// Sets the reason.
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Builds the change, with a new event identifier.
    #[must_use]
    pub fn build(self) -> Change {
        let mut change = Change::new(self.at, an_event_id(), self.authority);
        change.completion = self.completion;
        change.reason = self.reason;
        change
    }
}

/// Returns the holder of `key` as a caller: from an unknown address, for a purpose that needs no
/// scope and no plan.
#[must_use]
pub fn a_caller(key: &ApiKey) -> Caller {
    Caller::new(key.id, key.kind, key.account_id)
}

/// The same, with the records by which it was accepted.
#[must_use]
pub fn an_accepted_caller(key: &ApiKey, account: &Account) -> Caller {
    let mut caller = a_caller(key);
    let accepted = StoredKey::new(key.clone(), Some(account.clone()));
    caller.accepted = Some(Arc::new(accepted));
    caller
}

/// Returns [`RESERVATION_PENDING`](keys_service::ports::RESERVATION_PENDING) in whole seconds.
pub(crate) const fn seconds(duration: Duration) -> i64 {
    duration.as_secs().cast_signed()
}
