//! Propagation of changes to all instances, and waiting for it.

use std::time::Duration;

use keys_core::Timestamp;

use crate::ports::{Commit, REVOCATION_BOUND, silence_max};
use crate::service::KeyService;

/// A committed change, and the time by which every instance has applied it.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Effective {
    /// `None` if it is not known, because the change was made by an earlier attempt.
    commit: Option<Commit>,
    /// Time on the monotonic clock.
    deadline: Duration,
    by: Timestamp,
}

impl Effective {
    /// Returns the time by which every instance has applied the change, even if every notification
    /// is lost: the bound after the change, or the grace if that is longer, because an instance
    /// that is cut off accepts cached keys for so long.
    #[must_use]
    pub fn everywhere_by(&self) -> Timestamp {
        self.by
    }
}

/// Adds an allowance where another machine's clock is involved: a percent, because clocks run at
/// different rates, and 50 ms, because they are read late.
fn allowed_for_clocks(bound: Duration) -> Duration {
    bound + bound / 100 + Duration::from_millis(50)
}

impl KeyService {
    /// Returns the propagation of a commit. Call it as soon as the transaction is known to be
    /// committed.
    pub(crate) fn effective(&self, commit: Commit) -> Effective {
        Effective {
            commit: Some(commit),
            ..self.effective_already()
        }
    }

    /// Returns the propagation of a change that was committed by an earlier attempt, at most a
    /// moment ago.
    pub(crate) fn effective_already(&self) -> Effective {
        let bound = allowed_for_clocks(REVOCATION_BOUND.max(self.inner.grace));
        Effective {
            commit: None,
            deadline: self.inner.clock.elapsed() + bound,
            by: self.now().saturating_add(bound),
        }
    }

    /// Waits until every instance has applied the change, or the bound has passed. Returns that
    /// time.
    pub async fn everywhere(&self, effective: Effective) -> Timestamp {
        /// Interval of queries to the database, because instances need some milliseconds to apply a
        /// change.
        const PAUSE: Duration = Duration::from_millis(10);
        loop {
            let left = effective
                .deadline
                .saturating_sub(self.inner.clock.elapsed());
            if left.is_zero() {
                return effective.by;
            }
            let Some(commit) = &effective.commit else {
                tokio::time::sleep(left).await;
                continue;
            };
            let silence = silence_max(self.inner.grace);
            let asked = self.inner.store.is_seen_everywhere(commit, silence);
            match tokio::time::timeout(left, asked).await {
                Ok(Ok(true)) => return self.now(),
                // If the store cannot tell, the wait takes its full time.
                Ok(Ok(false) | Err(_)) | Err(_) => tokio::time::sleep(PAUSE.min(left)).await,
            }
        }
    }
}
