use keys_redis::{KeyPrefix, RedisUrl};
use keys_service::OnUnavailable;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::single;

/// Settings of rate limits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    /// `None` counts inside the process.
    #[serde(deserialize_with = "redis_url")]
    pub redis_url: Option<RedisUrl>,
    #[serde(deserialize_with = "on_unavailable")]
    pub on_unavailable: OnUnavailable,
    #[serde(deserialize_with = "super::single::parsed")]
    pub key_prefix: KeyPrefix,
}

/// The URL may contain a password, so no error repeats it.
fn redis_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RedisUrl>, D::Error> {
    match Zeroizing::<String>::deserialize(deserializer)?.trim() {
        "" => Ok(None),
        url => match url.parse() {
            Ok(url) => Ok(Some(url)),
            Err(error) => {
                let error = anyhow::Error::new(error);
                Err(D::Error::custom(format_args!(": {error:#}")))
            }
        },
    }
}

fn on_unavailable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OnUnavailable, D::Error> {
    let choices = [
        ("local", OnUnavailable::Local),
        ("deny", OnUnavailable::Deny),
    ];
    single::chosen(deserializer, choices)
}
