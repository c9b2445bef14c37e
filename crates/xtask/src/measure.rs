//! Benchmarks and proofs: the program and the document of each table.

use std::time::Duration;

use anyhow::ensure;
use keys_testkit::postgres::URL_VARIABLE;
use keys_testkit::report::FULL_VARIABLE;

use crate::document::{self, Document, Figure};
use crate::step::{self, Output, Step};
use crate::{install, machine, postgres};

/// A table of a document.
struct Measurement {
    /// Name of the table in the document. A filter is compared with it.
    name: &'static str,
    program: Program,
    /// Arguments of the program, after `--`.
    arguments: &'static [&'static str],
    reads: Reads,
}

/// The target that is built and run, its package, optimized.
enum Program {
    Bench(&'static str, &'static str),
    Test(&'static str, &'static str),
    /// Tests that are not among those of the workspace, because they are declared as a benchmark.
    TestApart(&'static str, &'static str),
    /// The unit tests.
    Units(&'static str),
}

impl Program {
    /// Returns the arguments of cargo.
    fn arguments(&self) -> Vec<&'static str> {
        match *self {
            Self::Bench(package, name) => dist("bench", package, &["--bench", name]),
            Self::Test(package, name) => dist("test", package, &["--test", name]),
            Self::TestApart(package, name) => dist("test", package, &["--bench", name]),
            Self::Units(package) => dist("test", package, &["--lib"]),
        }
    }
}

/// Returns the arguments of a command for a target of `package`, built as packages are.
fn dist(
    command: &'static str,
    package: &'static str,
    target: &[&'static str],
) -> Vec<&'static str> {
    [
        &[command, "--profile", "dist", "--package", package],
        target,
    ]
    .concat()
}

/// Source of the figures of a measurement.
enum Reads {
    /// The figures in its output.
    Figures,
    /// The times in the output of criterion. The first one is the base of the ratios.
    Criterion,
    /// Its duration.
    Time {
        what: &'static str,
        at_most: Duration,
    },
}

const BENCHMARKS: [Measurement; 8] = [
    Measurement {
        name: "rules",
        program: Program::Bench("keys-core", "keys"),
        arguments: &[],
        reads: Reads::Criterion,
    },
    Measurement {
        name: "verify",
        program: Program::Bench("keys-service", "verify"),
        arguments: &[],
        reads: Reads::Figures,
    },
    Measurement {
        name: "allocations",
        program: Program::Test("keys-service", "allocations"),
        arguments: &["--nocapture"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "memory",
        program: Program::Bench("keys-service", "verify"),
        arguments: &["--memory"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "http",
        program: Program::Bench("keys-server", "http"),
        arguments: &[],
        reads: Reads::Figures,
    },
    Measurement {
        name: "database",
        program: Program::Bench("keys-store", "lookup"),
        arguments: &[],
        reads: Reads::Figures,
    },
    Measurement {
        name: "fleet",
        program: Program::Bench("keys-server", "fleet"),
        arguments: &[],
        reads: Reads::Figures,
    },
    Measurement {
        name: "growth",
        program: Program::Bench("keys-server", "growth"),
        arguments: &[],
        reads: Reads::Figures,
    },
];

/// The proof that needs more programs than the others.
const HIGH_AVAILABILITY: &str = "ha";

const PROOFS: [Measurement; 8] = [
    Measurement {
        name: "revocation",
        program: Program::Test("keys-server", "revocation"),
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: HIGH_AVAILABILITY,
        program: Program::TestApart("keys-server", "ha"),
        arguments: &["--nocapture", "--test-threads", "1", "ha::"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "drain",
        program: Program::Test("keys-server", "drain"),
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "limits",
        program: Program::Test("keys-server", "shared_limits"),
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "spray",
        program: Program::Test("keys-server", "spray"),
        arguments: &["--nocapture", "--test-threads", "1"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "judgement",
        program: Program::Test("keys-service", "judgement"),
        arguments: &["--nocapture"],
        reads: Reads::Figures,
    },
    Measurement {
        name: "coherence",
        program: Program::Test("keys-service", "coherence"),
        arguments: &[],
        reads: Reads::Time {
            what: "the model of the cache's protocol, checked with every known trap",
            at_most: Duration::from_mins(3),
        },
    },
    Measurement {
        name: "interleavings",
        program: Program::Units("keys-service"),
        arguments: &["cache::map"],
        reads: Reads::Time {
            what: "the real code of the cache under random schedules of its threads",
            at_most: Duration::from_mins(3),
        },
    },
];

/// Runs the benchmarks whose names contain `filter`. A missed figure is published like any other. A
/// benchmark that exits with an error is a failure.
pub(crate) fn bench(filter: Option<&str>) -> anyhow::Result<()> {
    const DOCUMENT: &str = "docs/benchmarks.md";
    provide()?;
    let outcome = all(DOCUMENT, &BENCHMARKS, filter, &[], Tables::OfEachProcessor)?;
    println!("\nwritten to {DOCUMENT}; missed: {}", outcome.missed.len());
    outcome.ended_well()
}

/// Runs the proofs whose names contain `filter`, in full.
pub(crate) fn prove(filter: Option<&str>) -> anyhow::Result<()> {
    const DOCUMENT: &str = "docs/proofs.md";
    let (url, cluster) = postgres()?;
    provide()?;
    step::heading("HAProxy");
    install::haproxy()?;
    if is_wanted(HIGH_AVAILABILITY, filter) {
        step::heading("HAProxy, Patroni and etcd");
        install::high_availability()?;
    }
    let environment = [(FULL_VARIABLE, "1"), (URL_VARIABLE, &url)];
    let outcome = all(
        DOCUMENT,
        &PROOFS,
        filter,
        &environment,
        Tables::OfTheLastRun,
    )?;
    let proofs = Document::open(DOCUMENT)?;
    let in_words = document::revocation_in_words(proofs.content("revocation")?)?;
    Document::open("docs/api/verification.md")?.replace("revocation", &in_words)?;
    drop(cluster);
    outcome.ended_well()?;
    let missed = outcome.missed.join("; ");
    ensure!(missed.is_empty(), "missed, see {DOCUMENT}: {missed}");
    println!("\nall held, written to {DOCUMENT}");
    Ok(())
}

fn provide() -> anyhow::Result<()> {
    step::heading("PostgreSQL");
    install::postgres()?;
    step::heading("Redis");
    install::redis()?;
    step::heading("nginx");
    install::nginx()?;
    step::heading("PgBouncer");
    install::pgbouncer()
}

fn is_wanted(name: &str, filter: Option<&str>) -> bool {
    filter.is_none_or(|filter| name.contains(filter))
}

/// The tables that a document keeps.
#[derive(Clone, Copy)]
enum Tables {
    OfTheLastRun,
    OfEachProcessor,
}

/// Result of measurements.
#[derive(Debug, Default)]
struct Outcome {
    /// The figures that were missed.
    missed: Vec<String>,
    /// The measurements that failed, and how.
    failed: Vec<String>,
}

impl Outcome {
    fn ended_well(&self) -> anyhow::Result<()> {
        let Self { missed, failed } = self;
        ensure!(
            failed.is_empty(),
            "{}; missed: {}",
            failed.join("; "),
            missed.join("; ")
        );
        Ok(())
    }
}

/// Runs one after the other and writes each table as soon as it is complete, even if the run
/// failed.
fn all(
    document: &str,
    measurements: &[Measurement],
    filter: Option<&str>,
    environment: &[(&'static str, &str)],
    tables: Tables,
) -> anyhow::Result<Outcome> {
    let wanted = |one: &&Measurement| is_wanted(one.name, filter);
    let chosen: Vec<_> = measurements.iter().filter(wanted).collect();
    let names: Vec<_> = measurements.iter().map(|one| one.name).collect();
    ensure!(!chosen.is_empty(), "there are only {}", names.join(", "));
    for one in &chosen {
        // Builds everything first, because no compiler may run during a measurement.
        let build = one.program.arguments().into_iter().chain(["--no-run"]);
        step::all(&[Step::cargo(&format!("build of {}", one.name), build)])?;
    }
    let mut outcome = Outcome::default();
    for one in chosen {
        let step = one.step(environment);
        let output = step.read()?;
        if !output.status.success() {
            outcome
                .failed
                .push(step.ended(output.status, output.elapsed));
        }
        let figures = match one.figures(&output) {
            Ok(figures) => figures,
            // This one has no figures to publish, but the others may have.
            Err(error) => {
                outcome.failed.push(error.to_string());
                continue;
            }
        };
        let missed = figures.iter().filter(|figure| figure.is_missed());
        let missed = missed.map(|figure| format!("{}: {}", figure.what, figure.measured));
        outcome.missed.extend(missed);
        // Opened again each time, so that prose that is edited meanwhile is not lost.
        let mut document = Document::open(document)?;
        let table = document::table(&one.shown(environment), &figures);
        for (name, content) in [("machine", &machine::table()), (one.name, &table)] {
            match tables {
                Tables::OfTheLastRun => document.replace(name, content)?,
                Tables::OfEachProcessor => {
                    document.replace_on(&machine::processor_kind(), name, content)?;
                }
            }
        }
    }
    Ok(outcome)
}

impl Measurement {
    fn step(&self, environment: &[(&'static str, &str)]) -> Step {
        let mut step = Step::cargo(self.name, self.program.arguments());
        if !self.arguments.is_empty() {
            step = step
                .arguments(["--"])
                .arguments(self.arguments.iter().copied());
        }
        for (name, value) in environment {
            step = step.environment(name, value);
        }
        step
    }

    /// Returns the command as you would type it.
    fn shown(&self, environment: &[(&'static str, &str)]) -> String {
        let is_full = environment.iter().any(|(name, _)| *name == FULL_VARIABLE);
        let prefix = match self.reads {
            Reads::Figures if is_full => format!("{FULL_VARIABLE}=1 "),
            _ => String::new(),
        };
        format!("{prefix}{}", self.step(environment).shown())
    }

    /// Returns the figures that a run has printed. A failure of the run is one of them, because it
    /// may have prevented others from being printed.
    fn figures(&self, output: &Output) -> anyhow::Result<Vec<Figure>> {
        let Output {
            lines,
            elapsed,
            status,
        } = output;
        let mut figures: Vec<_> = match self.reads {
            Reads::Figures => lines.iter().filter_map(|line| Figure::read(line)).collect(),
            Reads::Criterion => criterion(lines),
            Reads::Time { what, at_most } => {
                let counts: Vec<_> = lines.iter().filter_map(|line| counts(line)).collect();
                let passed: u32 = counts.iter().map(|(passed, _)| passed).sum();
                let failed: u32 = counts.iter().map(|(_, failed)| failed).sum();
                ensure!(passed + failed > 0, "no test of {} was run", self.name);
                let required = format!("at most {}", step::show(at_most));
                let shown = format!("{passed} tests in {}", step::show(*elapsed));
                let shown = match failed {
                    0 => shown,
                    _ => format!("{shown}, and {failed} failed"),
                };
                let held = failed == 0 && *elapsed <= at_most;
                vec![Figure::new(what, &shown, &required, held)]
            }
        };
        ensure!(!figures.is_empty(), "{} has printed no figures", self.name);
        if !status.success() {
            let failed = failed(lines);
            let measured = if failed.is_empty() {
                status.to_string()
            } else {
                format!("{status}, failed: {}", failed.join(", "))
            };
            let what = format!("{}: end of the run", self.name);
            figures.push(Figure::new(&what, &measured, "success", false));
        }
        Ok(figures)
    }
}

/// Returns the numbers of passed and failed tests, from `test result: ok. 12 passed; 0 failed; ..`.
fn counts(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("test result: ")?;
    let (_, rest) = rest.split_once(". ")?;
    let (passed, rest) = rest.split_once(" passed; ")?;
    let (failed, _) = rest.split_once(" failed")?;
    Some((passed.parse().ok()?, failed.parse().ok()?))
}

/// Returns the names of the tests that failed: the last list under `failures:`, which is indented.
fn failed(lines: &[String]) -> Vec<&str> {
    let Some(start) = lines.iter().rposition(|line| line == "failures:") else {
        return Vec::new();
    };
    let names = lines[start + 1..].iter();
    let names = names.map_while(|line| line.strip_prefix("    "));
    names.collect()
}

/// Returns the median times of criterion, each also as a ratio to the first.
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

/// Parses name and nanoseconds of `parse    time:   [27.1 ns 27.4 ns 27.8 ns]`.
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
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

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
    fn tests_are_counted_also_where_some_failed() {
        let ok = "test result: ok. 12 passed; 0 failed; 0 ignored";
        assert_eq!(counts(ok), Some((12, 0)));
        let failed = "test result: FAILED. 11 passed; 1 failed; 0 ignored";
        assert_eq!(counts(failed), Some((11, 1)));
        assert_eq!(counts("test a ... ok"), None);
    }

    const FAILED: &[&str] = &[
        "test spray ... figure\tdenied\t3.0x\tat most 2.0x\tmissed",
        "FAILED",
        "failures:",
        "    spray",
        "",
        "test result: FAILED. 3 passed; 1 failed; 0 ignored",
    ];

    /// Returns the figures that a measurement reads from these lines of a run of two seconds.
    fn read(name: &str, lines: &[&str], code: i32) -> anyhow::Result<Vec<Figure>> {
        let named = |one: &&Measurement| one.name == name;
        let measurement = BENCHMARKS.iter().chain(&PROOFS).find(named).unwrap();
        measurement.figures(&Output {
            lines: lines.iter().map(ToString::to_string).collect(),
            elapsed: Duration::from_secs(2),
            // Unix has the exit code in the second byte.
            status: ExitStatus::from_raw(code << 8),
        })
    }

    #[test]
    fn figures_of_a_run_that_failed_are_read_and_its_end_is_one_of_them() {
        let missed = Figure::new("denied", "3.0x", "at most 2.0x", false);
        let end = "exit status: 101, failed: spray";
        let end = Figure::new("spray: end of the run", end, "success", false);
        assert_eq!(read("spray", FAILED, 101).unwrap(), [missed, end]);
        let line = "sha256 time: [82.0 ns 83.0 ns 84.0 ns]";
        let figures = read("rules", &[line], 1).unwrap();
        assert_eq!(figures[1].measured, "exit status: 1");
        assert!(figures[1].is_missed());
    }

    #[test]
    fn time_is_missed_where_a_test_failed() {
        let figures = read("coherence", FAILED, 101).unwrap();
        assert_eq!(figures[0].measured, "3 tests in 2.0 s, and 1 failed");
        assert!(figures[0].is_missed());
        let passed = ["test result: ok. 4 passed; 0 failed; 0 ignored"];
        let figures = read("coherence", &passed, 0).unwrap();
        assert!(figures.len() == 1 && !figures[0].is_missed(), "{figures:?}");
    }

    #[test]
    fn run_without_figures_is_an_error_however_it_ends() {
        for code in [0, 101] {
            for name in ["rules", "spray", "coherence"] {
                let error = read(name, &["Compiling"], code).unwrap_err().to_string();
                assert!(error.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn outcome_names_what_failed_and_what_was_missed() {
        let mut outcome = Outcome::default();
        outcome.missed.push("denied: 3.0x".to_owned());
        assert!(outcome.ended_well().is_ok());
        outcome.failed.push("spray ended".to_owned());
        let error = outcome.ended_well().unwrap_err().to_string();
        assert_eq!(error, "spray ended; missed: denied: 3.0x");
    }
}
