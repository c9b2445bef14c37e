//! A running server, for tests over HTTP.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Watch, signal};

/// A pepper for tests, in base64: 32 bytes that do not repeat one byte and are not those of the
/// documentation.
pub const PEPPER: &str = "dGhyb3ctYXdheSBwZXBwZXIgb2YgdGhlIHRlc3RzISE=";

/// User and group without rights.
const NOBODY: u32 = 65_534;

/// Interval between two checks of a condition.
const STEP: Duration = Duration::from_millis(20);

/// Time limit for a server to become ready: much longer than it takes, because machines that run
/// tests are busy.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Time limit for a server to stop: the promised 10 s, and some time for a busy machine.
const STOPPED_WITHIN: Duration = Duration::from_secs(15);

/// The real server in a folder and on a port of its own. It is stopped with this value and with
/// this process.
///
/// ```no_run
/// # async fn example() {
/// use keys_testkit::server::Server;
/// use serde_json::json;
///
/// # const BINARY: &str = "";
/// let server = Server::builder(BINARY) // env!("CARGO_BIN_EXE_keys-server")
///     .env("KEYS_LOG__FILTER", "trace")
///     .start()
///     .await;
/// let operator = server.operator_key("test");
/// let answer = server
///     .post("/v1/accounts")
///     .bearer(&operator)
///     .json(&json!({"plan": "pro"}))
///     .send()
///     .await;
/// assert_eq!(answer.status, 201);
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    running: Option<Running>,
    client: reqwest::Client,
}

/// Settings of a server that is not running yet.
#[derive(Debug)]
#[must_use]
pub struct ServerBuilder {
    binary: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    config: Option<String>,
    arguments: Vec<OsString>,
    is_unprivileged: bool,
}

#[derive(Debug)]
struct Setup {
    is_unprivileged: bool,
    binary: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    arguments: Vec<OsString>,
    folder: TempDir,
}

#[derive(Debug)]
struct Running {
    process: Child,
    watch: Option<Watch>,
    url: String,
}

impl Server {
    /// Returns a builder for the program at `binary`, which is `env!("CARGO_BIN_EXE_keys-server")`
    /// in tests of that crate. By default the server listens on a free port of 127.0.0.1 and uses
    /// an embedded database.
    pub fn builder(binary: impl Into<PathBuf>) -> ServerBuilder {
        let listen = ("KEYS_HTTP__LISTEN".into(), "127.0.0.1:0".into());
        // No load balancer has to notice the stop.
        let drain = ("KEYS_HTTP__DRAIN_SECONDS".into(), "0".into());
        ServerBuilder {
            binary: binary.into(),
            environment: [listen, drain].into(),
            config: None,
            arguments: Vec::new(),
            is_unprivileged: false,
        }
    }

    /// Returns `http://127.0.0.1:PORT`, followed by `path`.
    ///
    /// # Panics
    /// If it was stopped.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let running = self.running.as_ref().expect("the server is running");
        format!("{}{path}", running.url)
    }

    /// Returns the folder it runs in. The embedded database is in `data` below it.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.setup.work_folder()
    }

    /// Returns the number of its process.
    ///
    /// # Panics
    /// If it was stopped.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        let running = self.running.as_ref().expect("the server is running");
        running.process.id()
    }

    /// Returns its standard output so far, over all its starts.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.setup.said("stdout.log")
    }

    /// Returns its standard error so far, over all its starts.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.setup.said("stderr.log")
    }

    /// Waits until its standard error contains `text`. A thread of the program writes the log, so a
    /// line can come after the effect that it reports.
    ///
    /// # Panics
    /// If it does not within 5 s.
    pub async fn until_logged(&self, text: &str) {
        const AT_MOST: Duration = Duration::from_secs(5);
        let start = Instant::now();
        while !self.stderr().contains(text) {
            assert!(start.elapsed() < AT_MOST, "{text:?}: {}", self.stderr());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs one of the program's commands to its end, with the same settings and in the same
    /// folder.
    ///
    /// # Panics
    /// If the program cannot be run.
    #[must_use]
    pub fn command<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        let mut command = self.setup.command();
        for argument in arguments {
            command.arg(argument.as_ref());
        }
        command.output().expect("the server's program can be run")
    }

    /// Creates an operator key with all scopes by the command line, and returns its secret.
    ///
    /// # Panics
    /// If the command fails, with its output.
    #[must_use]
    pub fn operator_key(&self, name: &str) -> String {
        let output = self.command(["operator-key", "create", "--name", name]);
        assert!(
            output.status.success(),
            "operator-key create failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let stdout = String::from_utf8(output.stdout).expect("a secret is ASCII");
        stdout.trim().to_owned()
    }

    /// Returns a request of any method.
    ///
    /// # Panics
    /// If the method is not legal.
    pub fn call(&self, method: &str, path: &str) -> Call {
        let method: Method = method.parse().expect("the method is legal");
        Call(self.client.request(method, self.url(path)))
    }

    /// Returns a `GET` request.
    pub fn get(&self, path: &str) -> Call {
        self.call("GET", path)
    }

    /// Returns a `POST` request.
    pub fn post(&self, path: &str) -> Call {
        self.call("POST", path)
    }

    /// Returns a `PATCH` request.
    pub fn patch(&self, path: &str) -> Call {
        self.call("PATCH", path)
    }

    /// Returns a `DELETE` request.
    pub fn delete(&self, path: &str) -> Call {
        self.call("DELETE", path)
    }

    /// Sends SIGTERM and waits until it has ended.
    ///
    /// # Panics
    /// If it was stopped before, or does not stop in time.
    pub fn stop(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the server is running");
        // Closes idle connections, for which the stop would wait.
        self.client = client();
        signal("TERM", running.process.id());
        let status = running.wait(STOPPED_WITHIN);
        let status = status.unwrap_or_else(|| {
            running.kill();
            panic!("the server does not stop on SIGTERM:\n{}", self.stderr())
        });
        running.disarm();
        status
    }

    /// Waits until it has ended by itself, or by a signal.
    ///
    /// # Panics
    /// If it was stopped before, or does not end in time.
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the server is running");
        let status = running.wait(STOPPED_WITHIN);
        let status = status.unwrap_or_else(|| {
            running.kill();
            panic!("the server does not end:\n{}", self.stderr())
        });
        running.disarm();
        status
    }

    /// Ends it at once (SIGKILL), as a power failure would.
    ///
    /// # Panics
    /// If it was stopped before.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the server is running");
        running.kill();
    }

    /// Starts it again in the same folder with the same settings, after [`stop`](Self::stop) or
    /// [`kill`](Self::kill).
    ///
    /// # Panics
    /// If it is still running, or does not become ready.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server is still running");
        self.running = Some(self.setup.start(&self.client).await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server said:\n{}{}", self.stdout(), self.stderr());
        }
        if let Some(mut running) = self.running.take() {
            const GRACE: Duration = Duration::from_secs(1);
            signal("TERM", running.process.id());
            if running.wait(GRACE).is_some() {
                running.disarm();
            } else {
                running.kill();
            }
        }
    }
}

impl ServerBuilder {
    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Runs it on this PostgreSQL database, under [`PEPPER`] unless another pepper is set.
    pub fn postgres(mut self, url: &str) -> Self {
        self.environment
            .entry("KEYS_PEPPERS__KEYS__P1".into())
            .or_insert_with(|| PEPPER.into());
        self.env("KEYS_DATABASE__URL", url)
    }

    /// Writes a settings file with this content.
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// Runs it as an unprivileged user if the tests run as root. All folders on the path to the
    /// program must be readable by others.
    pub fn unprivileged(mut self) -> Self {
        self.is_unprivileged = true;
        self
    }

    /// Adds an argument to its command line.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// If it ends or does not become ready in time, with its output.
    pub async fn start(self) -> Server {
        let setup = self.prepare();
        let client = client();
        let running = setup.start(&client).await;
        Server {
            setup,
            running: Some(running),
            client,
        }
    }

    /// Runs one of the program's commands to its end in a new folder, without a server. For
    /// commands, and for starts that should fail.
    ///
    /// # Panics
    /// If the program cannot be run.
    #[must_use]
    pub fn run(self) -> Output {
        let setup = self.prepare();
        let mut command = setup.command();
        command.args(&setup.arguments);
        command.output().expect("the server's program can be run")
    }

    fn prepare(mut self) -> Setup {
        let folder = tempfile::Builder::new()
            .prefix("keys-server-")
            .tempdir()
            .expect("a temporary folder can be made");
        if let Some(toml) = &self.config {
            let path = folder.path().join("config.toml");
            std::fs::write(&path, toml).expect("the temporary folder can be written to");
            self.environment.insert("KEYS_CONFIG".into(), path.into());
        }
        let is_root = || folder.path().metadata().is_ok_and(|data| data.uid() == 0);
        let setup = Setup {
            is_unprivileged: self.is_unprivileged && is_root(),
            binary: self.binary,
            environment: self.environment,
            arguments: self.arguments,
            folder,
        };
        std::fs::create_dir(setup.work_folder()).expect("the temporary folder can be written to");
        if setup.is_unprivileged {
            for path in [setup.folder.path(), &setup.work_folder()] {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("root may do that");
            }
        }
        setup
    }
}

impl Setup {
    fn work_folder(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn said(&self, file: &str) -> String {
        let bytes = std::fs::read(self.folder.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        // Settings in the environment of the tests must not affect this server.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEYS_") {
                command.env_remove(name);
            }
        }
        command
            .envs(&self.environment)
            .current_dir(self.work_folder())
            .stdin(Stdio::null());
        if self.is_unprivileged {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    async fn start(&self, client: &reqwest::Client) -> Running {
        let log = |name: &str| append_to(&self.folder.path().join(name));
        let already_said = (self.said("stdout.log").len(), self.said("stderr.log").len());
        let process = self
            .command()
            .args(&self.arguments)
            .stdout(log("stdout.log"))
            .stderr(log("stderr.log"))
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", self.binary.display()));
        let watch = Watch::over_process(process.id()).expect("a shell can be started");
        let mut running = Running {
            process,
            watch: Some(watch),
            url: String::new(),
        };
        let mut waited = Duration::ZERO;
        while !running.is_ready(self, already_said, client).await {
            let ended = running.process.try_wait().expect("a child can be asked");
            let problem = match ended {
                Some(status) => format!("ended ({status})"),
                None if waited >= READY_WITHIN => "is not ready in time".to_owned(),
                None => {
                    tokio::time::sleep(STEP).await;
                    waited += STEP;
                    continue;
                }
            };
            if ended.is_some() {
                running.disarm();
            } else {
                running.kill();
            }
            panic!(
                "the server {problem}:\n{}{}",
                self.said("stdout.log"),
                self.said("stderr.log")
            );
        }
        running
    }
}

impl Running {
    async fn is_ready(
        &mut self,
        setup: &Setup,
        already_said: (usize, usize),
        client: &reqwest::Client,
    ) -> bool {
        if self.url.is_empty() {
            let stdout = setup.said("stdout.log");
            let stderr = setup.said("stderr.log");
            let announced = announced_url(stdout.get(already_said.0..).unwrap_or_default())
                .or_else(|| announced_url(stderr.get(already_said.1..).unwrap_or_default()));
            let Some(url) = announced else { return false };
            self.url = url;
        }
        let answer = client.get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let mut waited = Duration::ZERO;
        loop {
            let status = self.process.try_wait().expect("a child can be asked");
            if status.is_some() || waited >= at_most {
                return status;
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }

    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.disarm();
    }

    fn disarm(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.disarm();
        }
    }
}

fn append_to(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the temporary folder can be written to")
}

/// Returns the first `http://127.0.0.1:PORT` on a line that is complete.
fn announced_url(said: &str) -> Option<String> {
    const START: &str = "http://127.0.0.1:";
    let complete = &said[..=said.rfind('\n')?];
    let rest = &complete[complete.find(START)? + START.len()..];
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    let port: u16 = digits.parse().ok()?;
    Some(format!("{START}{port}"))
}

fn client() -> reqwest::Client {
    const TIMEOUT: Duration = Duration::from_secs(30);
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .expect("a client without TLS needs nothing")
}

/// A request that is being built.
#[derive(Debug)]
#[must_use = "nothing happens before it is sent"]
pub struct Call(reqwest::RequestBuilder);

impl Call {
    /// Adds `Authorization: Bearer` with this credential.
    pub fn bearer(self, credential: &str) -> Self {
        self.header("Authorization", &format!("Bearer {credential}"))
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// Adds a header of any bytes, including bytes that are not text.
    pub fn header_bytes(self, name: &str, value: &[u8]) -> Self {
        Self(self.0.header(name, value))
    }

    /// Sets this body, as JSON.
    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    /// Sets this body unchanged, with this content type.
    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self(
            self.0
                .header("Content-Type", content_type)
                .body(body.into()),
        )
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    /// If there is no answer, or it is not UTF-8.
    pub async fn send(self) -> Answer {
        let response = self.0.send().await.expect("the server answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("the answer is complete");
        let body = String::from_utf8(bytes.into()).expect("the answer is UTF-8");
        Answer {
            status,
            headers,
            body,
        }
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Answer {
    /// Returns the first header of that name.
    ///
    /// # Panics
    /// If it is not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().expect("the header is ASCII"))
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.body))
    }

    /// Returns the text at this JSON pointer, such as `/meta/secret_token`.
    ///
    /// # Panics
    /// If there is no text.
    #[must_use]
    pub fn text(&self, pointer: &str) -> String {
        let json = self.json();
        let text = json.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("no text at {pointer}: {} {}", self.status, self.body))
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn announced_url_is_read_from_complete_lines_only() {
        for (said, url) in [
            ("", None),
            ("listening on http://127.0.0.1:80", None),
            (
                "listening on http://127.0.0.1:8080\n",
                Some("http://127.0.0.1:8080"),
            ),
            (
                "a\n b http://127.0.0.1:81/x\nc",
                Some("http://127.0.0.1:81"),
            ),
            ("http://127.0.0.1:\n", None),
        ] {
            assert_eq!(announced_url(said).as_deref(), url, "{said:?}");
        }
    }

    #[test]
    fn pepper_is_a_legal_one() {
        keys_core::Pepper::from_base64(PEPPER).unwrap();
    }

    /// Returns a program that runs the shell script.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    #[should_panic(expected = "the port is taken")]
    async fn server_that_ends_is_reported_with_what_it_said() {
        let folder = tempfile::tempdir().unwrap();
        let binary = program(folder.path(), "echo the port is taken >&2; exit 1");
        Server::builder(binary).start().await;
    }

    #[test]
    fn commands_run_with_the_settings_given_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let binary = program(
            folder.path(),
            "env | grep ^KEYS_; echo $1; ls; cat $KEYS_CONFIG",
        );
        let output = Server::builder(binary)
            .env("KEYS_LOG__FILTER", "trace")
            .config("[http]")
            .argument("serve")
            .run();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let settings = stdout.lines().filter(|line| line.starts_with("KEYS_"));
        assert_eq!(settings.count(), 4, "{stdout}");
        assert!(stdout.contains("KEYS_HTTP__LISTEN=127.0.0.1:0\n"));
        assert!(stdout.ends_with("serve\n[http]"));
    }
}
