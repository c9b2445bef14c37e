//! Runs one step after the other, each with a heading, its time, and an error message if it fails.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use keys_testkit::process::Watch;

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Output {
    /// The lines that it printed.
    pub(crate) lines: Vec<String>,
    pub(crate) elapsed: Duration,
    pub(crate) status: ExitStatus,
}

/// A cargo command to run.
#[derive(Debug)]
pub(crate) struct Step {
    title: String,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, String)>,
}

impl Step {
    /// Runs cargo with these arguments.
    pub(crate) fn cargo<'a>(title: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            title: title.to_owned(),
            arguments: arguments.into_iter().map(OsString::from).collect(),
            environment: Vec::new(),
        }
    }

    /// Sets the title.
    pub(crate) fn name(mut self, title: &str) -> Self {
        title.clone_into(&mut self.title);
        self
    }

    /// Adds arguments.
    pub(crate) fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(OsString::from));
        self
    }

    /// Adds an environment variable.
    pub(crate) fn environment(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// Returns the title.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// Returns the command as you would type it.
    pub(crate) fn shown(&self) -> String {
        let mut words = vec!["cargo".to_owned()];
        words.extend(self.arguments.iter().map(|word| word.display().to_string()));
        words.join(" ")
    }

    fn run(&self) -> anyhow::Result<()> {
        let (status, elapsed) = self.run_with(Stdio::inherit(), |_| Ok(()))?;
        anyhow::ensure!(status.success(), self.ended(status, elapsed));
        println!("-- {} passed in {}", self.title, show(elapsed));
        Ok(())
    }

    /// Describes how it ended, if it failed.
    pub(crate) fn ended(&self, status: ExitStatus, elapsed: Duration) -> String {
        format!(
            "{} after {}: `{}` ended with {status}",
            self.title,
            show(elapsed),
            self.shown()
        )
    }

    /// Runs it and shows its output, as [`all`] does. Returns the output even if it failed.
    pub(crate) fn read(&self) -> anyhow::Result<Output> {
        let mut lines = Vec::new();
        let (status, elapsed) = self.run_with(Stdio::piped(), |child| {
            let Some(stdout) = child.stdout.take() else {
                return Ok(());
            };
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                println!("{line}");
                lines.push(line);
            }
            Ok(())
        })?;
        Ok(Output {
            lines,
            elapsed,
            status,
        })
    }

    fn run_with(
        &self,
        stdout: Stdio,
        meanwhile: impl FnOnce(&mut Child) -> std::io::Result<()>,
    ) -> anyhow::Result<(ExitStatus, Duration)> {
        let shown = self.shown();
        heading(&format!("{}: {shown}", self.title));
        let start = Instant::now();
        let mut command = cargo();
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(stdout)
            // A process group of its own, so that all its processes can be ended with it.
            .process_group(0);
        if std::env::var_os("CARGO_BUILD_JOBS").is_none() {
            command.env("CARGO_BUILD_JOBS", jobs().to_string());
        }
        let mut child = command.spawn().with_context(|| shown.clone())?;
        // Ends the whole group if this process is interrupted or killed.
        let watch = Watch::over_group(child.id()).context("a shell cannot be started")?;
        meanwhile(&mut child).with_context(|| shown.clone())?;
        let status = child.wait().with_context(|| shown.clone())?;
        watch.disarm();
        Ok((status, start.elapsed()))
    }
}

/// Runs all steps, up to the first that fails.
pub(crate) fn all(steps: &[Step]) -> anyhow::Result<()> {
    steps.iter().try_for_each(Step::run)
}

/// Prints the heading of a step.
pub(crate) fn heading(text: &str) {
    println!("\n== {text}");
}

/// `5.1 s`, `2 min 5 s`.
pub(crate) fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

/// Returns whether a program can be run and succeeds.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = match program {
        "cargo" => cargo(),
        _ => Command::new(program),
    };
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns the cargo that runs this program.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Variables that cargo sets for this program would confuse the builds below.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Returns the number of compilers: limited by the cores of the machine, and by its memory, because
/// linking takes about 1.5 GB at its peak.
fn jobs() -> NonZeroUsize {
    const KILOBYTES_PER_JOB: usize = 1_500_000;
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available_kilobytes(&text));
    let by_memory = available.map_or(usize::MAX, |kilobytes| kilobytes / KILOBYTES_PER_JOB);
    NonZeroUsize::new(by_memory).map_or(NonZeroUsize::MIN, |jobs| jobs.min(cores))
}

fn available_kilobytes(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:       24574224 kB\nMemAvailable:   23110120 kB\n";
        assert_eq!(available_kilobytes(meminfo), Some(23_110_120));
        assert_eq!(available_kilobytes("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn failed_step_is_named_and_ends_the_sequence() {
        let steps = [
            Step::cargo("works", ["--version"]),
            Step::cargo("breaks", ["no-such-command"]),
            Step::cargo("never", ["--version"]),
        ];
        let error = all(&steps).unwrap_err().to_string();
        assert!(error.starts_with("breaks after "), "{error}");
        assert!(error.contains("`cargo no-such-command`"), "{error}");
    }

    #[test]
    fn output_is_read_however_the_step_ends() {
        let output = Step::cargo("works", ["--version"]).read().unwrap();
        assert!(output.status.success());
        assert!(output.lines[0].starts_with("cargo "), "{output:?}");
        let output = Step::cargo("breaks", ["no-such-command"]).read().unwrap();
        assert!(!output.status.success());
    }

    #[test]
    fn times_are_short_to_read() {
        assert_eq!(show(Duration::from_millis(5_120)), "5.1 s");
        assert_eq!(show(Duration::from_secs(125)), "2 min 5 s");
    }
}
