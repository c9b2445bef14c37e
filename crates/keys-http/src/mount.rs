//! The path of a contract, and its conditions.

use std::fmt;
use std::str::FromStr;

use keys_core::{IssuePolicy, KeyPrefix};
use keys_service::is_reserved;

/// Path of a contract, such as `/api/api-keys`: segments of letters, digits and `-._~`, each after
/// a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPath(Box<str>);

impl MountPath {
    /// Returns the path as it was parsed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MountPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MountPath {
    type Err = InvalidMountPath;

    fn from_str(text: &str) -> Result<Self, InvalidMountPath> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_segment = |text: &str| !text.is_empty() && text.bytes().all(plain);
        let segments = text.strip_prefix('/').ok_or(InvalidMountPath)?;
        if segments.split('/').all(is_segment) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidMountPath)
        }
    }
}

/// Error returned when a text is not a valid path of a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mount's path is segments of letters, digits and `-._~`, each after a slash")]
#[non_exhaustive]
pub struct InvalidMountPath;

/// The path of one of the two contracts, and its requirements on accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Mount {
    pub(crate) path: MountPath,
    pub(crate) key_prefix: KeyPrefix,
    pub(crate) policy: IssuePolicy,
}

impl Mount {
    /// Serves create and list at `path` and delete one segment below. Keys that are made there
    /// start with `key_prefix`, their account must be on a plan with keys, and the plan's maximum
    /// of usable keys holds.
    ///
    /// ```
    /// use keys_http::Mount;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mount = Mount::new("/v2/keys".parse()?, "acme".parse()?)?.cap(false);
    /// # let _ = mount;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`ReservedPrefix`] if the prefix is that of operators' keys or of sessions.
    pub fn new(path: MountPath, key_prefix: KeyPrefix) -> Result<Self, ReservedPrefix> {
        if is_reserved(&key_prefix) {
            return Err(ReservedPrefix);
        }
        Ok(Self {
            path,
            key_prefix,
            policy: IssuePolicy::default(),
        })
    }

    /// Returns the documented mount of the flat contract: `/api/api-keys`, keys start with
    /// `sk_live`.
    pub fn flat() -> Self {
        Self::documented("/api/api-keys", "sk_live")
    }

    /// Returns the documented mount of the account contract: `/api/account/api-keys`, keys start
    /// with `xyp`.
    pub fn account() -> Self {
        Self::documented("/api/account/api-keys", "xyp")
    }

    fn documented(path: &str, key_prefix: &str) -> Self {
        let path = path.parse().expect("documented paths are legal");
        let key_prefix = key_prefix.parse().expect("documented prefixes are legal");
        Self::new(path, key_prefix).expect("documented prefixes are not reserved")
    }

    /// Sets whether the account's plan must have keys. Defaults to `true`.
    pub fn plan_gate(mut self, plan_gate: bool) -> Self {
        self.policy.plan_gate = plan_gate;
        self
    }

    /// Sets whether the plan's maximum of usable keys applies. Defaults to `true`.
    pub fn cap(mut self, cap: bool) -> Self {
        self.policy.cap = cap;
        self
    }
}

/// Error returned when a mount's key prefix is that of another kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mount's key prefix must not be `operator` or `session`")]
#[non_exhaustive]
pub struct ReservedPrefix;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_served() {
        for path in [
            "", "/", "keys", "/keys/", "//keys", "/{id}", "/a b", "/keys?x",
        ] {
            assert_eq!(path.parse::<MountPath>(), Err(InvalidMountPath), "{path:?}");
        }
        assert_eq!(Mount::flat().path.as_str(), "/api/api-keys");
        assert_eq!(Mount::account().path.as_str(), "/api/account/api-keys");
    }

    #[test]
    fn prefixes_of_other_kinds_of_credentials_are_refused() {
        for prefix in ["operator", "session"] {
            let mount = Mount::new("/keys".parse().unwrap(), prefix.parse().unwrap());
            assert_eq!(mount, Err(ReservedPrefix));
        }
    }
}
