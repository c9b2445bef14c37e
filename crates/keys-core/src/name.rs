//! Names of keys.

use std::borrow::Cow;

use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};

use crate::texts::display_as_str;

/// The name of a key, called its description in the account contract. At least 1 and at most 500
/// Unicode scalars, at least one of them visible, no control characters and no bidirectional
/// overrides. Names need not be unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName(Box<str>);

/// Error returned when a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// Empty after trimming.
    #[error("must not be empty")]
    Empty,
    /// More Unicode scalars than the given maximum.
    #[error("must be at most {0} characters")]
    TooLong(usize),
    /// A control character, including NUL.
    #[error("must not contain control characters")]
    ControlCharacter,
    /// Only invisible characters, such as U+200B.
    #[error("must contain a visible character")]
    Invisible,
    /// A character that changes the order in which the text after it is shown: U+202A to U+202E,
    /// U+2066 to U+2069.
    #[error("must not contain bidirectional overrides")]
    BidirectionalOverride,
}

impl KeyName {
    /// Maximum number of Unicode scalars of a memo.
    pub const MEMO_MAX_CHARS: usize = 500;

    /// Maximum number of Unicode scalars of a name.
    pub const NAME_MAX_CHARS: usize = 255;

    /// Reads a required name: white space around it is dropped, 1 to 255 scalars remain.
    ///
    /// # Errors
    /// If nothing remains, it is too long, or it has a control character.
    ///
    /// ```
    /// use keys_core::KeyName;
    ///
    /// assert_eq!(KeyName::from_name("  Production Server ")?.as_str(), "Production Server");
    /// # Ok::<(), keys_core::InvalidName>(())
    /// ```
    pub fn from_name(text: &str) -> Result<Self, InvalidName> {
        let text = check(text.trim(), Self::NAME_MAX_CHARS)?;
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        check_visible(text)?;
        Ok(Self(text.into()))
    }

    /// Reads an optional memo, unchanged: at most 500 scalars. `None` for `""`.
    ///
    /// # Errors
    /// If it is too long, has a control character or bidirectional override, or has no visible
    /// character.
    pub fn from_memo(text: &str) -> Result<Option<Self>, InvalidName> {
        let memo = Self::from_stored(text)?;
        // Blanks alone are kept, as the contract says.
        if let Some(memo) = memo.as_ref().filter(|memo| !memo.0.trim().is_empty()) {
            check_visible(memo.as_str())?;
        }
        Ok(memo)
    }

    /// Reads a name that was stored earlier, when names could be invisible. `None` for `""`. Not
    /// for new names.
    ///
    /// # Errors
    /// If it is too long or has a control character.
    pub fn from_stored(text: &str) -> Result<Option<Self>, InvalidName> {
        let text = check(text, Self::MEMO_MAX_CHARS)?;
        Ok((!text.is_empty()).then(|| Self(text.into())))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

display_as_str!(KeyName);

/// Refuses text that is invisible, or is shown in another order than it is read.
pub(crate) fn check_visible(text: &str) -> Result<(), InvalidName> {
    if text.chars().any(is_bidirectional_override) {
        Err(InvalidName::BidirectionalOverride)
    } else if text.chars().any(is_visible) {
        Ok(())
    } else {
        Err(InvalidName::Invisible)
    }
}

/// Returns the text for a terminal: control characters, bidirectional controls and characters
/// without a width are written as `\u{202e}`.
///
/// ```
/// use keys_core::escaped;
///
/// assert_eq!(escaped("Production Server"), "Production Server");
/// assert_eq!(escaped("a\u{202e}b\u{1b}[2J"), r"a\u{202e}b\u{1b}[2J");
/// ```
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(hides) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hides(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn is_bidirectional_override(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns whether the character is visible by itself: a letter, number, sign or symbol that has a
/// glyph.
fn is_visible(c: char) -> bool {
    match c.general_category_group() {
        GeneralCategoryGroup::Letter
        | GeneralCategoryGroup::Number
        | GeneralCategoryGroup::Punctuation
        | GeneralCategoryGroup::Symbol => !is_blank_glyph(c),
        GeneralCategoryGroup::Mark => c.general_category() == GeneralCategory::SpacingMark,
        // Blanks, controls, formats, and characters without an agreed glyph.
        GeneralCategoryGroup::Separator | GeneralCategoryGroup::Other => false,
    }
}

/// Letters and symbols whose glyph is blank, in the same categories as visible ones.
fn is_blank_glyph(c: char) -> bool {
    matches!(
        c,
        // Hangul fillers, which Unicode calls default-ignorable.
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
        // The Braille pattern without dots, and the placeholder of a missing object.
        | '\u{2800}' | '\u{fffc}'
        // Blank hieroglyphs, and the musical note without a head.
        | '\u{13441}' | '\u{13442}' | '\u{1d159}'
    )
}

/// Returns whether a terminal would obey the character, or show nothing.
fn hides(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    // Marks that Unicode calls default-ignorable: joiners and selectors of variants.
    let is_ignorable_mark = matches!(
        c,
        '\u{34f}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}'
    );
    is_ignorable_mark
        || is_blank_glyph(c)
        || matches!(
            c.general_category(),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
                | GeneralCategory::Unassigned
        )
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

    #[test]
    fn names_that_cannot_be_seen_are_refused() {
        for text in [
            "\u{200b}",
            "\u{200b}\u{200d}\u{feff}",
            "a\u{200b}".trim_start_matches('a'),
            "\u{ad}",
            "\u{2060}\u{2064}",
            "\u{115f}\u{1160}",
            "\u{3164}",
            "\u{ffa0}",
            "\u{2800}\u{2800}",
            "\u{34f}\u{fe0f}",
            "\u{301}",
            "\u{e0001}\u{e0020}",
            "\u{13441}",
            "\u{1d159}",
            "\u{fff9}",
            "\u{e000}",
            "\u{200b} \u{2003}\u{200b}",
        ] {
            assert_eq!(
                KeyName::from_name(text),
                Err(InvalidName::Invisible),
                "{text:?}"
            );
            assert_eq!(
                KeyName::from_memo(text),
                Err(InvalidName::Invisible),
                "{text:?}"
            );
            // Stored names stay readable.
            assert_eq!(KeyName::from_stored(text).unwrap().unwrap().as_str(), text);
        }
        assert!(KeyName::from_memo("  ").is_ok());
    }

    #[test]
    fn names_that_show_in_another_order_are_refused() {
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}') {
            let text = format!("a{c}b");
            let refused = Err(InvalidName::BidirectionalOverride);
            assert_eq!(KeyName::from_name(&text), refused, "{text:?}");
            assert_eq!(
                KeyName::from_memo(&text).map(|_| ()),
                refused.map(|_: KeyName| ())
            );
            assert!(KeyName::from_stored(&text).is_ok());
        }
    }

    #[test]
    fn names_in_any_script_are_taken() {
        for text in [
            "CI",
            "-",
            "\u{4f60}\u{597d}",
            "\u{645}\u{631}\u{62d}\u{628}\u{627}",
            // Joiners are part of words and of emoji.
            "\u{646}\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "\u{1f469}\u{200d}\u{1f4bb}",
            "\u{2764}\u{fe0f}",
            "1\u{20e3}",
            "e\u{301}",
            "\u{915}\u{94d}\u{200d}\u{937}",
            "\u{a9}",
            // Direction marks alone change no order.
            "abc \u{200e}\u{5d0}",
        ] {
            assert_eq!(KeyName::from_name(text).unwrap().as_str(), text);
            assert_eq!(KeyName::from_memo(text).unwrap().unwrap().as_str(), text);
        }
    }

    #[test]
    fn terminals_are_shown_what_hides() {
        assert_eq!(
            escaped("d\u{e9}j\u{e0} \u{4f60}"),
            "d\u{e9}j\u{e0} \u{4f60}"
        );
        for c in [
            '\u{0}',
            '\u{7}',
            '\u{1b}',
            '\n',
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2069}',
            '\u{2060}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0061}',
        ] {
            let text = format!("a{c}b");
            assert_eq!(escaped(&text), format!("a{}b", c.escape_unicode()));
        }
    }
}
