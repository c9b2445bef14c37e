//! A throw-away nginx, which runs as nobody in particular.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process::{Watch, signal};

const HOW_TO_INSTALL: &str = "nginx is not installed: run `cargo xtask test`, which installs it, or install it \
                              yourself (`apt-get install nginx`)";

/// A running nginx, which ends with this value or with the process.
#[derive(Debug)]
pub struct Nginx {
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
    watch: Option<Watch>,
}

impl Nginx {
    /// Starts one with what `config` says for a free port of 127.0.0.1, to stand inside `http { .. }`.
    ///
    /// # Panics
    /// When it is not installed or does not start, saying what to do.
    #[must_use]
    pub fn start(config: impl Fn(u16) -> String) -> Self {
        const ATTEMPTS: usize = 3;
        let Some(found) = find_installed() else {
            panic!("{HOW_TO_INSTALL}");
        };
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind(("127.0.0.1", 0))
                .and_then(|listener| listener.local_addr())
                .expect("there is a free port")
                .port();
            // Another process may take the port between its choice and its use.
            match Self::try_start(&found.binary, port, &config(port)) {
                Ok(nginx) => return nginx,
                Err(error) => said = error,
            }
        }
        panic!("nginx does not start: {said}");
    }

    fn try_start(binary: &Path, port: u16, config: &str) -> Result<Self, String> {
        const AT_MOST: Duration = Duration::from_secs(20);
        const STEP: Duration = Duration::from_millis(10);
        let folder = tempfile::Builder::new()
            .prefix("keys-nginx-")
            .tempdir()
            .expect("a temporary folder can be made");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(path, text).expect("the temporary folder can be written to");
        };
        write("site.conf", config);
        write("nginx.conf", &main_config(folder.path()));
        let log = folder.path().join("error.log");
        let mut command = Command::new(binary);
        command.arg("-e").arg(&log);
        command.arg("-c").arg(folder.path().join("nginx.conf"));
        command.arg("-p").arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null()).current_dir("/");
        let owner = fs::metadata(folder.path()).expect("the folder is there");
        if owner.uid() == 0 {
            // As a gateway should: not as root.
            let nobody = 65_534;
            chown(folder.path(), Some(nobody), Some(nobody)).expect("root may do that");
            command.uid(nobody).gid(nobody);
        }
        let process = command.spawn();
        let mut process = process.map_err(|error| format!("it cannot be run: {error}"))?;
        let watch = Watch::over_process(process.id()).expect("a shell can be started");
        let mut waited = Duration::ZERO;
        while waited < AT_MOST {
            if process.try_wait().expect("a child can be asked").is_some() {
                break;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(Self {
                    folder,
                    port,
                    process,
                    watch: Some(watch),
                });
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        let _ = process.kill();
        let _ = process.wait();
        watch.disarm();
        Err(fs::read_to_string(log).unwrap_or_default())
    }

    /// Where it is reached: `http://127.0.0.1:PORT`, followed by `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What it has complained of so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        signal("TERM", self.process.id());
        let _ = self.process.wait();
        if let Some(watch) = self.watch.take() {
            watch.disarm();
        }
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
error_log {folder}/error.log warn;
events {{ worker_connections 128; }}
http {{
access_log off;
{temporary}include {folder}/site.conf;
}}
"
    )
}

/// An nginx that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its version.
    pub version: String,
    /// Its program.
    pub binary: PathBuf,
}

/// The installed one, if there is any. Most systems keep it out of the way of users who are not root.
#[must_use]
pub fn find_installed() -> Option<Found> {
    const ELSEWHERE: [&str; 4] = [
        "/usr/sbin",
        "/usr/local/sbin",
        "/usr/local/bin",
        "/opt/homebrew/bin",
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ELSEWHERE.map(PathBuf::from));
    folders
        .map(|folder| folder.join("nginx"))
        .find_map(|binary| {
            let output = Command::new(&binary).arg("-v").output().ok()?;
            let said = String::from_utf8(output.stderr).ok()?;
            let version = said.trim().strip_prefix("nginx version: nginx/")?;
            let version = version.split(' ').next()?.to_owned();
            Some(Found { version, binary })
        })
}
