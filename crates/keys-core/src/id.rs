//! Identifiers: UUID version 7 (RFC 9562), shown as 22 characters of unpadded URL-safe base64.
//!
//! They are ordered by time of creation and are independent of any secret.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand_core::TryCryptoRng;
use uuid::Uuid;

use crate::timestamp::Timestamp;

/// Number of characters of an identifier: 128 bits at 6 bits each, rounded up.
pub const ID_LEN: usize = 22;

/// Error returned when a text is not an identifier. Treat it like an identifier that does not
/// exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 22 characters of URL-safe base64")]
#[non_exhaustive]
pub struct InvalidId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Creates a new identifier for a record created `now`.
            ///
            /// # Errors
            /// If the random number generator fails.
            pub fn generate<R: TryCryptoRng + ?Sized>(now: Timestamp, rng: &mut R) -> Result<Self, R::Error> {
                v7(now, rng).map(Self)
            }

            /// Restores a stored identifier.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Returns the identifier in the form that databases store.
            #[must_use]
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; ID_LEN];
                // Neither can fail, because the text has exactly that length, and is ASCII.
                URL_SAFE_NO_PAD
                    .encode_slice(self.0.as_bytes(), &mut text)
                    .map_err(|_| fmt::Error)?;
                f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id! {
    /// Identifies a key of any kind.
    ///
    /// ```
    /// use keys_core::{KeyId, Timestamp};
    ///
    /// let id = KeyId::generate(Timestamp::from_unix_micros(0), &mut getrandom::SysRng)?;
    /// assert_eq!(id.to_string().len(), 22);
    /// assert_eq!(id.to_string().parse::<KeyId>()?, id);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    KeyId
}
id! {
    /// Identifies an account.
    AccountId
}
id! {
    /// Identifies an entry of the audit trail.
    EventId
}

fn v7<R: TryCryptoRng + ?Sized>(now: Timestamp, rng: &mut R) -> Result<Uuid, R::Error> {
    let mut random = [0_u8; 10];
    rng.try_fill_bytes(&mut random)?;
    let millis = u64::try_from(now.unix_millis()).unwrap_or(0);
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

fn parse(text: &str) -> Result<Uuid, InvalidId> {
    if text.len() != ID_LEN {
        return Err(InvalidId);
    }
    let mut bytes = [0_u8; 16];
    // The decoder refuses set bits beyond the 128th, so each identifier has one spelling.
    let length = URL_SAFE_NO_PAD
        .decode_slice(text, &mut bytes)
        .map_err(|_| InvalidId)?;
    if length == bytes.len() {
        Ok(Uuid::from_bytes(bytes))
    } else {
        Err(InvalidId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let at = |millis: i64| {
            KeyId::generate(
                Timestamp::from_unix_micros(millis * 1000),
                &mut getrandom::SysRng,
            )
            .unwrap()
        };
        assert!(at(1_000) < at(1_001));
        assert_eq!(at(1_000).as_uuid().get_version_num(), 7);
    }

    #[test]
    fn second_spelling_of_an_id_is_refused() {
        // The last character contains four bits that must be zero.
        assert!("AAAAAAAAAAAAAAAAAAAAAA".parse::<KeyId>().is_ok());
        assert!("AAAAAAAAAAAAAAAAAAAAAB".parse::<KeyId>().is_err());
        assert!("AAAAAAAAAAAAAAAAAAAAA=".parse::<KeyId>().is_err());
        assert!("kJx9mP2qLn4vRt7bYw3cZ".parse::<KeyId>().is_err());
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 16]) {
            let id = KeyId::from_uuid(Uuid::from_bytes(bytes));
            prop_assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<KeyId>();
        }
    }
}
