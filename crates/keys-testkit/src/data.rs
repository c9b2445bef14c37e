//! Builders of test data. Whatever a test does not mention has a sane default and does not matter to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use keys_core::pepper::PepperedDigest;
use keys_core::{
    Account, AccountId, AllowedNetworks, ApiKey, EventId, IssuePolicy, KeyId, KeyKind, KeyName,
    Pepper, PepperId, PepperRing, Plan, PlanName, Plans, ScopeSet, SecretKey, StoredKey, Timestamp,
};
use keys_service::ports::{Admission, Authority, Caller, Change, Completion, NewKey};
use rand_chacha::ChaCha20Rng;

use crate::rng::seeded;

/// 2026-01-01T12:00:00Z: when tests happen.
pub const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

/// [`NOON`] and so many seconds more, or less.
#[must_use]
pub const fn noon_plus(seconds: i64) -> Timestamp {
    Timestamp::from_unix_micros(NOON.unix_micros() + seconds * 1_000_000)
}

/// The documented plans `free`, `pro` (10 keys) and `business`, and `tiny`, which is `pro` with 2 keys.
#[must_use]
pub fn plans() -> Arc<Plans> {
    let documented = Plans::documented();
    let pro = documented.find(&plan("pro")).expect("pro is documented");
    let tiny = Plan {
        keys_max: 2,
        ..pro.clone()
    };
    let all = documented
        .iter()
        .map(|(name, plan)| (name.clone(), plan.clone()))
        .chain([(plan("tiny"), tiny)]);
    Arc::new(Plans::new(all))
}

/// The plan name `name`.
#[must_use]
pub fn plan(name: &str) -> PlanName {
    name.parse().expect("tests name legal plans")
}

/// The pepper name `id`.
#[must_use]
pub fn pepper_id(id: &str) -> PepperId {
    id.parse().expect("tests name legal peppers")
}

/// A ring of the one pepper `id`. The same id is always the same pepper.
#[must_use]
pub fn pepper_ring(id: &str) -> PepperRing {
    let mut bytes = [0x5a; Pepper::MIN_LEN];
    bytes[..id.len()].copy_from_slice(id.as_bytes());
    let pepper = Pepper::from_bytes(&bytes).expect("the length is right");
    PepperRing::new(pepper_id(id), pepper)
}

/// A generator that no other test data uses.
fn fresh_rng() -> ChaCha20Rng {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    seeded(NEXT.fetch_add(1, Relaxed))
}

/// A new event identifier.
#[must_use]
pub fn an_event_id() -> EventId {
    let Ok(id) = EventId::generate(NOON, &mut fresh_rng());
    id
}

/// An account on `pro`, enabled, without external id, created a day ago.
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
    /// On the plan of this name.
    pub fn plan(mut self, name: &str) -> Self {
        self.plan = plan(name);
        self
    }

    /// Disabled.
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }

    /// With this external id.
    pub fn external_id(mut self, external_id: impl Into<String>) -> Self {
        self.external_id = Some(external_id.into());
        self
    }

    /// Created then; its identifier says so too.
    pub fn created_at(mut self, created_at: Timestamp) -> Self {
        self.created_at = created_at;
        self
    }

    /// The account, with a new identifier.
    #[must_use]
    pub fn build(self) -> Account {
        let Ok(id) = AccountId::generate(self.created_at, &mut fresh_rng());
        let external_id = self
            .external_id
            .map(|text| text.parse().expect("tests use legal external ids"));
        Account {
            id,
            external_id,
            plan: self.plan,
            disabled: self.disabled,
            created_at: self.created_at,
        }
    }
}

/// A key that may be used for anything from anywhere, for ever; an operator's, unless given an account.
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
        admission: Admission {
            plans: plans(),
            policy: IssuePolicy::default(),
        },
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
    /// An API key of this account.
    pub fn of(mut self, account: &Account) -> Self {
        self.kind = KeyKind::Account;
        self.account_id = Some(account.id);
        self
    }

    /// A session of this account.
    pub fn session_of(mut self, account: &Account) -> Self {
        self.kind = KeyKind::Session;
        self.account_id = Some(account.id);
        // No session is without an end.
        self.expires_at = self.expires_at.or(Some(noon_plus(3_600)));
        self
    }

    /// With this name, of up to 500 characters.
    pub fn name(mut self, name: &str) -> Self {
        self.name = KeyName::from_memo(name).expect("tests use legal names");
        self
    }

    /// Only to be used from these networks.
    pub fn allowed<'a>(mut self, networks: impl IntoIterator<Item = &'a str>) -> Self {
        self.allowed_networks = AllowedNetworks::parse(networks).expect("tests use legal networks");
        self
    }

    /// With these scopes.
    pub fn scopes<'a>(mut self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        self.scopes = ScopeSet::parse(scopes).expect("tests use legal scopes");
        self
    }

    /// No longer valid from this moment on.
    pub fn expires_at(mut self, expires_at: Timestamp) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Created then; its identifier says so too.
    pub fn created_at(mut self, created_at: Timestamp) -> Self {
        self.created_at = created_at;
        self
    }

    /// Kept under this pepper of [`pepper_ring`].
    pub fn pepper(mut self, id: &str) -> Self {
        id.clone_into(&mut self.pepper);
        self
    }

    /// Whatever the plan's maximum of keys.
    pub fn without_cap(mut self) -> Self {
        self.admission.policy.cap = false;
        self
    }

    /// Whether or not the plan has keys.
    pub fn without_plan_gate(mut self) -> Self {
        self.admission.policy.plan_gate = false;
        self
    }

    /// The record, with a new identifier and the shown prefix of a new secret.
    #[must_use]
    pub fn build(self) -> ApiKey {
        self.build_new().key
    }

    /// The record and what is stored with it.
    #[must_use]
    pub fn build_new(self) -> NewKey {
        self.issue().1
    }

    /// The secret, and what is stored of it.
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
        let key = ApiKey {
            id,
            kind: self.kind,
            account_id: self.account_id,
            shown_prefix: secret.shown_prefix(),
            name: self.name,
            allowed_networks: self.allowed_networks,
            scopes: self.scopes,
            expires_at: self.expires_at,
            revoked_at: None,
            last_used_at: None,
            created_at: self.created_at,
        };
        let new = NewKey {
            key,
            digest,
            admission: self.admission,
        };
        (secret, new)
    }
}

/// A change made at [`NOON`] on the owner's own word, completing nothing.
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
    /// Made then.
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = at;
        self
    }

    /// On the word of this caller.
    pub fn by(mut self, caller: &Caller) -> Self {
        self.authority = Authority::Caller(caller.clone());
        self
    }

    /// Completing this reservation.
    pub fn completing(mut self, completion: &Completion) -> Self {
        self.completion = Some(completion.clone());
        self
    }

    /// For this reason.
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The change, with a new event identifier.
    #[must_use]
    pub fn build(self) -> Change {
        Change {
            at: self.at,
            event_id: an_event_id(),
            authority: self.authority,
            completion: self.completion,
            reason: self.reason,
        }
    }
}

/// The holder of `key` as a caller: from no known address, for something that needs no scope and no plan.
#[must_use]
pub fn a_caller(key: &ApiKey) -> Caller {
    Caller {
        key_id: key.id,
        kind: key.kind,
        account_id: key.account_id,
        address: None,
        scopes: ScopeSet::default(),
        plans: None,
        accepted: None,
    }
}

/// The same, with the records by which it was accepted.
#[must_use]
pub fn an_accepted_caller(key: &ApiKey, account: &Account) -> Caller {
    Caller {
        accepted: Some(Arc::new(StoredKey {
            key: key.clone(),
            account: Some(account.clone()),
        })),
        ..a_caller(key)
    }
}

/// How long [`RESERVATION_PENDING`](keys_service::ports::RESERVATION_PENDING) is, in whole seconds.
pub(crate) const fn seconds(duration: Duration) -> i64 {
    duration.as_secs().cast_signed()
}
