use std::time::Duration;

use keys_service::GRACE_MAX;
use serde::{Deserialize, Deserializer};

use super::single;

/// Verification of keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Verification {
    /// Time for which verification continues without the database.
    #[serde(rename = "grace_seconds", deserialize_with = "grace")]
    pub grace: Duration,
}

fn grace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    single::at_most(deserializer, GRACE_MAX.as_secs()).map(Duration::from_secs)
}
