//! Revocations that this instance has acknowledged, applied again after a failover.
//!
//! With asynchronous replication, the server that takes over may lack the last changes. A
//! revocation that was answered 200 must not be lost while the instance that answered it is
//! running, so each instance applies its own again. Revoking is idempotent: if nothing was lost,
//! nothing is changed. Until that is done, and if it fails, the instance refuses these keys,
//! whatever it reads about them.

use std::time::Duration;

use keys_core::{KeyId, Revocation, RevocationReason};

use crate::actor::Actor;
use crate::cache::lease::{Nanos, nanos};
use crate::ports::StoreError;
use crate::service::KeyService;

/// The reason in the audit trail.
const REASON: &str = "replayed";

/// Number of revocations that are applied concurrently.
const AT_ONCE: usize = 4;

/// Pause after a failed attempt, and number of attempts: a minute in all.
const PAUSE: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = 240;

impl KeyService {
    /// Returns the number of acknowledged revocations that are remembered, to be applied again
    /// after a failover.
    #[must_use]
    pub fn revocations_remembered(&self) -> usize {
        let now = nanos(self.inner.clock.elapsed());
        self.inner.cache.acknowledged.len(now)
    }

    /// Starts to apply acknowledged revocations again, after a server took over from one that was
    /// last reached at `heard_at`.
    pub(crate) fn replay_revocations(&self, heard_at: Nanos) {
        let now = nanos(self.inner.clock.elapsed());
        let ids = self.inner.cache.acknowledged.to_replay(heard_at, now);
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
