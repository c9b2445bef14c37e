//! A PostgreSQL of its own that logs every statement and every parameter.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use keys_testkit::postgres::{Cluster, find_binaries};

/// A cluster with one database, `keys`.
pub(crate) struct Talkative(Cluster);

impl Talkative {
    pub(crate) fn start() -> Self {
        let cluster = Cluster::start().unwrap_or_else(|error| panic!("{error}"));
        let postgres = Self(cluster);
        for setting in [
            "log_statement = 'all'",
            "log_parameter_max_length = -1",
            "log_parameter_max_length_on_error = -1",
            "log_error_verbosity = 'verbose'",
        ] {
            postgres.sql(&format!("alter system set {setting}"));
        }
        postgres.sql("select pg_reload_conf()");
        postgres.sql("create database keys");
        postgres
    }

    /// Returns the URL of the database with this password, which it does not check.
    pub(crate) fn url(&self, password: &str) -> String {
        let url = self.0.url().replace('@', &format!(":{password}@"));
        format!("{url}/keys")
    }

    /// Runs a statement outside of the database.
    pub(crate) fn sql(&self, statement: &str) {
        let mut command = program("psql");
        command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]);
        command.args(["--command", statement, "--dbname"]);
        run(command.arg(format!("{}/postgres", self.0.url())));
    }

    /// Takes the database away, or restores it.
    pub(crate) fn reachable(&self, reachable: bool) {
        self.sql(&format!(
            "alter database keys allow_connections {reachable}"
        ));
        self.sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'keys'");
    }

    /// Returns the whole database as text, schema and data.
    pub(crate) fn dump(&self) -> String {
        let mut command = program("pg_dump");
        run(command
            .arg("--dbname")
            .arg(format!("{}/keys", self.0.url())))
    }

    /// Returns the log of the server.
    pub(crate) fn log(&self) -> Vec<u8> {
        std::fs::read(self.0.folder().join("server.log")).unwrap()
    }
}

/// Returns a client program: the one of the server's installation, or else the one in `PATH`.
fn program(name: &str) -> Command {
    let beside = find_binaries().map(|binaries| binaries.folder.join(name));
    let path = beside.filter(|path| path.exists());
    Command::new(path.unwrap_or_else(|| PathBuf::from(name)))
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("psql and pg_dump are installed: run `cargo xtask test`");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
