//! Rates of some words in comments and documents, and a ceiling for the ones to avoid.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::lexer;

/// Words and phrases that count together, and their goal.
struct Term {
    name: &'static str,
    forms: &'static [&'static str],
    goal: Goal,
    /// The maximum in the whole repository. Lower it when there are fewer, and never raise it.
    ceiling: Option<usize>,
}

/// Goal of a term, per 10,000 words.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_reached(self, rate: f64) -> bool {
        match self {
            Self::AtMost(most) => rate <= most,
            Self::AtLeast(least) => rate >= least,
        }
    }

    fn show(self) -> String {
        match self {
            Self::AtMost(most) => format!("at most {most}"),
            Self::AtLeast(least) => format!("at least {least}"),
        }
    }
}

const fn avoided(forms: &'static [&'static str], ceiling: usize) -> Term {
    Term {
        name: forms[0],
        forms,
        goal: Goal::AtMost(0.3),
        ceiling: Some(ceiling),
    }
}

const fn wanted(name: &'static str, forms: &'static [&'static str], least: f64) -> Term {
    Term {
        name,
        forms,
        goal: Goal::AtLeast(least),
        ceiling: None,
    }
}

const TERMS: [Term; 10] = [
    avoided(&["whoever"], 0),
    avoided(&["nobody"], 0),
    avoided(&["somebody"], 0),
    avoided(&["everybody"], 0),
    avoided(&["strangers", "stranger"], 0),
    Term {
        name: "what is/was/has",
        forms: &["what is", "what was", "what has"],
        goal: Goal::AtMost(2.0),
        ceiling: Some(10),
    },
    wanted("returns", &["returns"], 22.0),
    wanted("because", &["because"], 1.0),
    wanted("you", &["you"], 10.0),
    wanted("for example", &["for example"], 1.0),
];

/// Returns the words of a text, in lower case and in order. A genitive counts as its noun.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '\'' | '\u{2019}'))
        .map(|word| word.split(['\'', '\u{2019}']).next().unwrap_or_default())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Returns the prose of a Markdown text, without blocks of code.
fn prose(markdown: &str) -> String {
    let mut is_code = false;
    let mut prose = String::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// Returns the comments of a source file. Comments on consecutive lines are one text, which may
/// contain blocks of code.
fn comments(code: &str) -> String {
    let mut all = String::new();
    let mut block = String::new();
    let mut last = 0;
    for piece in lexer::pieces(code) {
        if !piece.is_comment() {
            continue;
        }
        if piece.line != last + 1 {
            all.push_str(&prose(&block));
            block.clear();
        }
        let text = piece.text.trim_start_matches(['/', '*', '!']);
        block.push_str(text.trim_end_matches(['/', '*']));
        block.push('\n');
        last = piece.line;
    }
    all.push_str(&prose(&block));
    all
}

/// Counts of the [`TERMS`], and the number of all words.
#[derive(Default)]
struct Count {
    terms: [usize; TERMS.len()],
    words: usize,
}

impl Count {
    fn add(&mut self, prose: &str) {
        let words: Vec<String> = words(prose).collect();
        self.words += words.len();
        for (count, term) in self.terms.iter_mut().zip(&TERMS) {
            for form in term.forms {
                let form: Vec<&str> = form.split(' ').collect();
                *count += words
                    .windows(form.len())
                    .filter(|found| *found == form)
                    .count();
            }
        }
    }

    /// Reads all comments and documents of the repository.
    fn read() -> anyhow::Result<Self> {
        let mut count = Self::default();
        for path in files()? {
            let read = || fs::read_to_string(&path).with_context(|| path.display().to_string());
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs") => count.add(&comments(&read()?)),
                Some("md") => count.add(&prose(&read()?)),
                _ => {}
            }
        }
        anyhow::ensure!(count.words > 10_000, "the texts are not all there");
        Ok(count)
    }

    #[expect(clippy::cast_precision_loss, reason = "there are not that many words")]
    fn rate(&self, count: usize) -> f64 {
        count as f64 * 10_000.0 / self.words as f64
    }
}

/// Returns the files of the repository that may contain comments or prose.
pub(crate) fn files() -> anyhow::Result<Vec<PathBuf>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root
        .canonicalize()
        .with_context(|| root.display().to_string())?;
    let mut files = Vec::new();
    for entry in fs::read_dir(&root)? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    for folder in ["crates", "docs"] {
        find(&root.join(folder), &mut files)?;
    }
    Ok(files)
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Prints how often each term occurs in 10,000 words of comments and documents.
pub(crate) fn print() -> anyhow::Result<()> {
    let found = Count::read()?;
    println!("{} words in comments and documents\n", found.words);
    println!(
        "{:<16} {:>6} {:>10}   {:<14} {:>7}",
        "", "count", "per 10,000", "goal", "ceiling"
    );
    for (count, term) in found.terms.into_iter().zip(&TERMS) {
        let rate = found.rate(count);
        let mark = if term.goal.is_reached(rate) { " " } else { "!" };
        let ceiling = term.ceiling.map(|ceiling| ceiling.to_string());
        println!(
            "{:<16} {count:>6} {rate:>10.2} {mark} {:<14} {:>7}",
            term.name,
            term.goal.show(),
            ceiling.unwrap_or_default()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_words_stay() {
        let found = Count::read().unwrap();
        for (count, term) in found.terms.into_iter().zip(&TERMS) {
            let rate = found.rate(count);
            if matches!(term.goal, Goal::AtLeast(_)) {
                let goal = term.goal.show();
                let name = term.name;
                assert!(term.goal.is_reached(rate), "`{name}`: {rate:.2}, {goal}");
            }
        }
    }

    #[test]
    fn avoided_words_do_not_become_more() {
        let found = Count::read().unwrap();
        for (count, term) in found.terms.into_iter().zip(&TERMS) {
            let Some(ceiling) = term.ceiling else {
                continue;
            };
            assert!(
                count <= ceiling,
                "comments and documents have `{}` {count} times instead of {ceiling}: name the role or \
                 the thing instead, such as caller, client, operator or instance",
                term.name
            );
        }
    }

    #[test]
    fn words_are_counted_in_comments_and_not_in_code() {
        let code = "//! You'll.\n/// What\n/// is it? `for_you`\nfn you() { f(\"// you\") } // because\n\
            /// ```\n/// you\n/// ```\n/* For\n example */ /// you";
        let mut count = Count::default();
        count.add(&comments(code));
        let found = TERMS
            .iter()
            .zip(count.terms)
            .filter(|(_, count)| *count > 0);
        let found: Vec<_> = found.map(|(term, count)| (term.name, count)).collect();
        let expected = [
            ("what is/was/has", 1),
            ("because", 1),
            ("you", 2),
            ("for example", 1),
        ];
        assert_eq!(found, expected);
        assert_eq!(count.words, 9);
    }

    #[test]
    fn blocks_of_code_are_no_prose() {
        assert_eq!(prose("a\n```sh\nb\n```\nc"), "a\nc\n");
    }
}
