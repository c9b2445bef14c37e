//! Revocations that this instance has acknowledged, applied again after a failover.
//!
//! With asynchronous replication, the server that takes over may lack the last changes. A
//! revocation that was answered 200 must not be lost while the instance that answered it is
//! running, so each instance applies its own again. Revoking is idempotent: if nothing was lost,
//! nothing is changed.

use std::collections::VecDeque;
use std::time::Duration;

use keys_core::{KeyId, Revocation, RevocationReason};
use parking_lot::Mutex;

use crate::actor::Actor;
use crate::cache::lease::{Nanos, nanos};
use crate::ports::StoreError;
use crate::service::KeyService;

/// Maximum age of a revocation that is applied again, when the old primary is lost, and maximum
/// time since that loss. Beyond it, the state of the new primary may be a later decision.
const REPLAYED_MAX: Duration = Duration::from_mins(1);

/// Maximum number of remembered revocations: 8,300 a second for two minutes. The oldest are dropped
/// first.
const REMEMBERED_MAX: usize = 1_000_000;

/// The reason in the audit trail.
const REASON: &str = "replayed";

/// Number of revocations that are applied concurrently.
const AT_ONCE: usize = 4;

/// Pause after a failed attempt, and number of attempts: a minute in all.
const PAUSE: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = 240;

/// A revocation: when it was acknowledged, the key, and the reason.
type Kept = (Nanos, KeyId, Option<RevocationReason>);

/// Recently acknowledged revocations, oldest first. Their notes are not kept.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged(Mutex<VecDeque<Kept>>);

impl Acknowledged {
    /// Remembers that a revocation is about to be acknowledged.
    pub(crate) fn note(&self, now: Nanos, id: KeyId, reason: Option<RevocationReason>) {
        let mut kept = self.0.lock();
        forget_old(&mut kept, now);
        if kept.len() >= REMEMBERED_MAX {
            kept.pop_front();
        }
        kept.push_back((now, id, reason));
    }

    pub(crate) fn len(&self, now: Nanos) -> usize {
        let mut kept = self.0.lock();
        forget_old(&mut kept, now);
        kept.len()
    }

    /// Returns the revocations to apply again now, after the loss of a server that was last reached
    /// at `heard_at`.
    pub(crate) fn to_replay(
        &self,
        heard_at: Nanos,
        now: Nanos,
    ) -> Vec<(KeyId, Option<RevocationReason>)> {
        if now.saturating_sub(heard_at) >= nanos(REPLAYED_MAX) {
            return Vec::new();
        }
        let since = heard_at.saturating_sub(nanos(REPLAYED_MAX));
        let kept = self.0.lock();
        kept.iter()
            .filter(|(at, ..)| *at >= since)
            .map(|(_, id, reason)| (*id, *reason))
            .collect()
    }
}

/// Revocations older than both limits together are never applied again.
fn forget_old(kept: &mut VecDeque<Kept>, now: Nanos) {
    let kept_for = nanos(2 * REPLAYED_MAX);
    while kept
        .front()
        .is_some_and(|(at, ..)| now.saturating_sub(*at) > kept_for)
    {
        kept.pop_front();
    }
}

impl KeyService {
    /// Returns the number of acknowledged revocations that are remembered, to be applied again
    /// after a failover.
    #[must_use]
    pub fn revocations_remembered(&self) -> usize {
        self.inner
            .acknowledged
            .len(nanos(self.inner.clock.elapsed()))
    }

    /// Starts to apply acknowledged revocations again, after a server took over from one that was
    /// last reached at `heard_at`.
    pub(crate) fn replay_revocations(&self, heard_at: Nanos) {
        let now = nanos(self.inner.clock.elapsed());
        let ids = self.inner.acknowledged.to_replay(heard_at, now);
        tracing::warn!(
            revocations = ids.len(),
            "another server of the cluster has taken over: {} revocations that this instance acknowledged are applied again",
            ids.len(),
        );
        for ids in ids.chunks(ids.len().div_ceil(AT_ONCE).max(1)) {
            let (service, ids) = (self.clone(), ids.to_vec());
            self.inner.store.spawn(Box::pin(async move {
                let mut lost = 0_usize;
                for (id, reason) in ids {
                    match service.replay_revocation(id, reason).await {
                        Ok(was_lost) => lost += usize::from(was_lost),
                        Err(error) => tracing::error!(
                            error = &error as &dyn std::error::Error,
                            key.id = %id,
                            "the revocation of key {id} was acknowledged before the failover and could not be applied again",
                        ),
                    }
                }
                if lost > 0 {
                    tracing::warn!(
                        revocations = lost,
                        "{lost} acknowledged revocations had been lost in the failover and are in force again"
                    );
                }
            }));
        }
    }

    /// Revokes a key again. `false` if it was still revoked, or is unknown.
    async fn replay_revocation(
        &self,
        id: KeyId,
        reason: Option<RevocationReason>,
    ) -> Result<bool, StoreError> {
        let mut attempts = 1;
        loop {
            match self.revoke_again(id, reason).await {
                Ok(was_lost) => return Ok(was_lost),
                Err(StoreError::Unavailable(_)) if attempts < ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn revoke_again(
        &self,
        id: KeyId,
        reason: Option<RevocationReason>,
    ) -> Result<bool, StoreError> {
        let unexpected =
            |error: Box<dyn std::error::Error + Send + Sync>| StoreError::Unexpected(error);
        let mut change = self
            .change(&Actor::system(), self.now(), None)
            .map_err(|error| unexpected(error.into()))?;
        change.reason = Some(REASON);
        let again = Revocation::new(reason);
        let revoked = self.inner.store.revoke_key(None, id, again, change).await;
        match revoked {
            Ok(commit) => Ok(commit.is_some()),
            Err(crate::ports::ChangeError::Store(error)) => Err(error),
            Err(error) => Err(unexpected(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u128) -> KeyId {
        KeyId::from_uuid(uuid::Uuid::from_u128(number))
    }

    fn second(seconds: u64) -> Nanos {
        nanos(Duration::from_secs(seconds))
    }

    #[test]
    fn revocations_of_the_last_minute_before_the_loss_are_replayed() {
        let acknowledged = Acknowledged::default();
        for at in [100, 139, 140, 199, 200] {
            acknowledged.note(second(at), key(at.into()), None);
        }
        // The server was last reached at 200 s.
        let replayed = acknowledged.to_replay(second(200), second(205));
        assert_eq!(replayed, [140, 199, 200].map(|number| (key(number), None)));
        // Includes one that was acknowledged after the last poll.
        acknowledged.note(second(201), key(201), Some(RevocationReason::Leaked));
        let replayed = acknowledged.to_replay(second(200), second(205));
        assert_eq!(replayed.len(), 4);
        let last = (key(201), Some(RevocationReason::Leaked));
        assert_eq!(replayed.last(), Some(&last));
    }

    #[test]
    fn nothing_is_replayed_a_minute_after_the_loss() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(second(199), key(1), None);
        assert_eq!(acknowledged.to_replay(second(200), second(259)).len(), 1);
        assert_eq!(acknowledged.to_replay(second(200), second(260)).len(), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(second(1), key(1), None);
        assert_eq!(acknowledged.len(second(121)), 1);
        assert_eq!(acknowledged.len(second(122)), 0);
        for number in 0..=REMEMBERED_MAX {
            acknowledged.note(second(122), key(number as u128), None);
        }
        assert_eq!(acknowledged.len(second(122)), REMEMBERED_MAX);
        let replayed = acknowledged.to_replay(second(122), second(122));
        assert_eq!(replayed.first(), Some(&(key(1), None)));
    }
}
