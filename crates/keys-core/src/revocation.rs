//! Why a key was revoked.

use std::fmt;
use std::str::FromStr;

use crate::name::{InvalidName, KeyName, check_visible};

macro_rules! reasons {
    ($($(#[$attribute:meta])+ $name:ident = $text:literal,)+) => {
        /// Reason of a revocation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum RevocationReason {
            $($(#[$attribute])+ $name,)+
        }

        impl RevocationReason {
            /// All reasons. Complete, because the list and the enum are made from one table.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$name),+];

            /// Returns the stable name of the reason.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// Another key took its place.
    Superseded = "superseded",
    /// The secret became known to others. Also revokes every successor of the key, and every key
    /// that the chain created.
    Leaked = "leaked",
    /// The person or program that had it is gone.
    Offboarded = "offboarded",
    /// It was not used any more.
    Unused = "unused",
    /// Any other reason.
    Other = "other",
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RevocationReason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let mut all = Self::ALL.into_iter();
        all.find(|reason| reason.as_str() == text)
            .ok_or(UnknownReason)
    }
}

/// Error returned when a text is not a reason of revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason is {}", RevocationReason::ALL.map(RevocationReason::as_str).join(", "))]
#[non_exhaustive]
pub struct UnknownReason;

/// A note of the caller about a revocation: 1 to 500 characters, at least one of them visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationNote(Box<str>);

impl RevocationNote {
    /// Parses a note that was stored, which may be one that is no longer accepted.
    ///
    /// # Errors
    /// If it is empty, too long or contains control characters.
    pub fn from_stored(text: &str) -> Result<Self, InvalidName> {
        let memo = KeyName::from_stored(text)?;
        memo.map_or(Err(InvalidName::Empty), |memo| {
            Ok(Self(memo.as_str().into()))
        })
    }

    /// Returns the note as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RevocationNote {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let note = Self::from_stored(text)?;
        check_visible(text)?;
        Ok(note)
    }
}

/// The reason of a revocation and the caller's note.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Revocation {
    /// The reason. `None` if the caller gave none.
    pub reason: Option<RevocationReason>,
    /// The note.
    pub note: Option<RevocationNote>,
}

impl Revocation {
    /// Creates a revocation for a reason.
    #[must_use]
    pub const fn new(reason: Option<RevocationReason>) -> Self {
        Self { reason, note: None }
    }

    /// Sets the caller's note.
    #[must_use]
    pub fn note(mut self, note: Option<RevocationNote>) -> Self {
        self.note = note;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_back_and_others_are_refused() {
        for reason in RevocationReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
        }
        for text in ["", "Leaked", "compromised"] {
            assert_eq!(text.parse::<RevocationReason>(), Err(UnknownReason));
        }
        assert_eq!(
            UnknownReason.to_string(),
            "a reason is superseded, leaked, offboarded, unused, other"
        );
    }

    #[test]
    fn notes_are_visible_and_bounded() {
        for text in ["", "\u{200b}", "a\nb", &"x".repeat(501)] {
            assert!(text.parse::<RevocationNote>().is_err(), "{text:?}");
        }
        assert!("x".repeat(500).parse::<RevocationNote>().is_ok());
    }
}
