//! A member of a body, or a parameter of a query, that is at fault.

/// One member of a body or query that is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Its name; entries of a list are named by their index from 0, as in `allowedIps.0`.
    pub field: String,
    /// What is wrong with it, without its name.
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
