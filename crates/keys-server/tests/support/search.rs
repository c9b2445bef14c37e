//! Finds secrets, and parts of them, in any encoding.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Length of a part that counts as the secret: twelve characters of base62 are 71 bits.
pub(crate) const WINDOW: usize = 12;

/// Length of the random end of a key, with its checksum.
const BODY_LEN: usize = 32;

/// Number of bytes by which every position of a haystack is looked up first.
const HEAD_LEN: usize = 8;

/// Number of bits of the filter in front of the table, as a power of two: large enough to reject
/// almost all positions of a log.
const FILTER_BITS: u32 = 22;

/// An encoding of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Encoding {
    Raw,
    LowerHex,
    UpperHex,
    Base64,
    UrlSafeBase64,
    /// Bytes as numbers in a list, as `Debug` and JSON write them.
    Numbers,
    CompactNumbers,
}

impl Encoding {
    pub(crate) const ALL: [Self; 7] = [
        Self::Raw,
        Self::LowerHex,
        Self::UpperHex,
        Self::Base64,
        Self::UrlSafeBase64,
        Self::Numbers,
        Self::CompactNumbers,
    ];

    pub(crate) fn write(self, bytes: &[u8]) -> Vec<u8> {
        let hex = |upper: bool| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let written = if upper {
                    write!(text, "{byte:02X}")
                } else {
                    write!(text, "{byte:02x}")
                };
                written.unwrap();
                text
            })
        };
        let numbers = |separator: &str| {
            let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
            numbers.join(separator)
        };
        match self {
            Self::Raw => return bytes.to_vec(),
            Self::LowerHex => hex(false),
            Self::UpperHex => hex(true),
            Self::Base64 => STANDARD_NO_PAD.encode(bytes),
            Self::UrlSafeBase64 => URL_SAFE_NO_PAD.encode(bytes),
            Self::Numbers => numbers(", "),
            Self::CompactNumbers => numbers(","),
        }
        .into_bytes()
    }
}

/// One window of one secret in one encoding.
struct Needle {
    secret: usize,
    encoding: Encoding,
    text: Vec<u8>,
}

/// A secret that was found where it must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    /// Index of the secret.
    pub(crate) secret: usize,
    pub(crate) encoding: Encoding,
    /// Position of the first match.
    pub(crate) at: usize,
}

/// All windows of all secrets in all encodings.
///
/// In base64 a window of twelve bytes is sixteen characters of its own only if it starts at a
/// multiple of three bytes. Of any three consecutive windows one does, wherever the secret is in
/// the encoded text. So the whole secret is found at every alignment, and so is any fourteen
/// characters of it.
#[derive(Default)]
pub(crate) struct Search {
    secrets: usize,
    needles: Vec<Needle>,
    by_head: HashMap<u64, Vec<usize>>,
    filter: Vec<u64>,
}

impl Search {
    /// Searches for the random part of keys.
    pub(crate) fn new(keys: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut search = Self {
            filter: vec![0; 1 << (FILTER_BITS - u64::BITS.ilog2())],
            ..Self::default()
        };
        for key in keys {
            let key = key.as_ref().as_bytes();
            search.add(&key[key.len() - BODY_LEN..]);
        }
        search
    }

    /// Adds another secret, all of it, and returns its index.
    pub(crate) fn add(&mut self, secret: &[u8]) -> usize {
        assert!(secret.len() >= WINDOW);
        let index = self.secrets;
        self.secrets += 1;
        for window in secret.windows(WINDOW) {
            for encoding in Encoding::ALL {
                let text = encoding.write(window);
                let head = head(&text);
                let (word, bit) = slot(head);
                self.filter[word] |= bit;
                self.by_head
                    .entry(head)
                    .or_default()
                    .push(self.needles.len());
                self.needles.push(Needle {
                    secret: index,
                    encoding,
                    text,
                });
            }
        }
        index
    }

    /// Returns every secret in the haystack, once for each encoding.
    pub(crate) fn find(&self, haystack: &[u8]) -> Vec<Found> {
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        if haystack.len() < WINDOW {
            return found;
        }
        for at in 0..=haystack.len() - WINDOW {
            let head = head(&haystack[at..]);
            let (word, bit) = slot(head);
            if self.filter[word] & bit == 0 {
                continue;
            }
            let Some(candidates) = self.by_head.get(&head) else {
                continue;
            };
            for needle in candidates.iter().map(|index| &self.needles[*index]) {
                let Needle {
                    secret, encoding, ..
                } = *needle;
                if haystack[at..].starts_with(&needle.text) && seen.insert((secret, encoding)) {
                    found.push(Found {
                        secret,
                        encoding,
                        at,
                    });
                }
            }
        }
        found
    }
}

fn head(text: &[u8]) -> u64 {
    let head = text.first_chunk::<HEAD_LEN>().unwrap();
    u64::from_le_bytes(*head)
}

/// Returns the bit of the filter for a head: its word, and the mask within.
fn slot(head: u64) -> (usize, u64) {
    // Multiplicative hashing by the golden ratio: the upper bits depend on all bytes.
    let hash = head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - FILTER_BITS);
    let word = usize::try_from(hash >> 6).unwrap();
    (word, 1 << (hash & 63))
}
