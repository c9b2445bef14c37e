//! Whether the database accepts writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::QueryError;

/// Whether the database accepts writes, according to the last one.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteHealth(Arc<AtomicBool>);

impl WriteHealth {
    /// Records a successful write.
    pub(crate) fn succeeded(&self) {
        // Read first, because all writers share it and it rarely changes.
        if self.0.load(Ordering::Relaxed) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    /// Records a failed write.
    pub(crate) fn failed(&self, error: &QueryError) {
        if error.is_unwritable() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Returns `false` after a write that failed because nothing can be written.
    pub(crate) fn is_writable(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}
