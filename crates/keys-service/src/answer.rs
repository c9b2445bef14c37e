//! The form of an idempotent answer before it is sealed.
//!
//! While instances are upgraded one after another, each version reads answers of the other. So the
//! form, a JSON object, may grow:
//!
//! - A member that is added later has a default: it is an `Option`, or marked `#[serde(default)]`.
//!   Answers of earlier versions lack it, and earlier versions ignore it.
//! - A change after which earlier versions would misread the answer raises [`FORMAT`]. Examples
//!   are a member that they must not ignore, and a value that they do not know. They refuse a
//!   format above their own with [`IdempotencyError::NewerFormat`], create nothing, and leave the
//!   answer to instances that can read it. To avoid these refusals as well, let one release read
//!   the new format, and the next one write it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::idempotency::{IdempotencyError, ReserveError, unreadable};
use crate::ports::StoreError;

/// The newest format that this version reads, and the one that it writes.
const FORMAT: u32 = 1;

/// The format of answers that name none.
const fn first() -> u32 {
    1
}

/// The member that each format has, beside those of the answer.
#[derive(Deserialize)]
struct Header {
    #[serde(default = "first")]
    format: u32,
}

/// Returns the bytes of `answer`, which must be a struct without a field `format`.
pub(crate) fn write<T: Serialize>(answer: &T) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    #[derive(Serialize)]
    struct Headed<'a, T> {
        format: u32,
        #[serde(flatten)]
        answer: &'a T,
    }
    let headed = Headed {
        format: FORMAT,
        answer,
    };
    serde_json::to_vec(&headed)
        .map(Zeroizing::new)
        .map_err(|error| StoreError::Unexpected(error.into()))
}

/// Reads an answer of this version, of an earlier one, or of a newer one in a format that this
/// version knows.
pub(crate) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ReserveError> {
    let Header { format } = serde_json::from_slice(answer).map_err(|_| unreadable())?;
    if format > FORMAT {
        return Err(IdempotencyError::NewerFormat.into());
    }
    let answer = serde_json::from_slice(answer).map_err(|_| unreadable())?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use keys_core::{Account, AccountId, Timestamp};

    use super::*;

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    fn account() -> Account {
        let id: AccountId = "AZt5bdYAfBmKXMgKyoXw3Q".parse().unwrap();
        Account::new(id, "pro".parse().unwrap(), NOON)
    }

    /// As the version wrote it that did not know of formats.
    const FIRST: &str = r#"{"id":"AZt5bdYAfBmKXMgKyoXw3Q","external_id":null,"plan":"pro","disabled":false,"created_at":"2026-01-01T12:00:00.000000Z"}"#;

    fn with(member: &str) -> String {
        format!("{{{member},{}", &FIRST[1..])
    }

    #[test]
    fn answers_of_earlier_and_later_versions_are_read() {
        let known_format = with(r#""later":[{"a":1}],"format":1"#);
        for answer in [FIRST, &known_format] {
            assert_eq!(read::<Account>(answer.as_bytes()).unwrap(), account());
        }
        let written = write(&account()).unwrap();
        assert_eq!(read::<Account>(&written).unwrap(), account());
        // The version that wrote the first format reads it so.
        let read: Account = serde_json::from_slice(&written).unwrap();
        assert_eq!(read, account());
    }

    #[test]
    fn newer_format_is_told_from_an_answer_that_is_broken() {
        let newer = with(r#""format":2"#);
        let newer_alone = r#"{"format":4294967295,"of":"another form"}"#;
        for answer in [&*newer, newer_alone] {
            assert!(matches!(
                read::<Account>(answer.as_bytes()),
                Err(ReserveError::Idempotency(IdempotencyError::NewerFormat))
            ));
        }
        for broken in ["", "{}", "[]", r#"{"format":1}"#, r#"{"format":"2"}"#] {
            assert!(
                matches!(
                    read::<Account>(broken.as_bytes()),
                    Err(ReserveError::Store(StoreError::Unexpected(_)))
                ),
                "{broken}"
            );
        }
    }
}
