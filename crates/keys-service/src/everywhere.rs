//! When a change is effective everywhere, and waiting for that.

use std::time::Duration;

use keys_core::Timestamp;

use crate::ports::{Commit, REVOCATION_BOUND, silence_max};
use crate::service::KeyService;

/// A change that was made, and by when no instance goes by what was before it.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Effective {
    commit: Commit,
    /// On the clock of intervals.
    deadline: Duration,
    by: Timestamp,
}

impl Effective {
    /// By when no instance accepts what the change forbids, even if every notification was lost: the bound after the change, or the
    /// grace where that is longer, since an instance that is cut off accepts for so long what it knows.
    #[must_use]
    pub fn everywhere_by(&self) -> Timestamp {
        self.by
    }
}

/// Added to the bound where somebody else's clock is involved: a percent, since clocks run at different rates, and 50 ms, since
/// they are read late.
fn allowed_for_clocks(bound: Duration) -> Duration {
    bound + bound / 100 + Duration::from_millis(50)
}

impl KeyService {
    /// To be called as soon as the transaction is known to be committed.
    pub(crate) fn effective(&self, commit: Commit) -> Effective {
        let bound = allowed_for_clocks(REVOCATION_BOUND.max(self.inner.grace));
        Effective {
            commit,
            deadline: self.inner.clock.elapsed() + bound,
            by: self.now().saturating_add(bound),
        }
    }

    /// Waits until no instance anywhere goes by what was before the change: until all have applied it, or the bound has
    /// passed. Returns by when that was so.
    pub async fn everywhere(&self, effective: Effective) -> Timestamp {
        /// Between two questions to the database: instances need some milliseconds to hear of a change.
        const PAUSE: Duration = Duration::from_millis(10);
        loop {
            let left = effective
                .deadline
                .saturating_sub(self.inner.clock.elapsed());
            if left.is_zero() {
                return effective.by;
            }
            let silence = silence_max(self.inner.grace);
            let asked = self
                .inner
                .store
                .is_seen_everywhere(&effective.commit, silence);
            match tokio::time::timeout(left, asked).await {
                Ok(Ok(true)) => return self.now(),
                // A store that cannot tell costs the wait its full time, nothing else.
                Ok(Ok(false) | Err(_)) | Err(_) => tokio::time::sleep(PAUSE.min(left)).await,
            }
        }
    }
}
