//! The port to idempotent answers.

use std::time::Duration;

use async_trait::async_trait;
use keys_core::{EventId, Timestamp};

use super::errors::StoreError;

/// Reserves idempotent answers. A reserved answer is completed by the change that it belongs to, in
/// the transaction of that change: see [`Change::completion`](super::Change::completion).
#[async_trait]
pub trait Idempotency: Send + Sync + 'static {
    /// Reserves an idempotent answer. One that has expired, and a pending one whose time is over,
    /// are taken over. So is, at once, a pending one whose process has ended, if the store can
    /// tell.
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError>;

    /// Releases a reservation after a refusal, unless another attempt took over.
    async fn release(&self, lookup: [u8; 32], token: EventId) -> Result<(), StoreError>;
}

/// Time after which another attempt under an `Idempotency-Key` may take over: longer than any
/// request may take.
pub const RESERVATION_PENDING: Duration = Duration::from_secs(30);

/// Time for which an idempotent answer is kept.
pub const RESERVATION_KEPT: Duration = Duration::from_mins(10);

/// An attempt to be the only request that creates a record, under an `Idempotency-Key`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Reservation {
    /// Digests that the reservation may be stored under, one for each pepper, the current one
    /// first.
    pub lookups: Vec<[u8; 32]>,
    /// Digest of the request's body.
    pub body_digest: [u8; 32],
    /// Identifies this attempt.
    pub token: EventId,
    /// Now.
    pub at: Timestamp,
    /// Time from which others may assume that this attempt died.
    pub pending_until: Timestamp,
}

impl Reservation {
    /// Creates a reservation made `at` a time, that is pending for [`RESERVATION_PENDING`].
    #[must_use]
    pub fn new(
        lookups: Vec<[u8; 32]>,
        body_digest: [u8; 32],
        token: EventId,
        at: Timestamp,
    ) -> Self {
        Self {
            lookups,
            body_digest,
            token,
            at,
            pending_until: at.saturating_add(RESERVATION_PENDING),
        }
    }
}

/// Result of a [`Reservation`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: an attempt is new, pending or done"
)]
pub enum Reserved {
    /// This attempt is the only one. Complete or release it.
    New,
    /// Another attempt is under way.
    Pending {
        /// Time from which this one may take over, if the other has not ended.
        until: Timestamp,
    },
    /// It was completed before, with a body of this digest, and this is the sealed answer, stored
    /// under this look-up digest.
    Done {
        /// Digest of the body of the request that completed it.
        body_digest: [u8; 32],
        /// The digest it is stored under.
        lookup: [u8; 32],
        /// The sealed answer.
        sealed: Vec<u8>,
    },
}

/// The sealed answer of a [`Reservation`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Completion {
    /// The first of the reservation's look-up digests.
    pub lookup: [u8; 32],
    /// The reservation's token. If another attempt has taken over since, the change must not
    /// happen.
    pub token: EventId,
    /// The sealed answer.
    pub sealed: Vec<u8>,
    /// Time until which it is kept.
    pub expires_at: Timestamp,
}

impl Completion {
    /// Creates the completion of the reservation with this look-up digest and token.
    #[must_use]
    pub const fn new(
        lookup: [u8; 32],
        token: EventId,
        sealed: Vec<u8>,
        expires_at: Timestamp,
    ) -> Self {
        Self {
            lookup,
            token,
            sealed,
            expires_at,
        }
    }
}
