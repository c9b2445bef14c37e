//! The full key: `<prefix>_<26 random base62><6 base62 CRC32 of the random part>`.
//!
//! The 26 random characters have 154 bits, so guessing is hopeless. The checksum is not a
//! protection: it refuses a typing error or a scanner's false find without asking a database.

use std::fmt;
use std::str::FromStr;

use rand_core::TryCryptoRng;
use zeroize::Zeroizing;

use crate::base62;
use crate::texts::display_as_str;

/// Number of random characters in a key: 26 · log2(62) = 154.8 bits.
pub const RANDOM_LEN: usize = 26;

/// Number of characters after the last underscore: the random part and its checksum.
pub const BODY_LEN: usize = RANDOM_LEN + base62::U32_LEN;

/// Maximum length of a key, in bytes.
pub const SECRET_MAX_LEN: usize = KeyPrefix::MAX_LEN + 1 + BODY_LEN;

/// The prefix of a key, such as `sk_live`.
///
/// 2 to 20 characters: lower-case letters and digits, in groups joined by single underscores,
/// starting with a letter.
///
/// ```
/// use keys_core::KeyPrefix;
///
/// assert!("sk_live".parse::<KeyPrefix>().is_ok());
/// assert!("Sk-Live".parse::<KeyPrefix>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPrefix(Box<str>);

impl KeyPrefix {
    /// Short enough that a whole key stays within one SHA-256 block (55 bytes).
    pub const MAX_LEN: usize = 20;

    /// Long enough that the shown characters of a key ([`ShownPrefix`]) reveal at most nine random
    /// ones.
    pub const MIN_LEN: usize = 2;

    /// Returns the prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[expect(
        clippy::needless_bitwise_bool,
        reason = "a branch for each character costs more than looking at all: labels are nearly always legal"
    )]
    fn is_valid(text: &[u8]) -> bool {
        if !(Self::MIN_LEN..=Self::MAX_LEN).contains(&text.len()) {
            return false;
        }
        let (groups, earlier) = text.iter().fold((true, b'_'), |(legal, earlier), byte| {
            let is_character = byte.is_ascii_lowercase() | byte.is_ascii_digit();
            let is_joint = (*byte == b'_') & (earlier != b'_');
            (legal & (is_character | is_joint), *byte)
        });
        groups & (earlier != b'_') & text[0].is_ascii_lowercase()
    }
}

impl FromStr for KeyPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        if Self::is_valid(text.as_bytes()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidPrefix)
        }
    }
}

display_as_str!(KeyPrefix);

impl fmt::Debug for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPrefix({})", self.0)
    }
}

/// Error returned when a text is not a [`KeyPrefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key prefix is 2 to 20 lower-case letters and digits in groups joined by single underscores, starting with a letter"
)]
#[non_exhaustive]
pub struct InvalidPrefix;

/// The full key. It cannot print itself, and is wiped from memory when dropped.
///
/// A `SecretKey` is always well-formed, because only [`generate`](Self::generate) and
/// [`parse`](Self::parse) create one. [`PresentedKey`] checks a presented key without a copy.
pub struct SecretKey {
    text: Zeroizing<String>,
}

impl SecretKey {
    /// Generates a new key.
    ///
    /// Pass `getrandom::SysRng` in production.
    ///
    /// # Errors
    /// If the random number generator fails. There is no weaker source to fall back to.
    #[expect(
        clippy::missing_panics_doc,
        reason = "as many characters as the checksum is of are there"
    )]
    pub fn generate<R: TryCryptoRng + ?Sized>(
        prefix: &KeyPrefix,
        rng: &mut R,
    ) -> Result<Self, R::Error> {
        // The capacity covers the whole key, because growing would leave a copy in freed memory.
        let mut text = Zeroizing::new(String::with_capacity(SECRET_MAX_LEN));
        text.push_str(prefix.as_str());
        text.push('_');
        let random_start = text.len();
        base62::push_random(&mut text, RANDOM_LEN, rng)?;
        // CRC-32 (ISO-HDLC, the one of zip and PNG) finds every burst of up to 32 bits, so every
        // changed character.
        let random = text.as_bytes()[random_start..].as_array();
        let checksum = checksum(random.expect("just that many were pushed"));
        for digit in base62::encode_u32(checksum) {
            text.push(char::from(digit));
        }
        Ok(Self { text })
    }

    /// Reads a presented key. Only form and checksum are checked, without input or output.
    ///
    /// # Errors
    /// [`Malformed`] if this format never issued the text.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        check_form(text)?;
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
        })
    }

    /// Reveals the secret. Call it once per key: in the response that issues it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Returns the part of this key that may always be shown.
    #[must_use]
    pub fn shown_prefix(&self) -> ShownPrefix {
        let random_start = self.text.len() - BODY_LEN;
        let end = (random_start + ShownPrefix::RANDOM_MIN_LEN).max(ShownPrefix::USUAL_LEN);
        ShownPrefix(self.text[..end].into())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(<redacted>)")
    }
}

/// A well-formed presented key, borrowed from the request without a copy.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a>(&'a str);

impl<'a> PresentedKey<'a> {
    /// Reads a presented key. Only form and checksum are checked.
    ///
    /// # Errors
    /// [`Malformed`] if this format never issued the text.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        check_form(text).map(|()| Self(text))
    }

    /// Reveals the key.
    #[must_use]
    pub const fn expose(self) -> &'a str {
        self.0
    }

    /// Reveals the random part of the key, without prefix and checksum.
    #[must_use]
    #[inline]
    #[expect(clippy::missing_panics_doc, reason = "every presented key has a body")]
    pub const fn random_part(self) -> &'a [u8; RANDOM_LEN] {
        let body = self.0.as_bytes().last_chunk::<BODY_LEN>();
        let body = body.expect("a well-formed key has a body");
        body.first_chunk()
            .expect("a body begins with its random part")
    }
}

impl fmt::Debug for PresentedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedKey(<redacted>)")
    }
}

impl<'a> From<&'a SecretKey> for PresentedKey<'a> {
    fn from(secret: &'a SecretKey) -> Self {
        Self(secret.expose())
    }
}

/// Checks that `text` has the form of a key and a right checksum, without keeping a copy of it.
///
/// # Errors
/// [`Malformed`] if it does not.
///
/// ```
/// assert!(keys_core::check_form("sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6").is_err());
/// ```
#[inline]
pub fn check_form(text: &str) -> Result<(), Malformed> {
    let (rest, body) = text
        .as_bytes()
        .split_last_chunk::<BODY_LEN>()
        .ok_or(Malformed)?;
    let (separator, prefix) = rest.split_last().ok_or(Malformed)?;
    let (random, digits) = body.split_last_chunk().ok_or(Malformed)?;
    let random = random.as_array().ok_or(Malformed)?;
    // A number of 2^32 or more never equals a checksum, so each checksum has one spelling.
    let is_whole = *separator == b'_'
        && base62::decode(*digits) == u64::from(checksum(random))
        && base62::is_base62(body);
    if is_whole && KeyPrefix::is_valid(prefix) {
        Ok(())
    } else {
        Err(Malformed)
    }
}

/// Returns the same as `crc32fast::hash`, in half of the time for a text of this length while the
/// tables, 13 KB, are in the CPU cache.
///
/// A checksum of this kind is linear: the contribution of each character depends only on the
/// character and its position. So the contributions are looked up independently, whereas each step
/// of the library depends on the previous one.
#[inline]
fn checksum(random: &[u8; RANDOM_LEN]) -> u32 {
    random
        .iter()
        .zip(&PARTS_OF_CHECKSUM)
        .fold(CHECKSUM_OF_NULS, |sum, (byte, parts)| {
            // Higher bytes are not base62, which is checked elsewhere.
            sum ^ parts[usize::from(byte % ASCII_LEN)]
        })
}

const ASCII_LEN: u8 = 128;

/// The contribution of each character, by its position, relative to a text of NULs.
static PARTS_OF_CHECKSUM: [[u32; ASCII_LEN as usize]; RANDOM_LEN] = {
    let mut parts = [[0; ASCII_LEN as usize]; RANDOM_LEN];
    let mut place = 0;
    while place < RANDOM_LEN {
        let mut byte = 0;
        while byte < ASCII_LEN {
            let mut text = [0; RANDOM_LEN];
            text[place] = byte;
            parts[place][byte as usize] = bitwise_checksum(&text) ^ CHECKSUM_OF_NULS;
            byte += 1;
        }
        place += 1;
    }
    parts
};

const CHECKSUM_OF_NULS: u32 = bitwise_checksum(&[0; RANDOM_LEN]);

/// CRC-32 by its definition (ISO-HDLC, the one of zip and PNG), for tables that are computed at
/// compile time.
const fn bitwise_checksum(text: &[u8; RANDOM_LEN]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0xedb8_8320;
    let mut register = u32::MAX;
    let mut place = 0;
    while place < RANDOM_LEN {
        register ^= text[place] as u32;
        let mut bit = 0;
        while bit < u8::BITS {
            let carry = register & 1;
            register >>= 1;
            if carry == 1 {
                register ^= REVERSED_POLYNOMIAL;
            }
            bit += 1;
        }
        place += 1;
    }
    !register
}

/// Error returned when a text is not a key: wrong form or wrong checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed key")]
#[non_exhaustive]
pub struct Malformed;

/// The first characters of a key, by which people recognise their keys.
///
/// It is neither secret nor unique, and never used for look-ups: the first 12 characters of the
/// key, more if the prefix is so long that fewer than 4 random characters would show. For example
/// `sk_live_a1b2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ShownPrefix(Box<str>);

impl ShownPrefix {
    const USUAL_LEN: usize = 12;
    const RANDOM_MIN_LEN: usize = 4;

    /// Maximum length.
    pub const MAX_LEN: usize = KeyPrefix::MAX_LEN + 1 + Self::RANDOM_MIN_LEN;

    /// Restores a stored shown prefix.
    ///
    /// # Errors
    /// [`InvalidPrefix`] if it is longer than any shown prefix or not ASCII.
    pub fn from_stored(text: String) -> Result<Self, InvalidPrefix> {
        if text.len() <= Self::MAX_LEN && text.is_ascii() {
            Ok(Self(text.into()))
        } else {
            Err(InvalidPrefix)
        }
    }

    /// Returns the prefix of the key. `None` if a stored text is not the start of a key.
    #[must_use]
    pub fn key_prefix(&self) -> Option<KeyPrefix> {
        // The random characters have no underscore.
        let (prefix, _) = self.0.rsplit_once('_')?;
        prefix.parse().ok()
    }

    /// Returns the characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

display_as_str!(ShownPrefix);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    fn secret(prefix: &str, seed: u64) -> SecretKey {
        SecretKey::generate(
            &prefix.parse().unwrap(),
            &mut ChaCha20Rng::seed_from_u64(seed),
        )
        .unwrap()
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(
            format!("{:?}", secret("sk_live", 1)),
            "SecretKey(<redacted>)"
        );
    }

    #[test]
    fn flat_key_shows_its_first_twelve_characters() {
        let key = secret("sk_live", 1);
        assert_eq!(key.expose().len(), "sk_live_".len() + 32);
        assert_eq!(key.shown_prefix().as_str(), &key.expose()[..12]);
        assert_eq!(key.shown_prefix().as_str().len(), 12);
    }

    #[test]
    fn long_label_still_shows_four_random_characters() {
        let key = secret("abcdefghijklmnopqrst", 1);
        assert_eq!(key.shown_prefix().as_str(), &key.expose()[..25]);
    }

    #[test]
    fn stored_text_that_is_not_the_start_of_a_key_has_no_prefix() {
        for text in ["", "sk", "Sk_a1b2", "_a1b2"] {
            let shown = ShownPrefix::from_stored(text.to_owned()).unwrap();
            assert_eq!(shown.key_prefix(), None, "{text:?}");
        }
    }

    #[test]
    fn prefixes_outside_the_grammar_are_refused() {
        for text in [
            "",
            "a",
            "_a",
            "a_",
            "a__b",
            "1a",
            "Ab",
            "a-b",
            "ab c",
            "é2",
            "abcdefghijklmnopqrstu",
        ] {
            assert_eq!(text.parse::<KeyPrefix>(), Err(InvalidPrefix), "{text:?}");
        }
    }

    #[test]
    fn documented_example_key_is_not_a_real_one() {
        assert!(SecretKey::parse("sk_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6").is_err());
    }

    #[test]
    fn generator_failure_is_reported_not_papered_over() {
        use rand_core::{TryCryptoRng, TryRng};
        struct Broken;
        #[derive(Debug)]
        struct Fault;
        impl fmt::Display for Fault {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no entropy")
            }
        }
        impl std::error::Error for Fault {}
        impl TryRng for Broken {
            type Error = Fault;
            fn try_next_u32(&mut self) -> Result<u32, Fault> {
                Err(Fault)
            }
            fn try_next_u64(&mut self) -> Result<u64, Fault> {
                Err(Fault)
            }
            fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Fault> {
                Err(Fault)
            }
        }
        impl TryCryptoRng for Broken {}
        assert!(SecretKey::generate(&"sk_live".parse().unwrap(), &mut Broken).is_err());
    }

    proptest! {
        #[test]
        fn checksum_is_the_usual_one(random: [u8; RANDOM_LEN]) {
            let random = random.map(|byte| byte % ASCII_LEN);
            prop_assert_eq!(checksum(&random), crc32fast::hash(&random));
        }

        #[test]
        fn every_generated_key_parses_back(
            prefix in "[a-z][a-z0-9]{1,5}(_[a-z0-9]{1,6}){0,2}",
            seed: u64,
        ) {
            let key = secret(&prefix, seed);
            let parsed = SecretKey::parse(key.expose()).unwrap();
            prop_assert_eq!(parsed.expose(), key.expose());
            prop_assert!(key.expose().len() <= SECRET_MAX_LEN);
            prop_assert!(key.shown_prefix().as_str().len() <= ShownPrefix::MAX_LEN);
            let shown = key.shown_prefix().key_prefix();
            prop_assert_eq!(shown, Some(prefix.parse().unwrap()));
        }

        #[test]
        fn any_changed_character_of_the_body_is_caught(
            seed: u64,
            position in 0..BODY_LEN,
            replacement: char,
        ) {
            let key = secret("sk_live", seed);
            let position = key.expose().len() - BODY_LEN + position;
            let original = key.expose()[position..].chars().next().unwrap();
            prop_assume!(replacement != original);
            let mut changed = key.expose().to_owned();
            changed.replace_range(position..=position, &replacement.to_string());
            prop_assert!(SecretKey::parse(&changed).is_err());
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,120}") {
            let _ = SecretKey::parse(&text);
        }
    }

    #[test]
    fn every_base62_neighbour_of_one_key_is_caught() {
        let key = secret("sk_live", 7);
        let alphabet = ('0'..='9').chain('A'..='Z').chain('a'..='z');
        for character in alphabet {
            for position in key.expose().len() - BODY_LEN..key.expose().len() {
                let mut changed = key.expose().to_owned();
                changed.replace_range(position..=position, &character.to_string());
                assert_eq!(
                    SecretKey::parse(&changed).is_ok(),
                    changed == key.expose(),
                    "position {position}"
                );
            }
        }
    }
}
