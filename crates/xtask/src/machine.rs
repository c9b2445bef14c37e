//! The machine and the versions with which figures were measured.

use std::fs;
use std::process::Command;

use keys_testkit::{haproxy, nginx, postgres, redis};

/// Returns a table of the machine and of the versions of all programs that take part.
pub(crate) fn table() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or("unknown".to_owned(), |kib| {
            format!("{} GiB", (kib + (1 << 19)) >> 20)
        });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The suffix of the version names the builder.
    let kernel = kernel.split('-').next().unwrap_or_default();
    let unknown = || "none".to_owned();
    let rows = [
        ("processor", format!("{model}, {cores} cores")),
        ("memory", memory),
        (
            "system",
            format!("{} {}", std::env::consts::OS, kernel.trim()),
        ),
        ("compiler", said("rustc", &["--version"])),
        (
            "PostgreSQL",
            postgres::find_installed().map_or_else(unknown, |found| {
                let version = said(
                    &found.folder.join("postgres").display().to_string(),
                    &["--version"],
                );
                version.replace("postgres (PostgreSQL) ", "")
            }),
        ),
        (
            "Redis",
            redis::find_installed().map_or_else(unknown, |found| found.version),
        ),
        (
            "nginx",
            nginx::find_installed().map_or_else(unknown, |found| found.version),
        ),
        (
            "HAProxy",
            haproxy::find_installed().map_or_else(unknown, |found| found.version),
        ),
        (
            "this",
            format!("{}, {}", env!("CARGO_PKG_VERSION"), commit()),
        ),
    ];
    let rows = rows.map(|(what, which)| format!("| {what} | {which} |\n"));
    format!("| | |\n|---|---|\n{}", rows.concat())
}

/// Returns the family of this machine's processor, such as `Intel Xeon`. Figures are comparable
/// within a family.
pub(crate) fn processor_kind() -> String {
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    kind_of(&model)
}

fn kind_of(model: &str) -> String {
    let plain = model.replace("(R)", "").replace("(TM)", "");
    for family in ["AMD EPYC", "Intel Xeon"] {
        if plain.starts_with(family) {
            return family.to_owned();
        }
    }
    plain
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    // The tables that this command writes do not count as changes.
    let changes = said("git", &["status", "--porcelain", "--", ".", ":!/docs"]);
    match (commit.is_empty(), changes.is_empty()) {
        (true, _) => "not from a repository".to_owned(),
        (false, true) => format!("commit {commit}"),
        (false, false) => format!("commit {commit} with changes"),
    }
}

/// Returns the value of a line such as `name : value`.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(known, _)| known.trim() == name);
    Some(values.next()?.1.trim().to_owned())
}

/// Returns the output of a program, or an empty text if it fails.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let stdout = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&stdout).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_one_family_are_of_one_kind() {
        for (model, kind) in [
            ("AMD EPYC", "AMD EPYC"),
            ("AMD EPYC 7B13", "AMD EPYC"),
            ("Intel(R) Xeon(R) Processor", "Intel Xeon"),
            (
                "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
                "Intel Xeon",
            ),
            ("Something Else", "Something Else"),
        ] {
            assert_eq!(kind_of(model), kind);
        }
    }
}
