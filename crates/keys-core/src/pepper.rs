//! Digests of keys, under peppers that the database never sees.
//!
//! A key is stored as HMAC-SHA-256 (RFC 2104) of its whole text under a pepper. With 154 random
//! bits in a key a slow password hash would add nothing. The pepper makes a stolen database useless
//! even for checking guesses.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::key_format::PresentedKey;
use crate::mac::Mac;
use crate::texts::display_as_str;

/// The name of a pepper, stored beside each digest so that peppers can be rotated without changing
/// the keys.
///
/// 1 to 32 characters: lower-case letters, digits, `-` and `_`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PepperId {
    /// Inline and zero-padded, so that the name of a digest's pepper needs no allocation.
    bytes: [u8; Self::MAX_LEN],
    length: u8,
}

impl PepperId {
    /// Maximum length of an identifier.
    pub const MAX_LEN: usize = 32;

    /// Returns the identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // An id consists of ASCII only, so this never falls back.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl FromStr for PepperId {
    type Err = PepperError;

    fn from_str(text: &str) -> Result<Self, PepperError> {
        let legal = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
        };
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(legal) {
            let mut bytes = [0; Self::MAX_LEN];
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            let length = u8::try_from(text.len()).map_err(|_| PepperError::InvalidId)?;
            Ok(Self { bytes, length })
        } else {
            Err(PepperError::InvalidId)
        }
    }
}

display_as_str!(PepperId);

impl fmt::Debug for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PepperId({:?})", self.as_str())
    }
}

/// Error returned when a pepper cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PepperError {
    /// Shorter than [`Pepper::MIN_LEN`].
    #[error("a pepper has at least 32 bytes, this one has {0}")]
    TooShort(usize),
    /// Longer than [`Pepper::MAX_LEN`].
    #[error("a pepper has at most 1024 bytes, this one has {0}")]
    TooLong(usize),
    /// Not base64.
    #[error("a pepper is written in base64")]
    NotBase64,
    /// One byte over and over: a placeholder, not a secret.
    #[error("a pepper is random; this one is a single byte repeated")]
    NotRandom,
    /// The pepper printed in the documentation.
    #[error(
        "this pepper is the example of the documentation; make one with `openssl rand -base64 32`"
    )]
    Documented,
    /// The identifier is not legal.
    #[error("a pepper's id is 1 to 32 lower-case letters, digits, `-` and `_`")]
    InvalidId,
    /// Two peppers have the same identifier.
    #[error("two peppers have the same id")]
    DuplicateId,
    /// More than [`PepperRing::MAX_PEPPERS`].
    #[error("at most 8 peppers may be live at once")]
    TooMany,
}

/// The pepper in the documentation. It is refused wherever a pepper is read from text.
pub const DOCUMENTED_PEPPER: &str = "ZXhhbXBsZS1wZXBwZXItZG8tbm90LXVzZS1pdC1ldmVyIQ==";

/// A secret key of digests. Wiped from memory when dropped.
pub struct Pepper(Zeroizing<Vec<u8>>);

impl Pepper {
    /// The length of the output of SHA-256. RFC 2104, section 3, discourages anything shorter.
    pub const MIN_LEN: usize = 32;

    /// Far beyond any use. Prevents a wrong file from being read as a pepper.
    pub const MAX_LEN: usize = 1024;

    /// Creates a pepper from raw bytes.
    ///
    /// # Errors
    /// If there are fewer than 32 or more than 1024.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PepperError> {
        match bytes.len() {
            length if length < Self::MIN_LEN => Err(PepperError::TooShort(length)),
            length if length > Self::MAX_LEN => Err(PepperError::TooLong(length)),
            _ => Ok(Self(Zeroizing::new(bytes.to_vec()))),
        }
    }

    /// Reads base64, standard or URL-safe, padded or not, with white space around it.
    ///
    /// # Errors
    /// If it is not base64, too short or too long, one byte repeated, or [`DOCUMENTED_PEPPER`].
    pub fn from_base64(text: &str) -> Result<Self, PepperError> {
        let text = text.trim();
        if text.len() > Self::MAX_LEN * 2 {
            return Err(PepperError::TooLong(text.len() / 4 * 3));
        }
        let bytes = [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
            .iter()
            .find_map(|engine| engine.decode(text).ok())
            .map(Zeroizing::new)
            .ok_or(PepperError::NotBase64)?;
        let documented = STANDARD.decode(DOCUMENTED_PEPPER).unwrap_or_default();
        if *bytes == documented {
            return Err(PepperError::Documented);
        }
        let pepper = Self::from_bytes(&bytes)?;
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(PepperError::NotRandom);
        }
        Ok(pepper)
    }

    /// Returns the bytes, for deriving further keys from them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(<redacted>)")
    }
}

/// The stored digest of a key. Compared in constant time.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; Self::LEN]);

impl KeyDigest {
    /// Number of bytes in a digest, as in SHA-256.
    pub const LEN: usize = 32;

    /// Restores a stored digest.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes to store. Do not log them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq::constant_time_eq_32(&self.0, &other.0)
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(<redacted>)")
    }
}

/// A digest together with its pepper. Keys are looked up by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "complete: two values find a key")]
pub struct PepperedDigest {
    /// The pepper.
    pub pepper: PepperId,
    /// The digest under that pepper.
    pub digest: KeyDigest,
}

struct Keyed {
    id: PepperId,
    mac: Mac,
    pepper: Pepper,
}

/// The usable peppers: the current one for new keys, and former ones that old keys still need.
pub struct PepperRing {
    current: Keyed,
    former: Vec<Keyed>,
}

impl PepperRing {
    /// Maximum number of peppers. Each unknown key costs one digest per pepper, so a ring stays
    /// short.
    pub const MAX_PEPPERS: usize = 8;

    /// Creates a ring with one pepper.
    #[must_use]
    pub fn new(id: PepperId, pepper: Pepper) -> Self {
        Self {
            current: Keyed::new(id, pepper),
            former: Vec::new(),
        }
    }

    /// Adds a former pepper that existing keys may need.
    ///
    /// # Errors
    /// If the id is taken or the ring is full.
    pub fn with_former(mut self, id: PepperId, pepper: Pepper) -> Result<Self, PepperError> {
        if self.ids().any(|taken| *taken == id) {
            return Err(PepperError::DuplicateId);
        }
        if self.former.len() + 1 >= Self::MAX_PEPPERS {
            return Err(PepperError::TooMany);
        }
        self.former.push(Keyed::new(id, pepper));
        Ok(self)
    }

    /// Returns the digest under the current pepper, which is stored for a new key.
    #[must_use]
    #[inline]
    pub fn digest<'a>(&self, key: impl Into<PresentedKey<'a>>) -> PepperedDigest {
        self.current.digest(key.into().expose().as_bytes())
    }

    /// Returns the digests under every pepper, the current one first. A presented key may be stored
    /// under any of them.
    pub fn digests<'a>(
        &self,
        key: impl Into<PresentedKey<'a>>,
    ) -> impl Iterator<Item = PepperedDigest> {
        let message = key.into().expose().as_bytes();
        self.all().map(|keyed| keyed.digest(message))
    }

    /// Returns the identifier of the pepper for new keys.
    #[must_use]
    pub fn current_id(&self) -> PepperId {
        self.current.id
    }

    /// Returns the identifier of every pepper, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = &PepperId> {
        self.all().map(|keyed| &keyed.id)
    }

    /// Returns every pepper with its identifier, the current one first, for deriving further keys.
    pub fn peppers(&self) -> impl Iterator<Item = (&PepperId, &Pepper)> {
        self.all().map(|keyed| (&keyed.id, &keyed.pepper))
    }

    fn all(&self) -> impl Iterator<Item = &Keyed> {
        std::iter::once(&self.current).chain(&self.former)
    }
}

impl fmt::Debug for PepperRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

impl Keyed {
    fn new(id: PepperId, pepper: Pepper) -> Self {
        let mac = Mac::new(pepper.expose());
        Self { id, mac, pepper }
    }

    #[inline]
    fn digest(&self, message: &[u8]) -> PepperedDigest {
        PepperedDigest {
            pepper: self.id,
            digest: KeyDigest(self.mac.digest(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_format::SecretKey;

    const KEY: &str = "sk_live_0123456789ABCDEFGHIJKLMNOP";

    fn ring() -> PepperRing {
        PepperRing::new("p2".parse().unwrap(), Pepper::from_bytes(&[2; 32]).unwrap())
            .with_former("p1".parse().unwrap(), Pepper::from_bytes(&[1; 32]).unwrap())
            .unwrap()
    }

    fn secret() -> SecretKey {
        let text = format!(
            "{KEY}{}",
            String::from_utf8(
                crate::base62::encode_u32(crc32fast::hash(&KEY.as_bytes()[8..])).to_vec()
            )
            .unwrap()
        );
        SecretKey::parse(&text).unwrap()
    }

    #[test]
    fn digest_is_hmac_sha_256_of_the_whole_key() {
        let expected = Mac::new(&[2; 32]).digest(secret().expose().as_bytes());
        assert_eq!(ring().digest(&secret()).digest.as_bytes(), &expected);
    }

    #[test]
    fn current_pepper_comes_first_and_former_ones_still_count() {
        let digests: Vec<_> = ring().digests(&secret()).collect();
        assert_eq!(digests.len(), 2);
        assert_eq!(digests[0], ring().digest(&secret()));
        assert_eq!(digests[1].pepper.as_str(), "p1");
        assert!(digests[0].digest != digests[1].digest);
    }

    #[test]
    fn weak_peppers_are_refused() {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let refusal = |text: &str| Pepper::from_base64(text).unwrap_err();
        assert_eq!(refusal(&encode(b"short")), PepperError::TooShort(5));
        assert_eq!(refusal(""), PepperError::TooShort(0));
        assert_eq!(refusal(&encode(&[9; 32])), PepperError::NotRandom);
        assert_eq!(refusal("not base64!"), PepperError::NotBase64);
        assert_eq!(refusal(DOCUMENTED_PEPPER), PepperError::Documented);
        assert_eq!(
            refusal(DOCUMENTED_PEPPER.trim_end_matches('=')),
            PepperError::Documented
        );
        assert!(matches!(
            refusal(&encode(&[9; 2000])),
            PepperError::TooLong(_)
        ));
        assert!(matches!(
            refusal(&"A".repeat(1_000_000)),
            PepperError::TooLong(_)
        ));
    }

    #[test]
    fn ring_refuses_twins_and_crowds() {
        let pepper = || Pepper::from_bytes(&[3; 32]).unwrap();
        assert_eq!(
            ring()
                .with_former("p1".parse().unwrap(), pepper())
                .unwrap_err(),
            PepperError::DuplicateId
        );
        let mut full = ring();
        for number in 3..=8 {
            full = full
                .with_former(format!("p{number}").parse().unwrap(), pepper())
                .unwrap();
        }
        assert_eq!(
            full.with_former("p9".parse().unwrap(), pepper())
                .unwrap_err(),
            PepperError::TooMany
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(
            format!("{:?}", ring()),
            r#"[PepperId("p2"), PepperId("p1")]"#
        );
        assert_eq!(
            format!("{:?}", Pepper::from_bytes(&[65; 32]).unwrap()),
            "Pepper(<redacted>)"
        );
        assert!(!format!("{:?}", ring().digest(&secret())).contains('['));
    }
}
