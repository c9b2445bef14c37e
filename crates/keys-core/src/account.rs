//! Accounts, which hold keys.

use std::str::FromStr;

use crate::id::AccountId;
use crate::name::check_visible;
use crate::plan::PlanName;
use crate::texts::display_as_str;
use crate::timestamp::Timestamp;

/// The host system's own identifier of an account, such as a user or tenant id.
///
/// 1 to 255 Unicode scalars, at least one of them visible, without control characters and
/// bidirectional overrides. Unique among accounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId(Box<str>);

impl ExternalId {
    /// Maximum number of Unicode scalars.
    pub const MAX_CHARS: usize = 255;

    /// Reads an identifier that was stored earlier, when it could be invisible: to show it, or to
    /// find its account. Not for new ones.
    ///
    /// # Errors
    /// If it is empty, too long, or has a control character.
    pub fn from_stored(text: &str) -> Result<Self, InvalidExternalId> {
        if text.is_empty()
            || text.chars().nth(Self::MAX_CHARS).is_some()
            || text.chars().any(char::is_control)
        {
            return Err(InvalidExternalId);
        }
        Ok(Self(text.into()))
    }

    /// Returns the identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExternalId {
    type Err = InvalidExternalId;

    fn from_str(text: &str) -> Result<Self, InvalidExternalId> {
        let id = Self::from_stored(text)?;
        check_visible(text).map_err(|_| InvalidExternalId)?;
        Ok(id)
    }
}

display_as_str!(ExternalId);

/// Error returned when a text is not an external identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "an external id is 1 to 255 characters, at least one of them visible, and no control character or bidirectional override"
)]
#[non_exhaustive]
pub struct InvalidExternalId;

/// An account. It holds keys, and its plan sets their maximum and the rate limits.
///
/// Serialized accounts of earlier versions are read, so a field that is added later is an `Option`
/// or has a serde default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(::serde::Serialize, ::serde::Deserialize))]
#[non_exhaustive]
pub struct Account {
    /// Our identifier.
    pub id: AccountId,
    /// The host system's identifier, if it has one.
    pub external_id: Option<ExternalId>,
    /// The plan. It may have been removed from the configuration since.
    pub plan: PlanName,
    /// Disabled accounts keep everything, and all their requests are refused.
    pub disabled: bool,
    /// Time of creation.
    pub created_at: Timestamp,
}

impl Account {
    /// Creates the record of an enabled account without external identifier.
    #[must_use]
    pub const fn new(id: AccountId, plan: PlanName, created_at: Timestamp) -> Self {
        Self {
            id,
            external_id: None,
            plan,
            disabled: false,
            created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_that_cannot_be_seen_are_read_and_not_taken() {
        for text in ["\u{200b}", " ", "user\u{202e}-17", "\u{3164}"] {
            assert_eq!(
                text.parse::<ExternalId>(),
                Err(InvalidExternalId),
                "{text:?}"
            );
            assert_eq!(ExternalId::from_stored(text).unwrap().as_str(), text);
        }
        for text in ["user-17", "\u{4f60}", " a ", "a\u{200d}b"] {
            assert_eq!(text.parse::<ExternalId>().unwrap().as_str(), text);
        }
    }
}
