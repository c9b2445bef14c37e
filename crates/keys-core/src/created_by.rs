//! The party that made a key, as lists and revocations select by it.

use std::fmt;
use std::str::FromStr;

use crate::account::ExternalId;
use crate::id::KeyId;

/// Selects keys by the party that made them: `operator:ID` or `subject:TEXT`.
///
/// ```
/// use keys_core::CreatedBy;
///
/// let selected: CreatedBy = "subject:user-17".parse()?;
/// assert_eq!(selected.to_string(), "subject:user-17");
/// assert!("user-17".parse::<CreatedBy>().is_err());
/// # Ok::<(), keys_core::InvalidCreatedBy>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every store must decide for each"
)]
pub enum CreatedBy {
    /// The operator key that made them.
    Operator(KeyId),
    /// The person in whose sessions they were made.
    Subject(ExternalId),
}

impl CreatedBy {
    const OPERATOR: &'static str = "operator";
    const SUBJECT: &'static str = "subject";
}

impl fmt::Display for CreatedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(id) => write!(f, "{}:{id}", Self::OPERATOR),
            Self::Subject(subject) => write!(f, "{}:{subject}", Self::SUBJECT),
        }
    }
}

impl FromStr for CreatedBy {
    type Err = InvalidCreatedBy;

    fn from_str(text: &str) -> Result<Self, InvalidCreatedBy> {
        let (kind, value) = text.split_once(':').ok_or(InvalidCreatedBy)?;
        match kind {
            Self::OPERATOR => value.parse().map(Self::Operator).ok(),
            // Keys may carry a subject that is no longer accepted for new sessions.
            Self::SUBJECT => ExternalId::from_stored(value).map(Self::Subject).ok(),
            _ => None,
        }
        .ok_or(InvalidCreatedBy)
    }
}

/// Error returned when a text does not select keys by the party that made them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not operator:ID or subject:TEXT")]
#[non_exhaustive]
pub struct InvalidCreatedBy;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_are_refused() {
        for text in [
            "operator:AZt5bdYAcqeCoRtJcgohFA",
            "subject:user-17",
            "subject:a:b",
            "subject:operator:x",
        ] {
            assert_eq!(text.parse::<CreatedBy>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "operator",
            "operator:",
            "operator:x",
            "subject:",
            "subject:a\nb",
            "Subject:a",
            "account:AZt5bdYAcqeCoRtJcgohFA",
            &format!("subject:{}", "x".repeat(256)),
        ] {
            assert_eq!(text.parse::<CreatedBy>(), Err(InvalidCreatedBy), "{text:?}");
        }
    }
}
