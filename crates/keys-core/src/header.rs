//! The credential in the headers of a request.
//!
//! `Authorization: Bearer <key>` (RFC 6750, the scheme in any case, RFC 9110 section 11.1) and
//! `X-API-Key: <key>` are read. A key in the query string is never read, because addresses end up
//! in logs.

/// Maximum length of a header value in bytes, longer than any key with its scheme.
pub const VALUE_MAX_LEN: usize = 256;

/// Error returned when the headers contain no usable credential. No key was examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A header has content that cannot be a bearer credential.
    #[error("the credential is malformed")]
    Malformed,
    /// Two different credentials were presented. Guessing the right one would be wrong half of the
    /// time.
    #[error("two different credentials were presented")]
    Conflicting,
}

/// Finds the one credential among all values of `Authorization` and of `X-API-Key`, borrowed from
/// them.
///
/// Returns `None` if nothing was presented. A header without a credential in it, such as
/// `X-API-Key:` or `Authorization: Bearer`, presents nothing, because some clients send one for
/// each setting that is empty. The same credential twice is one credential. The function does not
/// check that the credential is a well-formed key.
///
/// # Errors
/// Returns an error if a value is unreadable, of another scheme or too long, or if two values
/// differ.
///
/// ```
/// use keys_core::header::credential;
///
/// assert_eq!(credential([b"bearer abc".as_slice()], []), Ok(Some("abc")));
/// assert_eq!(credential([], [b"abc".as_slice()]), Ok(Some("abc")));
/// assert_eq!(credential([b"Bearer".as_slice()], [b"abc".as_slice()]), Ok(Some("abc")));
/// assert_eq!(credential([], [b"".as_slice()]), Ok(None));
/// assert_eq!(credential([], []), Ok(None));
/// ```
pub fn credential<'a>(
    authorization: impl IntoIterator<Item = &'a [u8]>,
    api_key: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<&'a str>, CredentialError> {
    let bearers = authorization.into_iter().map(bearer);
    let plain = api_key.into_iter().map(token);
    let mut found = None;
    let mut malformed = false;
    for presented in bearers.chain(plain) {
        match presented {
            Presented::Token(token) if found.is_none_or(|earlier| earlier == token) => {
                found = Some(token);
            }
            Presented::Token(_) => return Err(CredentialError::Conflicting),
            Presented::Malformed => malformed = true,
            Presented::Nothing => {}
        }
    }
    match (found, malformed) {
        (_, false) => Ok(found),
        (None, true) => Err(CredentialError::Malformed),
        (Some(_), true) => Err(CredentialError::Conflicting),
    }
}

/// The content of one header.
enum Presented<'a> {
    /// The header is empty, except for the scheme and blanks.
    Nothing,
    Token(&'a str),
    Malformed,
}

fn bearer(value: &[u8]) -> Presented<'_> {
    const SCHEME: &[u8] = b"bearer";
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, rest))
            if scheme.eq_ignore_ascii_case(SCHEME)
                && (rest.first() == Some(&b' ') || rest.trim_ascii().is_empty()) =>
        {
            token(rest)
        }
        _ if value.trim_ascii().is_empty() => Presented::Nothing,
        _ => Presented::Malformed,
    }
}

/// Parses one token without blanks inside, in visible ASCII.
fn token(value: &[u8]) -> Presented<'_> {
    let token = value.trim_ascii();
    if token.is_empty() {
        return Presented::Nothing;
    }
    if value.len() > VALUE_MAX_LEN || !token.iter().all(u8::is_ascii_graphic) {
        return Presented::Malformed;
    }
    std::str::from_utf8(token).map_or(Presented::Malformed, Presented::Token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read<'a>(
        authorization: &[&'a str],
        api_key: &[&'a str],
    ) -> Result<Option<&'a str>, CredentialError> {
        credential(
            authorization.iter().map(|value| value.as_bytes()),
            api_key.iter().map(|value| value.as_bytes()),
        )
    }

    #[test]
    fn scheme_is_read_in_any_case() {
        for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
            assert_eq!(read(&[&format!("{scheme} k")], &[]).unwrap(), Some("k"));
        }
    }

    #[test]
    fn two_different_credentials_conflict_and_the_same_twice_does_not() {
        assert_eq!(read(&["Bearer k"], &["k"]), Ok(Some("k")));
        assert_eq!(read(&["Bearer k", "Bearer k"], &[]), Ok(Some("k")));
        assert_eq!(
            read(&["Bearer k"], &["l"]),
            Err(CredentialError::Conflicting)
        );
        assert_eq!(read(&[], &["k", "l"]), Err(CredentialError::Conflicting));
        assert_eq!(
            read(&["Basic dTpw"], &["k"]),
            Err(CredentialError::Conflicting)
        );
    }

    #[test]
    fn anything_else_is_malformed() {
        for value in [
            "Bearerk",
            "Bearer\tk",
            "Bear",
            "Basic dTpw",
            "k",
            "Bearer a b",
            "Bearer k\u{e9}",
        ] {
            assert_eq!(
                read(&[value], &[]),
                Err(CredentialError::Malformed),
                "{value:?}"
            );
        }
        let long = format!("Bearer {}", "k".repeat(VALUE_MAX_LEN));
        assert_eq!(read(&[&long], &[]), Err(CredentialError::Malformed));
    }

    #[test]
    fn empty_header_presents_nothing_alone_or_beside_a_credential() {
        for empty in ["", " ", "\t", "Bearer", "bearer", "Bearer ", "BEARER \t "] {
            assert_eq!(read(&[empty], &[]), Ok(None), "{empty:?}");
            assert_eq!(read(&[empty], &["k"]), Ok(Some("k")), "{empty:?}");
            assert_eq!(read(&[empty, "Bearer k"], &[]), Ok(Some("k")), "{empty:?}");
        }
        for empty in ["", " ", "\t "] {
            assert_eq!(read(&[], &[empty]), Ok(None), "{empty:?}");
            assert_eq!(read(&["Bearer k"], &[empty]), Ok(Some("k")), "{empty:?}");
            assert_eq!(read(&["Bearer"], &[empty]), Ok(None), "{empty:?}");
        }
        // It hides neither a conflict nor a malformed credential.
        assert_eq!(
            read(&["Bearer", "Bearer k"], &["", "l"]),
            Err(CredentialError::Conflicting)
        );
        assert_eq!(
            read(&["Basic dTpw"], &[""]),
            Err(CredentialError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn no_header_panics(
            authorization in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..3),
            api_key in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..3),
        ) {
            let _ = credential(
                authorization.iter().map(Vec::as_slice),
                api_key.iter().map(Vec::as_slice),
            );
        }

        #[test]
        fn no_bearer_token_panics(token in "(?i:bearer) ?[ -~]{0,80}") {
            let _ = credential([token.as_bytes()], []);
        }
    }
}
