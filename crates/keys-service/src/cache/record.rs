//! The cached record of a key: enough to judge it, never a verdict.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use keys_core::{
    AccountId, AllowedNetworks, Denial, Evidence, ExternalId, KeyKind, KeyLimits, PepperedDigest,
    PlanName, Plans, ScopeSet, StoredKey, Timestamp,
};
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::account_marks::Mark;
use super::lease::Nanos;
use super::map::{RecordId, Weigh};

/// The data to judge a key. One cache line, without pointers for a key without restrictions whose
/// account has no external identifier: a verdict on one of a million keys costs one cache miss, on
/// others two.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    /// Number of uses since they were last collected.
    pub(crate) uses: u32,
    /// Time of the last use.
    pub(crate) used_at: Millis,
}

/// The data about a key in a verdict. Cheap to clone: the usual fields are inline, and no counter
/// that other threads change is touched.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Nil for an operator key.
    account_id: AccountId,
    /// Inline up to 23 bytes, which is enough for most.
    name: SmolStr,
    /// Rare fields that do not fit here.
    more: Option<Arc<More>>,
    /// The mark of the account when this was read.
    pub(crate) account_mark: Mark,
    plan: Option<PlanNumber>,
    pub(crate) kind: KeyKind,
    standing: Standing,
}

/// Whether a key may be used, as far as that is permanent or depends on the account alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It may be used for anything, from anywhere, for ever: no further check is needed.
    Unnarrowed,
    /// It may be used within the restrictions of [`Narrowing`].
    Narrowed,
    Denied(Denial),
}

/// Fields that most keys do not have.
#[derive(Debug)]
struct More {
    narrowing: Option<Box<Narrowing>>,
    external_id: Option<ExternalId>,
    /// A plan that is not configured.
    plan: Option<Box<PlanName>>,
    /// The digest that the key is stored under, if it differs from the one it is cached under,
    /// because it was created under a former pepper.
    stored_as: Option<Box<PepperedDigest>>,
}

/// Restrictions of a key.
#[derive(Debug)]
pub(crate) struct Narrowing {
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) networks: AllowedNetworks,
    pub(crate) scopes: ScopeSet,
    pub(crate) limits: KeyLimits,
}

/// Time on the monotonic clock in milliseconds, modulo 49 days: enough for the age of an event that
/// is checked every few seconds, also after a machine was suspended or a database could not be
/// written to for as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Millis(u32);

impl Millis {
    const NANOS: Nanos = 1_000_000;

    #[inline]
    pub(crate) fn of(time: Nanos) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "that is what it is")]
        Self((time / Self::NANOS) as u32)
    }

    /// Returns this time, at most 49 days before `now`.
    pub(crate) fn before(self, now: Nanos) -> Nanos {
        let ago = Self::of(now).0.wrapping_sub(self.0);
        (now / Self::NANOS).saturating_sub(ago.into()) * Self::NANOS
    }
}

/// The index of a plan among the configured ones, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlanNumber(NonZeroU16);

/// The names of the configured plans, so that a record stores only a number, and a verdict returns
/// the name without a reference count.
#[derive(Debug)]
pub(crate) struct PlanNames(Vec<&'static PlanName>);

impl PlanNames {
    pub(crate) fn new(plans: &Plans) -> Self {
        /// Names that were ever configured in this process. They are never freed, because there are
        /// few.
        static KNOWN: Mutex<BTreeSet<&'static PlanName>> = Mutex::new(BTreeSet::new());
        let mut known = KNOWN.lock();
        let for_ever = |(name, _): (&PlanName, _)| -> &'static PlanName {
            if let Some(name) = known.get(name) {
                return name;
            }
            let name: &'static PlanName = Box::leak(Box::new(name.clone()));
            known.insert(name);
            name
        };
        Self(plans.iter().map(for_ever).collect())
    }

    /// Also `None` beyond 65,535 plans: the name is then stored with the key.
    fn number(&self, name: &PlanName) -> Option<PlanNumber> {
        // `Plans` are sorted.
        let index = self.0.binary_search(&name).ok()?;
        let number = NonZeroU16::new(u16::try_from(index + 1).ok()?)?;
        Some(PlanNumber(number))
    }

    fn name(&self, number: PlanNumber) -> Option<&'static PlanName> {
        self.0.get(usize::from(number.0.get()) - 1).copied()
    }
}

impl Record {
    pub(crate) fn new(
        stored: &StoredKey,
        account_mark: Mark,
        stored_as: Option<PepperedDigest>,
        plans: &Plans,
        plan_names: &PlanNames,
    ) -> Self {
        let StoredKey { key, account, .. } = stored;
        let is_narrowed = key.expires_at.is_some()
            || !key.allowed_networks.is_unrestricted()
            || !key.scopes.is_empty()
            || !key.limits.is_empty();
        let standing = match stored.account(Some(plans)) {
            _ if stored.revoked() => Standing::Denied(Denial::Revoked),
            _ if stored.disabled() => Standing::Denied(Denial::Disabled),
            Err(denial) => Standing::Denied(denial),
            Ok(()) if is_narrowed => Standing::Narrowed,
            Ok(()) => Standing::Unnarrowed,
        };
        let account = account.as_ref();
        let plan = account.and_then(|account| plan_names.number(&account.plan));
        let unknown_plan = account.filter(|_| plan.is_none());
        let external_id = account.and_then(|account| account.external_id.clone());
        let has_more =
            is_narrowed || external_id.is_some() || unknown_plan.is_some() || stored_as.is_some();
        Self {
            facts: Facts {
                account_id: account.map_or(NO_ACCOUNT, |account| account.id),
                name: key
                    .name
                    .as_ref()
                    .map_or(SmolStr::default(), |name| name.as_str().into()),
                more: has_more.then(|| {
                    Arc::new(More {
                        narrowing: is_narrowed.then(|| {
                            Box::new(Narrowing {
                                expires_at: key.expires_at,
                                networks: key.allowed_networks.clone(),
                                scopes: key.scopes.clone(),
                                limits: key.limits.clone(),
                            })
                        }),
                        external_id,
                        plan: unknown_plan.map(|account| Box::new(account.plan.clone())),
                        stored_as: stored_as.map(Box::new),
                    })
                }),
                account_mark,
                plan,
                kind: key.kind,
                standing,
            },
            uses: 0,
            used_at: Millis::default(),
        }
    }

    /// Returns the digest that the key is stored under, if it differs from the one it is cached
    /// under.
    pub(crate) fn stored_as(&self) -> Option<PepperedDigest> {
        self.facts.more.as_ref()?.stored_as.as_deref().copied()
    }

    /// Returns whether the key was used not longer ago than `lately`.
    pub(crate) fn was_used(&self, now: Nanos, lately: Nanos) -> bool {
        self.used_at != Millis::default() && now.saturating_sub(self.used_at.before(now)) <= lately
    }

    /// Counts one use.
    #[inline]
    pub(crate) fn note_use(&mut self, now: Nanos) {
        self.uses = self.uses.saturating_add(1);
        self.used_at = Millis::of(now);
    }

    /// Returns the same record as revoked.
    pub(crate) fn into_revoked(mut self) -> Self {
        self.facts.standing = Standing::Denied(Denial::Revoked);
        self
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.facts.revoked()
    }
}

/// Placeholder where an identifier is required and there is none.
const NO_ACCOUNT: AccountId = AccountId::from_uuid(uuid::Uuid::nil());

impl Facts {
    /// Returns the account. `None` for an operator key.
    #[inline]
    pub(crate) fn account_id(&self) -> Option<AccountId> {
        (self.kind != KeyKind::Operator).then_some(self.account_id)
    }

    pub(crate) fn external_id(&self) -> Option<&ExternalId> {
        self.more.as_ref()?.external_id.as_ref()
    }

    pub(crate) fn configured_plan(&self, names: &PlanNames) -> Option<&'static PlanName> {
        names.name(self.plan?)
    }

    /// Returns the plan, if it is not a configured one.
    pub(crate) fn unknown_plan(&self) -> Option<&PlanName> {
        self.more.as_ref()?.plan.as_deref()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the restrictions of the key, without a further look if it has none.
    #[inline]
    pub(crate) fn narrowing(&self) -> Option<&Narrowing> {
        if self.standing == Standing::Unnarrowed {
            return None;
        }
        self.more.as_ref()?.narrowing.as_deref()
    }
}

/// The same facts as those of the row of the record. The account was judged when the record was
/// made, by the plans of the service, which never change while it runs.
impl Evidence for Facts {
    #[inline]
    fn revoked(&self) -> bool {
        self.standing == Standing::Denied(Denial::Revoked)
    }

    #[inline]
    fn expires_at(&self) -> Option<Timestamp> {
        self.narrowing()?.expires_at
    }

    #[inline]
    fn disabled(&self) -> bool {
        self.standing == Standing::Denied(Denial::Disabled)
    }

    #[inline]
    fn kind(&self) -> KeyKind {
        self.kind
    }

    #[inline]
    fn account(&self, plans: Option<&Plans>) -> Result<(), Denial> {
        match self.standing {
            Standing::Denied(Denial::PlanForbidden) if plans.is_none() => Ok(()),
            Standing::Denied(denial) => Err(denial),
            Standing::Unnarrowed | Standing::Narrowed => Ok(()),
        }
    }

    #[inline]
    fn allows(&self, address: Option<IpAddr>) -> bool {
        self.narrowing()
            .is_none_or(|narrowing| narrowing.networks.allows(address))
    }

    #[inline]
    fn covers(&self, scopes: &ScopeSet) -> bool {
        self.narrowing().map_or(scopes.is_empty(), |narrowing| {
            narrowing.scopes.covers(scopes)
        })
    }
}

impl Weigh for Record {
    fn heap_bytes(&self) -> usize {
        /// Reference counts and the allocator's own header.
        const OVERHEAD: usize = 24;
        let name = &self.facts.name;
        let name = if name.is_heap_allocated() {
            name.len() + OVERHEAD
        } else {
            0
        };
        let more = self.facts.more.as_ref().map_or(0, |more| {
            let narrowing = more.narrowing.as_ref().map_or(0, |narrowing| {
                let networks = size_of_val(narrowing.networks.as_slice());
                let scopes: usize = narrowing
                    .scopes
                    .iter()
                    .map(|scope| size_of_val(scope) + scope.as_str().len() + OVERHEAD)
                    .sum();
                let limits: usize = narrowing
                    .limits
                    .iter()
                    .map(|(name, quota)| size_of_val(&quota) + name.as_str().len() + 2 * OVERHEAD)
                    .sum();
                size_of::<Narrowing>() + networks + scopes + limits + OVERHEAD
            });
            let external_id = more.external_id.as_ref();
            let external_id = external_id.map_or(0, |id| id.as_str().len() + OVERHEAD);
            let plan = more.plan.as_ref();
            let plan = plan.map_or(0, |plan| plan.as_str().len() + 2 * OVERHEAD);
            let stored_as = more.stored_as.as_ref();
            let stored_as = stored_as.map_or(0, |_| size_of::<PepperedDigest>() + OVERHEAD);
            size_of::<More>() + stored_as + narrowing + external_id + plan + OVERHEAD
        });
        name + more
    }

    fn is_final(&self) -> bool {
        self.is_revoked()
    }
}

/// Returns the identifier of a key in the cache.
pub(crate) fn key_record_id(stored: &StoredKey) -> RecordId {
    *stored.key.id.as_uuid().as_bytes()
}

/// Returns the identifier of an account in the cache.
pub(crate) fn account_record_id(id: AccountId) -> RecordId {
    *id.as_uuid().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_the_processors_cache() {
        assert_eq!(size_of::<Record>(), 64);
        // One more for the look-up key.
        assert_eq!(super::super::map::slot_size::<Record>(), 128);
    }

    #[test]
    fn a_short_time_is_told_from_what_is_left_of_it() {
        const DAY: Nanos = 86_400_000_000_000;
        for now in [5, 1_000_000, 48 * DAY, 1_000 * DAY, 100_000 * DAY] {
            for ago in [0, 1_000_000, DAY, 49 * DAY] {
                let then = now.saturating_sub(ago);
                assert_eq!(Millis::of(then).before(now), then / 1_000_000 * 1_000_000);
            }
        }
    }

    #[test]
    fn names_of_plans_are_told_by_their_place() {
        let plans = Plans::documented();
        let names = PlanNames::new(&plans);
        let same = PlanNames::new(&plans);
        for (name, _) in plans.iter() {
            let number = names.number(name).unwrap();
            assert_eq!(names.name(number), Some(name));
            assert!(std::ptr::eq(
                names.name(number).unwrap(),
                same.name(number).unwrap()
            ));
        }
        assert_eq!(names.number(&"other".parse().unwrap()), None);
        assert_eq!(names.name(PlanNumber(NonZeroU16::MAX)), None);
    }
}
