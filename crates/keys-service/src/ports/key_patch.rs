//! Changes of a key.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use keys_core::{
    AllowedNetworks, ApiKey, AuditAction, KeyDetails, KeyLimits, KeyName, KeyVersion, LimitName,
    Metadata, Quota, ScopeSet, Timestamp,
};

use super::errors::{ChangeError, InvalidKeyPatch};

/// Changes of a key. `None` leaves a field as it is.
///
/// ```
/// use keys_core::ScopeSet;
/// use keys_service::ports::KeyPatch;
///
/// let patch = KeyPatch::default()
///     .scopes(ScopeSet::parse(["orders:read"])?)
///     .expires_at(None);
/// assert_eq!(patch.disabled, None);
/// # Ok::<(), keys_core::InvalidScope>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct KeyPatch {
    /// The new name. `Some(None)` removes it.
    pub name: Option<Option<KeyName>>,
    /// The new address list. The empty list allows every address.
    pub allowed_networks: Option<AllowedNetworks>,
    /// The new scopes.
    pub scopes: Option<ScopeSet>,
    /// The new expiry, which must be in the future. `Some(None)` removes it.
    pub expires_at: Option<Option<Timestamp>>,
    /// Disables or enables the key.
    pub disabled: Option<bool>,
    /// Changes of the metadata.
    pub metadata: Option<MetadataPatch>,
    /// Changes of the key's own limits.
    pub limits: Option<LimitsPatch>,
    /// Versions of which the key must have one. `None` changes any version.
    pub if_version: Option<Vec<KeyVersion>>,
}

impl KeyPatch {
    /// Changes the name. `None` removes it.
    pub fn name(mut self, name: Option<KeyName>) -> Self {
        self.name = Some(name);
        self
    }

    /// Changes the address list. The empty list allows every address.
    pub fn allowed_networks(mut self, networks: AllowedNetworks) -> Self {
        self.allowed_networks = Some(networks);
        self
    }

    /// Changes the scopes.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Changes the expiry. `None` removes it.
    pub fn expires_at(mut self, expires_at: Option<Timestamp>) -> Self {
        self.expires_at = Some(expires_at);
        self
    }

    /// Disables or enables the key.
    pub fn disabled(mut self, disabled: bool) -> Self {
        self.disabled = Some(disabled);
        self
    }

    /// Changes the metadata.
    pub fn metadata(mut self, metadata: MetadataPatch) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Changes the key's own limits.
    pub fn limits(mut self, limits: LimitsPatch) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Changes the key only if it has one of these versions.
    pub fn if_version(mut self, versions: impl IntoIterator<Item = KeyVersion>) -> Self {
        self.if_version = Some(versions.into_iter().collect());
        self
    }

    /// Returns the key after the change. `before` and the key of the `caller`, if there is one,
    /// are as the transaction sees them. Every store calls this.
    ///
    /// A change that widens a key, in any of its bounds or by enabling it, must leave it within
    /// [what the caller may give](ApiKey::exceeded_by). Otherwise a restricted key could make
    /// another one that may do more than itself. A change that only narrows a key is free.
    ///
    /// # Errors
    /// [`ChangeError::KeyEnded`] if the key is revoked or has expired at `now`,
    /// [`ChangeError::KeyChanged`] if it has another version than requested,
    /// [`ChangeError::KeyInvalid`] if it would break a rule, and [`ChangeError::ExceedsCaller`] if
    /// it would exceed the caller.
    pub fn apply(
        &self,
        before: &KeyDetails,
        caller: Option<&ApiKey>,
        now: Timestamp,
    ) -> Result<KeyDetails, ChangeError> {
        if before.status(now).is_ended() {
            return Err(ChangeError::KeyEnded);
        }
        if let Some(versions) = &self.if_version
            && !versions.contains(&before.version())
        {
            return Err(ChangeError::KeyChanged);
        }
        let mut after = before.clone();
        let key = &mut after.key;
        if let Some(name) = &self.name {
            key.name.clone_from(name);
        }
        if let Some(networks) = &self.allowed_networks {
            key.allowed_networks.clone_from(networks);
        }
        if let Some(scopes) = &self.scopes {
            key.scopes.clone_from(scopes);
        }
        if let Some(expires_at) = self.expires_at {
            if expires_at.is_some_and(|end| end <= now) {
                return Err(InvalidKeyPatch::ExpiryNotInFuture.into());
            }
            key.expires_at = expires_at;
        }
        if let Some(disabled) = self.disabled {
            let since = key.disabled_at.unwrap_or(now);
            key.disabled_at = disabled.then_some(since);
        }
        if let Some(limits) = &self.limits {
            key.limits = limits.apply(&before.key.limits)?;
        }
        if let Some(metadata) = &self.metadata {
            after.metadata = metadata.apply(&before.metadata)?;
        }
        let is_enabled = before.key.disabled_at.is_some() && after.key.disabled_at.is_none();
        let bounds = after.key.bounds();
        if let Some(caller) = caller
            && (is_enabled || before.key.bounds().exceeded_by(&bounds).is_some())
            && let Some(bound) = caller.exceeded_by(&bounds)
        {
            return Err(ChangeError::ExceedsCaller(bound));
        }
        Ok(after)
    }

    /// Returns the audit action of a change: that of disabling or enabling if it does so, whatever
    /// else it changes. `None` if nothing changed.
    #[must_use]
    pub fn action(before: &KeyDetails, after: &KeyDetails) -> Option<AuditAction> {
        let [was_disabled, is_disabled] =
            [before, after].map(|details| details.key.disabled_at.is_some());
        match (was_disabled, is_disabled) {
            (false, true) => Some(AuditAction::KeyDisabled),
            (true, false) => Some(AuditAction::KeyEnabled),
            _ => (before != after).then_some(AuditAction::KeyUpdated),
        }
    }
}

/// Changes of the metadata of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetadataPatch {
    /// Replaces all entries.
    Replace(Metadata),
    /// Sets these values, and removes the names with `None`. Other entries stay.
    Merge(BTreeMap<Box<str>, Option<Box<str>>>),
}

impl MetadataPatch {
    fn apply(&self, before: &Metadata) -> Result<Metadata, InvalidKeyPatch> {
        let changes = match self {
            Self::Replace(metadata) => return Ok(metadata.clone()),
            Self::Merge(changes) => changes,
        };
        let kept = before
            .iter()
            .filter(|(name, _)| !changes.contains_key(*name));
        let set = changes
            .iter()
            .filter_map(|(name, value)| Some((name.as_ref(), value.as_deref()?)));
        Metadata::new(kept.chain(set)).map_err(InvalidKeyPatch::Metadata)
    }
}

/// Changes of the own limits of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitsPatch {
    /// Replaces all limits.
    Replace(KeyLimits),
    /// Changes these limits, and removes those with `None`. Other limits stay.
    Merge(BTreeMap<LimitName, Option<QuotaPatch>>),
}

impl LimitsPatch {
    /// Returns the names of limits that are set.
    pub(crate) fn names(&self) -> Vec<&LimitName> {
        match self {
            Self::Replace(limits) => limits.iter().map(|(name, _)| name).collect(),
            Self::Merge(changes) => {
                let set = changes.iter().filter(|(_, quota)| quota.is_some());
                set.map(|(name, _)| name).collect()
            }
        }
    }

    fn apply(&self, before: &KeyLimits) -> Result<KeyLimits, InvalidKeyPatch> {
        let changes = match self {
            Self::Replace(limits) => return Ok(limits.clone()),
            Self::Merge(changes) => changes,
        };
        let kept = before
            .iter()
            .filter(|(name, _)| !changes.contains_key(*name));
        let mut limits: Vec<_> = kept.map(|(name, quota)| (name.clone(), quota)).collect();
        for (name, change) in changes {
            if let Some(change) = change {
                let quota = change.apply(before.get(name));
                let quota = quota.ok_or_else(|| InvalidKeyPatch::IncompleteLimit(name.clone()))?;
                limits.push((name.clone(), quota));
            }
        }
        KeyLimits::new(limits).map_err(InvalidKeyPatch::TooManyLimits)
    }
}

/// Changes of a quota. `None` leaves a number as it is, so a limit that the key does not have needs
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
#[non_exhaustive]
pub struct QuotaPatch {
    /// The new number of requests in a period.
    pub requests: Option<NonZeroU32>,
    /// The new period in seconds.
    pub period_seconds: Option<NonZeroU32>,
}

impl QuotaPatch {
    /// Sets the number of requests in a period.
    pub const fn requests(mut self, requests: NonZeroU32) -> Self {
        self.requests = Some(requests);
        self
    }

    /// Sets the period in seconds.
    pub const fn period_seconds(mut self, period_seconds: NonZeroU32) -> Self {
        self.period_seconds = Some(period_seconds);
        self
    }

    fn apply(self, before: Option<Quota>) -> Option<Quota> {
        let requests = self.requests.or(before.map(|quota| quota.requests))?;
        let period = self.period_seconds;
        let period = period.or(before.map(|quota| quota.period_seconds))?;
        Quota::new(requests.get(), period.get())
    }
}

impl From<Quota> for QuotaPatch {
    fn from(quota: Quota) -> Self {
        Self::default()
            .requests(quota.requests)
            .period_seconds(quota.period_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_core::{ExceededBound, InvalidMetadata, KeyId, KeyKind, ShownPrefix};

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    #[expect(clippy::unnecessary_wraps, reason = "as the field has it")]
    fn after_noon(micros: i64) -> Option<Timestamp> {
        Some(Timestamp::from_unix_micros(NOON.unix_micros() + micros))
    }

    fn key(kind: KeyKind) -> ApiKey {
        let id = KeyId::generate(NOON, &mut getrandom::SysRng).unwrap();
        ApiKey::new(id, kind, ShownPrefix::default(), NOON)
    }

    fn networks(entries: &[&str]) -> AllowedNetworks {
        AllowedNetworks::parse(entries).unwrap()
    }

    fn scopes(names: &[&str]) -> ScopeSet {
        ScopeSet::parse(names).unwrap()
    }

    fn limits(requests: u32) -> KeyLimits {
        let quota = Quota::per_minute(requests).unwrap();
        KeyLimits::new([("calls".parse().unwrap(), quota)]).unwrap()
    }

    /// A key with every bound.
    fn bounded(kind: KeyKind) -> ApiKey {
        let mut key = key(kind);
        key.expires_at = after_noon(10);
        key.allowed_networks = networks(&["10.0.0.0/8"]);
        key.scopes = scopes(&["a", "b"]);
        key.limits = limits(10);
        key
    }

    fn excess(patch: &KeyPatch, before: &ApiKey, caller: &ApiKey) -> Option<ExceededBound> {
        let before = KeyDetails::new(before.clone());
        match patch.apply(&before, Some(caller), NOON) {
            Ok(_) => None,
            Err(ChangeError::ExceedsCaller(limit)) => Some(limit),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn ended_key_is_not_changed_and_another_version_neither() {
        let mut details = KeyDetails::new(key(KeyKind::Account));
        let patch = KeyPatch::default();
        details.key.expires_at = Some(NOON);
        let ended = patch.apply(&details, None, NOON);
        assert!(matches!(ended, Err(ChangeError::KeyEnded)), "{ended:?}");
        details.key.expires_at = after_noon(1);
        assert_eq!(patch.apply(&details, None, NOON).unwrap(), details);
        let version = details.version();
        details.key.disabled_at = Some(NOON);
        for versions in [vec![], vec![version]] {
            let differs = patch.clone().if_version(versions);
            let differs = differs.apply(&details, None, NOON);
            assert!(matches!(differs, Err(ChangeError::KeyChanged)));
        }
        let same = patch.if_version([version, details.version()]);
        assert!(same.apply(&details, None, NOON).is_ok());
        details.key.revoked_at = Some(NOON);
        // That it has ended comes first, whatever version is asked for.
        let ended = same.apply(&details, None, NOON);
        assert!(matches!(ended, Err(ChangeError::KeyEnded)), "{ended:?}");
    }

    #[test]
    fn expiry_is_in_the_future_to_the_microsecond() {
        let details = KeyDetails::new(key(KeyKind::Account));
        for (micros, is_legal) in [(-1, false), (0, false), (1, true)] {
            let patch = KeyPatch::default().expires_at(after_noon(micros));
            let outcome = patch.apply(&details, None, NOON);
            assert_eq!(outcome.is_ok(), is_legal, "{micros}");
        }
    }

    #[test]
    fn each_bound_is_widened_at_most_to_that_of_the_caller() {
        let caller = bounded(KeyKind::Account);
        let patch = KeyPatch::default;
        for (patch, exceeded) in [
            (patch().expires_at(None), ExceededBound::ExpiresAt),
            (patch().expires_at(after_noon(11)), ExceededBound::ExpiresAt),
            (
                patch().allowed_networks(networks(&[])),
                ExceededBound::AllowedNetworks(0),
            ),
            (
                patch().allowed_networks(networks(&["10.0.0.1", "11.0.0.1"])),
                ExceededBound::AllowedNetworks(1),
            ),
            (patch().scopes(scopes(&["a", "c"])), ExceededBound::Scopes),
            (
                patch().limits(LimitsPatch::Replace(limits(11))),
                ExceededBound::Limits,
            ),
            (
                patch().limits(LimitsPatch::Replace(KeyLimits::default())),
                ExceededBound::Limits,
            ),
        ] {
            // A key may not widen itself either.
            assert_eq!(excess(&patch, &caller, &caller), Some(exceeded));
            assert_eq!(excess(&patch, &caller, &key(KeyKind::Session)), None);
            assert_eq!(excess(&patch, &caller, &bounded(KeyKind::Operator)), None);
        }
        let mut narrow = caller.clone();
        narrow.expires_at = after_noon(1);
        narrow.allowed_networks = networks(&["10.0.0.1"]);
        narrow.scopes = scopes(&[]);
        narrow.limits = limits(1);
        let widened = patch()
            .expires_at(caller.expires_at)
            .allowed_networks(caller.allowed_networks.clone())
            .scopes(caller.scopes.clone())
            .limits(LimitsPatch::Replace(caller.limits.clone()));
        assert_eq!(excess(&widened, &narrow, &caller), None);
    }

    /// Otherwise it could be given the caller's addresses with scopes that the caller lacks.
    #[test]
    fn wider_key_may_be_narrowed_and_not_widened_in_another_bound() {
        let caller = bounded(KeyKind::Account);
        let mut wide = caller.clone();
        wide.scopes = scopes(&["a", "admin"]);
        wide.allowed_networks = networks(&["192.0.2.1"]);
        let patch = KeyPatch::default();
        for narrower in [
            patch.clone(),
            patch.clone().scopes(scopes(&["admin"])),
            patch.clone().expires_at(after_noon(1)),
            patch.clone().disabled(true),
            patch.clone().name(None),
        ] {
            assert_eq!(excess(&narrower, &wide, &caller), None);
        }
        let moved = patch.clone().allowed_networks(networks(&["10.0.0.1"]));
        assert_eq!(excess(&moved, &wide, &caller), Some(ExceededBound::Scopes));
        let both = moved.scopes(scopes(&["a"]));
        assert_eq!(excess(&both, &wide, &caller), None);
        // To enable a key is to widen it.
        wide.disabled_at = Some(NOON);
        let enabled = patch.disabled(false);
        let exceeded = Some(ExceededBound::AllowedNetworks(0));
        assert_eq!(excess(&enabled, &wide, &caller), exceeded);
        assert_eq!(excess(&enabled, &wide, &key(KeyKind::Operator)), None);
        let mut disabled = caller.clone();
        disabled.disabled_at = Some(NOON);
        assert_eq!(excess(&enabled, &disabled, &caller), None);
    }

    #[test]
    fn session_gives_the_scopes_that_it_has() {
        let mut session = key(KeyKind::Session);
        let patch = KeyPatch::default().scopes(scopes(&["a", "c"]));
        let before = key(KeyKind::Account);
        assert_eq!(excess(&patch, &before, &session), None);
        session.scopes = scopes(&["a"]);
        let exceeded = excess(&patch, &before, &session);
        assert_eq!(exceeded, Some(ExceededBound::Scopes));
    }

    #[test]
    fn time_of_disabling_is_that_of_the_first_and_the_action_says_what_happened() {
        let details = KeyDetails::new(key(KeyKind::Account));
        let later = Timestamp::from_unix_micros(NOON.unix_micros() + 1);
        let apply = |patch: KeyPatch, before: &KeyDetails, now| {
            let after = patch.apply(before, None, now).unwrap();
            (KeyPatch::action(before, &after), after)
        };
        let disable = KeyPatch::default().disabled(true);
        let (action, disabled) = apply(disable.clone(), &details, NOON);
        assert_eq!(action, Some(AuditAction::KeyDisabled));
        assert_eq!(disabled.key.disabled_at, Some(NOON));
        let (action, again) = apply(disable, &disabled, later);
        assert_eq!((action, &again), (None, &disabled));
        let named = KeyPatch::default().name(Some(KeyName::from_name("x").unwrap()));
        let (action, _) = apply(named.clone(), &disabled, later);
        assert_eq!(action, Some(AuditAction::KeyUpdated));
        let (action, enabled) = apply(named.disabled(false), &disabled, later);
        assert_eq!(action, Some(AuditAction::KeyEnabled));
        assert_eq!(enabled.key.disabled_at, None);
    }

    #[test]
    fn metadata_and_limits_are_merged_by_name() {
        let mut details = KeyDetails::new(key(KeyKind::Account));
        details.metadata = Metadata::new([("a", "1"), ("b", "2")]).unwrap();
        details.key.limits = limits(10);
        let calls: LimitName = "calls".parse().unwrap();
        let other: LimitName = "other".parse().unwrap();
        let five = QuotaPatch::default().requests(NonZeroU32::new(5).unwrap());
        let merge = MetadataPatch::Merge(BTreeMap::from([
            ("b".into(), None),
            ("c".into(), Some("3".into())),
            ("d".into(), None),
        ]));
        let changed = LimitsPatch::Merge(BTreeMap::from([(calls.clone(), Some(five))]));
        let patch = KeyPatch::default().metadata(merge).limits(changed);
        let after = patch.apply(&details, None, NOON).unwrap();
        let merged = Metadata::new([("a", "1"), ("c", "3")]).unwrap();
        assert_eq!((&after.metadata, &after.key.limits), (&merged, &limits(5)));

        let incomplete = LimitsPatch::Merge(BTreeMap::from([(other.clone(), Some(five))]));
        let incomplete = KeyPatch::default().limits(incomplete);
        let refused = incomplete.apply(&details, None, NOON);
        let expected = InvalidKeyPatch::IncompleteLimit(other);
        assert!(matches!(refused, Err(ChangeError::KeyInvalid(error)) if error == expected));
        let removed = LimitsPatch::Merge(BTreeMap::from([(calls, None)]));
        let removed = KeyPatch::default().limits(removed);
        let after = removed.apply(&details, None, NOON).unwrap();
        assert!(after.key.limits.is_empty());

        let long = Some("x".repeat(Metadata::MAX_LEN - 20).into());
        let long = MetadataPatch::Merge(BTreeMap::from([("c".into(), long)]));
        let refused = KeyPatch::default()
            .metadata(long)
            .apply(&details, None, NOON);
        let expected = InvalidKeyPatch::Metadata(InvalidMetadata::TooLong);
        assert!(matches!(refused, Err(ChangeError::KeyInvalid(error)) if error == expected));
    }
}
