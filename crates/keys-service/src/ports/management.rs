//! Reads and changes of single keys, for management.

use async_trait::async_trait;
use keys_core::{KeyDetails, KeyId};

use super::errors::StoreError;
use super::keys::UnreadableKey;

/// Keys as management sees them, with everything that is stored about them.
#[async_trait]
pub trait KeyManagement: Send + Sync + 'static {
    /// Returns the key of any kind, also if it has ended. `None` if there is none.
    ///
    /// # Errors
    /// If the store cannot answer.
    async fn find_key(
        &self,
        id: KeyId,
    ) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError>;
}
