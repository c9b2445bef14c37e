//! The port to the record of uses of keys.

use async_trait::async_trait;
use keys_core::{KeyId, Timestamp};

use super::errors::StoreError;

/// Records when and how often keys are used.
#[async_trait]
pub trait KeyUses: Send + Sync + 'static {
    /// Records uses: adds the counts, moves each `last_used_at` forward, never back. Not audited.
    ///
    /// Returns the keys that another transaction has locked for longer than a moment. None of their
    /// uses are recorded, so that they do not delay the others. Try them again later.
    async fn record_uses(&self, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError>;
}

/// Uses of one key since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUse {
    /// The key.
    pub key_id: KeyId,
    /// Time of the latest use.
    pub last_used_at: Timestamp,
    /// Number of uses.
    pub count: u64,
}

impl KeyUse {
    /// Creates the record of `count` uses.
    #[must_use]
    pub const fn new(key_id: KeyId, last_used_at: Timestamp, count: u64) -> Self {
        Self {
            key_id,
            last_used_at,
            count,
        }
    }
}
