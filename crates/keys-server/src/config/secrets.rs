//! Which settings hold a secret.

/// The settings that hold a secret or, with `file:`, the path of a file that does. The peppers do,
/// too.
pub(super) const SECRETS: [[&str; 2]; 3] = [
    ["database", "url"],
    ["database", "direct_url"],
    ["limits", "redis_url"],
];
