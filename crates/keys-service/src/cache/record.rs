//! What the cache keeps of a key: enough to judge it, never a verdict.

use std::collections::BTreeSet;
use std::sync::Arc;

use keys_core::{
    Account, AccountId, AllowedNetworks, ApiKey, Denial, ExternalId, KeyKind, PlanName, Plans,
    ScopeSet, Timestamp,
};
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::account_marks::Mark;
use super::lease::Nanos;
use super::map::{RecordId, Weigh};
use crate::store::StoredKey;

/// What a key is judged by. One line of the processor's cache, with nothing in it for most keys that leads elsewhere: a verdict on
/// one of a million waits for memory once.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    /// Uses since they were last collected.
    pub(crate) uses: u32,
    /// The last of them.
    pub(crate) used_at: Micros,
}

/// What a verdict tells of a key. Cheap to clone: what most keys have is inline, and no count that other threads change is touched.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Nil for an operator's key.
    account_id: AccountId,
    /// Kept inline up to 23 bytes, which most are.
    name: SmolStr,
    /// What few keys have.
    more: Option<Arc<More>>,
    /// Of the account, when this was read.
    pub(crate) account_mark: Mark,
    plan: PlanIndex,
    pub(crate) kind: KeyKind,
    /// Whether it may be used as far as that is for ever, or depends on the account alone.
    pub(crate) standing: Result<(), Denial>,
}

/// What narrows the use of a key, and what does not fit elsewhere.
#[derive(Debug, Default)]
pub(crate) struct More {
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) networks: AllowedNetworks,
    pub(crate) scopes: ScopeSet,
    external_id: Option<ExternalId>,
    /// A plan that is not configured.
    plan: Option<PlanName>,
}

/// Time on the clock of intervals in microseconds, without what exceeds 71 minutes: enough to tell how long ago something was that is
/// looked at every few seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Micros(u32);

impl Micros {
    #[inline]
    pub(crate) fn of(time: Nanos) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "that is what it is")]
        Self((time / 1_000) as u32)
    }

    /// The time that this was, at most 71 minutes before `now`.
    pub(crate) fn before(self, now: Nanos) -> Nanos {
        let ago = Self::of(now).0.wrapping_sub(self.0);
        (now / 1_000).saturating_sub(ago.into()) * 1_000
    }
}

/// The place of a plan among the configured ones, or of none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlanIndex(u16);

/// The names of the configured plans, so that a record has room for one and a verdict tells it without counting who else does.
#[derive(Debug)]
pub(crate) struct PlanNames(Vec<&'static PlanName>);

impl PlanNames {
    pub(crate) fn new(plans: &Plans) -> Self {
        /// Names that were ever configured in this process. They stay for ever: there are as few as somebody has thought of.
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

    fn index(&self, name: &PlanName) -> Option<PlanIndex> {
        let index = self.0.binary_search(&name).ok()?;
        u16::try_from(index).ok().map(PlanIndex)
    }

    fn name(&self, index: PlanIndex) -> Option<&'static PlanName> {
        self.0.get(usize::from(index.0)).copied()
    }
}

impl Record {
    pub(crate) fn new(
        key: ApiKey,
        account: Option<&Account>,
        account_mark: Mark,
        plans: &Plans,
        plan_names: &PlanNames,
    ) -> Self {
        let standing = match account {
            _ if key.revoked_at.is_some() => Err(Denial::Revoked),
            Some(account) => plans.check(account),
            None => Ok(()),
        };
        let plan = account.and_then(|account| plan_names.index(&account.plan));
        let unknown_plan = account.filter(|_| plan.is_none());
        let external_id = account.and_then(|account| account.external_id.clone());
        let has_more = key.expires_at.is_some()
            || !key.allowed_networks.is_unrestricted()
            || !key.scopes.is_empty()
            || external_id.is_some()
            || unknown_plan.is_some();
        Self {
            facts: Facts {
                account_id: account.map_or(NO_ACCOUNT, |account| account.id),
                name: key
                    .name
                    .map_or(SmolStr::default(), |name| name.as_str().into()),
                more: has_more.then(|| {
                    Arc::new(More {
                        expires_at: key.expires_at,
                        networks: key.allowed_networks,
                        scopes: key.scopes,
                        external_id,
                        plan: unknown_plan.map(|account| account.plan.clone()),
                    })
                }),
                plan: plan.unwrap_or(PlanIndex(u16::MAX)),
                account_mark,
                kind: key.kind,
                standing,
            },
            uses: 0,
            used_at: Micros::default(),
        }
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.facts.standing == Err(Denial::Revoked)
    }
}

/// No account has this identifier.
const NO_ACCOUNT: AccountId = AccountId::from_uuid(uuid::Uuid::nil());

impl Facts {
    pub(crate) fn account_id(&self) -> Option<AccountId> {
        (self.account_id != NO_ACCOUNT).then_some(self.account_id)
    }

    pub(crate) fn external_id(&self) -> Option<&ExternalId> {
        self.more.as_ref()?.external_id.as_ref()
    }

    pub(crate) fn plan(&self, names: &PlanNames) -> Option<&'static PlanName> {
        names.name(self.plan)
    }

    /// The plan, where it is not a configured one.
    pub(crate) fn unknown_plan(&self) -> Option<&PlanName> {
        self.more.as_ref()?.plan.as_ref()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn more(&self) -> Option<&More> {
        self.more.as_deref()
    }
}

impl Weigh for Record {
    fn heap_bytes(&self) -> usize {
        /// Counts and the allocator's own header.
        const OVERHEAD: usize = 24;
        let name = &self.facts.name;
        let name = if name.is_heap_allocated() {
            name.len() + OVERHEAD
        } else {
            0
        };
        let more = self.facts.more.as_ref().map_or(0, |more| {
            let networks = size_of_val(more.networks.as_slice());
            let scopes: usize = more
                .scopes
                .iter()
                .map(|scope| size_of_val(scope) + scope.as_str().len() + OVERHEAD)
                .sum();
            let external_id = more.external_id.as_ref();
            let external_id = external_id.map_or(0, |id| id.as_str().len() + OVERHEAD);
            // Names of plans are shared.
            size_of::<More>() + networks + scopes + external_id + OVERHEAD
        });
        name + more
    }
}

/// How the cache knows a key by.
pub(crate) fn key_record_id(stored: &StoredKey) -> RecordId {
    *stored.key.id.as_uuid().as_bytes()
}

/// How the cache knows an account by.
pub(crate) fn account_record_id(id: AccountId) -> RecordId {
    *id.as_uuid().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_the_processors_cache() {
        assert_eq!(size_of::<Record>(), 64);
        // One more for what finds it.
        assert_eq!(super::super::map::slot_size::<Record>(), 128);
    }

    #[test]
    fn a_short_time_is_told_from_what_is_left_of_it() {
        const MINUTE: Nanos = 60_000_000_000;
        for now in [
            5,
            1_000_000,
            70 * MINUTE,
            1_000 * MINUTE,
            100_000_000 * MINUTE,
        ] {
            for ago in [0, 1_000, MINUTE, 71 * MINUTE] {
                let then = now.saturating_sub(ago);
                assert_eq!(Micros::of(then).before(now), then / 1_000 * 1_000);
            }
        }
    }

    #[test]
    fn names_of_plans_are_told_by_their_place() {
        let plans = Plans::documented();
        let names = PlanNames::new(&plans);
        let same = PlanNames::new(&plans);
        for (name, _) in plans.iter() {
            let index = names.index(name).unwrap();
            assert_eq!(names.name(index), Some(name));
            assert!(std::ptr::eq(
                names.name(index).unwrap(),
                same.name(index).unwrap()
            ));
        }
        assert_eq!(names.index(&"other".parse().unwrap()), None);
        assert_eq!(names.name(PlanIndex(u16::MAX)), None);
    }
}
