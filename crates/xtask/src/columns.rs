//! Comments wrap at 100 columns, which rustfmt does not check.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Context as _;

use crate::lexer;
use crate::words;

/// Maximum number of columns of a line with a comment.
const COLUMNS_MAX: usize = 100;

/// Returns the numbers of the lines that are too long and contain a comment. A line with a single
/// word, such as an address, cannot be wrapped and does not count.
fn long_lines(code: &str) -> BTreeSet<usize> {
    let lines: Vec<&str> = code.lines().collect();
    let comments = lexer::pieces(code)
        .into_iter()
        .filter(lexer::Piece::is_comment);
    let numbers = comments.flat_map(|piece| {
        let height = piece.text.lines().count();
        piece.line..piece.line + height
    });
    let is_long = |number: &usize| {
        let line = lines[number - 1];
        let words = line
            .split_whitespace()
            .filter(|word| !word.starts_with("//"));
        line.chars().count() > COLUMNS_MAX && words.count() > 1
    };
    numbers.filter(is_long).collect()
}

/// Fails if comments are longer than 100 columns, and names them.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for path in words::files()? {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let code = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let lines = long_lines(&code).into_iter();
            found.extend(lines.map(|line| format!("{}:{line}", path.display())));
        }
    }
    anyhow::ensure!(
        found.is_empty(),
        "wrap these comments at {COLUMNS_MAX} columns:\n{}",
        found.join("\n")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_wrap_at_100_columns() {
        check().unwrap();
    }

    #[test]
    fn only_lines_with_comments_that_can_be_wrapped_are_too_long() {
        let (word, words) = ("x".repeat(101), "x ".repeat(50));
        let code = format!(
            "// {word}\n// {words}\n/* a\n{words}b */\nf(\"// {words}\");\ng(\"{word}\"); // y\n// z"
        );
        assert_eq!(long_lines(&code), BTreeSet::from([2, 4, 6]));
    }
}
