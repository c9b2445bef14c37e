//! The program in a folder of its own, run one command at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keys_testkit::postgres::Database;
use keys_testkit::process::Watch;
use keys_testkit::server::PEPPER;
use serde_json::Value;

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_keys-server");

/// Time limit of a command, so that an endless one fails with its name.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// The database of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Sqlite,
    Postgres,
}

/// An empty folder to run the program in, and its settings.
pub(crate) struct Program {
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    database: Option<Database>,
}

impl Program {
    pub(crate) fn new(place: Place) -> Self {
        let program = Self {
            folder: tempfile::tempdir().unwrap(),
            environment: BTreeMap::new(),
            database: (place == Place::Postgres).then(Database::create_blocking),
        };
        std::fs::create_dir(program.folder()).unwrap();
        let Some(url) = program.database.as_ref().map(Database::url) else {
            return program;
        };
        program
            .with("KEYS_DATABASE__URL", &url)
            .with("KEYS_PEPPERS__KEYS__P1", PEPPER)
    }

    /// Adds a setting.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Removes a setting.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// The PostgreSQL database.
    pub(crate) fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    /// Returns the folder it runs in.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Runs a command to its end.
    pub(crate) fn run<A: AsRef<str>>(&self, arguments: &[A]) -> Ran {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let (stdout, stderr) = (self.output("stdout"), self.output("stderr"));
        let mut command = Command::new(BINARY);
        // Settings in the environment of the tests must not affect this program.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KEYS_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(&arguments)
            .envs(&self.environment)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        let watch = Watch::over_process(child.id()).unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < ENDS_WITHIN,
                "{arguments:?} goes on: {}",
                read(&stderr)
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = start.elapsed();
        watch.disarm();
        Ran {
            command: arguments.join(" "),
            code: status.code(),
            stdout: read(&stdout),
            stderr: read(&stderr),
            took,
        }
    }

    /// Runs a command that succeeds, and returns its only line of output.
    pub(crate) fn line<A: AsRef<str>>(&self, arguments: &[A]) -> String {
        let ran = self.run(arguments).succeeded();
        let line = ran.stdout.strip_suffix('\n').unwrap_or_default();
        assert!(!line.is_empty() && !line.contains('\n'), "{ran:?}");
        line.to_owned()
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn read(path: &Path) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}

/// Result of a command.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The command line, for messages of assertions.
    command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// Asserts that it succeeded, and printed nothing beside its result.
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(
            (self.code, self.stderr.as_str()),
            (Some(0), ""),
            "{self:#?}"
        );
        self
    }

    /// Asserts that it ended with this code and without a result, and that its standard error
    /// contains all of `words`.
    pub(crate) fn refused(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(code), ""),
            "{self:#?}"
        );
        for word in words {
            assert!(self.stderr.contains(word), "{word} is not in {self:#?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
