//! A throw-away Redis, or Valkey, which has the same protocol.
//!
//! Each [`Redis`] is a server of its own on a free port of 127.0.0.1, without files on disk. It
//! starts in a few hundredths of a second, can be killed, stopped and flushed, and ends with the
//! process that started it, even if that is killed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process::{Watch, signal};

const HOW_TO_INSTALL: &str = "the Redis server is not installed: run `cargo xtask test`, which installs it, or install \
                              it yourself (`apt-get install redis-server`)";

/// A running server. It ends with this value or with the process.
#[derive(Debug)]
pub struct Redis {
    binary: PathBuf,
    arguments: Vec<String>,
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Child,
    watch: Watch,
}

impl Redis {
    /// Starts a server.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments, such as `--requirepass` and a password.
    ///
    /// # Panics
    /// If it is not installed or does not start. The message says what to do.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        const ATTEMPTS: usize = 3;
        for _ in 0..ATTEMPTS {
            let mut redis = Self::stopped_with(arguments);
            // Another process may take the port between its choice and its use.
            if redis.try_bring_up() {
                return redis;
            }
        }
        panic!(
            "Redis does not start: {}",
            Self::stopped_with(arguments).said()
        );
    }

    /// Chooses a port without starting a server; [`bring_up`](Self::bring_up) starts it.
    ///
    /// # Panics
    /// If the server is not installed. The message says what to do.
    #[must_use]
    pub fn stopped() -> Self {
        Self::stopped_with(&[])
    }

    fn stopped_with(arguments: &[&str]) -> Self {
        let Some(found) = find_installed() else {
            panic!("{HOW_TO_INSTALL}");
        };
        Self {
            binary: found.binary,
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            folder: tempfile::Builder::new()
                .prefix("keys-redis-")
                .tempdir()
                .expect("a temporary folder can be made"),
            port: TcpListener::bind(("127.0.0.1", 0))
                .and_then(|listener| listener.local_addr())
                .expect("there is a free port")
                .port(),
            running: None,
        }
    }

    /// Returns `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it, empty, on the same port as before.
    ///
    /// # Panics
    /// If it is running already or does not start.
    pub fn bring_up(&mut self) {
        assert!(self.running.is_none(), "Redis runs already");
        assert!(self.try_bring_up(), "Redis does not start: {}", self.said());
    }

    fn try_bring_up(&mut self) -> bool {
        const AT_MOST: Duration = Duration::from_secs(20);
        const STEP: Duration = Duration::from_millis(5);
        let mut process = self.spawn(Stdio::null());
        let watch = Watch::over_process(process.id()).expect("a shell can be started");
        let mut waited = Duration::ZERO;
        while waited < AT_MOST {
            // The answer must come from Redis and not from another listener. A server with a
            // password answers that one is needed.
            let answers = self.try_command("PING").is_some();
            if process.try_wait().expect("a child can be asked").is_some() {
                break;
            }
            if answers {
                self.running = Some(Running { process, watch });
                return true;
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
        let _ = process.kill();
        let _ = process.wait();
        watch.disarm();
        false
    }

    /// Kills it, as a machine that loses its power does.
    ///
    /// # Panics
    /// If it is not running.
    pub fn kill(&mut self) {
        assert!(self.end(), "Redis does not run");
    }

    /// Stops it as a debugger does: its connections stay open and nothing is answered. See
    /// [`resume`](Self::resume).
    pub fn pause(&self) {
        signal("STOP", self.id());
    }

    /// Continues after [`pause`](Self::pause).
    pub fn resume(&self) {
        signal("CONT", self.id());
    }

    /// Runs one command, words separated by single spaces, and returns the first line of the
    /// answer, such as `+PONG`.
    ///
    /// # Panics
    /// If there is no answer.
    #[expect(
        clippy::must_use_candidate,
        reason = "most commands are for what they do"
    )]
    pub fn command(&self, words: &str) -> String {
        self.try_command(words).expect("Redis answers")
    }

    fn try_command(&self, words: &str) -> Option<String> {
        const TIMEOUT: Duration = Duration::from_secs(10);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(TIMEOUT)).ok()?;
        // Inline commands need no client, and so no `redis-cli`, which is a separate package on
        // some systems.
        stream.write_all(format!("{words}\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).ok()?;
        answer.strip_suffix("\r\n").map(str::to_owned)
    }

    fn id(&self) -> u32 {
        let running = self.running.as_ref().expect("Redis runs");
        running.process.id()
    }

    fn spawn(&self, stdout: Stdio) -> Child {
        let mut command = Command::new(&self.binary);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &self.port.to_string(), "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments);
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{error}; {HOW_TO_INSTALL}"))
    }

    /// Returns the output of a server that does not start.
    fn said(&self) -> String {
        let mut process = self.spawn(Stdio::piped());
        std::thread::sleep(Duration::from_secs(1));
        let _ = process.kill();
        let mut said = String::new();
        if let Some(mut stdout) = process.stdout.take() {
            let _ = stdout.read_to_string(&mut said);
        }
        let _ = process.wait();
        said
    }

    fn end(&mut self) -> bool {
        let Some(Running { mut process, watch }) = self.running.take() else {
            return false;
        };
        // SIGKILL ends a stopped process too.
        let _ = process.kill();
        let _ = process.wait();
        watch.disarm();
        true
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its path.
    pub binary: PathBuf,
    /// Its name and version.
    pub version: String,
}

/// Finds a server on this machine: Redis, or else Valkey.
#[must_use]
pub fn find_installed() -> Option<Installed> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    // Folders of packages that are not in the `PATH` of every user.
    folders.extend(["/usr/bin", "/usr/sbin", "/usr/local/bin"].map(PathBuf::from));
    let candidates = ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.filter(|path| path.is_file()).find_map(|binary| {
        let version = version(&binary)?;
        Some(Installed { binary, version })
    })
}

fn version(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

/// `Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0`
fn parse_version(text: &str) -> Option<String> {
    let rest = text.split_once(" v=")?.1;
    rest.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read() {
        for (text, version) in [
            (
                "Redis server v=7.0.15 sha=0:0 malloc=libc bits=64\n",
                Some("7.0.15"),
            ),
            ("Valkey server v=8.1.1 sha=0:0\n", Some("8.1.1")),
            ("redis-cli 7.0.15", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text).as_deref(), version, "{text}");
        }
    }

    #[test]
    fn server_answers_and_comes_back_empty_on_the_same_port() {
        let mut redis = Redis::start();
        let url = redis.url();
        assert_eq!(redis.command("SET a 1"), "+OK");
        assert_eq!(redis.command("EXISTS a"), ":1");
        redis.kill();
        assert_eq!(redis.try_command("PING"), None);
        redis.bring_up();
        assert_eq!(redis.url(), url);
        assert_eq!(redis.command("EXISTS a"), ":0");
    }

    #[test]
    fn stopped_server_answers_when_it_goes_on() {
        let redis = Redis::start();
        redis.pause();
        std::thread::scope(|threads| {
            let answer = threads.spawn(|| redis.command("PING"));
            std::thread::sleep(Duration::from_millis(100));
            assert!(!answer.is_finished());
            redis.resume();
            assert_eq!(answer.join().unwrap(), "+PONG");
        });
    }

    #[test]
    #[should_panic(expected = "Redis does not start")]
    fn server_that_does_not_start_is_reported() {
        let _ = Redis::start_with(&["--no-such-option", "1"]);
    }
}
