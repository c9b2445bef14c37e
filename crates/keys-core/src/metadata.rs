//! Metadata of keys: names and values that belong to the host system.

use std::collections::BTreeMap;

/// Names and values that the host system keeps with a key. Sorted by name. The service stores and
/// shows them, and decides nothing by them.
///
/// ```
/// use keys_core::Metadata;
///
/// let metadata = Metadata::new([("team", "billing")])?;
/// assert_eq!(metadata.get("team"), Some("billing"));
/// assert!(Metadata::new([("Team", "billing")]).is_err());
/// # Ok::<(), keys_core::InvalidMetadata>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(::serde::Serialize, ::serde::Deserialize),
    serde(
        try_from = "BTreeMap<String, String>",
        into = "BTreeMap<String, String>"
    )
)]
pub struct Metadata(BTreeMap<Box<str>, Box<str>>);

impl Metadata {
    /// Maximum length of a name.
    pub const NAME_MAX_LEN: usize = 40;

    /// Maximum length of the whole as a JSON object without blanks, in bytes.
    pub const MAX_LEN: usize = 4_096;

    /// Collects names and values. The last value of a repeated name is kept.
    ///
    /// # Errors
    /// If a name is not 1 to 40 lower-case letters, digits and `_`, a value contains a NUL, which
    /// PostgreSQL cannot store, or the whole is longer than [`MAX_LEN`](Self::MAX_LEN).
    pub fn new<N, V>(entries: impl IntoIterator<Item = (N, V)>) -> Result<Self, InvalidMetadata>
    where
        N: Into<Box<str>>,
        V: Into<Box<str>>,
    {
        let mut metadata = BTreeMap::new();
        // The braces. Each entry adds four quotes, a colon and a comma.
        let mut len = 2;
        for (name, value) in entries {
            let (name, value): (Box<str>, Box<str>) = (name.into(), value.into());
            if !Self::is_name(&name) {
                return Err(InvalidMetadata::Name);
            }
            if value.contains('\0') {
                return Err(InvalidMetadata::Nul);
            }
            len += name.len() + value.chars().map(json_len).sum::<usize>() + 6;
            if let Some(former) = metadata.insert(name, value) {
                len -= former.chars().map(json_len).sum::<usize>();
            }
            if len > Self::MAX_LEN {
                return Err(InvalidMetadata::TooLong);
            }
        }
        Ok(Self(metadata))
    }

    /// Returns whether a text is a legal name.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        (1..=Self::NAME_MAX_LEN).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    }

    /// Returns the value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// Returns the names and values, sorted by name.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Returns whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the length of a character inside a JSON string, in bytes.
fn json_len(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    }
}

#[cfg(feature = "serde")]
impl TryFrom<BTreeMap<String, String>> for Metadata {
    type Error = InvalidMetadata;

    fn try_from(entries: BTreeMap<String, String>) -> Result<Self, InvalidMetadata> {
        Self::new(entries)
    }
}

#[cfg(feature = "serde")]
impl From<Metadata> for BTreeMap<String, String> {
    fn from(metadata: Metadata) -> Self {
        let owned = |(name, value): (Box<str>, Box<str>)| (name.into(), value.into());
        metadata.0.into_iter().map(owned).collect()
    }
}

/// Error returned when metadata is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMetadata {
    /// A name is not legal.
    #[error("a name in metadata is 1 to 40 lower-case letters, digits and `_`")]
    Name,
    /// A value contains a NUL character.
    #[error("a value in metadata must not contain a NUL character")]
    Nul,
    /// The whole is too long.
    #[error("metadata is at most 4096 bytes as JSON")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_grammar_and_nul_are_refused() {
        for name in ["", "A", "a-b", "a.b", "é", " a", &"a".repeat(41)] {
            assert_eq!(
                Metadata::new([(name, "x")]),
                Err(InvalidMetadata::Name),
                "{name:?}"
            );
        }
        assert!(Metadata::new([("a".repeat(40), "x".to_owned())]).is_ok());
        assert_eq!(Metadata::new([("a", "\0")]), Err(InvalidMetadata::Nul));
    }

    #[test]
    fn the_length_is_that_of_the_json() {
        for filler in ["x", "\"", "\u{1}", "\n", "é", "\u{1f511}"] {
            let one = filler.chars().map(json_len).sum::<usize>();
            let most = (Metadata::MAX_LEN - 9) / one;
            let metadata = Metadata::new([("a", filler.repeat(most))]).unwrap();
            let json: BTreeMap<_, _> = metadata.iter().collect();
            let len = serde_json::to_string(&json).unwrap().len();
            assert!(len <= Metadata::MAX_LEN, "{filler:?}: {len}");
            assert!(len + one + 1 > Metadata::MAX_LEN, "{filler:?}: {len}");
            let more = Metadata::new([("a", filler.repeat(most + 1))]);
            assert_eq!(more, Err(InvalidMetadata::TooLong), "{filler:?}");
        }
    }
}
