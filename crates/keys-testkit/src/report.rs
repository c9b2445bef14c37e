//! Figures that a proof or a benchmark measured, printed so that `cargo xtask prove` and `cargo xtask bench` can gather them
//! into a document.

use std::fmt::Display;

/// Asks proofs for their full size, as `cargo xtask prove` does; without it they run for some seconds.
pub const FULL_VARIABLE: &str = "KEYS_TEST_FULL";

/// What a line with a figure begins with.
pub const MARK: &str = "figure";

/// Whether proofs are asked for their full size.
#[must_use]
pub fn is_full() -> bool {
    std::env::var_os(FULL_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Prints one figure: what was measured, what came out, what it should be, and whether it is.
///
/// The line is `figure`, the name, the measurement, the requirement, and `held` or `missed`, with tabs in between.
pub fn figure(what: &str, measured: impl Display, required: impl Display, held: bool) {
    let held = if held { "held" } else { "missed" };
    println!("{MARK}\t{what}\t{measured}\t{required}\t{held}");
}

/// Prints one figure of which nothing is required.
pub fn information(what: &str, measured: impl Display) {
    println!("{MARK}\t{what}\t{measured}\t\t");
}

/// Prints a ratio that may be `at_most` so large.
pub fn ratio_at_most(what: &str, measured: f64, at_most: f64) {
    figure(
        what,
        format_args!("{measured:.2}x"),
        format_args!("at most {at_most:.2}x"),
        measured <= at_most,
    );
}

/// Prints a ratio that is to be `at_least` so large.
pub fn ratio_at_least(what: &str, measured: f64, at_least: f64) {
    figure(
        what,
        format_args!("{measured:.2}x"),
        format_args!("at least {at_least:.2}x"),
        measured >= at_least,
    );
}
