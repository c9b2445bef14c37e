//! Judgement of cached records.

use std::time::Duration;

use keys_core::{Denial, KeyId, PresentedKey, Question, judge};

use super::request::VerifyRequest;
use super::verdict::{Freshness, VerdictCode, VerifiedKey};
use crate::cache;
use crate::cache::generations::Snapshot;
use crate::cache::lease::{self, Freshness as Lease, Nanos};
use crate::cache::map::{Found, MapKey, RecordId};
use crate::cache::record::{Facts, Record, account_record_id};
use crate::service::KeyService;

/// A judged record, before the limit.
pub(super) struct Judged {
    pub(super) key: VerifiedKey,
    pub(super) verdict: Result<(), Denial>,
    pub(super) read_at: u64,
    /// It contains all changes up to here.
    pub(super) since: Snapshot,
    pub(super) freshness: Freshness,
    pub(super) is_cached: bool,
}

impl Judged {
    /// Whether it was cached, so that time has passed since its lease was checked.
    pub(super) fn waited(&self) -> bool {
        self.is_cached || self.freshness == Freshness::Stale
    }
}

/// Result of looking into the cache.
pub(super) enum Cached {
    /// This verdict, without any further step.
    Settled(VerdictCode, Option<VerifiedKey>),
    Judged(Judged),
    /// No valid record.
    Miss,
    /// A record that is valid only while the database is unavailable.
    Stale(Judged),
}

/// Whether a verdict may be given from the cache alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Settle {
    /// If no further step is needed.
    Now,
    /// Only after other waits. Changes up to the snapshot are contained in the record, and it is
    /// judged as of the time.
    Later(Snapshot, Nanos),
}

impl KeyService {
    /// Computes the look-up key of a presented key. Its record is prefetched while the digest is
    /// computed.
    #[inline]
    pub(super) fn find_by(&self, key: PresentedKey<'_>, request: &VerifyRequest<'_>) -> MapKey {
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

    /// Returns the look-up key of a presented key in the cache.
    pub(crate) fn known_as(&self, key: PresentedKey<'_>) -> MapKey {
        MapKey {
            hash: cache::hash(key),
            digest: *self.inner.peppers.digest(key).digest.as_bytes(),
        }
    }

    /// Judges by the cached record.
    #[inline]
    pub(super) fn cached(
        &self,
        found_by: &MapKey,
        request: &VerifyRequest<'_>,
        settle: Settle,
    ) -> Cached {
        let inner = &*self.inner;
        let grace = inner.grace;
        // Before the record is read. Called only if time passes before the verdict.
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
                // The mark after the lease, which covers only the marks that were set before it was
                // extended.
                let account_id = hit.value.facts.account_id();
                if lease == Lease::Expired
                    || account_id.is_some_and(|id| {
                        inner.cache.accounts.mark(id) != hit.value.facts.account_mark
                    })
                {
                    // Revocation is final, so it needs no lease. All else may have changed.
                    return if hit.value.is_revoked() {
                        Cached::Settled(VerdictCode::Denied(Denial::Revoked), None)
                    } else {
                        Cached::Miss
                    };
                }
                if is_last && lease == Lease::Current {
                    // The usual case ends here, without any further step.
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

    /// Returns the data about a key in a verdict.
    #[inline]
    fn told(&self, id: RecordId, facts: &Facts) -> VerifiedKey {
        let id = KeyId::from_uuid(uuid::Uuid::from_bytes(id));
        VerifiedKey::new(id, facts.clone(), &self.inner.plan_names)
    }

    #[inline]
    pub(super) fn judge_record(
        &self,
        record: &Record,
        request: &VerifyRequest<'_>,
    ) -> Result<(), Denial> {
        // The time of day is read only if it matters, because a clock costs as much as the look-up.
        judge(&record.facts, &self.question(request), || self.now())
    }

    #[inline]
    fn question<'a>(&'a self, request: &'a VerifyRequest<'_>) -> Question<'a> {
        Question {
            kinds: request.kinds,
            plans: Some(&self.inner.plans),
            address: request.address,
            scopes: request.scopes,
        }
    }

    /// Judges what a verdict will tell about a key, after time has passed.
    pub(super) fn judge_again(
        &self,
        key: &VerifiedKey,
        request: &VerifyRequest<'_>,
    ) -> Result<(), Denial> {
        judge(key.facts(), &self.question(request), || self.now())
    }

    /// Whether a record may still be trusted, as far as that depends on time alone.
    pub(super) fn is_fresh(&self, judged: &Judged, elapsed: Nanos) -> bool {
        let lease = |grace| {
            let lease = &self.inner.cache.lease;
            lease.freshness(judged.read_at, elapsed, grace)
        };
        match judged.freshness {
            Freshness::Current if judged.is_cached => lease(Duration::ZERO) == Lease::Current,
            Freshness::Current => {
                elapsed.saturating_sub(judged.read_at) < lease::nanos(lease::REVOCATION_BOUND)
            }
            Freshness::Stale => lease(self.inner.grace) != Lease::Expired,
        }
    }

    /// Whether no change up to `latest` concerns a record.
    pub(super) fn is_unchanged(&self, judged: &Judged, latest: Snapshot) -> bool {
        // Usually nothing has changed at all.
        if latest <= judged.since {
            return true;
        }
        let ids = [
            *judged.key.id().as_uuid().as_bytes(),
            judged
                .key
                .account()
                .map_or([0; 16], |account| account_record_id(account.id)),
        ];
        self.inner.cache.keys.is_unchanged(judged.since, &ids)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use keys_core::{Pepper, PepperRing, Timestamp};
    use parking_lot::Mutex;

    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::{Actor, KeyDraft, MemoryStore, NewAccount};

    type Meanwhile = Box<dyn FnOnce() + Send>;

    /// The system's clock, which triggers an event the next time it is read.
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
        let new = NewAccount::new("pro".parse().unwrap());
        let system = Actor::system();
        let account = service.create_account(&system, new).await.unwrap();
        let draft = KeyDraft::new(account.id, "sk_live".parse().unwrap());
        let issued = service.issue_key(&system, draft).await.unwrap();
        // As if all changes had been followed up to now, and none will be later.
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
