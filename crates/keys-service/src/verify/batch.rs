//! Verification of several keys at once.

use std::num::NonZeroU32;

use keys_core::{Denial, LimitName, LimitPer, PresentedKey};

use super::cached::{Cached, Judged, Settle};
use super::request::VerifyRequest;
use super::verdict::{Freshness, Verdict, VerdictCode, VerifiedKey, VerifyError};
use crate::cache::lease;
use crate::cache::loader::{Loaded, LoadedKey, Wanted};
use crate::cache::map::MapKey;
use crate::ports::{Decision, LimiterError, StoreError, Subject};
use crate::service::KeyService;
use crate::usage::Used;

/// One request of several.
pub(super) struct Item<'a> {
    request: &'a VerifyRequest<'a>,
    /// The key as it was presented, and its key in the cache. `None` if it is malformed.
    presented: Option<(PresentedKey<'a>, MapKey)>,
    known: Cached,
}

impl<'a> Item<'a> {
    pub(super) fn new(
        request: &'a VerifyRequest<'a>,
        key: PresentedKey<'a>,
        found_by: MapKey,
        known: Cached,
    ) -> Self {
        Self {
            request,
            presented: Some((key, found_by)),
            known,
        }
    }
}

/// The decision of a limit on the item at this index. `None` if the account has no such limit.
type Decided = (usize, Option<Decision>);

/// Keys that are prefetched before the first of them is looked up. Waiting for memory then overlaps
/// with computing the digests of the others, and all their records stay in the CPU's first cache.
const AHEAD: usize = 32;

/// Repetitions of a verdict because its record changed while a limit was checked.
const TURNS_MAX: u32 = 4;

impl KeyService {
    /// Verifies several keys, in order. All keys that are not cached are read at once, and all
    /// limits are checked at once.
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
        let mut items = Vec::with_capacity(requests.len());
        let mut presented = Vec::with_capacity(AHEAD);
        for requests in requests.chunks(AHEAD) {
            presented.extend(requests.iter().map(|request| self.presented(request)));
            let chunk = requests.iter().zip(presented.drain(..));
            items.extend(chunk.map(|(request, presented)| self.item(request, presented, settle)));
        }
        let decisions = self.conclude(&mut items).await?;
        Ok(self.verdicts(items, decisions).collect())
    }

    /// Answers one request that the cache alone cannot answer.
    pub(super) async fn verify_one(&self, mut item: Item<'_>) -> Result<Verdict, VerifyError> {
        let decisions = self.conclude(std::slice::from_mut(&mut item)).await?;
        let mut verdicts = self.verdicts([item], decisions);
        Ok(verdicts.next().expect("one item has one verdict"))
    }

    /// Reads missing records and checks the limits, until everything that the verdicts depend on is
    /// valid at one moment.
    async fn conclude(&self, items: &mut [Item<'_>]) -> Result<Vec<Decided>, VerifyError> {
        self.load_missing(items).await?;
        let decisions = self.take_all(items).await?;
        // A key that was just read alone, and has no limit, is judged as of its read.
        if let [item] = items
            && item.request.limit.is_none()
            && !matches!(&item.known, Cached::Judged(judged) if judged.waited())
        {
            return Ok(decisions);
        }
        // All this took time, in which keys may have been revoked. Nothing is waited for after the
        // last check.
        let mut turns = 0;
        while self.give_up_outdated(items) {
            turns += 1;
            if turns == TURNS_MAX {
                return Err(too_slow().into());
            }
            self.load_missing(items).await?;
        }
        for item in items {
            if let Cached::Judged(judged) = &mut item.known
                && judged.verdict.is_ok()
                && judged.key.expires_at().is_some()
            {
                judged.verdict = self.judge_again(&judged.key, item.request);
            }
        }
        Ok(decisions)
    }

    /// Makes the verdicts, and records the uses.
    fn verdicts<'a>(
        &self,
        items: impl IntoIterator<Item = Item<'a>>,
        decisions: Vec<Decided>,
    ) -> impl Iterator<Item = Verdict> {
        let cache = &self.inner.cache;
        let now = lease::nanos(self.inner.clock.elapsed());
        let mut decisions = decisions.into_iter().peekable();
        items.into_iter().enumerate().map(move |(place, item)| {
            let decided = decisions.next_if(|(decided, _)| *decided == place);
            let judged = match item.known {
                Cached::Settled(code, key) => return Verdict::current(code, key),
                Cached::Judged(judged) => judged,
                Cached::Miss | Cached::Stale(_) => return Verdict::denied(Denial::NotFound),
            };
            let key_id = judged.key.id();
            let verdict = concluded(judged, decided.and_then(|(_, decision)| decision));
            let is_noted = |(_, found_by)| cache.note_use(&found_by, key_id, now);
            if verdict.is_valid() && !item.presented.is_some_and(is_noted) {
                cache.uses.record(Used::once(key_id, now));
            }
            verdict
        })
    }

    /// Checks the limits of all items that have one.
    async fn take_all(&self, items: &[Item<'_>]) -> Result<Vec<Decided>, LimiterError> {
        let takes = items.iter().enumerate().filter_map(|(place, item)| {
            let limit = item.request.limit?;
            match &item.known {
                Cached::Judged(judged) if judged.verdict.is_ok() => Some(async move {
                    let taken = self.take_from(&judged.key, limit, item.request.cost);
                    let decision = taken.await?;
                    Ok((place, decision))
                }),
                _ => None,
            }
        });
        futures_util::future::try_join_all(takes).await
    }

    /// Reads the presented key and prefetches its record. `None` if the key is malformed.
    fn presented<'a>(&self, request: &VerifyRequest<'a>) -> Option<(PresentedKey<'a>, MapKey)> {
        let key = PresentedKey::parse(request.key).ok()?;
        Some((key, self.find_by(key, request)))
    }

    fn item<'a>(
        &self,
        request: &'a VerifyRequest<'a>,
        presented: Option<(PresentedKey<'a>, MapKey)>,
        settle: Settle,
    ) -> Item<'a> {
        let known = match &presented {
            None => Cached::Settled(VerdictCode::Denied(Denial::Malformed), None),
            Some(_) if request.fresh => Cached::Miss,
            Some((_, found_by)) => self.cached(found_by, request, settle),
        };
        Item {
            request,
            presented,
            known,
        }
    }

    /// Reads all missing items at once. If the database is unavailable, items that were cached
    /// before are judged by their cached record.
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
            Err(StoreError::Unavailable(_)) if all_are_stale => {
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

    /// Discards outdated records, and returns whether there were any.
    fn give_up_outdated(&self, items: &mut [Item<'_>]) -> bool {
        let mut any = false;
        let mut give_up = |item: &mut Item<'_>, holds: &dyn Fn(&Judged) -> bool| {
            if let Cached::Judged(judged) = &item.known
                && judged.verdict.is_ok()
                && !holds(judged)
            {
                item.known = Cached::Miss;
                any = true;
            }
        };
        let elapsed = lease::nanos(self.inner.clock.elapsed());
        for item in items.iter_mut() {
            give_up(item, &|judged| self.is_fresh(judged, elapsed));
        }
        // Taken after all leases were looked at: a lease that was extended meanwhile covers changes
        // that an earlier snapshot does not have.
        let latest = self.inner.cache.keys.snapshot();
        for item in items.iter_mut() {
            give_up(item, &|judged| self.is_unchanged(judged, latest));
        }
        any
    }

    fn wanted(&self, found_by: &MapKey, key: PresentedKey<'_>) -> Wanted {
        Wanted {
            cached_as: *found_by,
            digests: self.inner.peppers.digests(key).collect(),
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

    /// Takes from the limit of the account's plan and from the key's own limit of that name.
    async fn take_from(
        &self,
        key: &VerifiedKey,
        limit: &LimitName,
        cost: NonZeroU32,
    ) -> Result<Option<Decision>, LimiterError> {
        let account = key.account();
        let rule = account.and_then(|account| {
            let plan = self.inner.plans.find(account.plan)?;
            plan.limits.get(limit)
        });
        let of_plan = account.zip(rule).map(|(account, rule)| {
            let subject = match rule.per {
                LimitPer::Account => Subject::Account(account.id),
                LimitPer::Key => Subject::Key(key.id()),
            };
            (subject, rule.quota)
        });
        let of_key = key.own_limit(limit).map(|quota| (key.id(), quota));
        self.take(limit, of_plan, of_key, cost).await
    }

    /// A name that no plan has is a typing error, which must not turn into "no limit".
    pub(super) fn check_limit_name(&self, limit: Option<&LimitName>) -> Result<(), VerifyError> {
        let is_known = limit.is_none_or(|limit| self.is_known_limit(limit));
        is_known.then_some(()).ok_or(VerifyError::UnknownLimit)
    }
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

fn too_slow() -> StoreError {
    StoreError::Unavailable("the database took too long to answer".into())
}
