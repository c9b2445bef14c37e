//! The whole record of a key, as management shows it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::audit::AuditActor;
use crate::id::KeyId;
use crate::key::ApiKey;
use crate::metadata::Metadata;
use crate::revocation::Revocation;
use crate::timestamp::Timestamp;

/// A key with everything that is stored about it but the secret and its digest. Verification needs
/// only [`ApiKey`]; the rest is read by management.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDetails {
    /// The fields that judge it.
    pub key: ApiKey,
    /// The party that made it. `None` if the key is older than this field. The person in whose
    /// session it was made is [`ApiKey::subject`].
    pub created_by: Option<AuditActor>,
    /// Names and values of the host system.
    pub metadata: Metadata,
    /// The key that this one replaced by rotation.
    pub predecessor: Option<KeyId>,
    /// The key that replaced this one by rotation.
    pub successor: Option<KeyId>,
    /// Reason and note of the revocation. Empty unless the key is revoked.
    pub revocation: Revocation,
    /// The client address of a recent use.
    pub last_used_ip: Option<IpAddr>,
    /// Number of successful uses; may lag by the flush interval.
    pub use_count: u64,
}

impl KeyDetails {
    /// Creates the details of a key about which nothing else is known.
    #[must_use]
    pub fn new(key: ApiKey) -> Self {
        Self {
            key,
            created_by: None,
            metadata: Metadata::default(),
            predecessor: None,
            successor: None,
            revocation: Revocation::default(),
            last_used_ip: None,
            use_count: 0,
        }
    }

    /// Returns the status at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        let key = &self.key;
        if key.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if key.expires_at.is_some_and(|end| now >= end) {
            KeyStatus::Expired
        } else if key.disabled_at.is_some() {
            KeyStatus::Disabled
        } else if self.successor.is_some() {
            KeyStatus::Rotating
        } else {
            KeyStatus::Active
        }
    }

    /// Returns the version of the fields that callers can change. Uses do not change it.
    #[must_use]
    pub fn version(&self) -> KeyVersion {
        let key = &self.key;
        let mut hash = Sha256::new();
        // Debug texts are unambiguous: strings in them are quoted. The version is compared with
        // what this program computed before, and an unequal one only costs the caller a second
        // read, so the form need not be stable across versions of the program.
        hash.update(format!(
            "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
            key.id,
            key.name,
            key.allowed_networks,
            key.scopes,
            key.expires_at,
            key.revoked_at,
            key.disabled_at,
            key.limits,
            self.metadata,
            self.successor,
        ));
        let digest: [u8; 32] = hash.finalize().into();
        let start = digest.into_iter().take(size_of::<u64>());
        KeyVersion(start.fold(0, |number, byte| number << 8 | u64::from(byte)))
    }
}

/// The version of a key, to notice a change by another caller. Equal versions mean equal fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyVersion(u64);

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyVersion {
    type Err = InvalidKeyVersion;

    fn from_str(text: &str) -> Result<Self, InvalidKeyVersion> {
        let is_legal = text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = is_legal.then(|| u64::from_str_radix(text, 16).ok());
        number.flatten().map(Self).ok_or(InvalidKeyVersion)
    }
}

/// Error returned when a text is not the version of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version of a key is 16 hexadecimal digits")]
#[non_exhaustive]
pub struct InvalidKeyVersion;

macro_rules! statuses {
    ($($(#[$attribute:meta])+ $name:ident = $text:literal,)+) => {
        /// The status of a key, the first that applies in this order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(
            clippy::exhaustive_enums,
            reason = "complete: every surface decides for each"
        )]
        pub enum KeyStatus {
            $($(#[$attribute])+ $name,)+
        }

        impl KeyStatus {
            /// All statuses. Complete, because the list and the enum are made from one table.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$name),+];

            /// Returns the stable name of the status.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

statuses! {
    /// It was revoked, which is final.
    Revoked = "revoked",
    /// Its expiry has passed.
    Expired = "expired",
    /// It is disabled, which can be undone.
    Disabled = "disabled",
    /// It was rotated and is accepted until its grace ends.
    Rotating = "rotating",
    /// It is accepted.
    Active = "active",
}

impl KeyStatus {
    /// Returns whether the key has ended for good, so that it can no longer be changed.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Revoked | Self::Expired)
    }
}

impl fmt::Display for KeyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyStatus {
    type Err = UnknownKeyStatus;

    fn from_str(text: &str) -> Result<Self, UnknownKeyStatus> {
        let mut all = Self::ALL.into_iter();
        all.find(|status| status.as_str() == text)
            .ok_or(UnknownKeyStatus)
    }
}

/// Error returned when a text is not the status of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a status is {}", KeyStatus::ALL.map(KeyStatus::as_str).join(", "))]
#[non_exhaustive]
pub struct UnknownKeyStatus;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyKind;
    use crate::key_format::SecretKey;

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    fn details() -> KeyDetails {
        let secret =
            SecretKey::generate(&"sk_live".parse().unwrap(), &mut getrandom::SysRng).unwrap();
        let id = KeyId::generate(NOON, &mut getrandom::SysRng).unwrap();
        let key = ApiKey::new(id, KeyKind::Account, secret.shown_prefix(), NOON);
        KeyDetails::new(key)
    }

    #[test]
    fn the_first_status_that_applies_is_shown() {
        let mut details = details();
        details.key.revoked_at = Some(NOON);
        details.key.expires_at = Some(NOON);
        details.key.disabled_at = Some(NOON);
        details.successor = Some(details.key.id);
        for status in KeyStatus::ALL {
            assert_eq!(details.status(NOON), status);
            assert_eq!(status.as_str().parse(), Ok(status));
            assert_eq!(status.is_ended(), status <= KeyStatus::Expired);
            match status {
                KeyStatus::Revoked => details.key.revoked_at = None,
                KeyStatus::Expired => details.key.expires_at = None,
                KeyStatus::Disabled => details.key.disabled_at = None,
                KeyStatus::Rotating => details.successor = None,
                KeyStatus::Active => {}
            }
        }
    }

    #[test]
    fn the_version_follows_changes_and_not_uses() {
        let mut details = details();
        let before = details.version();
        assert_eq!(before.to_string().parse(), Ok(before));
        details.key.last_used_at = Some(NOON);
        details.use_count = 7;
        details.last_used_ip = Some([127, 0, 0, 1].into());
        assert_eq!(details.version(), before);
        details.metadata = Metadata::new([("a", "b")]).unwrap();
        assert_ne!(details.version(), before);
        for text in [
            "",
            "0",
            "00000000000000000",
            "000000000000000G",
            "+00000000000000f",
        ] {
            assert_eq!(text.parse::<KeyVersion>(), Err(InvalidKeyVersion), "{text}");
        }
    }
}
