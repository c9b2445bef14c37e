//! Errors with their causes.

use std::error::Error;

/// Returns an error with its causes, on one line.
///
/// ```
/// let error = "seven".parse::<u8>().unwrap_err();
/// assert_eq!(keys_core::chain(&error), "invalid digit found in string");
/// ```
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
