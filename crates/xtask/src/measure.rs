//! Benchmarks and proofs: what is run for each table, and in which document it stands.

use std::time::Duration;

use anyhow::ensure;
use keys_testkit::postgres::URL_VARIABLE;
use keys_testkit::report::FULL_VARIABLE;

use crate::document::{self, Document, Figure};
use crate::step::{self, Step};
use crate::{install, machine, postgres};

/// One table.
struct Measurement {
    /// Where it stands in the document, and what a filter is compared with.
    name: &'static str,
    /// What cargo is told to build.
    build: &'static [&'static str],
    /// What the program is told, after `--`.
    arguments: &'static [&'static str],
    reads: Reads,
}

/// Where the figures of a measurement are.
enum Reads {
    /// In the lines it prints.
    Figures,
    /// In the lines of criterion, where the first time is what the others are compared with.
    Criterion,
    /// In how long it takes.
    Time {
        what: &'static str,
        at_most: Duration,
    },
}

const BENCHMARKS: [Measurement; 6] = [
    Measurement {
        name: "rules",
        build: &["bench", "--package", "keys-core", "--bench", "keys"],
        arguments: &[],
        reads: Reads::Criterion,
    },
    Measurement {
        name: "verify",
        build: &["bench", "--package", "keys-service", "--bench", "verify"],
        arguments: &[],
        reads: Reads::Figures,
    },
    Measurement {
        name: "allocations",
        build: &[
            "test",
            "--release",
            "--package",
            "keys-service",
            "--test",
            "allocations",
        ],
        arguments: &["--nocapture"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "memory",
        build: &["bench", "--package", "keys-service", "--bench", "verify"],
        arguments: &["--memory"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "http",
        build: &["bench", "--package", "keys-server", "--bench", "http"],
        arguments: &[],
        reads: Reads::Figures,
    },
    Measurement {
        name: "database",
        build: &["bench", "--package", "keys-store", "--bench", "lookup"],
        arguments: &[],
        reads: Reads::Figures,
    },
];

const PROOFS: [Measurement; 5] = [
    Measurement {
        name: "revocation",
        build: &[
            "test",
            "--release",
            "--package",
            "keys-server",
            "--test",
            "revocation",
        ],
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "limits",
        build: &[
            "test",
            "--release",
            "--package",
            "keys-server",
            "--test",
            "shared_limits",
        ],
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "spray",
        build: &[
            "test",
            "--release",
            "--package",
            "keys-server",
            "--test",
            "spray",
        ],
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "coherence",
        build: &[
            "test",
            "--release",
            "--package",
            "keys-service",
            "--test",
            "coherence",
        ],
        arguments: &[],
        reads: Reads::Time {
            what: "the model of the cache's protocol, checked with every known trap",
            at_most: Duration::from_mins(3),
        },
    },
    Measurement {
        name: "interleavings",
        build: &["test", "--release", "--package", "keys-service", "--lib"],
        arguments: &["cache::map"],
        reads: Reads::Time {
            what: "the real code of the cache under random schedules of its threads",
            at_most: Duration::from_mins(3),
        },
    },
];

/// Runs the benchmarks whose names contain `filter`. What is missed is published like what is held.
pub(crate) fn bench(filter: Option<&str>) -> anyhow::Result<()> {
    const DOCUMENT: &str = "docs/benchmarks.md";
    provide()?;
    let missed = all(DOCUMENT, &BENCHMARKS, filter, &[])?;
    println!("\nwritten to {DOCUMENT}; missed: {missed}");
    Ok(())
}

/// Runs the proofs whose names contain `filter`, in full.
pub(crate) fn prove(filter: Option<&str>) -> anyhow::Result<()> {
    const DOCUMENT: &str = "docs/proofs.md";
    let (url, cluster) = postgres()?;
    provide()?;
    let environment = [(FULL_VARIABLE, "1"), (URL_VARIABLE, &url)];
    let missed = all(DOCUMENT, &PROOFS, filter, &environment)?;
    drop(cluster);
    ensure!(missed == 0, "{missed} figures were missed, see {DOCUMENT}");
    println!("\nall held, written to {DOCUMENT}");
    Ok(())
}

fn provide() -> anyhow::Result<()> {
    step::heading("PostgreSQL");
    install::postgres()?;
    step::heading("Redis");
    install::redis()?;
    step::heading("nginx");
    install::nginx()
}

/// Runs one after the other and writes each table as soon as it is there. Returns how many figures were missed.
fn all(
    document: &str,
    measurements: &[Measurement],
    filter: Option<&str>,
    environment: &[(&'static str, &str)],
) -> anyhow::Result<usize> {
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let chosen: Vec<_> = measurements.iter().filter(|one| wanted(one.name)).collect();
    let names: Vec<_> = measurements.iter().map(|one| one.name).collect();
    ensure!(!chosen.is_empty(), "there are only {}", names.join(", "));
    for one in &chosen {
        // Nothing is to be measured while a compiler runs.
        let build = one.build.iter().copied().chain(["--no-run"]);
        step::all(&[Step::cargo(&format!("build of {}", one.name), build)])?;
    }
    let mut missed = 0;
    for one in chosen {
        let figures = one.run(environment)?;
        missed += figures.iter().filter(|figure| figure.is_missed()).count();
        // Opened anew each time: whoever writes prose meanwhile loses nothing.
        let mut document = Document::open(document)?;
        document.replace("machine", &machine::table())?;
        document.replace(
            one.name,
            &document::table(&one.shown(environment), &figures),
        )?;
    }
    Ok(missed)
}

impl Measurement {
    fn step(&self) -> Step {
        let arguments = self.build.iter().copied();
        if self.arguments.is_empty() {
            return Step::cargo(self.name, arguments);
        }
        let own = ["--"].into_iter().chain(self.arguments.iter().copied());
        Step::cargo(self.name, arguments.chain(own))
    }

    /// The command for somebody who types it.
    fn shown(&self, environment: &[(&str, &str)]) -> String {
        let is_full = environment.iter().any(|(name, _)| *name == FULL_VARIABLE);
        let prefix = match self.reads {
            Reads::Figures if is_full => format!("{FULL_VARIABLE}=1 "),
            _ => String::new(),
        };
        format!("{prefix}{}", self.step().shown())
    }

    fn run(&self, environment: &[(&'static str, &str)]) -> anyhow::Result<Vec<Figure>> {
        let mut step = self.step();
        for (name, value) in environment {
            step = step.environment(name, value);
        }
        let (lines, elapsed) = step.read()?;
        let figures: Vec<_> = match self.reads {
            Reads::Figures => lines.iter().filter_map(|line| Figure::read(line)).collect(),
            Reads::Criterion => criterion(&lines),
            Reads::Time { what, at_most } => {
                let tests = lines.iter().filter_map(|line| passed(line)).sum::<u32>();
                ensure!(tests > 0, "no test of {} was run", self.name);
                let required = format!("at most {}", step::show(at_most));
                let shown = format!("{tests} tests in {}", step::show(elapsed));
                vec![Figure::new(what, &shown, &required, elapsed <= at_most)]
            }
        };
        ensure!(!figures.is_empty(), "{} has printed no figures", self.name);
        Ok(figures)
    }
}

/// How many tests have passed, from `test result: ok. 12 passed; 0 failed; ..`.
fn passed(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("test result: ok. ")?;
    rest.split(' ').next()?.parse().ok()
}

/// The middle times of criterion, each also as a ratio to the first.
fn criterion(lines: &[String]) -> Vec<Figure> {
    let times: Vec<_> = lines.iter().filter_map(|line| time(line)).collect();
    let Some((_, yardstick)) = times.first().copied() else {
        return Vec::new();
    };
    let figure = |(name, nanos): &(&str, f64)| Figure {
        what: format!("`{name}`"),
        measured: format!("{nanos:.0} ns, {:.2}x", nanos / yardstick),
        required: String::new(),
        held: String::new(),
    };
    times.iter().map(figure).collect()
}

/// Name and nanoseconds of `parse    time:   [27.1 ns 27.4 ns 27.8 ns]`.
fn time(line: &str) -> Option<(&str, f64)> {
    let (name, rest) = line.split_once("time:")?;
    let mut words = rest.trim().trim_start_matches('[').split(' ');
    let (value, unit) = (words.nth(2)?, words.next()?);
    let nanos_per_unit = match unit {
        "ps" => 1e-3,
        "ns" => 1.0,
        "ms" => 1e6,
        // Microseconds, with either letter for the first.
        _ => 1e3,
    };
    let value: f64 = value.parse().ok()?;
    Some((name.trim(), value * nanos_per_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_criterion_are_read_as_ratios_to_the_first() {
        let lines = [
            "Benchmarking sha256: Analyzing",
            "sha256                  time:   [82.0 ns 83.0 ns 84.0 ns]",
            "                        change: [-1.0% +0.0% +1.0%] (p = 0.9 > 0.05)",
            "digest                  time:   [165.0 ns 166.0 ns 167.0 ns]",
        ];
        let figures = criterion(&lines.map(str::to_owned));
        let measured = figures.iter().map(|figure| figure.measured.as_str());
        assert_eq!(
            measured.collect::<Vec<_>>(),
            ["83 ns, 1.00x", "166 ns, 2.00x"]
        );
        assert_eq!(
            time("x time: [1.0 \u{b5}s 2.0 \u{b5}s 3.0 \u{b5}s]"),
            Some(("x", 2_000.0))
        );
    }

    #[test]
    fn passed_tests_are_counted() {
        assert_eq!(passed("test result: ok. 12 passed; 0 failed"), Some(12));
        assert_eq!(passed("test a ... ok"), None);
    }
}
