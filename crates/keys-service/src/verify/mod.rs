//! May this key do this, from there, now? The hot path.
//!
//! The order of judgement: form and checksum, cache or database by digest, tombstone, revoked, expired, kind, account, plan, address, scope, and
//! the limit last: a refused key never burns its quota. The age of what is judged by is looked at after all that, immediately before
//! the verdict.

mod batch;
mod cached;
mod request;
mod verdict;

use keys_core::{Denial, PresentedKey};

use self::batch::{TURNS_MAX, too_slow};
use self::cached::{Cached, Judged, Settle};
pub use self::request::VerifyRequest;
pub use self::verdict::{
    Freshness, Verdict, VerdictCode, VerifiedAccount, VerifiedKey, VerifyError,
};
use crate::cache::lease;
use crate::cache::loader::Loaded;
use crate::cache::map::MapKey;
use crate::service::KeyService;
use crate::ports::StoreError;
use crate::usage::Used;

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
        let key_id = judged.key.id();
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
}
