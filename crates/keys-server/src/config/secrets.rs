//! The settings that hold a secret.

/// Settings that hold a secret or, with `file:`, the path of a file with a secret. The peppers do,
/// too.
pub(super) const SECRETS: [[&str; 2]; 3] = [
    ["database", "url"],
    ["database", "direct_url"],
    ["limits", "redis_url"],
];
