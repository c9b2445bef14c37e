//! What people call their keys.

use std::fmt;

/// A key's name, which the account dialect calls its description. At least 1 and at most 500 Unicode scalars, no
/// control characters; names need not be unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName(Box<str>);

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Nothing left after trimming.
    #[error("must not be empty")]
    Empty,
    /// More Unicode scalars than the given maximum.
    #[error("must be at most {0} characters")]
    TooLong(usize),
    /// A control character, NUL among them.
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl KeyName {
    /// The most Unicode scalars of a memo.
    pub const MEMO_MAX_CHARS: usize = 500;

    /// The most Unicode scalars of a name.
    pub const NAME_MAX_CHARS: usize = 255;

    /// Reads a required name: white space around it is dropped, 1 to 255 scalars remain.
    ///
    /// # Errors
    /// When nothing remains, too much does, or it has a control character.
    ///
    /// ```
    /// use keys_core::KeyName;
    ///
    /// assert_eq!(KeyName::from_name("  Production Server ")?.as_str(), "Production Server");
    /// # Ok::<(), keys_core::name::InvalidName>(())
    /// ```
    pub fn from_name(text: &str) -> Result<Self, InvalidName> {
        let text = check(text.trim(), Self::NAME_MAX_CHARS)?;
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        Ok(Self(text.into()))
    }

    /// Reads an optional memo, kept as it is: at most 500 scalars, and `""` is none.
    ///
    /// # Errors
    /// When it is too long or has a control character.
    pub fn from_memo(text: &str) -> Result<Option<Self>, InvalidName> {
        let text = check(text, Self::MEMO_MAX_CHARS)?;
        Ok((!text.is_empty()).then(|| Self(text.into())))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str, max_chars: usize) -> Result<&str, InvalidName> {
    if text.chars().nth(max_chars).is_some() {
        Err(InvalidName::TooLong(max_chars))
    } else if text.chars().any(char::is_control) {
        Err(InvalidName::ControlCharacter)
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_counted_in_scalars_not_bytes() {
        assert!(KeyName::from_name(&"é".repeat(255)).is_ok());
        assert_eq!(
            KeyName::from_name(&"é".repeat(256)),
            Err(InvalidName::TooLong(255))
        );
        assert!(KeyName::from_memo(&"🔑".repeat(500)).is_ok());
        assert_eq!(
            KeyName::from_memo(&"🔑".repeat(501)),
            Err(InvalidName::TooLong(500))
        );
    }

    #[test]
    fn blank_names_are_refused_and_blank_memos_are_none() {
        assert_eq!(KeyName::from_name("  \u{3000} "), Err(InvalidName::Empty));
        assert_eq!(KeyName::from_memo(""), Ok(None));
    }

    #[test]
    fn control_characters_are_refused() {
        for text in ["a\0b", "a\nb", "a\u{7f}b", "a\u{85}b"] {
            assert_eq!(
                KeyName::from_name(text),
                Err(InvalidName::ControlCharacter),
                "{text:?}"
            );
            assert_eq!(
                KeyName::from_memo(text),
                Err(InvalidName::ControlCharacter),
                "{text:?}"
            );
        }
    }
}
