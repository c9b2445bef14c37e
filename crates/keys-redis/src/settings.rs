//! Settings of the limiter: the URL of Redis, and the prefix of its keys.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

/// The URL of Redis: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, or `rediss://` for TLS.
///
/// It may contain a password and is never shown.
#[derive(Clone)]
pub struct RedisUrl(ConnectionInfo);

impl RedisUrl {
    pub(crate) fn connection_info(&self) -> ConnectionInfo {
        self.0.clone()
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.0.addr(), ConnectionAddr::TcpTls { .. })
    }
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        let info = text.into_connection_info().map_err(|_| InvalidRedisUrl)?;
        match info.addr() {
            ConnectionAddr::Tcp(..)
            | ConnectionAddr::TcpTls {
                insecure: false, ..
            } => Ok(Self(info)),
            // A certificate that is not verified gives no protection.
            _ => Err(InvalidRedisUrl),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl(<redacted>)")
    }
}

/// Error returned when a text is not a URL of Redis. The text is not repeated, because it may
/// contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a Redis URL is redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss://.. for TLS")]
#[non_exhaustive]
pub struct InvalidRedisUrl;

/// Prefix of the keys in Redis, after `keys:`, so that several services can share one Redis.
///
/// 1 to 32 characters: lower-case letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix(Arc<str>);

impl KeyPrefix {
    /// Returns the prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `default`.
impl Default for KeyPrefix {
    fn default() -> Self {
        Self("default".into())
    }
}

impl FromStr for KeyPrefix {
    type Err = InvalidKeyPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidKeyPrefix> {
        // The key of each bucket contains it.
        const MAX_LEN: usize = 32;
        let legal = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        };
        if (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidKeyPrefix)
        }
    }
}

/// Error returned when a text is not a prefix of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a prefix of keys in Redis is 1 to 32 lower-case letters, digits, `-` and `_`")]
#[non_exhaustive]
pub struct InvalidKeyPrefix;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_apart() {
        for (text, tls) in [
            ("redis://127.0.0.1", Some(false)),
            ("redis://user:hunter2@redis.example:6380/3", Some(false)),
            ("rediss://:hunter2@redis.example", Some(true)),
            ("rediss://redis.example/#insecure", None),
            ("unix:///run/redis.sock", None),
            ("http://127.0.0.1", None),
            ("127.0.0.1:6379", None),
            ("redis://", None),
            ("", None),
        ] {
            let url = text.parse::<RedisUrl>();
            assert_eq!(url.as_ref().ok().map(RedisUrl::is_tls), tls, "{text}");
            assert!(!format!("{url:?}").contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn prefixes_are_short_and_part_no_keys() {
        for text in ["default", "a", "eu-west_1"] {
            assert_eq!(text.parse::<KeyPrefix>().unwrap().as_str(), text);
        }
        for text in ["", "a:b", "A", "a b", "{a}", &"a".repeat(33)] {
            assert_eq!(text.parse::<KeyPrefix>(), Err(InvalidKeyPrefix), "{text}");
        }
    }
}
