//! Finds what the tests need, or installs it and says so.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use keys_testkit::postgres::{self, VERSION_MIN};

use crate::step::succeeds;

/// Makes sure that rustfmt and clippy are there; a minimal toolchain has neither.
pub(crate) fn components() -> anyhow::Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if succeeds("cargo", &[subcommand, "--version"]) {
            continue;
        }
        ensure!(
            succeeds("rustup", &["--version"]),
            "{component} is not installed, and neither is rustup, which could install it"
        );
        run(&["rustup", "component", "add", component], false)?;
    }
    Ok(())
}

/// Makes sure that a PostgreSQL server and its client programs are there.
pub(crate) fn postgres() -> anyhow::Result<()> {
    if let Some(found) = postgres::find_installed() {
        println!(
            "version {} is installed in {}",
            found.version,
            found.folder.display()
        );
        return Ok(());
    }
    let installers = INSTALLERS.iter();
    let Some(installer) = installers
        .clone()
        .find(|installer| succeeds(installer.program, &["--version"]))
    else {
        let known: Vec<&str> = installers.map(|installer| installer.program).collect();
        bail!(
            "PostgreSQL {VERSION_MIN} or later is not installed, and none of the package managers {} is here to \
             install it: please install its server and client programs",
            known.join(", ")
        );
    };
    println!(
        "PostgreSQL is not installed; installing it by {}",
        installer.program
    );
    for command in installer.commands {
        run(command, installer.needs_root)?;
    }
    let found = postgres::find_installed().with_context(|| {
        format!(
            "{} has not installed PostgreSQL {VERSION_MIN} or later: please install its server and client programs",
            installer.program
        )
    })?;
    println!(
        "installed version {} in {}",
        found.version,
        found.folder.display()
    );
    Ok(())
}

/// A package manager, and what installs PostgreSQL by it.
struct Installer {
    program: &'static str,
    needs_root: bool,
    commands: &'static [&'static [&'static str]],
}

const INSTALLERS: [Installer; 6] = [
    Installer {
        program: "apt-get",
        needs_root: true,
        commands: &[
            &["apt-get", "update", "--quiet"],
            &[
                "apt-get",
                "install",
                "--yes",
                "--quiet",
                "--no-install-recommends",
                "postgresql",
            ],
        ],
    },
    Installer {
        program: "dnf",
        needs_root: true,
        commands: &[&[
            "dnf",
            "install",
            "--assumeyes",
            "postgresql-server",
            "postgresql",
        ]],
    },
    Installer {
        program: "apk",
        needs_root: true,
        commands: &[&[
            "apk",
            "add",
            "--no-cache",
            "postgresql",
            "postgresql-client",
        ]],
    },
    Installer {
        program: "zypper",
        needs_root: true,
        commands: &[&[
            "zypper",
            "--non-interactive",
            "install",
            "postgresql-server",
            "postgresql",
        ]],
    },
    Installer {
        program: "pacman",
        needs_root: true,
        commands: &[&[
            "pacman",
            "--sync",
            "--refresh",
            "--needed",
            "--noconfirm",
            "postgresql",
        ]],
    },
    Installer {
        program: "brew",
        needs_root: false,
        commands: &[&["brew", "install", "postgresql@17"]],
    },
];

fn run(words: &[&str], needs_root: bool) -> anyhow::Result<()> {
    let is_root = || -> anyhow::Result<bool> {
        let output = Command::new("id").arg("-u").output().context("`id`")?;
        Ok(output.stdout.trim_ascii() == b"0")
    };
    let words = if needs_root && !is_root()? {
        // `env` because sudo keeps little of the environment.
        [&["sudo", "env", "DEBIAN_FRONTEND=noninteractive"], words].concat()
    } else {
        words.to_vec()
    };
    let shown = words.join(" ");
    println!("$ {shown}");
    let status = Command::new(words[0])
        .args(&words[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| format!("`{shown}` cannot be run"))?;
    ensure!(status.success(), "`{shown}` ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_installer_runs_its_own_program() {
        for installer in &INSTALLERS {
            assert!(!installer.commands.is_empty());
            for command in installer.commands {
                assert_eq!(command[0], installer.program);
            }
        }
    }

    #[test]
    fn failed_installation_names_the_command() {
        let error = run(&["false", "postgresql"], false)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`false postgresql` ended with"),
            "{error}"
        );
        let error = run(&["no-such-program"], false).unwrap_err().to_string();
        assert_eq!(error, "`no-such-program` cannot be run");
    }
}
