//! Uses of keys.

use keys_core::{KeyId, Timestamp};

/// Uses of one key since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key_id: KeyId,
    /// The latest of them.
    pub last_used_at: Timestamp,
    /// How many.
    pub count: u64,
}
