//! A throw-away nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::gateway::{Gateway, Installed, Program, find};

const NGINX: Program = Program {
    name: "nginx",
    how_to_install: "nginx is not installed: run `cargo xtask test`, which installs it, or install it yourself \
                     (`apt-get install nginx`)",
    find: find_installed,
    arguments: |folder| {
        let config = folder.join("nginx.conf").into();
        let [e, c, p] = ["-e", "-c", "-p"].map(Into::into);
        vec![e, "stderr".into(), c, config, p, folder.into()]
    },
    // SIGKILL would leave its workers behind.
    end: "TERM",
};

/// Starts nginx.
#[derive(Debug)]
pub struct Nginx;

impl Nginx {
    /// Starts nginx with the configuration inside `http { .. }` that `config` returns for a free
    /// port of 127.0.0.1.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start(config: impl Fn(u16) -> String) -> Gateway {
        Gateway::start(&NGINX, None, |folder, port| {
            let site = ("site.conf", config(port));
            vec![site, ("nginx.conf", main_config(folder))]
        })
    }
}

fn main_config(folder: &Path) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .concat();
    format!(
        "daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 128; }}
http {{
access_log off;
{temporary}include {folder}/site.conf;
}}
"
    )
}

/// Returns the installed nginx, if there is one. Most systems install it in folders that only the
/// `PATH` of root contains.
#[must_use]
pub fn find_installed() -> Option<Installed> {
    const ELSEWHERE: [&str; 4] = [
        "/usr/sbin/nginx",
        "/usr/local/sbin/nginx",
        "/usr/local/bin/nginx",
        "/opt/homebrew/bin/nginx",
    ];
    find("nginx", ELSEWHERE.map(PathBuf::from), |binary| {
        let output = Command::new(binary).arg("-v").output().ok()?;
        let said = String::from_utf8(output.stderr).ok()?;
        let version = said.trim().strip_prefix("nginx version: nginx/")?;
        version.split(' ').next().map(str::to_owned)
    })
}
