//! The upkeep of a store.

use std::pin::Pin;
use std::time::Duration;

/// A future on the heap that may go to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How long a session is kept after its end, so that a denial can still say why.
pub const ENDED_SESSIONS_KEPT: Duration = Duration::from_hours(24);

/// The state of a store that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// `false` while it is known that nothing can be changed: the database is read-only, its disk is full, or commits do not end.
    pub is_writable: bool,
}
