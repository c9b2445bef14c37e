//! The record of a key, and its judgement.

use std::fmt;
use std::net::IpAddr;

use crate::denial::Denial;
use crate::id::{AccountId, KeyId};
use crate::name::KeyName;
use crate::network::AllowedNetworks;
use crate::scope::ScopeSet;
use crate::secret::ShownPrefix;
use crate::timestamp::Timestamp;

/// What a credential is. Decided when it is made, never inferred from what it may do.
///
/// The list is complete on purpose: code that decides by kind must decide for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(::serde::Serialize, ::serde::Deserialize),
    serde(rename_all = "lowercase")
)]
pub enum KeyKind {
    /// Of whoever runs the service. Belongs to no account; its scopes say what it may manage.
    Operator,
    /// An account's API key: listed, counted, limited by the plan.
    Account,
    /// A signed-in person, for at most a day. Belongs to an account, is not listed and not counted.
    Session,
}

impl KeyKind {
    /// The name used in logs and in the audit trail.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Account => "account",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a key. Neither its secret nor its digest is part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The identifier.
    pub id: KeyId,
    /// What it is.
    pub kind: KeyKind,
    /// The account it belongs to; none exactly for [`KeyKind::Operator`].
    pub account_id: Option<AccountId>,
    /// What may be shown of the secret.
    pub shown_prefix: ShownPrefix,
    /// What its owner calls it.
    pub name: Option<KeyName>,
    /// Where it may be used from.
    pub allowed_networks: AllowedNetworks,
    /// What it may be used for.
    pub scopes: ScopeSet,
    /// The first moment it is no longer valid.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The last successful use; may lag by the flush interval.
    pub last_used_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl ApiKey {
    /// Judges everything that depends on this key alone, in the order of [`check_life`](Self::check_life) and
    /// [`check_use`](Self::check_use).
    ///
    /// # Errors
    /// The first reason to refuse.
    ///
    /// ```
    /// use keys_core::{ApiKey, Denial, KeyId, KeyKind, ScopeSet, SecretKey, Timestamp};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let noon = Timestamp::parse_rfc3339("2026-01-01T12:00:00Z")?;
    /// let key = ApiKey {
    ///     id: KeyId::generate(noon, &mut getrandom::SysRng)?,
    ///     kind: KeyKind::Operator,
    ///     account_id: None,
    ///     shown_prefix: SecretKey::generate(&"operator".parse()?, &mut getrandom::SysRng)?.shown_prefix(),
    ///     name: None,
    ///     allowed_networks: Default::default(),
    ///     scopes: ScopeSet::parse(["keys:read"])?,
    ///     expires_at: Some(noon),
    ///     revoked_at: None,
    ///     last_used_at: None,
    ///     created_at: Timestamp::parse_rfc3339("2026-01-01T00:00:00Z")?,
    /// };
    /// assert_eq!(key.check(noon, None, &ScopeSet::default()), Err(Denial::Expired));
    /// # Ok(())
    /// # }
    /// ```
    pub fn check(
        &self,
        now: Timestamp,
        address: Option<IpAddr>,
        scopes: &ScopeSet,
    ) -> Result<(), Denial> {
        self.check_life(now)?;
        self.check_use(address, scopes)
    }

    /// Judges whether the key still exists for its owner: not revoked, not expired. Expired means `now >= expires_at`.
    ///
    /// # Errors
    /// [`Denial::Revoked`] before [`Denial::Expired`].
    pub fn check_life(&self, now: Timestamp) -> Result<(), Denial> {
        if self.revoked_at.is_some() {
            Err(Denial::Revoked)
        } else if self.expires_at.is_some_and(|end| now >= end) {
            Err(Denial::Expired)
        } else {
            Ok(())
        }
    }

    /// Judges whether a living key may be used from `address`, for what needs `scopes`.
    ///
    /// # Errors
    /// [`Denial::IpNotAllowed`] before [`Denial::InsufficientScope`].
    pub fn check_use(&self, address: Option<IpAddr>, scopes: &ScopeSet) -> Result<(), Denial> {
        if !self.allowed_networks.allows(address) {
            Err(Denial::IpNotAllowed)
        } else if !self.scopes.covers(scopes) {
            Err(Denial::InsufficientScope)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);
    const JUST_BEFORE_NOON: Timestamp = Timestamp::from_unix_micros(NOON.unix_micros() - 1);

    fn a_key() -> ApiKey {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        ApiKey {
            id: KeyId::generate(NOON, rng).unwrap(),
            kind: KeyKind::Account,
            account_id: None,
            shown_prefix: SecretKey::generate(&"sk_live".parse().unwrap(), rng)
                .unwrap()
                .shown_prefix(),
            name: None,
            allowed_networks: AllowedNetworks::parse(["127.0.0.1"]).unwrap(),
            scopes: ScopeSet::parse(["a", "b"]).unwrap(),
            expires_at: Some(NOON),
            revoked_at: None,
            last_used_at: None,
            created_at: JUST_BEFORE_NOON,
        }
    }

    const LOCALHOST: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    #[test]
    fn expired_key_is_refused_at_the_exact_microsecond() {
        let scopes = ScopeSet::default();
        assert_eq!(a_key().check(JUST_BEFORE_NOON, LOCALHOST, &scopes), Ok(()));
        assert_eq!(
            a_key().check(NOON, LOCALHOST, &scopes),
            Err(Denial::Expired)
        );
    }

    #[test]
    fn revoked_comes_before_expired_before_address_before_scope() {
        let mut key = a_key();
        let missing = ScopeSet::parse(["c"]).unwrap();
        key.revoked_at = Some(NOON);
        assert_eq!(key.check(NOON, None, &missing), Err(Denial::Revoked));
        key.revoked_at = None;
        assert_eq!(key.check(NOON, None, &missing), Err(Denial::Expired));
        key.expires_at = None;
        assert_eq!(key.check(NOON, None, &missing), Err(Denial::IpNotAllowed));
        assert_eq!(
            key.check(NOON, LOCALHOST, &missing),
            Err(Denial::InsufficientScope)
        );
        assert_eq!(
            key.check(NOON, LOCALHOST, &ScopeSet::parse(["b"]).unwrap()),
            Ok(())
        );
    }
}
