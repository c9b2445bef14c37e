//! Verification of keys. The fast path.
//!
//! Form and checksum are checked first, then the cache or the database is asked for the key. The
//! record is judged by [`judge`](keys_core::judge()), as management judges it. The limit comes
//! last, so a refused key takes nothing from it. The age of the record is checked after all that,
//! immediately before the verdict.
//!
//! | Module | Holds |
//! |---|---|
//! | `request`, `verdict` | requests and verdicts |
//! | `cached` | the judgement of a cached record |
//! | `batch` | verdicts that wait for the database, a limit, or other requests |

mod batch;
mod cached;
mod request;
mod verdict;

use keys_core::{Denial, PresentedKey};

use self::batch::Item;
use self::cached::{Cached, Settle};
pub use self::request::VerifyRequest;
pub use self::verdict::{
    Freshness, Verdict, VerdictCode, VerifiedAccount, VerifiedKey, VerifyError,
};
use crate::cache::lease;
use crate::service::KeyService;

impl KeyService {
    /// Verifies one key.
    ///
    /// # Errors
    /// If the store or the limiter is unavailable, or no plan has the limit.
    pub async fn verify(&self, request: &VerifyRequest<'_>) -> Result<Verdict, VerifyError> {
        self.check_limit_name(request.limit)?;
        let Ok(key) = PresentedKey::parse(request.key) else {
            return Ok(Verdict::denied(Denial::Malformed));
        };
        let found_by = self.find_by(key, request);
        let mut known = if request.fresh {
            Cached::Miss
        } else {
            self.cached(&found_by, request, Settle::Now)
        };
        if let Cached::Stale(_) = known {
            // It is compared with later changes, so it is looked up after a snapshot of them.
            let since = self.inner.cache.keys.snapshot();
            let elapsed = lease::nanos(self.inner.clock.elapsed());
            known = self.cached(&found_by, request, Settle::Later(since, elapsed));
        }
        if let Cached::Settled(code, key) = known {
            return Ok(Verdict::current(code, key));
        }
        // A verdict that waits is a batch of one. It is boxed, because on the stack it would make
        // every verification large to move.
        let item = Item::new(request, key, found_by, known);
        Box::pin(self.verify_one(item)).await
    }
}
