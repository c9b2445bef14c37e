//! Errors as text.

use std::error::Error;

/// Returns the message of an error followed by those of its causes.
///
/// ```
/// let error = std::io::Error::other("the disk is full");
/// assert_eq!(keys_testkit::error::chain(&error), "the disk is full");
/// ```
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
