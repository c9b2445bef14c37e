//! A throw-away PgBouncer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gateway::{Gateway, Installed, Program, find};

const PGBOUNCER: Program = Program {
    name: "PgBouncer",
    how_to_install: "PgBouncer is not installed: run `cargo xtask test`, which installs it, or install it yourself \
                     (`apt-get install pgbouncer`)",
    find: find_installed,
    arguments: |folder| vec![folder.join("pgbouncer.ini").into()],
    // Ends at once, with all connections.
    end: "TERM",
};

/// Starts PgBouncer.
#[derive(Debug)]
pub struct PgBouncer;

impl PgBouncer {
    /// Starts PgBouncer in front of the PostgreSQL at `HOST:PORT`, on a free port of 127.0.0.1.
    /// `settings` are lines of its section `[pgbouncer]`, such as `pool_mode = session`. Every
    /// client is accepted as the superuser `postgres`.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start(target: &str, settings: &str) -> Gateway {
        let (host, port) = target.rsplit_once(':').expect("HOST:PORT");
        Gateway::start(&PGBOUNCER, None, |folder, listen_port| {
            let folder: &Path = folder;
            let config = format!(
                "[databases]\n\
                 * = host={host} port={port} user=postgres\n\
                 [pgbouncer]\n\
                 listen_addr = 127.0.0.1\n\
                 listen_port = {listen_port}\n\
                 unix_socket_dir =\n\
                 pidfile = {}/pgbouncer.pid\n\
                 auth_type = any\n\
                 default_pool_size = 100\n\
                 max_client_conn = 200\n\
                 {settings}\n",
                folder.display()
            );
            vec![("pgbouncer.ini", config)]
        })
    }
}

/// Returns the installed PgBouncer, if there is one.
#[must_use]
pub fn find_installed() -> Option<Installed> {
    const ELSEWHERE: [&str; 3] = [
        "/usr/sbin/pgbouncer",
        "/usr/local/bin/pgbouncer",
        "/opt/homebrew/bin/pgbouncer",
    ];
    find("pgbouncer", ELSEWHERE.map(PathBuf::from), |binary| {
        let output = Command::new(binary).arg("--version").output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        // `PgBouncer 1.18.0`, and lines about libraries.
        let version = said.lines().next()?.strip_prefix("PgBouncer ")?;
        Some(version.to_owned())
    })
}
