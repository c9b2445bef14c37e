//! Reads and changes of keys, for management.

use async_trait::async_trait;
use keys_core::{KeyDetails, KeyId};

use super::errors::StoreError;
use super::keys::UnreadableKey;
use super::lists::{KeyListing, ListedKeys};

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

    /// Returns one page of keys. Keyset positions make its cost independent of how many pages came
    /// before, and keep pages stable while rows come and go.
    ///
    /// The query was [checked](super::KeyQuery::check) and has no external identifier. An account
    /// that is sorted by last use has at most [`EXAMINED_MAX`](super::EXAMINED_MAX) keys. At most
    /// that many rows are examined; then the page ends, also if it is not full.
    ///
    /// # Errors
    /// If the store cannot answer.
    async fn list_keys(&self, listing: KeyListing) -> Result<ListedKeys, StoreError>;
}
