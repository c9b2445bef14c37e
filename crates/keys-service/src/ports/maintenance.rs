//! The port to the maintenance of a store.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::{PepperId, Timestamp};

use super::errors::StoreError;

/// Checks a store, deletes old rows, and runs background work.
#[async_trait]
pub trait Maintenance: Send + Sync + 'static {
    /// Checks that the database can be read and has the schema that this program knows, without
    /// caching. Also returns whether it accepts changes, as far as that is known without making
    /// one.
    async fn ready(&self) -> Result<Readiness, StoreError>;

    /// Returns the peppers of usable keys: neither revoked nor, at `now`, expired.
    async fn pepper_ids(&self, now: Timestamp) -> Result<Vec<PepperId>, StoreError>;

    /// Deletes idempotent answers that have expired, and returns how many. Also deletes sessions
    /// that ended more than [`ENDED_SESSIONS_KEPT`] ago, and prunes the log of changes, never past
    /// a feed that is being followed. Each of the three is done even if another one fails, a batch
    /// at a time and for a bounded time; the next call continues with the rest.
    ///
    /// # Errors
    /// The first failure. It names the kind that could not be deleted.
    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Runs `future` where the store runs its own work, for as long as that takes: on a runtime
    /// that outlives the request that asks. By default on the current runtime.
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        drop(tokio::spawn(future));
    }
}

/// A future on the heap that may be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time for which a session is kept after its end, so that a denial can still name the reason.
pub const ENDED_SESSIONS_KEPT: Duration = Duration::from_hours(24);

/// The state of a store that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// `false` while it is known that nothing can be changed: the database is read-only, its disk
    /// is full, or commits do not end.
    pub is_writable: bool,
}

impl Readiness {
    /// Creates the state of a store.
    #[must_use]
    pub const fn new(is_writable: bool) -> Self {
        Self { is_writable }
    }
}
