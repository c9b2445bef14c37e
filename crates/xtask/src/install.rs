//! Finds what the tests need, or installs it and says so.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use keys_testkit::postgres::{self, VERSION_MIN};
use keys_testkit::{nginx, redis};

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
    Needed {
        name: format!("PostgreSQL {VERSION_MIN} or later"),
        parts: "its server and client programs",
        find: || {
            let found = postgres::find_installed()?;
            Some((found.version.to_string(), found.folder))
        },
        packages: |installer| installer.postgres,
    }
    .ensure()
}

/// Makes sure that a Redis server is there.
pub(crate) fn redis() -> anyhow::Result<()> {
    Needed {
        name: "Redis".to_owned(),
        parts: "its server, or that of Valkey",
        find: || {
            let found = redis::find_installed()?;
            Some((found.version, found.binary))
        },
        packages: |installer| installer.redis,
    }
    .ensure()
}

/// Makes sure that an nginx is there.
pub(crate) fn nginx() -> anyhow::Result<()> {
    Needed {
        name: "nginx".to_owned(),
        parts: "it",
        find: || {
            let found = nginx::find_installed()?;
            Some((found.version, found.binary))
        },
        packages: |installer| installer.nginx,
    }
    .ensure()
}

/// What the tests need of the system.
struct Needed {
    name: String,
    /// What to install by hand.
    parts: &'static str,
    /// Which version is where.
    find: fn() -> Option<(String, PathBuf)>,
    packages: fn(&Installer) -> &'static [&'static str],
}

impl Needed {
    /// Finds it, or installs it and says so.
    fn ensure(&self) -> anyhow::Result<()> {
        let Self { name, parts, .. } = self;
        if let Some((version, place)) = (self.find)() {
            println!("version {version} is installed in {}", place.display());
            return Ok(());
        }
        let installers = INSTALLERS.iter();
        let Some(installer) = installers
            .clone()
            .find(|installer| succeeds(installer.program, &["--version"]))
        else {
            let known: Vec<&str> = installers.map(|installer| installer.program).collect();
            bail!(
                "{name} is not installed, and none of the package managers {} is here to install it: please install \
                 {parts}",
                known.join(", ")
            );
        };
        println!(
            "{name} is not installed; installing it by {}",
            installer.program
        );
        for command in installer.commands((self.packages)(installer)) {
            run(&command, installer.needs_root)?;
        }
        let (version, place) = (self.find)().with_context(|| {
            format!(
                "{} has not installed {name}: please install {parts}",
                installer.program
            )
        })?;
        println!("installed version {version} in {}", place.display());
        Ok(())
    }
}

/// A package manager, and what things are called in it.
struct Installer {
    program: &'static str,
    needs_root: bool,
    /// Brings the list of packages up to date, where that is a command of its own.
    update: Option<&'static [&'static str]>,
    /// Installs the packages named after it.
    install: &'static [&'static str],
    postgres: &'static [&'static str],
    redis: &'static [&'static str],
    nginx: &'static [&'static str],
}

impl Installer {
    fn commands(&self, packages: &[&'static str]) -> Vec<Vec<&'static str>> {
        let update = self.update.map(<[_]>::to_vec);
        update
            .into_iter()
            .chain([[self.install, packages].concat()])
            .collect()
    }
}

const INSTALLERS: [Installer; 6] = [
    Installer {
        program: "apt-get",
        needs_root: true,
        update: Some(&["apt-get", "update", "--quiet"]),
        install: &[
            "apt-get",
            "install",
            "--yes",
            "--quiet",
            "--no-install-recommends",
        ],
        postgres: &["postgresql"],
        redis: &["redis-server"],
        nginx: &["nginx"],
    },
    Installer {
        program: "dnf",
        needs_root: true,
        update: None,
        install: &["dnf", "install", "--assumeyes"],
        postgres: &["postgresql-server", "postgresql"],
        redis: &["redis"],
        nginx: &["nginx"],
    },
    Installer {
        program: "apk",
        needs_root: true,
        update: None,
        install: &["apk", "add", "--no-cache"],
        postgres: &["postgresql", "postgresql-client"],
        redis: &["redis"],
        nginx: &["nginx"],
    },
    Installer {
        program: "zypper",
        needs_root: true,
        update: None,
        install: &["zypper", "--non-interactive", "install"],
        postgres: &["postgresql-server", "postgresql"],
        redis: &["redis"],
        nginx: &["nginx"],
    },
    Installer {
        program: "pacman",
        needs_root: true,
        update: None,
        install: &["pacman", "--sync", "--refresh", "--needed", "--noconfirm"],
        postgres: &["postgresql"],
        redis: &["valkey"],
        nginx: &["nginx"],
    },
    Installer {
        program: "brew",
        needs_root: false,
        update: None,
        install: &["brew", "install"],
        postgres: &["postgresql@17"],
        redis: &["redis"],
        nginx: &["nginx"],
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
            for packages in [installer.postgres, installer.redis, installer.nginx] {
                assert!(!packages.is_empty());
                for command in installer.commands(packages) {
                    assert_eq!(command[0], installer.program);
                }
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
