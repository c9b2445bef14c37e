//! Who holds keys.

use std::fmt;
use std::str::FromStr;

use crate::{AccountId, PlanName, Timestamp};

/// What the host system calls an account: its own user or tenant identifier.
///
/// 1 to 255 Unicode scalars without control characters; unique among accounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalId(Box<str>);

impl ExternalId {
    /// The most Unicode scalars.
    pub const MAX_CHARS: usize = 255;

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ExternalId {
    type Err = InvalidExternalId;

    fn from_str(text: &str) -> Result<Self, InvalidExternalId> {
        if text.is_empty()
            || text.chars().nth(Self::MAX_CHARS).is_some()
            || text.chars().any(char::is_control)
        {
            return Err(InvalidExternalId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no external identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an external id is 1 to 255 characters, none of them a control character")]
pub struct InvalidExternalId;

/// An account: it holds keys, and its plan says how many and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Our identifier.
    pub id: AccountId,
    /// The host system's identifier, if it gave one.
    pub external_id: Option<ExternalId>,
    /// The plan; it may have left the configuration since.
    pub plan: PlanName,
    /// Disabled accounts keep everything and may do nothing.
    pub disabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
}
