use keys_service::CacheOptions;
use serde::Deserialize;

/// Limits of the cache of verified keys.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cache {
    entries_max: usize,
    bytes_max: usize,
}

impl From<Cache> for CacheOptions {
    fn from(cache: Cache) -> Self {
        Self::default()
            .entries_max(cache.entries_max)
            .bytes_max(cache.bytes_max)
    }
}
