//! Documents with tables that are measured, between prose that is written by hand.
//!
//! A table stands between `<!-- name -->` and `<!-- /name -->`; whatever else the document says is left alone.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use keys_testkit::report;

/// One thing that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) measured: String,
    /// Empty where nothing is required.
    pub(crate) required: String,
    /// `held` or `missed`, or empty where nothing is required.
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

    /// Reads the figure that a line of output has. The harness of tests may have written something before it.
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

/// A table of figures, under the command that measured them.
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

    /// Puts `content` where the document has a place of this name.
    pub(crate) fn replace(&mut self, name: &str, content: &str) -> anyhow::Result<()> {
        self.text = replaced(&self.text, name, content).with_context(|| {
            format!(
                "{} has no place for `{name}`: write <!-- {name} --> and <!-- /{name} --> where it is to be",
                self.path.display()
            )
        })?;
        std::fs::write(&self.path, &self.text).with_context(|| self.path.display().to_string())
    }
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
