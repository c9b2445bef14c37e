//! May this key do this, from there, now? The hot path.
//!
//! The order of judgement: form and checksum, cache or database by digest, tombstone, revoked, expired, kind, account, plan, address, scope, and
//! the limit last: a refused key never burns its quota. The age of what is judged by is looked at after all that, immediately before
//! the verdict.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::Duration;

use keys_core::{
    AccountId, Denial, ExternalId, KeyId, KeyKind, LimitName, LimitPer, PlanName, PresentedKey,
    Question, ScopeSet, Timestamp, judge,
};

use crate::cache;
use crate::cache::generations::Snapshot;
use crate::cache::lease::{self, Freshness as Lease, Nanos};
use crate::cache::loader::{Loaded, LoadedKey, Wanted};
use crate::cache::map::{Found, MapKey, RecordId};
use crate::cache::record::{Facts, PlanNames, Record, account_record_id};
use crate::ports::{Bucket, Decision, LimiterError, StoreError, Subject};
use crate::service::KeyService;
use crate::usage::Used;

/// A question about one presented key.
#[derive(Debug, Clone)]
pub struct VerifyRequest<'a> {
    /// The key as it was presented.
    pub key: &'a str,
    /// Where it is used from, if that is known.
    pub address: Option<IpAddr>,
    /// What it is used for.
    pub scopes: &'a ScopeSet,
    /// Kinds of credentials that may be used for that.
    pub kinds: &'a [KeyKind],
    /// The limit of the account's plan to take from.
    pub limit: Option<&'a LimitName>,
    /// How much to take.
    pub cost: NonZeroU32,
    /// Whether the database is to be asked even if the cache knows.
    pub fresh: bool,
}

impl<'a> VerifyRequest<'a> {
    /// May this account's key be used at all, from anywhere it may be, for what needs no scope, without a limit?
    #[must_use]
    pub fn new(key: &'a str) -> Self {
        static NO_SCOPES: LazyLock<ScopeSet> = LazyLock::new(ScopeSet::default);
        Self {
            key,
            address: None,
            scopes: &NO_SCOPES,
            kinds: &[KeyKind::Account],
            limit: None,
            cost: NonZeroU32::MIN,
            fresh: false,
        }
    }
}

/// What a verdict says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerdictCode {
    /// It may.
    Valid,
    /// It may not.
    Denied(Denial),
    /// It might, but too much was asked for in too short a time.
    RateLimited,
}

impl VerdictCode {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Denied(denial) => denial.code(),
            Self::RateLimited => "rate_limited",
        }
    }
}

/// How fresh the knowledge is that a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Within the published bound.
    Current,
    /// The database is away and the configured grace lasts.
    Stale,
}

impl Freshness {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Stale => "stale",
        }
    }
}

/// The answer to a [`VerifyRequest`].
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What it says.
    pub code: VerdictCode,
    /// The key, where one is known.
    pub key: Option<VerifiedKey>,
    /// What the limit said, where one was asked.
    pub rate_limit: Option<Decision>,
    /// How fresh the knowledge is.
    pub freshness: Freshness,
}

impl Verdict {
    /// Whether the key may be used.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.code == VerdictCode::Valid
    }

    fn denied(denial: Denial) -> Self {
        Self::current(VerdictCode::Denied(denial), None)
    }

    fn current(code: VerdictCode, key: Option<VerifiedKey>) -> Self {
        Self {
            code,
            key,
            rate_limit: None,
            freshness: Freshness::Current,
        }
    }
}

/// What a verdict tells of a key. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedKey {
    id: KeyId,
    facts: Facts,
    /// Where it is a configured one.
    plan: Option<&'static PlanName>,
}

/// What a verdict tells of the account that a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedAccount<'a> {
    /// Our identifier.
    pub id: AccountId,
    /// The host system's identifier, if it gave one.
    pub external_id: Option<&'a ExternalId>,
    /// The plan; it may have left the configuration since.
    pub plan: &'a PlanName,
}

impl VerifiedKey {
    #[inline]
    fn new(id: KeyId, facts: Facts, names: &PlanNames) -> Self {
        let plan = facts.configured_plan(names);
        Self { id, facts, plan }
    }

    /// The identifier.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.facts.kind
    }

    /// The account it belongs to; none exactly for an operator's key.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "an account's plan is either a configured one or kept by name"
    )]
    pub fn account(&self) -> Option<VerifiedAccount<'_>> {
        Some(VerifiedAccount {
            id: self.facts.account_id()?,
            external_id: self.facts.external_id(),
            plan: self
                .plan
                .or_else(|| self.facts.unknown_plan())
                .expect("the name of a plan that is not configured is kept"),
        })
    }

    /// What its owner calls it.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        Some(self.facts.name()).filter(|name| !name.is_empty())
    }

    /// What it may be used for.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        static NONE: LazyLock<ScopeSet> = LazyLock::new(ScopeSet::default);
        match self.facts.narrowing() {
            Some(narrowing) => &narrowing.scopes,
            None => &NONE,
        }
    }

    /// When it expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.facts.narrowing()?.expires_at
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// No plan has a limit of that name.
    #[error("no plan has a limit of that name")]
    UnknownLimit,
    /// The store could not answer; says nothing about the key.
    #[error("the key could not be looked up")]
    Store(#[from] StoreError),
    /// The limiter could not decide.
    #[error(transparent)]
    Limiter(#[from] LimiterError),
}

/// A judged record, before the limit.
struct Judged {
    key: VerifiedKey,
    verdict: Result<(), Denial>,
    read_at: u64,
    /// Changes up to here are in it.
    since: Snapshot,
    freshness: Freshness,
    is_cached: bool,
}

/// What the cache says.
enum Cached {
    /// This, and nothing is left to ask.
    Settled(VerdictCode, Option<VerifiedKey>),
    Judged(Judged),
    /// Nothing that may be relied upon.
    Miss,
    /// Something that may be relied upon only while the database is away.
    Stale(Judged),
}

/// Whether a verdict may be given from the cache alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settle {
    /// Where nothing is left to ask.
    Now,
    /// Only after what else is waited for. Changes up to the snapshot are in what is found, and it is judged as of the time.
    Later(Snapshot, Nanos),
}

/// One question of several.
struct Item<'a> {
    request: &'a VerifyRequest<'a>,
    presented: Option<(PresentedKey<'a>, MapKey)>,
    known: Cached,
}

/// Times that a verdict is made anew because what it rested on changed while the limit was asked.
const TURNS_MAX: u32 = 4;

impl KeyService {
    /// Answers one question.
    ///
    /// # Errors
    /// When the store or the limiter is away, or no plan has the limit.
    pub async fn verify(&self, request: &VerifyRequest<'_>) -> Result<Verdict, VerifyError> {
        if request.limit.is_some() {
            self.check_limit_name(request.limit)?;
        }
        let Ok(key) = PresentedKey::parse(request.key) else {
            return Ok(Verdict::denied(Denial::Malformed));
        };
        let found_by = self.find_by(key, request);
        let known = if request.fresh {
            Cached::Miss
        } else {
            self.cached(&found_by, request, Settle::Now)
        };
        match known {
            Cached::Settled(code, key) => Ok(Verdict::current(code, key)),
            // What waits for something is boxed: on the stack it would make every verification large to move.
            Cached::Judged(judged) => {
                Box::pin(self.conclude(&found_by, key, judged, request)).await
            }
            Cached::Miss => Box::pin(self.read_and_conclude(&found_by, key, None, request)).await,
            Cached::Stale(judged) => {
                Box::pin(self.read_and_conclude(&found_by, key, Some(judged), request)).await
            }
        }
    }

    /// Answers by what the database says, or by what was known when it is away.
    async fn read_and_conclude(
        &self,
        found_by: &MapKey,
        key: PresentedKey<'_>,
        stale: Option<Judged>,
        request: &VerifyRequest<'_>,
    ) -> Result<Verdict, VerifyError> {
        let loaded = match stale {
            Some(_) => self.reload(found_by, key, request).await,
            None => self.load(found_by, key, request).await,
        };
        let judged = match loaded {
            Ok(Ok(judged)) => judged,
            Ok(Err(denial)) => return Ok(Verdict::denied(denial)),
            Err(error @ StoreError::Unavailable(_)) => stale.ok_or(error)?,
            Err(error) => return Err(error.into()),
        };
        self.conclude(found_by, key, judged, request).await
    }

    /// Answers several questions, in order. All that the cache does not know is read at once, and all limits are asked at once.
    ///
    /// # Errors
    /// As [`verify`](Self::verify), for all of them together.
    pub async fn verify_batch(
        &self,
        requests: &[VerifyRequest<'_>],
    ) -> Result<Vec<Verdict>, VerifyError> {
        for request in requests {
            self.check_limit_name(request.limit)?;
        }
        let since = self.inner.cache.keys.snapshot();
        let settle = Settle::Later(since, lease::nanos(self.inner.clock.elapsed()));
        let item = |request| self.item(request, settle);
        let mut items: Vec<Item<'_>> = requests.iter().map(item).collect();
        self.load_missing(&mut items).await?;
        let mut decisions = self.take_all(&items).await?;
        // All that took time, in which keys may have been revoked. From the last look on nothing is waited for.
        let mut turn = 0;
        while self.give_up_outdated(&mut items) {
            turn += 1;
            if turn == TURNS_MAX {
                return Err(VerifyError::Store(too_slow()));
            }
            self.load_missing(&mut items).await?;
        }
        let now = lease::nanos(self.inner.clock.elapsed());
        let mut elsewhere = Vec::new();
        let verdicts = items.into_iter().enumerate().map(|(place, item)| {
            let judged = match item.known {
                Cached::Settled(code, key) => return Verdict::current(code, key),
                Cached::Judged(judged) => judged,
                Cached::Miss | Cached::Stale(_) => return Verdict::denied(Denial::NotFound),
            };
            let key_id = judged.key.id;
            let verdict = Self::concluded(judged, decisions.remove(&place));
            if verdict.is_valid()
                && !item
                    .presented
                    .is_some_and(|(_, found_by)| self.inner.cache.note_use(&found_by, key_id, now))
            {
                elsewhere.push(Used::once(key_id, now));
            }
            verdict
        });
        let verdicts = verdicts.collect();
        self.inner.cache.uses.record_all(elsewhere);
        Ok(verdicts)
    }

    /// What the limits of all items say that have one, by the place of the item.
    async fn take_all(&self, items: &[Item<'_>]) -> Result<HashMap<usize, Decision>, LimiterError> {
        let takes = items.iter().enumerate().filter_map(|(place, item)| {
            let limit = item.request.limit?;
            match &item.known {
                Cached::Judged(judged) if judged.verdict.is_ok() => Some(async move {
                    let decision = self.take(&judged.key, limit, item.request.cost).await?;
                    Ok::<_, LimiterError>((place, decision))
                }),
                _ => None,
            }
        });
        let decisions = futures_util::future::try_join_all(takes).await?;
        let decided = |(place, decision)| Some((place, decision?));
        Ok(decisions.into_iter().filter_map(decided).collect())
    }

    fn item<'a>(&self, request: &'a VerifyRequest<'a>, settle: Settle) -> Item<'a> {
        let Ok(key) = PresentedKey::parse(request.key) else {
            return Item {
                request,
                presented: None,
                known: Cached::Settled(VerdictCode::Denied(Denial::Malformed), None),
            };
        };
        let found_by = self.find_by(key, request);
        let known = if request.fresh {
            Cached::Miss
        } else {
            self.cached(&found_by, request, settle)
        };
        Item {
            request,
            presented: Some((key, found_by)),
            known,
        }
    }

    /// Reads what is not known, all at once. What was known before the database was lost is judged by that.
    async fn load_missing(&self, items: &mut [Item<'_>]) -> Result<(), StoreError> {
        let is_missing =
            |item: &&mut Item<'_>| matches!(item.known, Cached::Miss | Cached::Stale(_));
        let missing = items.iter_mut().filter(is_missing);
        let (missing, wanted): (Vec<_>, Vec<_>) = missing
            .filter_map(|item| {
                let (key, found_by) = item.presented?;
                Some((item, self.wanted(&found_by, key)))
            })
            .unzip();
        if wanted.is_empty() {
            return Ok(());
        }
        let all_are_stale = missing
            .iter()
            .all(|item| matches!(item.known, Cached::Stale(_)));
        let loaded = if all_are_stale {
            self.inner.loader.reload(wanted).await
        } else {
            self.inner.loader.load(wanted).await
        };
        match loaded {
            Ok(loaded) => {
                for (item, loaded) in missing.into_iter().zip(loaded) {
                    item.known = match loaded {
                        Loaded::Known(loaded) => {
                            Cached::Judged(self.judge_loaded(*loaded, item.request)?)
                        }
                        Loaded::Unknown => {
                            Cached::Settled(VerdictCode::Denied(Denial::NotFound), None)
                        }
                        Loaded::Unreadable(denial) => {
                            Cached::Settled(VerdictCode::Denied(denial), None)
                        }
                    };
                }
                Ok(())
            }
            Err(error @ StoreError::Unavailable(_)) => {
                if missing
                    .iter()
                    .any(|item| matches!(item.known, Cached::Miss))
                {
                    return Err(error);
                }
                for item in missing {
                    if let Cached::Stale(judged) = std::mem::replace(&mut item.known, Cached::Miss)
                    {
                        item.known = Cached::Judged(judged);
                    }
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Forgets what no longer holds, and says whether there was any.
    fn give_up_outdated(&self, items: &mut [Item<'_>]) -> bool {
        let mut any = false;
        let elapsed = lease::nanos(self.inner.clock.elapsed());
        for item in items {
            if let Cached::Judged(judged) = &item.known
                && judged.verdict.is_ok()
                && judged.freshness == Freshness::Current
                && !self.still_holds(judged, elapsed)
            {
                item.known = Cached::Miss;
                any = true;
            }
        }
        any
    }

    /// What a presented key is found by. What is known of it comes from memory while its digest is worked out.
    #[inline]
    fn find_by(&self, key: PresentedKey<'_>, request: &VerifyRequest<'_>) -> MapKey {
        let inner = &*self.inner;
        let hash = cache::hash(key);
        if !request.fresh {
            inner.cache.keys.prefetch(hash);
        }
        MapKey {
            hash,
            digest: *inner.peppers.digest(key).digest.as_bytes(),
        }
    }

    /// The name of a presented key in the cache.
    pub(crate) fn known_as(&self, key: PresentedKey<'_>) -> MapKey {
        MapKey {
            hash: cache::hash(key),
            digest: *self.inner.peppers.digest(key).digest.as_bytes(),
        }
    }

    /// Judges by what the cache holds.
    #[inline]
    fn cached(&self, found_by: &MapKey, request: &VerifyRequest<'_>, settle: Settle) -> Cached {
        let inner = &*self.inner;
        let grace = inner.grace;
        // Before the record is looked at; asked for only where time passes before the verdict.
        let is_last = request.limit.is_none() && settle == Settle::Now;
        let since = match settle {
            Settle::Later(since, _) => since,
            Settle::Now if is_last => Snapshot::default(),
            Settle::Now => inner.cache.keys.snapshot(),
        };
        let found = inner.cache.keys.visit(found_by, |found| match found {
            Found::Nothing => Cached::Miss,
            Found::Tombstone => Cached::Settled(VerdictCode::Denied(Denial::Revoked), None),
            Found::Known(mut hit) => {
                let verdict = self.judge_record(hit.value, request);
                // After the work, immediately before the verdict.
                let elapsed = match settle {
                    Settle::Now => lease::nanos(inner.clock.elapsed()),
                    Settle::Later(_, elapsed) => elapsed,
                };
                let lease = inner.cache.lease.freshness(hit.read_at, elapsed, grace);
                // The mark after the lease, which speaks only for what has been marked before it was extended.
                let account_id = hit.value.facts.account_id();
                if lease == Lease::Expired
                    || account_id.is_some_and(|id| {
                        inner.cache.accounts.mark(id) != hit.value.facts.account_mark
                    })
                {
                    // Revocation is final, so it needs no lease. Of the rest nothing is told that may have changed.
                    return if hit.value.is_revoked() {
                        Cached::Settled(VerdictCode::Denied(Denial::Revoked), None)
                    } else {
                        Cached::Miss
                    };
                }
                if is_last && lease == Lease::Current {
                    // The usual case ends here, with nothing left to ask.
                    let code = match verdict {
                        Ok(()) => {
                            hit.value.note_use(elapsed);
                            hit.mark();
                            VerdictCode::Valid
                        }
                        Err(denial) => VerdictCode::Denied(denial),
                    };
                    return Cached::Settled(code, Some(self.told(hit.id, &hit.value.facts)));
                }
                let judged = Judged {
                    key: self.told(hit.id, &hit.value.facts),
                    verdict,
                    read_at: hit.read_at,
                    since,
                    freshness: Freshness::Current,
                    is_cached: true,
                };
                if lease == Lease::Current {
                    Cached::Judged(judged)
                } else {
                    Cached::Stale(Judged {
                        freshness: Freshness::Stale,
                        is_cached: false,
                        ..judged
                    })
                }
            }
        });
        if let Cached::Miss = found
            && let Some(read_at) = inner.cache.unknown.read_at(&found_by.digest)
        {
            let age = lease::nanos(inner.clock.elapsed()).saturating_sub(read_at);
            if age < lease::nanos(lease::REVOCATION_BOUND) {
                return Cached::Settled(VerdictCode::Denied(Denial::NotFound), None);
            }
        }
        found
    }

    /// What is told of a record.
    #[inline]
    fn told(&self, id: RecordId, facts: &Facts) -> VerifiedKey {
        let id = KeyId::from_uuid(uuid::Uuid::from_bytes(id));
        VerifiedKey::new(id, facts.clone(), &self.inner.plan_names)
    }

    fn wanted(&self, found_by: &MapKey, key: PresentedKey<'_>) -> Wanted {
        Wanted {
            cached_as: *found_by,
            digests: self.inner.peppers.digests(key).collect(),
        }
    }

    /// Reads the key and judges it. The inner error is the verdict where there is no record to judge.
    async fn load(
        &self,
        found_by: &MapKey,
        key: PresentedKey<'_>,
        request: &VerifyRequest<'_>,
    ) -> Result<Result<Judged, Denial>, StoreError> {
        let wanted = vec![self.wanted(found_by, key)];
        let loaded = self.inner.loader.load(wanted).await?.pop();
        self.judge_read(loaded, request)
    }

    /// As [`load`](Self::load), where there is an answer from before an outage.
    async fn reload(
        &self,
        found_by: &MapKey,
        key: PresentedKey<'_>,
        request: &VerifyRequest<'_>,
    ) -> Result<Result<Judged, Denial>, StoreError> {
        let wanted = vec![self.wanted(found_by, key)];
        let loaded = self.inner.loader.reload(wanted).await?.pop();
        self.judge_read(loaded, request)
    }

    fn judge_read(
        &self,
        loaded: Option<Loaded>,
        request: &VerifyRequest<'_>,
    ) -> Result<Result<Judged, Denial>, StoreError> {
        match loaded {
            Some(Loaded::Known(loaded)) => self.judge_loaded(*loaded, request).map(Ok),
            Some(Loaded::Unreadable(denial)) => Ok(Err(denial)),
            Some(Loaded::Unknown) | None => Ok(Err(Denial::NotFound)),
        }
    }

    fn judge_loaded(
        &self,
        loaded: LoadedKey,
        request: &VerifyRequest<'_>,
    ) -> Result<Judged, StoreError> {
        let verdict = self.judge_record(&loaded.record, request);
        let age = lease::nanos(self.inner.clock.elapsed()).saturating_sub(loaded.read_at);
        if age >= lease::nanos(lease::REVOCATION_BOUND) {
            return Err(too_slow());
        }
        Ok(Judged {
            key: VerifiedKey::new(loaded.key_id, loaded.record.facts, &self.inner.plan_names),
            verdict,
            read_at: loaded.read_at,
            since: loaded.since,
            freshness: Freshness::Current,
            is_cached: false,
        })
    }

    #[inline]
    fn judge_record(&self, record: &Record, request: &VerifyRequest<'_>) -> Result<(), Denial> {
        let question = Question {
            kinds: request.kinds,
            plans: Some(&self.inner.plans),
            address: request.address,
            scopes: request.scopes,
        };
        // The time of day is asked for only where it matters: a clock costs as much as the look-up.
        judge(&record.facts, &question, || self.now())
    }

    /// Asks the limit, if there is one, makes sure that nothing has changed meanwhile, and notes the use.
    async fn conclude(
        &self,
        found_by: &MapKey,
        presented: PresentedKey<'_>,
        mut judged: Judged,
        request: &VerifyRequest<'_>,
    ) -> Result<Verdict, VerifyError> {
        let mut rate_limit = None;
        if judged.verdict.is_ok()
            && let Some(limit) = request.limit
        {
            let mut turn = 0;
            rate_limit = self.take(&judged.key, limit, request.cost).await?;
            // Asking takes time, in which the key may have been revoked.
            while judged.freshness == Freshness::Current
                && !self.still_holds(&judged, lease::nanos(self.inner.clock.elapsed()))
            {
                turn += 1;
                if turn == TURNS_MAX {
                    return Err(VerifyError::Store(too_slow()));
                }
                match self.load(found_by, presented, request).await? {
                    Ok(again) => judged = again,
                    Err(denial) => return Ok(Verdict::denied(denial)),
                }
            }
        }
        let key_id = judged.key.id;
        let verdict = Self::concluded(judged, rate_limit);
        if verdict.is_valid() {
            let inner = &*self.inner;
            let now = lease::nanos(inner.clock.elapsed());
            if !inner.cache.note_use(found_by, key_id, now) {
                inner.cache.uses.record(Used::once(key_id, now));
            }
        }
        Ok(verdict)
    }

    /// Makes the verdict.
    fn concluded(judged: Judged, rate_limit: Option<Decision>) -> Verdict {
        let is_limited = rate_limit
            .as_ref()
            .is_some_and(|decision| !decision.allowed);
        let code = match judged.verdict {
            Err(denial) => VerdictCode::Denied(denial),
            Ok(()) if is_limited => VerdictCode::RateLimited,
            Ok(()) => VerdictCode::Valid,
        };
        Verdict {
            code,
            key: Some(judged.key),
            rate_limit,
            freshness: judged.freshness,
        }
    }

    fn still_holds(&self, judged: &Judged, elapsed: Nanos) -> bool {
        let inner = &*self.inner;
        let is_current = if judged.is_cached {
            inner
                .cache
                .lease
                .freshness(judged.read_at, elapsed, Duration::ZERO)
                == Lease::Current
        } else {
            elapsed.saturating_sub(judged.read_at) < lease::nanos(lease::REVOCATION_BOUND)
        };
        if !is_current {
            return false;
        }
        // Mostly nothing has changed at all.
        if inner.cache.keys.is_latest(judged.since) {
            return true;
        }
        let ids = [
            *judged.key.id.as_uuid().as_bytes(),
            judged
                .key
                .account()
                .map_or([0; 16], |account| account_record_id(account.id)),
        ];
        inner.cache.keys.is_unchanged(judged.since, &ids)
    }

    async fn take(
        &self,
        key: &VerifiedKey,
        limit: &LimitName,
        cost: NonZeroU32,
    ) -> Result<Option<Decision>, LimiterError> {
        let Some(account) = key.account() else {
            return Ok(None);
        };
        let plan = self.inner.plans.find(account.plan);
        let Some(rule) = plan.and_then(|plan| plan.limits.get(limit)) else {
            return Ok(None);
        };
        let bucket = Bucket {
            subject: match rule.per {
                LimitPer::Account => Subject::Account(account.id),
                LimitPer::Key => Subject::Key(key.id),
            },
            limit: limit.clone(),
        };
        let decision = self.inner.limiter.take(&bucket, rule.quota, cost).await?;
        Ok(Some(decision))
    }

    /// A name that no plan has is a typing error, which must not turn into "no limit".
    fn check_limit_name(&self, limit: Option<&LimitName>) -> Result<(), VerifyError> {
        let Some(limit) = limit else { return Ok(()) };
        let is_known = self
            .inner
            .plans
            .iter()
            .any(|(_, plan)| plan.limits.contains_key(limit));
        is_known.then_some(()).ok_or(VerifyError::UnknownLimit)
    }
}

fn too_slow() -> StoreError {
    StoreError::Unavailable("the database took too long to answer".into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keys_core::{Pepper, PepperRing};
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::{Actor, KeyDraft, MemoryStore, NewAccount};

    type Meanwhile = Box<dyn FnOnce() + Send>;

    /// The system's clock, as which something happens the next time it is looked at.
    #[derive(Clone, Default)]
    struct Eventful(Arc<Mutex<Option<Meanwhile>>>);

    impl Clock for Eventful {
        fn now(&self) -> Timestamp {
            SystemClock.now()
        }

        fn elapsed(&self) -> Duration {
            let meanwhile = self.0.lock().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
            SystemClock.elapsed()
        }
    }

    #[tokio::test]
    async fn an_account_that_changes_as_the_lease_is_looked_at_is_read_again() {
        let pepper = Pepper::from_bytes(&[7; 32]).unwrap();
        let clock = Eventful::default();
        let service = KeyService::builder(
            MemoryStore::default(),
            PepperRing::new("p1".parse().unwrap(), pepper),
        )
        .clock(clock.clone())
        .build();
        let new = NewAccount {
            external_id: None,
            plan: "pro".parse().unwrap(),
        };
        let system = Actor::system();
        let account = service.create_account(&system, new, None).await.unwrap();
        let draft = KeyDraft::new(account.id, "sk_live".parse().unwrap());
        let issued = service.issue_key(&system, draft, None).await.unwrap();
        // As if all changes had been followed up to now, and nobody follows any later.
        let lease = &service.inner.cache.lease;
        lease.extend(lease::nanos(SystemClock.elapsed()));
        let request = VerifyRequest::new(issued.secret.expose());
        for _ in 0..2 {
            assert!(service.verify(&request).await.unwrap().is_valid());
        }
        assert_eq!(service.read_state().reads, 1);
        let cache = Arc::clone(&service.inner.cache);
        *clock.0.lock() = Some(Box::new(move || cache.account_changed(account.id)));
        assert!(service.verify(&request).await.unwrap().is_valid());
        assert_eq!(service.read_state().reads, 2);
    }
}
