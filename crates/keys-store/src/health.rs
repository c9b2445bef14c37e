//! Whether the database takes writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::QueryError;

/// Whether the database takes writes, as far as the last one could tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteHealth(Arc<AtomicBool>);

impl WriteHealth {
    /// Something was written.
    pub(crate) fn succeeded(&self) {
        // Read first: this is shared by all writers, and hardly ever changes.
        if self.0.load(Ordering::Relaxed) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    /// A statement that writes failed, for whatever reason.
    pub(crate) fn failed(&self, error: &QueryError) {
        if error.is_unwritable() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// `false` after a write that failed because nothing can be written.
    pub(crate) fn is_writable(&self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}
