//! A throw-away PostgreSQL.
//!
//! If `KEYS_TEST_POSTGRES_URL` names a cluster, as `cargo xtask test` does, it is used. Otherwise
//! each process starts one of its own at the first use. Each test creates a [`Database`] in it.
//!
//! A cluster has a temporary folder and a free port of 127.0.0.1, and ends with the process that
//! started it, even if that is killed: a small supervisor waits for the end of a pipe that only
//! that process holds.

use std::ffi::OsStr;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::signal;

/// The environment variable that names a cluster to use, as a superuser:
/// `postgres://postgres@127.0.0.1:5432`.
pub const URL_VARIABLE: &str = "KEYS_TEST_POSTGRES_URL";

/// The oldest supported major version: the first with `drop database .. with (force)` and `xid8`.
pub const VERSION_MIN: u32 = 13;

const HOW_TO_INSTALL: &str = "the PostgreSQL server, version 13 or later, is not installed: run `cargo xtask test`, \
                              which installs it, or install it yourself (`apt-get install postgresql`)";

/// A database for one test. It is dropped with this value.
#[derive(Debug)]
pub struct Database {
    cluster_url: String,
    name: String,
}

impl Database {
    /// Creates an empty database.
    ///
    /// # Panics
    /// If there is no PostgreSQL and none can be started. The message says what to do.
    pub async fn create() -> Self {
        let created = tokio::task::spawn_blocking(Self::create_blocking).await;
        match created {
            Ok(database) => database,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Creates an empty database, outside of any runtime.
    ///
    /// # Panics
    /// If there is no PostgreSQL and none can be started. The message says what to do.
    #[must_use]
    pub fn create_blocking() -> Self {
        let cluster_url = cluster_url();
        // Other processes, and other machines, may use the same cluster. `RandomState` is the
        // random number generator of std.
        let random = RandomState::new().build_hasher().finish();
        let name = format!("keys_test_{random:016x}");
        // A template must have no connections while it is copied, and `template0` accepts none.
        psql(
            &url(&cluster_url, "postgres"),
            &format!("create database {name} template template0"),
        );
        Self { cluster_url, name }
    }

    /// Returns `postgres://postgres@127.0.0.1:PORT/NAME`.
    #[must_use]
    pub fn url(&self) -> String {
        url(&self.cluster_url, &self.name)
    }

    /// Runs SQL with `psql`, and returns its output: rows as lines, columns separated by `|`.
    ///
    /// # Panics
    /// If the statement fails, with the error of the server.
    #[must_use]
    pub fn sql(&self, statement: &str) -> String {
        psql(&self.url(), statement)
    }

    /// Returns the whole database as text, schema and data.
    #[must_use]
    pub fn dump(&self) -> String {
        run(Command::new(tool("pg_dump"))
            .arg("--dbname")
            .arg(self.url()))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Best effort, and no panic while panicking: the whole cluster is removed later anyway.
        let statement = format!("drop database if exists {} with (force)", self.name);
        let _ = psql_command(&url(&self.cluster_url, "postgres"), &statement).output();
    }
}

/// A running cluster. It ends with this value or with the process.
#[derive(Debug)]
pub struct Cluster {
    supervisor: Child,
    /// Output of the supervisor.
    said: BufReader<ChildStdout>,
    port: u16,
    url: String,
    folder: PathBuf,
}

impl Cluster {
    /// Starts a cluster.
    ///
    /// # Errors
    /// If the server is not installed or does not start, with its log.
    pub fn start() -> Result<Self, String> {
        start_cluster("", None)
    }

    /// Starts a cluster with further settings, as `-c name=value`.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(settings: &str) -> Result<Self, String> {
        start_cluster(settings, None)
    }

    /// Starts a streaming replica of this cluster. Replication is asynchronous until
    /// [`replicate_synchronously`](Self::replicate_synchronously).
    ///
    /// # Errors
    /// If the cluster cannot be copied or the replica does not start, with its log.
    pub fn standby(&self) -> Result<Self, String> {
        // On the command line, because the copy has the settings of the primary, also after its
        // promotion.
        let settings = "-c cluster_name=standby -c synchronous_standby_names=''";
        start_cluster(settings, Some(self.port))
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the URL of one of its databases: `postgres://postgres@127.0.0.1:PORT/NAME`.
    #[must_use]
    pub fn database_url(&self, database: &str) -> String {
        url(&self.url, database)
    }

    /// Runs SQL in one of its databases and returns the output of `psql`: rows as lines, columns
    /// separated by `|`.
    ///
    /// # Panics
    /// If the statement fails, with the error of the server.
    #[expect(clippy::must_use_candidate, reason = "most statements print nothing")]
    pub fn sql(&self, database: &str, statement: &str) -> String {
        psql(&self.database_url(database), statement)
    }

    /// Makes each commit wait for a replica.
    ///
    /// # Panics
    /// If no replica streams within ten seconds.
    pub fn replicate_synchronously(&self) {
        self.sql(
            "postgres",
            "alter system set synchronous_standby_names = '*'",
        );
        self.sql("postgres", "select pg_reload_conf()");
        let count = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        assert!(
            self.comes_true(count, "1\n"),
            "no replica streams from this cluster"
        );
    }

    /// Cuts this replica off from its primary: later commits of the primary do not arrive.
    ///
    /// # Panics
    /// If it still streams after ten seconds.
    pub fn detach(&self) {
        // Port 1 refuses connections.
        let statement = "alter system set primary_conninfo = 'host=127.0.0.1 port=1'";
        self.sql("postgres", statement);
        self.sql("postgres", "select pg_reload_conf()");
        let count = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
        assert!(
            self.comes_true(count, "0\n"),
            "the replica goes on streaming"
        );
    }

    /// Makes this replica a primary. Returns when it accepts writes.
    ///
    /// # Panics
    /// If it is not promoted within a minute.
    pub fn promote(&self) {
        let promoted = self.sql("postgres", "select pg_promote(true, 60)");
        assert_eq!(promoted, "t\n", "the replica is promoted");
    }

    /// Returns whether a query gives this answer within ten seconds.
    fn comes_true(&self, query: &str, answer: &str) -> bool {
        const TRIES: usize = 200;
        (0..TRIES).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            self.sql("postgres", query) == answer
        })
    }

    /// Kills the postmaster and all its children (SIGKILL), as the out-of-memory killer or the loss
    /// of a machine would. Returns when none of them is left.
    ///
    /// # Panics
    /// If it is not running, or a process still exists after ten seconds.
    pub fn crash(&self) {
        const TRIES: usize = 500;
        let file = self.folder.join("data/postmaster.pid");
        let text = std::fs::read_to_string(&file).expect("the server is running");
        let postmaster = text.lines().next().and_then(|line| line.parse().ok());
        let postmaster: u32 = postmaster.expect("the first line is a process number");
        // The postmaster first, because it would restart its children.
        let family: Vec<u32> = [postmaster]
            .into_iter()
            .chain(children(postmaster))
            .collect();
        for process in &family {
            signal("KILL", *process);
        }
        let is_over = (0..TRIES).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            family
                .iter()
                .all(|process| parent_of_running(*process).is_none())
        });
        assert!(is_over, "the server is killed");
        // If ended processes are not reaped, as in some containers, the next start would believe
        // that the postmaster is running.
        std::fs::remove_file(file).expect("the server is over");
    }

    /// Starts the server again after [`crash`](Self::crash), on the same port and data.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let pipe = self.supervisor.stdin.as_mut().expect("open until dropped");
        pipe.write_all(b"start\n").expect("the supervisor listens");
        let mut said = String::new();
        self.said
            .read_line(&mut said)
            .expect("the supervisor answers");
        let log = || std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        assert_eq!(said, "ready\n", "the server starts again: {}", log());
    }

    /// Copies a database into another cluster by `pg_dump | psql`, as operators do.
    ///
    /// # Panics
    /// If one of the programs fails, with its error.
    pub fn dump_into(&self, other: &Self, database: &str) {
        let dump = run(Command::new(tool("pg_dump"))
            .arg("--dbname")
            .arg(self.database_url(database)));
        other.sql(
            "postgres",
            &format!("create database {database} template template0"),
        );
        let mut psql = psql_at(&other.database_url(database));
        psql.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut restoring = psql.spawn().expect("psql can be run");
        let mut pipe = restoring.stdin.take().expect("standard input is piped");
        pipe.write_all(dump.as_bytes()).expect("psql reads");
        drop(pipe);
        let status = restoring.wait().expect("psql ends");
        assert!(status.success(), "the dump is restored: {status}");
    }

    /// Returns the URL of a superuser, without a database: `postgres://postgres@127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the folder with its data and its log, `server.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// Returns the cluster of this process, started at the first use.
fn cluster_url() -> String {
    // Statics are never dropped. The pipe closes when the process ends, and the supervisor waits
    // for that.
    static OWN: OnceLock<Result<Cluster, String>> = OnceLock::new();
    if let Ok(url) = std::env::var(URL_VARIABLE) {
        return url;
    }
    match OWN.get_or_init(Cluster::start) {
        Ok(cluster) => cluster.url.clone(),
        Err(error) => panic!("{error}"),
    }
}

fn url(cluster_url: &str, database: &str) -> String {
    format!("{}/{database}", cluster_url.trim_end_matches('/'))
}

/// Returns the children of a process that are still running.
fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes
        .filter(|process| parent_of_running(*process) == Some(parent))
        .collect()
}

/// Returns the parent of a process. `None` if the process has ended.
fn parent_of_running(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // `PID (NAME) STATE PARENT ..`, where the name may contain any character.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (state != "Z").then_some(parent)
}

enum Started {
    Ready(Cluster),
    Failed(String),
}

fn start_cluster(settings: &str, primary: Option<u16>) -> Result<Cluster, String> {
    const ATTEMPTS: usize = 3;
    let binaries = find_binaries().ok_or(HOW_TO_INSTALL)?;
    let mut said = String::new();
    for _ in 0..ATTEMPTS {
        // Another process may take the port between its choice and its use.
        match start_supervisor(&binaries.folder, free_port()?, settings, primary)? {
            Started::Ready(cluster) => return Ok(cluster),
            Started::Failed(log) => said = log,
        }
    }
    Err(format!("PostgreSQL does not start:\n{said}"))
}

fn start_supervisor(
    binaries: &Path,
    port: u16,
    settings: &str,
    primary: Option<u16>,
) -> Result<Started, String> {
    let folder = tempfile::Builder::new()
        .prefix("keys-postgres-")
        .tempdir()
        .map_err(|error| format!("no temporary folder can be made: {error}"))?;
    let user = unprivileged_user()?;
    let mut command = match &user {
        Some(user) => {
            chown(folder.path(), Some(user.uid), Some(user.gid))
                .map_err(|error| format!("the folder cannot be handed over: {error}"))?;
            user.command()
        }
        None => Command::new("sh"),
    };
    command
        .args(["-c", include_str!("supervisor.sh"), "supervisor"])
        .args([folder.path(), binaries])
        .args([port.to_string(), settings.to_owned()])
        .arg(primary.map_or_else(String::new, |port| port.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        // A Ctrl-C, or a test runner that kills the group of a test, must not reach the supervisor.
        .process_group(0);
    let mut supervisor = command
        .spawn()
        .map_err(|error| format!("no shell can be started: {error}"))?;
    // From now on the supervisor removes the folder.
    let folder = folder.keep();

    let stdout = supervisor.stdout.take().ok_or("standard output is piped")?;
    let mut stdout = BufReader::new(stdout);
    let mut said = String::new();
    stdout
        .read_line(&mut said)
        .map_err(|error| format!("the supervisor cannot be heard: {error}"))?;
    if said == "ready\n" {
        let url = format!("postgres://postgres@127.0.0.1:{port}");
        return Ok(Started::Ready(Cluster {
            supervisor,
            said: stdout,
            port,
            url,
            folder,
        }));
    }
    let _ = stdout.read_to_string(&mut said);
    let _ = supervisor.wait();
    Ok(Started::Failed(said))
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| format!("there is no free port: {error}"))
}

/// The user of the server if tests run as root, because the server refuses to run as root.
struct User {
    name: &'static str,
    uid: u32,
    gid: u32,
    switch: Switch,
}

/// The commands that change the user. No system is sure to have all of them.
#[derive(Clone, Copy)]
enum Switch {
    Setpriv,
    Runuser,
    Su,
}

impl User {
    /// Returns a shell that runs as this user.
    fn command(&self) -> Command {
        let mut command;
        match self.switch {
            Switch::Setpriv => {
                command = Command::new("setpriv");
                command
                    .arg(format!("--reuid={}", self.uid))
                    .arg(format!("--regid={}", self.gid))
                    .args(["--clear-groups", "--", "sh"]);
            }
            Switch::Runuser => {
                command = Command::new("runuser");
                command.args(["-u", self.name, "--", "sh"]);
            }
            Switch::Su => {
                command = Command::new("su");
                command.args([
                    "-s",
                    "/bin/sh",
                    "-c",
                    "exec sh \"$@\"",
                    "--",
                    self.name,
                    "sh",
                ]);
            }
        }
        command
    }

    fn works(&self) -> bool {
        let mut command = self.command();
        command.args(["-c", "true"]).current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// Returns `None` if the process is not root and needs no other user.
fn unprivileged_user() -> Result<Option<User>, String> {
    if number_of(&["-u"])? != 0 {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        let (Ok(uid), Ok(gid)) = (number_of(&["-u", name]), number_of(&["-g", name])) else {
            continue;
        };
        for switch in [Switch::Setpriv, Switch::Runuser, Switch::Su] {
            let user = User {
                name,
                uid,
                gid,
                switch,
            };
            if user.works() {
                return Ok(Some(user));
            }
        }
    }
    Err(
        "PostgreSQL refuses to run as root, and none of setpriv, runuser and su can run it as \
         `postgres` or `nobody`"
            .to_owned(),
    )
}

/// Parses a user or group number from the output of `id`.
fn number_of(arguments: &[&str]) -> Result<u32, String> {
    let output = Command::new("id")
        .args(arguments)
        .output()
        .map_err(|error| format!("`id` cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .map_err(|_| format!("`id {}` gives no number", arguments.join(" ")))
}

/// The programs of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Their folder.
    pub folder: PathBuf,
    /// Their major version.
    pub version: u32,
}

/// Finds the newest usable server on this machine.
#[must_use]
pub fn find_binaries() -> Option<Binaries> {
    newest(candidate_folders().into_iter().filter_map(|folder| {
        let complete = ["postgres", "initdb", "pg_ctl"]
            .iter()
            .all(|program| is_executable(&folder.join(program)));
        if !complete {
            return None;
        }
        let output = Command::new(folder.join("postgres"))
            .arg("--version")
            .output()
            .ok()?;
        let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries { folder, version })
    }))
}

/// Like [`find_binaries`], but only if the client programs that tests need exist too.
#[must_use]
pub fn find_installed() -> Option<Binaries> {
    let runs = |name: &str| Command::new(tool(name)).arg("--version").output().is_ok();
    find_binaries().filter(|_| runs("psql") && runs("pg_dump"))
}

fn newest(found: impl Iterator<Item = Binaries>) -> Option<Binaries> {
    found
        .filter(|binaries| binaries.version >= VERSION_MIN)
        // The first of equals, because `PATH` has priority over the folders of packages.
        .reduce(|best, next| {
            if next.version > best.version {
                next
            } else {
                best
            }
        })
}

/// `postgres (PostgreSQL) 16.3 (Debian 16.3-1)`, `postgres (PostgreSQL) 18beta1`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL) ")?.1;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

fn candidate_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    // Debian, Red Hat, Alpine, Homebrew on either kind of Mac. `*` stands for any name.
    for pattern in [
        "/usr/lib/postgresql/*/bin",
        "/usr/pgsql-*/bin",
        "/usr/libexec/postgresql*",
        "/usr/lib/postgresql*/bin",
        "/opt/homebrew/opt/postgresql*/bin",
        "/usr/local/opt/postgresql*/bin",
        "/usr/local/pgsql/bin",
    ] {
        folders.extend(expand(pattern));
    }
    folders
}

/// Returns the folders that match a pattern with at most one `*`.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![pattern.into()];
    };
    let (parent, name_start) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name_start))
        .map(|entry| entry.path().join(after.trim_start_matches('/')))
        .collect()
}

fn is_executable(path: &Path) -> bool {
    const ANY_EXECUTE: u32 = 0o111;
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & ANY_EXECUTE != 0)
}

/// Returns a client program: the one of the server's installation, or else the one in `PATH`.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get().cloned().or_else(|| {
        let folder = find_binaries()?.folder;
        Some(FOLDER.get_or_init(|| folder).clone())
    });
    folder
        .map(|folder| folder.join(name))
        .filter(|path| is_executable(path))
        .unwrap_or_else(|| name.into())
}

/// Runs SQL in the database at a URL and returns the output of `psql`: rows as lines, columns
/// separated by `|`.
///
/// # Panics
/// If the statement fails, with the error of the server.
#[expect(clippy::must_use_candidate, reason = "most statements print nothing")]
pub fn psql(url: &str, statement: &str) -> String {
    run(&mut psql_command(url, statement))
}

fn psql_command(url: &str, statement: &str) -> Command {
    let mut command = psql_at(url);
    command.args(["--command", statement]).stdin(Stdio::null());
    command
}

fn psql_at(url: &str) -> Command {
    let mut command = Command::new(tool("psql"));
    command
        .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
        .args(["--set", "ON_ERROR_STOP=1", "--dbname", url]);
    command
}

fn run(command: &mut Command) -> String {
    let program = command.get_program().to_os_string();
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{} cannot be run: {error}; {HOW_TO_INSTALL}",
            show(&program)
        )
    });
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{} failed: {}",
        show(&program),
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

fn show(program: &OsStr) -> String {
    program.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            (
                "postgres (PostgreSQL) 16.3 (Debian 16.3-1.pgdg120+1)\n",
                Some(16),
            ),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("psql", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }

    #[test]
    fn newest_version_wins_and_old_ones_do_not_count() {
        let binaries = |folder: &str, version| Binaries {
            folder: folder.into(),
            version,
        };
        let found = [
            binaries("a", 12),
            binaries("b", 15),
            binaries("c", 17),
            binaries("d", 17),
        ];
        assert_eq!(newest(found.into_iter()), Some(binaries("c", 17)));
        assert_eq!(newest([binaries("a", 12)].into_iter()), None);
    }

    #[test]
    fn database_is_empty_and_its_own() {
        let one = Database::create_blocking();
        let two = Database::create_blocking();
        assert_eq!(
            one.sql("create table t (n int); insert into t values (7)"),
            ""
        );
        assert_eq!(one.sql("select n from t"), "7\n");
        assert!(one.dump().contains("CREATE TABLE public.t"));
        assert_eq!(
            two.sql("select count(*) from pg_tables where schemaname = 'public'"),
            "0\n"
        );
    }

    #[test]
    fn database_goes_with_its_value() {
        let kept = Database::create_blocking();
        let dropped = Database::create_blocking();
        let count = format!(
            "select count(*) from pg_database where datname = '{}'",
            dropped.name
        );
        assert_eq!(kept.sql(&count), "1\n");
        drop(dropped);
        assert_eq!(kept.sql(&count), "0\n");
    }

    #[test]
    fn replica_takes_over_and_crashed_cluster_starts_again() {
        let mut primary = Cluster::start().unwrap();
        primary.sql("postgres", "create table t (n int)");
        let standby = primary.standby().unwrap();
        primary.replicate_synchronously();
        primary.sql("postgres", "insert into t values (1)");
        primary.crash();
        assert!(
            !psql_command(primary.url(), "select 1")
                .status()
                .unwrap()
                .success()
        );
        standby.promote();
        standby.sql("postgres", "insert into t values (2)");
        assert_eq!(
            standby.sql("postgres", "select n from t order by n"),
            "1\n2\n"
        );
        primary.start_again();
        assert_eq!(primary.sql("postgres", "select n from t"), "1\n");
        let other = Cluster::start().unwrap();
        standby.sql("postgres", "create database moved");
        standby.sql("moved", "create table u (n int); insert into u values (7)");
        standby.dump_into(&other, "moved");
        assert_eq!(other.sql("moved", "select n from u"), "7\n");
    }

    #[test]
    fn detached_replica_hears_nothing_more() {
        let primary = Cluster::start().unwrap();
        primary.sql("postgres", "create table t (n int)");
        let standby = primary.standby().unwrap();
        assert!(standby.comes_true("select count(*) from t", "0\n"));
        standby.detach();
        primary.sql("postgres", "insert into t values (1)");
        standby.promote();
        assert_eq!(standby.sql("postgres", "select count(*) from t"), "0\n");
    }

    #[test]
    #[should_panic(expected = "no_such_table")]
    fn failed_statement_says_why() {
        let _ = Database::create_blocking().sql("select * from no_such_table");
    }
}
