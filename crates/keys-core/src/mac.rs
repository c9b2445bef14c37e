//! HMAC-SHA-256 (RFC 2104) of messages as short as keys.
//!
//! The compression function of SHA-256 is the library's, and so is all of HMAC for longer messages.
//! This module passes the two blocks of a short message straight to it, because the library's
//! buffers, which take messages of any length piece by piece, cost a quarter of the whole digest.

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use sha2::block_api::compress256;
use zeroize::Zeroizing;

type State = [u32; 8];
type Block = [u8; BLOCK_LEN];

const BLOCK_LEN: usize = 64;
const DIGEST_LEN: usize = 32;

/// Position of the number of bits in the last block.
const LENGTH_START: usize = BLOCK_LEN - 8;

/// Maximum length of a message that leaves room in its block for the end mark and the number of
/// bits.
const SHORT_MAX_LEN: usize = LENGTH_START - 1;

/// FIPS 180-4, section 5.3.3.
const INITIAL: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// HMAC-SHA-256 under one key.
pub(crate) struct Mac {
    /// State of SHA-256 after the inner pad, and after the outer.
    inner: Zeroizing<State>,
    outer: Zeroizing<State>,
    any: Hmac<Sha256>,
}

impl Mac {
    /// Accepts keys of any length.
    pub(crate) fn new(key: &[u8]) -> Self {
        use sha2::Digest as _;
        let mut padded = Zeroizing::new([0; BLOCK_LEN]);
        if key.len() > BLOCK_LEN {
            padded[..DIGEST_LEN].copy_from_slice(&Sha256::digest(key));
        } else {
            padded[..key.len()].copy_from_slice(key);
        }
        let after_pad = |pad: u8| {
            let mut state = Zeroizing::new(INITIAL);
            let block = Zeroizing::new(padded.map(|byte| byte ^ pad));
            compress256(&mut state, &[*block]);
            state
        };
        Self {
            inner: after_pad(0x36),
            outer: after_pad(0x5c),
            any: Hmac::new_from_slice(key).expect("HMAC takes keys of any length (RFC 2104)"),
        }
    }

    #[inline]
    pub(crate) fn digest(&self, message: &[u8]) -> [u8; DIGEST_LEN] {
        if message.len() > SHORT_MAX_LEN {
            return self
                .any
                .clone()
                .chain_update(message)
                .finalize()
                .into_bytes()
                .into();
        }
        let inner = finish(*self.inner, message);
        finish(*self.outer, &inner)
    }
}

/// Returns SHA-256 of one block that led to `state` and then `rest`, which is short.
#[inline]
fn finish(mut state: State, rest: &[u8]) -> [u8; DIGEST_LEN] {
    const MARK_OF_THE_END: u8 = 0x80;
    let mut block: Block = [0; BLOCK_LEN];
    block[..rest.len()].copy_from_slice(rest);
    block[rest.len()] = MARK_OF_THE_END;
    let bits = (BLOCK_LEN + rest.len()) as u64 * 8;
    block[LENGTH_START..].copy_from_slice(&bits.to_be_bytes());
    compress256(&mut state, &[block]);
    let mut digest = [0; DIGEST_LEN];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut text, byte| {
            use std::fmt::Write as _;
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    #[test]
    fn published_vectors_hold() {
        // RFC 4231, test cases 1, 2, 6 (a key of more than a block) and 7 (and a long message).
        let cases: [(&[u8], &[u8], &str); 4] = [
            (
                &[0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe",
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
            (
                &[0xaa; 131],
                b"This is a test using a larger than block-size key and a larger than block-size data. \
                  The key needs to be hashed before being used by the HMAC algorithm.",
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
            ),
        ];
        for (key, message, expected) in cases {
            assert_eq!(hex(&Mac::new(key).digest(message)), expected);
        }
    }

    proptest! {
        #[test]
        fn digest_is_the_one_of_the_library(
            key in proptest::collection::vec(any::<u8>(), 0..200),
            message in proptest::collection::vec(any::<u8>(), 0..130),
        ) {
            let library = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(&message);
            let expected: [u8; DIGEST_LEN] = library.finalize().into_bytes().into();
            prop_assert_eq!(Mac::new(&key).digest(&message), expected);
        }
    }
}
