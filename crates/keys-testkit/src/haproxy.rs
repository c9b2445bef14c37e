//! A throw-away HAProxy.

use std::path::PathBuf;
use std::process::Command;

use crate::gateway::{Gateway, Installed, Program, find};

const HAPROXY: Program = Program {
    name: "HAProxy",
    how_to_install: "HAProxy is not installed: run `cargo xtask test`, which installs it, or install it yourself \
                     (`apt-get install haproxy`)",
    find: find_installed,
    arguments: |folder| {
        let config = folder.join("haproxy.cfg").into();
        // In the foreground, as one process.
        vec!["-db".into(), "-f".into(), config]
    },
    end: "TERM",
};

/// Starts HAProxy.
#[derive(Debug)]
pub struct HaProxy;

impl HaProxy {
    /// Starts HAProxy with the configuration that `config` returns for a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start(config: impl Fn(u16) -> String) -> Gateway {
        Gateway::start(&HAPROXY, None, |_, port| {
            vec![("haproxy.cfg", config(port))]
        })
    }
}

/// Returns the installed HAProxy, if there is one.
#[must_use]
pub fn find_installed() -> Option<Installed> {
    const ELSEWHERE: [&str; 3] = [
        "/usr/sbin/haproxy",
        "/usr/local/sbin/haproxy",
        "/opt/homebrew/bin/haproxy",
    ];
    find("haproxy", ELSEWHERE.map(PathBuf::from), |binary| {
        let output = Command::new(binary).arg("-v").output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        // `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/`
        let version = said.strip_prefix("HAProxy version ")?;
        version.split(' ').next().map(str::to_owned)
    })
}
