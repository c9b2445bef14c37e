//! Base62 of keys: digits, then upper case, then lower case; most significant digit first.

use rand_core::TryCryptoRng;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The largest multiple of 62 that fits a byte. Larger bytes are discarded, so that every character
/// is equally likely; `byte % 62` alone would favour the first eight.
const UNBIASED_BYTES: u8 = 62 * 4;

/// Number of characters for any `u32`: 62^6 is more than 2^32, 62^5 is less.
pub(crate) const U32_LEN: usize = 6;

/// The value of each byte as a digit, or 255 for a byte that is not a digit.
const VALUES: [u8; 256] = {
    let mut values = [u8::MAX; 256];
    let mut digit = 0;
    while digit < 62 {
        values[ALPHABET[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};

/// Returns whether all of `bytes` are digits. It checks each without branching and without a table,
/// so that compilers turn it into a few instructions for all of them, because keys are nearly
/// always well-formed.
#[inline]
pub(crate) fn is_base62<const LEN: usize>(bytes: &[u8; LEN]) -> bool {
    bytes.iter().fold(1, |all, byte| {
        let is_number = byte.wrapping_sub(b'0') < 10;
        let is_letter = (byte | 0x20).wrapping_sub(b'a') < 26;
        all & u8::from(is_number | is_letter)
    }) == 1
}

/// Appends `count` random characters.
pub(crate) fn push_random<R: TryCryptoRng + ?Sized>(
    out: &mut String,
    count: usize,
    rng: &mut R,
) -> Result<(), R::Error> {
    let mut missing = count;
    let mut buffer = zeroize::Zeroizing::new([0_u8; 32]);
    while missing > 0 {
        rng.try_fill_bytes(&mut *buffer)?;
        for byte in buffer
            .iter()
            .filter(|byte| **byte < UNBIASED_BYTES)
            .take(missing)
        {
            out.push(char::from(ALPHABET[usize::from(byte % 62)]));
            missing -= 1;
        }
    }
    Ok(())
}

/// Returns `value` as six digits, with leading zeros.
pub(crate) fn encode_u32(mut value: u32) -> [u8; U32_LEN] {
    let mut digits = [b'0'; U32_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(value % 62) as usize];
        value /= 62;
    }
    digits
}

/// Returns the number of six digits; at most 62^6, which no `u64` overflows. Bytes that are not
/// digits give a number that [`encode_u32`] never wrote, or are found by [`is_base62`].
#[inline]
pub(crate) fn decode(digits: [u8; U32_LEN]) -> u64 {
    let value = |digits: &[u8]| {
        digits.iter().fold(0, |number, digit| {
            number * 62 + u64::from(VALUES[usize::from(*digit)])
        })
    };
    // Two halves that do not depend on each other.
    let (upper, lower) = digits.split_at(U32_LEN / 2);
    value(upper) * 62_u64.pow(3) + value(lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    #[test]
    fn numbers_have_six_digits_and_order_is_kept() {
        assert_eq!(&encode_u32(0), b"000000");
        assert_eq!(&encode_u32(61), b"00000z");
        assert_eq!(&encode_u32(62), b"000010");
        assert_eq!(&encode_u32(u32::MAX), b"4gfFC3");
        for number in [0, 61, 62, 123_456_789, u32::MAX] {
            assert_eq!(decode(encode_u32(number)), u64::from(number));
        }
    }

    #[test]
    fn every_character_is_equally_likely() {
        const DRAWS: usize = 62 * 4_000;
        let mut text = String::new();
        push_random(&mut text, DRAWS, &mut ChaCha20Rng::from_seed([1; 32])).unwrap();
        let mut counts = [0_u32; 62];
        for byte in text.bytes() {
            counts[usize::from(VALUES[usize::from(byte)])] += 1;
        }
        // Chi-squared with 61 degrees of freedom: 110 is exceeded once in ten thousand fair draws;
        // a modulo bias over 256 values would give over 1,000 here.
        let chi_squared: f64 = counts
            .iter()
            .map(|count| (f64::from(*count) - 4_000.0).powi(2) / 4_000.0)
            .sum();
        assert!(chi_squared < 110.0, "{chi_squared}");
    }
}
