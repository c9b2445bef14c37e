//! Where a contract is served, and on which terms.

use std::fmt;

use keys_core::KeyPrefix;
use keys_service::issue::{OPERATOR_PREFIX, SESSION_PREFIX};

/// Where one of the two contracts is served, and what it asks of accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path of create and list, such as `/api/api-keys`; delete is one segment below.
    pub path: String,
    /// What the keys made through it start with.
    pub key_prefix: KeyPrefix,
    /// Whether the account's plan must have keys.
    pub plan_gate: bool,
    /// Whether the plan's maximum of usable keys holds.
    pub cap: bool,
}

impl Mount {
    /// Where the flat contract is documented: `/api/api-keys`, keys start with `sk_live`.
    #[must_use]
    pub fn flat() -> Self {
        Self::new("/api/api-keys", "sk_live")
    }

    /// Where the account contract is documented: `/api/account/api-keys`, keys start with `xyp`.
    #[must_use]
    pub fn account() -> Self {
        Self::new("/api/account/api-keys", "xyp")
    }

    fn new(path: &str, key_prefix: &str) -> Self {
        Self {
            path: path.to_owned(),
            key_prefix: key_prefix.parse().expect("documented prefixes are legal"),
            plan_gate: true,
            cap: true,
        }
    }

    /// Whether it can be served: [`ApiBuilder::build`](crate::ApiBuilder::build) insists on it.
    ///
    /// # Errors
    /// When the path is not one or more plain segments, or the prefix is that of operators' keys or sessions.
    pub fn check(&self) -> Result<(), InvalidMount> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment = |text: &str| !text.is_empty() && text.bytes().all(plain);
        let segments = self.path.strip_prefix('/').ok_or(InvalidMount::Path)?;
        if !segments.split('/').all(is_segment) {
            return Err(InvalidMount::Path);
        }
        if [OPERATOR_PREFIX, SESSION_PREFIX].contains(&self.key_prefix.as_str()) {
            return Err(InvalidMount::ReservedPrefix);
        }
        Ok(())
    }
}

/// Why a [`Mount`] cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidMount {
    /// The path is not made of plain segments, each after a slash.
    Path,
    /// The prefix is that of operators' keys or of sessions.
    ReservedPrefix,
}

impl fmt::Display for InvalidMount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => {
                "a mount's path is segments of letters, digits and `-._~`, each after a slash"
            }
            Self::ReservedPrefix => "a mount's key prefix must not be `operator` or `session`",
        })
    }
}

impl std::error::Error for InvalidMount {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_served() {
        for path in [
            "", "/", "keys", "/keys/", "//keys", "/{id}", "/a b", "/keys?x",
        ] {
            let mount = Mount {
                path: path.to_owned(),
                ..Mount::flat()
            };
            assert_eq!(mount.check(), Err(InvalidMount::Path), "{path:?}");
        }
        assert_eq!(Mount::flat().check(), Ok(()));
        assert_eq!(Mount::account().check(), Ok(()));
    }

    #[test]
    fn prefixes_of_other_kinds_of_credentials_are_refused() {
        for prefix in ["operator", "session"] {
            let mount = Mount {
                key_prefix: prefix.parse().unwrap(),
                ..Mount::flat()
            };
            assert_eq!(mount.check(), Err(InvalidMount::ReservedPrefix));
        }
    }
}
