use std::fmt;
use std::num::NonZeroU32;

use serde::Deserialize;
use zeroize::Zeroizing;

/// Settings of the database.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Database {
    /// May hold a password.
    pub url: Zeroizing<String>,
    /// The URL that bypasses a pooler. Empty if there is none. May hold a password.
    pub direct_url: Zeroizing<String>,
    pub connections_max: NonZeroU32,
    pub auto_migrate: bool,
    /// Whether a first start creates an embedded database.
    pub create: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database(<redacted>)")
    }
}
