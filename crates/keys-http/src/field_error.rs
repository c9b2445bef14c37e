//! An invalid field of a body, or parameter of a query.

use serde::Serialize;

/// An invalid field of a body, or parameter of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldError {
    /// Its name. Entries of a list are named by their index from 0, as in `allowedIps.0`.
    pub field: String,
    /// The rule that it breaks, without its name.
    pub message: String,
}

impl FieldError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// An invalid field in the forms of rejections that list them.
#[derive(Serialize)]
pub(crate) struct FieldView<'a> {
    field: &'a str,
    message: &'a str,
}

impl<'a> From<&'a FieldError> for FieldView<'a> {
    fn from(error: &'a FieldError) -> Self {
        Self {
            field: &error.field,
            message: &error.message,
        }
    }
}

/// Expectation on the time that a rotated key stays usable.
pub(crate) const GRACE: &str = "must be a whole number from 0 to 604800";
