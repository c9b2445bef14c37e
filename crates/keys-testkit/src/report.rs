//! Figures that a proof or a benchmark measured, printed so that `cargo xtask prove` and
//! `cargo xtask bench` can collect them into a document.

use std::fmt::Display;

/// The variable that makes proofs run in full, as `cargo xtask prove` sets it. Without it they run
/// for some seconds.
pub const FULL_VARIABLE: &str = "KEYS_TEST_FULL";

/// Start of a line with a figure.
pub const MARK: &str = "figure";

/// Returns whether proofs should run in full.
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os(FULL_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Prints one figure: its name, the measured value, the requirement, and whether it is held.
///
/// The line is `figure`, the name, the value, the requirement, and `held` or `missed`, separated by
/// tabs.
pub fn figure(what: &str, measured: impl Display, required: impl Display, held: bool) {
    let held = if held { "held" } else { "missed" };
    println!("{MARK}\t{what}\t{measured}\t{required}\t{held}");
}

/// Prints one figure without a requirement.
pub fn information(what: &str, measured: impl Display) {
    println!("{MARK}\t{what}\t{measured}\t\t");
}

/// Prints a ratio that must be `at_most` this large.
pub fn ratio_at_most(what: &str, measured: f64, at_most: f64) {
    figure(
        what,
        format_args!("{measured:.2}x"),
        format_args!("at most {at_most:.2}x"),
        measured <= at_most,
    );
}

/// Prints a ratio that must be `at_least` this large.
pub fn ratio_at_least(what: &str, measured: f64, at_least: f64) {
    figure(
        what,
        format_args!("{measured:.2}x"),
        format_args!("at least {at_least:.2}x"),
        measured >= at_least,
    );
}
