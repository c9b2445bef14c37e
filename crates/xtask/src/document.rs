//! Documents with generated tables between hand-written prose.
//!
//! A table is between `<!-- name -->` and `<!-- /name -->`; the rest of the document is not
//! changed. If the document keeps tables of several kinds of processor, each follows a line
//! `On KIND:`, and only the one of this machine is replaced.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keys_testkit::report;

/// A measured value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) measured: String,
    /// Empty if nothing is required.
    pub(crate) required: String,
    /// `held` or `missed`, or empty if nothing is required.
    pub(crate) held: String,
}

impl Figure {
    pub(crate) fn new(what: &str, measured: &str, required: &str, held: bool) -> Self {
        Self {
            what: what.to_owned(),
            measured: measured.to_owned(),
            required: required.to_owned(),
            held: if held { "held" } else { "missed" }.to_owned(),
        }
    }

    /// Reads the figure from a line of output. The test harness may have written a prefix.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once(&format!("{}\t", report::MARK))?;
        let mut parts = rest.split('\t').map(str::to_owned);
        Some(Self {
            what: parts.next()?,
            measured: parts.next()?,
            required: parts.next()?,
            held: parts.next()?,
        })
    }

    pub(crate) fn is_missed(&self) -> bool {
        self.held == "missed"
    }
}

/// Returns a table of figures, below the command that measured them.
pub(crate) fn table(command: &str, figures: &[Figure]) -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let rows = figures.iter().map(|figure| {
        let held = if figure.is_missed() {
            "**missed**"
        } else {
            &figure.held
        };
        format!(
            "| {} | {} | {} | {held} |\n",
            cell(&figure.what),
            cell(&figure.measured),
            cell(&figure.required)
        )
    });
    format!(
        "```sh\n{command}\n```\n\n| what | measured | required | |\n|---|---|---|---|\n{}",
        rows.collect::<String>()
    )
}

/// A document of the repository.
#[derive(Debug)]
pub(crate) struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Reads the document at `path` in the repository.
    pub(crate) fn open(path: &str) -> anyhow::Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(path);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, text })
    }

    /// Replaces the content between the markers of this name.
    pub(crate) fn replace(&mut self, name: &str, content: &str) -> anyhow::Result<()> {
        self.text = replaced(&self.text, name, content).with_context(|| self.lacks(name))?;
        std::fs::write(&self.path, &self.text).with_context(|| self.path.display().to_string())
    }

    /// Replaces the table of this kind of processor between the markers of this name, and keeps
    /// those of other kinds.
    pub(crate) fn replace_on(
        &mut self,
        kind: &str,
        name: &str,
        content: &str,
    ) -> anyhow::Result<()> {
        let before = content_of(&self.text, name).with_context(|| self.lacks(name))?;
        let all = beside_others(before, kind, content);
        self.replace(name, &all)
    }

    fn lacks(&self, name: &str) -> String {
        format!(
            "{} has no place for `{name}`: write <!-- {name} --> and <!-- /{name} --> where it is to be",
            self.path.display()
        )
    }

    /// Returns the content between the markers of this name.
    pub(crate) fn content(&self, name: &str) -> anyhow::Result<&str> {
        content_of(&self.text, name).with_context(|| self.lacks(name))
    }
}

/// Returns the figure in the row that starts with `what`.
fn shown<'a>(table: &'a str, what: &str) -> Option<&'a str> {
    let start = format!("| {what} | ");
    let row = table.lines().find_map(|line| line.strip_prefix(&start))?;
    Some(row.split(" | ").next()?.trim())
}

/// Returns the sentence on the speed of a revocation in the documents for users. It is generated
/// from the table of the proof, so both always agree.
pub(crate) fn revocation_in_words(table: &str) -> anyhow::Result<String> {
    let figure = |what: &str| {
        shown(table, what)
            .with_context(|| format!("the proof of revocation says nothing of `{what}`"))
    };
    let count = figure("channel up: revocations")?;
    let times = figure("channel up: last acceptance after the answer")?;
    let parts: Option<Vec<_>> = ["p50 ", "p99 ", "max "]
        .into_iter()
        .zip(times.split(", "))
        .map(|(name, part)| part.strip_prefix(name))
        .collect();
    let parts = parts.filter(|parts| parts.len() == 3);
    let parts = parts.with_context(|| format!("not three times: {times}"))?;
    Ok(format!(
        "Measured over {count} revocations on three servers: the last acceptance by any of them came {} after the answer at p50, {} at p99 and \
         {} at most ([proofs](../proofs.md#revocation)).",
        parts[0], parts[1], parts[2]
    ))
}

fn content_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (_, rest) = text.split_once(&open)?;
    Some(rest.split_once(&close)?.0)
}

/// Returns the tables of all kinds of processor, with the one of this kind replaced or added.
fn beside_others(before: &str, kind: &str, content: &str) -> String {
    let mut tables: Vec<(String, String)> = Vec::new();
    for line in before.lines() {
        let heading = line
            .strip_prefix("On ")
            .and_then(|rest| rest.strip_suffix(':'));
        match (heading, tables.last_mut()) {
            (Some(kind), _) => tables.push((kind.to_owned(), String::new())),
            (None, Some((_, table))) => {
                table.push_str(line);
                table.push('\n');
            }
            // A table without a kind was written before there were several kinds, and is removed.
            (None, None) => {}
        }
    }
    tables.retain(|(known, _)| known != kind);
    tables.push((kind.to_owned(), content.to_owned()));
    tables.sort();
    let tables = tables
        .iter()
        .map(|(kind, table)| format!("On {kind}:\n\n{}", table.trim()));
    tables.collect::<Vec<_>>().join("\n\n")
}

fn replaced(text: &str, name: &str, content: &str) -> Option<String> {
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&open)?;
    let (_, after) = rest.split_once(&close)?;
    let content = content.trim_end();
    Some(format!("{before}{open}\n\n{content}\n\n{close}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_is_found_behind_what_the_harness_writes() {
        let line = "test spray ... figure\tdenied\t3.0x\tat most 2.0x\tmissed";
        let figure = Figure::read(line).unwrap();
        assert_eq!(figure, Figure::new("denied", "3.0x", "at most 2.0x", false));
        assert!(figure.is_missed());
        assert_eq!(Figure::read("a figure of speech"), None);
    }

    #[test]
    fn only_the_named_table_is_replaced() {
        let text = "prose\n<!-- a -->\nold\n<!-- /a -->\nmore\n<!-- b -->\nkept\n<!-- /b -->\n";
        let expected =
            "prose\n<!-- a -->\n\nnew\n\n<!-- /a -->\nmore\n<!-- b -->\nkept\n<!-- /b -->\n";
        assert_eq!(replaced(text, "a", "new\n").unwrap(), expected);
        assert_eq!(replaced(text, "c", "new"), None);
    }

    #[test]
    fn tables_of_other_processors_are_kept() {
        let one = beside_others("\nold\n", "B", "first\n");
        assert_eq!(one, "On B:\n\nfirst");
        let two = beside_others(&one, "A", "second");
        assert_eq!(two, "On A:\n\nsecond\n\nOn B:\n\nfirst");
        let again = beside_others(&two, "B", "third");
        assert_eq!(again, "On A:\n\nsecond\n\nOn B:\n\nthird");
    }

    #[test]
    fn page_on_verification_says_what_the_proof_of_revocation_has_measured() {
        let proofs = Document::open("docs/proofs.md").unwrap();
        let expected = revocation_in_words(proofs.content("revocation").unwrap()).unwrap();
        let page = Document::open("docs/api/verification.md").unwrap();
        assert_eq!(page.content("revocation").unwrap().trim(), expected);
    }

    #[test]
    fn revocation_is_told_from_its_table() {
        let table = "| channel up: revocations | 2000 |  |  |\n\
            | channel up: last acceptance after the answer | p50 0.1 ms, p99 2.0 ms, max 3.5 ms |  |  |\n";
        let told = revocation_in_words(table).unwrap();
        assert!(told.contains("over 2000 revocations"), "{told}");
        assert!(
            told.contains("0.1 ms after the answer at p50, 2.0 ms at p99 and 3.5 ms at most"),
            "{told}"
        );
        assert!(revocation_in_words("| something else | 1 |  |  |\n").is_err());
    }

    #[test]
    fn table_stands_out_where_a_figure_is_missed() {
        let figures = [
            Figure::new("a | b", "1", "1", true),
            Figure::new("c", "2", "1", false),
        ];
        let table = table("cargo bench", &figures);
        assert!(table.contains("| a \\| b | 1 | 1 | held |\n"), "{table}");
        assert!(table.contains("| c | 2 | 1 | **missed** |\n"), "{table}");
    }
}
