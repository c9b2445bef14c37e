//! The judgement of a stored key. The order of refusals is written here and nowhere else.
//!
//! Management judges the row of the database, verification judges the record in the cache, and a
//! change judges the row once more inside its transaction. All three call [`judge`]. They differ
//! only in the [`Evidence`] they bring, so a condition that is added here applies to all of them.

use std::net::IpAddr;

use crate::account::Account;
use crate::denial::Denial;
use crate::key::{KeyKind, StoredKey};
use crate::plan::Plans;
use crate::scope::ScopeSet;
use crate::timestamp::Timestamp;

/// Facts about a stored key and its account that [`judge`] decides by.
pub trait Evidence {
    /// Whether the key was revoked.
    fn revoked(&self) -> bool;

    /// The first moment at which the key is no longer valid. `None` if it never expires.
    fn expires_at(&self) -> Option<Timestamp>;

    /// Whether the key is disabled.
    fn disabled(&self) -> bool;

    /// The kind of the key.
    fn kind(&self) -> KeyKind;

    /// Whether the account permits the use of the key, as [`judge_account`] decides it.
    ///
    /// # Errors
    /// The reason why it does not.
    fn account(&self, plans: Option<&Plans>) -> Result<(), Denial>;

    /// Whether the key may be used from `address`. `None` is an unknown address.
    fn allows(&self, address: Option<IpAddr>) -> bool;

    /// Whether the key has all of `scopes`.
    fn covers(&self, scopes: &ScopeSet) -> bool;
}

/// The intended use of a key.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a new condition must be decided wherever a key is judged"
)]
pub struct Question<'a> {
    /// Kinds of keys that are accepted.
    pub kinds: &'a [KeyKind],
    /// The configured plans, if the account must be on one with keys. `None` if the plan does not
    /// matter.
    pub plans: Option<&'a Plans>,
    /// The address of the client. `None` if it is unknown.
    pub address: Option<IpAddr>,
    /// Scopes that the key must have.
    pub scopes: &'a ScopeSet,
}

/// Judges a stored key in the documented order: revoked, expired, disabled, kind, account, plan,
/// address, scopes.
///
/// Calls `now` only if the key expires, because reading a clock costs as much as finding the key in
/// the cache. A key is expired from the moment `expires_at` on.
///
/// # Errors
/// The first reason to refuse.
///
/// ```
/// use keys_core::{Question, judge};
/// use keys_core::{ApiKey, Denial, KeyId, KeyKind, ScopeSet, SecretKey, StoredKey, Timestamp};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let noon = Timestamp::parse_rfc3339("2026-01-01T12:00:00Z")?;
/// let before = Timestamp::parse_rfc3339("2026-01-01T11:59:59Z")?;
/// let secret = SecretKey::generate(&"operator".parse()?, &mut getrandom::SysRng)?;
/// let id = KeyId::generate(before, &mut getrandom::SysRng)?;
/// let mut key = ApiKey::new(id, KeyKind::Operator, secret.shown_prefix(), before);
/// key.scopes = ScopeSet::parse(["keys:read"])?;
/// key.expires_at = Some(noon);
/// let stored = StoredKey::new(key, None);
/// let needed = ScopeSet::parse(["keys:read"])?;
/// let question = Question {
///     kinds: &[KeyKind::Operator],
///     plans: None,
///     address: None,
///     scopes: &needed,
/// };
/// assert_eq!(judge(&stored, &question, || before), Ok(()));
/// assert_eq!(judge(&stored, &question, || noon), Err(Denial::Expired));
/// # Ok(())
/// # }
/// ```
#[inline]
pub fn judge<E: Evidence + ?Sized>(
    evidence: &E,
    question: &Question<'_>,
    now: impl FnOnce() -> Timestamp,
) -> Result<(), Denial> {
    if evidence.revoked() {
        return Err(Denial::Revoked);
    }
    if evidence.expires_at().is_some_and(|end| now() >= end) {
        return Err(Denial::Expired);
    }
    if evidence.disabled() {
        return Err(Denial::Disabled);
    }
    if !question.kinds.contains(&evidence.kind()) {
        return Err(Denial::KindNotAllowed);
    }
    evidence.account(question.plans)?;
    if !evidence.allows(question.address) {
        return Err(Denial::IpNotAllowed);
    }
    if !evidence.covers(question.scopes) {
        return Err(Denial::InsufficientScope);
    }
    Ok(())
}

/// Judges whether an account may have and use keys: it must be enabled, and with `plans` it must be
/// on a plan with keys. A plan that is no longer configured has no keys.
///
/// # Errors
/// [`Denial::AccountDisabled`] before [`Denial::PlanForbidden`].
pub fn judge_account(account: &Account, plans: Option<&Plans>) -> Result<(), Denial> {
    let has_keys = |plans: &Plans| plans.find(&account.plan).is_some_and(|plan| plan.keys);
    if account.disabled {
        Err(Denial::AccountDisabled)
    } else if plans.is_none_or(has_keys) {
        Ok(())
    } else {
        Err(Denial::PlanForbidden)
    }
}

impl Evidence for StoredKey {
    fn revoked(&self) -> bool {
        self.key.revoked_at.is_some()
    }

    fn expires_at(&self) -> Option<Timestamp> {
        self.key.expires_at
    }

    fn disabled(&self) -> bool {
        self.key.disabled_at.is_some()
    }

    fn kind(&self) -> KeyKind {
        self.key.kind
    }

    fn account(&self, plans: Option<&Plans>) -> Result<(), Denial> {
        match &self.account {
            Some(account) => judge_account(account, plans),
            None if self.key.kind == KeyKind::Operator => Ok(()),
            // The database permits no key without its account. If there is one, it is refused.
            None => Err(Denial::AccountDisabled),
        }
    }

    fn allows(&self, address: Option<IpAddr>) -> bool {
        self.key.allowed_networks.allows(address)
    }

    fn covers(&self, scopes: &ScopeSet) -> bool {
        self.key.scopes.covers(scopes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountId, AllowedNetworks, ApiKey, KeyId, KeyLimits, Plan, SecretKey};
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);
    const JUST_BEFORE_NOON: Timestamp = Timestamp::from_unix_micros(NOON.unix_micros() - 1);
    const LOCALHOST: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn account(plan: &str, disabled: bool) -> Account {
        Account {
            id: AccountId::generate(NOON, &mut getrandom::SysRng).unwrap(),
            external_id: None,
            plan: plan.parse().unwrap(),
            disabled,
            created_at: NOON,
        }
    }

    fn plans() -> Plans {
        Plans::new([
            ("free".parse().unwrap(), Plan::without_keys()),
            ("pro".parse().unwrap(), Plan::with_keys(10)),
        ])
    }

    /// A key of a disabled account on a plan without keys, with an expiry, an address and a scope.
    fn a_key() -> StoredKey {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let account = account("free", true);
        let key = ApiKey {
            id: KeyId::generate(NOON, rng).unwrap(),
            kind: KeyKind::Account,
            account_id: Some(account.id),
            shown_prefix: SecretKey::generate(&"sk_live".parse().unwrap(), rng)
                .unwrap()
                .shown_prefix(),
            name: None,
            allowed_networks: AllowedNetworks::parse(["127.0.0.1"]).unwrap(),
            scopes: ScopeSet::parse(["a", "b"]).unwrap(),
            expires_at: Some(NOON),
            revoked_at: Some(NOON),
            last_used_at: None,
            created_at: JUST_BEFORE_NOON,
            disabled_at: Some(JUST_BEFORE_NOON),
            limits: KeyLimits::default(),
            subject: None,
        };
        StoredKey {
            key,
            account: Some(account),
        }
    }

    #[test]
    fn each_reason_comes_in_its_turn() {
        let mut stored = a_key();
        let plans = plans();
        let (missing, held) = (ScopeSet::parse(["c"]).unwrap(), stored.key.scopes.clone());
        let mut question = Question {
            kinds: &[KeyKind::Operator, KeyKind::Session],
            plans: Some(&plans),
            address: None,
            scopes: &missing,
        };
        let verdict =
            |stored: &StoredKey, question: &Question<'_>| judge(stored, question, || NOON);
        assert_eq!(verdict(&stored, &question), Err(Denial::Revoked));
        stored.key.revoked_at = None;
        assert_eq!(verdict(&stored, &question), Err(Denial::Expired));
        stored.key.expires_at = None;
        assert_eq!(verdict(&stored, &question), Err(Denial::Disabled));
        stored.key.disabled_at = None;
        assert_eq!(verdict(&stored, &question), Err(Denial::KindNotAllowed));
        question.kinds = &[KeyKind::Operator, KeyKind::Account];
        assert_eq!(verdict(&stored, &question), Err(Denial::AccountDisabled));
        stored.account = Some(account("free", false));
        assert_eq!(verdict(&stored, &question), Err(Denial::PlanForbidden));
        question.plans = None;
        assert_eq!(verdict(&stored, &question), Err(Denial::IpNotAllowed));
        question.address = LOCALHOST;
        assert_eq!(verdict(&stored, &question), Err(Denial::InsufficientScope));
        question.scopes = &held;
        assert_eq!(verdict(&stored, &question), Ok(()));
        question.plans = Some(&plans);
        stored.account = Some(account("pro", false));
        assert_eq!(verdict(&stored, &question), Ok(()));
    }

    #[test]
    fn an_expired_key_is_refused_at_the_exact_microsecond_and_no_clock_is_read_for_others() {
        let mut stored = a_key();
        stored.key.revoked_at = None;
        stored.key.disabled_at = None;
        stored.account = Some(account("pro", false));
        let scopes = ScopeSet::default();
        let question = Question {
            kinds: &[KeyKind::Account],
            plans: None,
            address: LOCALHOST,
            scopes: &scopes,
        };
        assert_eq!(judge(&stored, &question, || JUST_BEFORE_NOON), Ok(()));
        assert_eq!(judge(&stored, &question, || NOON), Err(Denial::Expired));
        stored.key.expires_at = None;
        assert_eq!(judge(&stored, &question, || unreachable!()), Ok(()));
    }

    #[test]
    fn disabled_comes_before_the_plan_and_an_unknown_plan_has_no_keys() {
        let plans = plans();
        for (plan, disabled, with_plans, without) in [
            (
                "free",
                true,
                Err(Denial::AccountDisabled),
                Err(Denial::AccountDisabled),
            ),
            ("free", false, Err(Denial::PlanForbidden), Ok(())),
            ("legacy", false, Err(Denial::PlanForbidden), Ok(())),
            ("pro", false, Ok(()), Ok(())),
        ] {
            let account = account(plan, disabled);
            assert_eq!(judge_account(&account, Some(&plans)), with_plans, "{plan}");
            assert_eq!(judge_account(&account, None), without, "{plan}");
        }
    }

    #[test]
    fn a_key_whose_account_is_missing_is_refused_unless_it_is_an_operators() {
        let mut stored = a_key();
        stored.account = None;
        for (kind, verdict) in [
            (KeyKind::Operator, Ok(())),
            (KeyKind::Account, Err(Denial::AccountDisabled)),
            (KeyKind::Session, Err(Denial::AccountDisabled)),
        ] {
            stored.key.kind = kind;
            assert_eq!(stored.account(None), verdict);
            assert_eq!(stored.account(Some(&plans())), verdict);
        }
    }
}
