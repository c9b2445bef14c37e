//! The embedded database under other names, replaced, removed and restored: the real program on
//! real files.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod support {
    #[expect(dead_code, reason = "the tests of the command line use more of it")]
    pub(crate) mod program;
}

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel::sqlite::SqliteConnection;
use keys_testkit::server::{PEPPER, Server};
use serde_json::json;

use support::program::{BINARY, Place, Program};

const DOCUMENT: &str = include_str!("../../../docs/operations.md");

fn sql(database: &Path, statements: &str) {
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    connection
        .batch_execute(&format!("pragma busy_timeout = 5000; {statements}"))
        .unwrap();
}

fn back_up(database: &Path, backup: &Path) {
    sql(database, &format!("vacuum into '{}'", backup.display()));
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    format!("{}{ending}", path.display()).into()
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A server that no longer serves.
struct Ended {
    code: Option<i32>,
    stderr: String,
}

/// Waits until the server says that it stops, and then until it has ended.
fn ends_by_itself(server: &mut Server) -> Ended {
    const SAID_WITHIN: Duration = Duration::from_secs(10);
    let start = Instant::now();
    while !server.stderr().contains("database is lost") {
        assert!(start.elapsed() < SAID_WITHIN, "{}", server.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = server.stop();
    Ended {
        code: status.code(),
        stderr: server.stderr(),
    }
}

async fn new_account(server: &Server, operator: &str) -> String {
    let account = server
        .post("/v1/accounts")
        .bearer(operator)
        .json(&json!({"plan": "pro"}))
        .send()
        .await;
    assert_eq!(account.status, 201, "{}", account.body);
    account.text("/id")
}

/// Returns a key of a new account, and its id.
async fn new_key(server: &Server, operator: &str) -> (String, String) {
    let account = new_account(server, operator).await;
    let key = server
        .post(&format!("/v1/accounts/{account}/keys"))
        .bearer(operator)
        .json(&json!({"name": "first"}))
        .send()
        .await;
    assert_eq!(key.status, 201, "{}", key.body);
    (key.text("/key"), key.text("/id"))
}

async fn passes(server: &Server, key: &str) -> bool {
    let answer = server.get("/v1/auth").bearer(key).send().await;
    assert!([200, 204, 401].contains(&answer.status), "{}", answer.body);
    answer.status != 401
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_everywhere_waits_for_a_server_that_opened_the_file_by_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    fs::create_dir(at("link")).unwrap();
    let url = |path: &str| format!("sqlite://{}", at(path).display());
    let one = Server::builder(BINARY)
        .env("KEYS_DATABASE__URL", url("real/keys.db"))
        .start()
        .await;
    symlink(at("real/keys.db"), at("link/keys.db")).unwrap();
    // The pepper is found beside the file itself.
    let other = Server::builder(BINARY)
        .env("KEYS_DATABASE__URL", url("link/keys.db"))
        .start()
        .await;
    let operator = one.operator_key("test");
    for round in 0..3 {
        let (key, id) = new_key(&one, &operator).await;
        assert!(passes(&other, &key).await);
        let session = one.get("/api/api-keys").bearer(&key).send().await;
        assert_eq!(session.status, 200);
        let path = format!("/api/api-keys/{id}?wait=global");
        let revoked = one.delete(&path).bearer(&key).send().await;
        assert_eq!(revoked.status / 100, 2, "{}", revoked.body);
        assert!(!passes(&other, &key).await, "round {round}");
    }
    assert_eq!(names_in(&at("link")), ["keys.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_ends_with_an_error_when_its_file_is_replaced_or_removed() {
    let losses: [fn(&Path, &Path); 4] = [
        |path, backup| {
            for ending in ["-wal", "-shm"] {
                fs::remove_file(beside(path, ending)).unwrap();
            }
            fs::rename(backup, path).unwrap();
        },
        |path, backup| fs::rename(backup, path).unwrap(),
        |path, _| fs::remove_file(path).unwrap(),
        |path, _| {
            let folder = path.parent().unwrap();
            fs::rename(folder, folder.with_extension("old")).unwrap();
        },
    ];
    for (number, lose) in losses.into_iter().enumerate() {
        let mut server = Server::builder(BINARY).start().await;
        let operator = server.operator_key("test");
        let (key, _) = new_key(&server, &operator).await;
        assert!(passes(&server, &key).await);
        let path = server.folder().join("data/keys.db");
        let backup = server.folder().join("backup.db");
        back_up(&path, &backup);
        lose(&path, &backup);
        // Requests from now on are not acknowledged, unless the server is gone already.
        let url = server.url("/v1/accounts");
        let asked = reqwest::Client::new()
            .post(url)
            .bearer_auth(&operator)
            .header("content-type", "application/json")
            .body(r#"{"plan":"pro"}"#)
            .send()
            .await;
        if let Ok(answer) = asked {
            assert_eq!(answer.status(), 503, "{number}");
        }
        let ended = ends_by_itself(&mut server);
        assert_eq!(ended.code, Some(1), "{number}: {}", ended.stderr);
        let errors = ended.stderr.lines().filter(|line| line.contains("ERROR"));
        let errors: Vec<_> = errors.collect();
        assert_eq!(errors.len(), 1, "{number}: {errors:#?}");
        assert!(
            errors[0].contains("keys.db was re") && errors[0].contains("data"),
            "{number}: {errors:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_whose_file_was_replaced_accepts_nothing_that_was_revoked_in_the_new_one() {
    let mut server = Server::builder(BINARY).start().await;
    let operator = server.operator_key("test");
    let (key, id) = new_key(&server, &operator).await;
    assert!(passes(&server, &key).await);
    let path = server.folder().join("data/keys.db");
    let backup = server.folder().join("backup.db");
    back_up(&path, &backup);
    for ending in ["-wal", "-shm"] {
        fs::remove_file(beside(&path, ending)).unwrap();
    }
    fs::rename(&backup, &path).unwrap();
    let revoked = server.command(["key", "revoke", &id]);
    assert!(revoked.status.success(), "{revoked:?}");
    assert_eq!(ends_by_itself(&mut server).code, Some(1));
    // The log that the command wrote still exists, and the next start continues with the new file.
    server.start_again().await;
    assert!(!passes(&server, &key).await);
}

/// Commands that need a database.
const COMMANDS: [&[&str]; 4] = [
    &[],
    &["serve"],
    &["account", "create", "--plan", "pro"],
    &["migrate"],
];

#[test]
fn database_that_is_missing_beside_its_pepper_is_not_made_anew_unless_that_is_asked_for() {
    for empty in [false, true] {
        let program = Program::new(Place::Sqlite);
        program.line(&["account", "create", "--plan", "pro"]);
        let data = program.folder().join("data");
        let database = data.join("keys.db");
        let pepper = fs::read(data.join("pepper")).unwrap();
        fs::remove_file(&database).unwrap();
        if empty {
            fs::write(&database, "").unwrap();
        }
        let before = names_in(&data);
        for command in COMMANDS {
            program.run(command).refused(
                1,
                &["data/keys.db is missing", "data/pepper", "migrate --create"],
            );
            assert_eq!(names_in(&data), before, "{command:?}");
        }
        assert_eq!(program.run(&["migrate", "--create"]).code, Some(0));
        assert_eq!(fs::read(data.join("pepper")).unwrap(), pepper);
        program.line(&["account", "create", "--plan", "pro"]);
        let list = program.run(&["account", "list", "--json"]).succeeded();
        assert_eq!(list.json().as_array().unwrap().len(), 1);
    }
}

#[test]
fn database_without_tables_beside_a_pepper_is_not_given_empty_ones() {
    let program = Program::new(Place::Sqlite);
    program.line(&["account", "create", "--plan", "pro"]);
    let database = program.folder().join("data/keys.db");
    fs::remove_file(&database).unwrap();
    sql(&database, "create table something_else (id integer)");
    for command in COMMANDS {
        program
            .run(command)
            .refused(1, &["data/keys.db has no tables", "migrate --create"]);
    }
    assert_eq!(program.run(&["migrate", "--create"]).code, Some(0));
    program.line(&["account", "create", "--plan", "pro"]);
}

#[test]
fn database_that_is_missing_beside_its_locks_is_not_made_anew_where_the_pepper_is_configured() {
    let program = Program::new(Place::Sqlite).with("KEYS_PEPPERS__KEYS__P1", PEPPER);
    program.line(&["account", "create", "--plan", "pro"]);
    let data = program.folder().join("data");
    assert!(!data.join("pepper").exists());
    fs::remove_file(data.join("keys.db")).unwrap();
    for command in COMMANDS {
        program
            .run(command)
            .refused(1, &["data/keys.db is missing", "migrate --create"]);
    }
    assert_eq!(program.run(&["migrate", "--create"]).code, Some(0));
    program.line(&["account", "create", "--plan", "pro"]);
}

#[test]
fn no_database_is_made_where_that_is_switched_off() {
    let program = Program::new(Place::Sqlite).with("KEYS_DATABASE__CREATE", "false");
    for command in COMMANDS {
        program
            .run(command)
            .refused(1, &["database.create", "migrate --create"]);
        assert!(!program.folder().join("data").exists());
    }
    assert_eq!(program.run(&["migrate", "--create"]).code, Some(0));
    program.line(&["account", "create", "--plan", "pro"]);
}

#[test]
fn log_without_its_database_is_kept() {
    let program = Program::new(Place::Sqlite);
    program.line(&["account", "create", "--plan", "pro"]);
    let data = program.folder().join("data");
    fs::remove_file(data.join("keys.db")).unwrap();
    fs::remove_file(data.join("pepper")).unwrap();
    fs::write(data.join("keys.db-wal"), "changes").unwrap();
    for command in [&["account", "list"][..], &["migrate", "--create"]] {
        program
            .run(command)
            .refused(1, &["keys.db-wal", "put the database back"]);
        assert!(!data.join("keys.db").exists());
    }
}

#[test]
fn path_that_was_not_meant_is_refused_and_nothing_is_made() {
    for (url, word) in [
        ("sqlite:// data/keys.db", "blanks"),
        ("sqlite://~/keys.db", "not expanded"),
        ("sqlite://$HOME/keys.db", "not expanded"),
        ("sqlite://${STATE}/keys.db", "not expanded"),
    ] {
        let program = Program::new(Place::Sqlite).with("KEYS_DATABASE__URL", url);
        for command in COMMANDS {
            program.run(command).refused(1, &["database.url", word]);
            assert_eq!(names_in(&program.folder()).len(), 0, "{url:?}");
        }
    }
}

#[test]
fn commands_use_the_pepper_beside_the_file_whatever_link_leads_to_it() {
    let program = Program::new(Place::Sqlite);
    let account = program.line(&["account", "create", "--plan", "pro"]);
    let at = |path: &str| program.folder().join(path);
    symlink("data/keys.db", at("keys.db")).unwrap();
    let url = format!("sqlite://{}", at("keys.db").display());
    let by_link = Program::new(Place::Sqlite).with("KEYS_DATABASE__URL", &url);
    by_link.line(&["key", "create", "--account", &account]);
    assert!(!at("pepper").exists());

    // A link to the pepper beside the link to the database is the same pepper.
    symlink("data/pepper", at("pepper")).unwrap();
    by_link.line(&["key", "create", "--account", &account]);

    // The keys may have been created under another pepper.
    fs::remove_file(at("pepper")).unwrap();
    fs::write(at("pepper"), PEPPER).unwrap();
    by_link
        .run(&["key", "create", "--account", &account])
        .refused(1, &["pepper", "is a link", "data/pepper"]);
}

#[test]
fn file_with_a_second_name_is_refused_by_either() {
    let program = Program::new(Place::Sqlite);
    program.line(&["account", "create", "--plan", "pro"]);
    let at = |path: &str| program.folder().join(path);
    fs::create_dir(at("copy")).unwrap();
    fs::hard_link(at("data/keys.db"), at("copy/keys.db")).unwrap();
    fs::copy(at("data/pepper"), at("copy/pepper")).unwrap();
    let url = format!("sqlite://{}", at("copy/keys.db").display());
    let by_copy = Program::new(Place::Sqlite).with("KEYS_DATABASE__URL", &url);
    for program in [&program, &by_copy] {
        program
            .run(&["account", "list"])
            .refused(1, &["keys.db has 2 hard links", "remove the other names"]);
    }
}

/// Returns the block of commands that follows this heading in the document.
fn documented(heading: &str, number: usize) -> &'static str {
    let (_, section) = DOCUMENT.split_once(heading).unwrap();
    section.split("```").nth(2 * number + 1).unwrap()
}

#[test]
fn backup_is_restored_as_documented_and_what_was_revoked_since_stays_revoked() {
    let program = Program::new(Place::Sqlite);
    let account = program.line(&["account", "create", "--plan", "pro"]);
    for _ in 0..3 {
        program.line(&["key", "create", "--account", &account]);
    }
    let listed = || {
        let listed = program.run(&["key", "list", "--account", &account, "--json"]);
        // Standard error may say that ended keys are not listed.
        assert_eq!(listed.code, Some(0), "{listed:#?}");
        let listed = listed.json();
        let keys = listed.as_array().unwrap().iter();
        keys.map(|key| key["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let ids = listed();
    let database = program.folder().join("data/keys.db");
    program.line(&["key", "revoke", &ids[2]]);
    back_up(&database, &program.folder().join("keys-backup.db"));
    program.line(&["key", "revoke", &ids[0]]);
    program.line(&["key", "create", "--account", &account]);

    let heading = "### Restoring a backup";
    let commands = documented(heading, 0).strip_prefix("sh\n").unwrap();
    let ran = Command::new("bash")
        .args(["-euc", commands])
        .current_dir(program.folder())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(listed(), ids[..2], "a backup revives what was revoked");

    // The document passes these statements to the shell of SQLite.
    let commands = documented(heading, 1);
    let (_, statements) = commands.split_once("sqlite3 data/keys.db \"").unwrap();
    let (statements, _) = statements.split_once('"').unwrap();
    let folder = program.folder();
    let statements = statements.replace("'data/", &format!("'{}/data/", folder.display()));
    sql(&database, &statements);
    assert_eq!(listed(), ids[1..2]);
}

/// Returns a server whose folder `data` is a file system of its own, of 2 MiB. It runs in
/// namespaces of its own for that.
async fn on_a_small_disk() -> Server {
    const MOUNT: &str = "mkdir data && mount -t tmpfs -o size=2m keys data && exec \"$0\" \"$@\"";
    let mut builder = Server::builder("unshare");
    let arguments = ["--user", "--map-root-user", "--mount", "sh", "-c", MOUNT];
    for argument in arguments.into_iter().chain([BINARY, "serve"]) {
        builder = builder.argument(argument);
    }
    builder.start().await
}

/// Fills a folder's file system to the last byte, and returns the file that does so.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let mut size = 64 * 1024;
    while size > 0 {
        match file.write_all(&vec![0; size]) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
                size /= 2;
            }
        }
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_changes_with_503_and_verification_goes_on() {
    /// Longer than `/readyz` caches its answer.
    const ANSWER_AGE_MAX: Duration = Duration::from_millis(300);
    let server = on_a_small_disk().await;
    let process = server.process_id();
    // The path as the server sees it.
    let folder = server.folder();
    let folder = folder.strip_prefix("/").unwrap().join("data");
    let data = Path::new(&format!("/proc/{process}/root")).join(folder);
    let operator = fs::read_to_string(data.join("first-operator-key")).unwrap();
    let operator = operator.trim();
    let account = new_account(&server, operator).await;
    let (used, used_id) = new_key(&server, operator).await;
    let (unused, unused_id) = new_key(&server, operator).await;
    assert!(passes(&server, &used).await);

    let filler = fill(&data);
    let own = |id: &str| format!("/api/api-keys/{id}");
    let account = format!("/v1/accounts/{account}");
    let refused = async || {
        for (credential, request) in [
            (
                operator,
                server.post("/v1/accounts").json(&json!({"plan": "pro"})),
            ),
            (
                operator,
                server
                    .post(&format!("{account}/keys"))
                    .json(&json!({"name": "none"})),
            ),
            (
                operator,
                server.patch(&account).json(&json!({"disabled": true})),
            ),
            (
                &*used,
                server.post("/api/api-keys").json(&json!({"name": "none"})),
            ),
            (&*used, server.delete(&own(&used_id))),
        ] {
            let answer = request.bearer(credential).send().await;
            assert_eq!(answer.status, 503, "{}", answer.body);
            assert_eq!(answer.header("retry-after"), Some("1"));
        }
    };
    for _ in 0..5 {
        refused().await;
        // One from memory, and at first one from the file.
        for key in [&used, &unused] {
            assert!(passes(&server, key).await);
        }
        let listed = server.get("/v1/accounts").bearer(operator).send().await;
        assert_eq!(listed.status, 200, "{}", listed.body);
    }
    tokio::time::sleep(ANSWER_AGE_MAX).await;
    let ready = server.get("/readyz").send().await;
    assert_eq!(ready.status, 200, "{}", ready.body);
    assert_eq!(ready.json()["writable"], false, "{}", ready.body);

    // No change was half done, and the first attempt succeeds once there is space.
    fs::remove_file(filler).unwrap();
    for (key, id) in [(&used, &used_id), (&unused, &unused_id)] {
        let revoked = server.delete(&own(id)).bearer(key).send().await;
        assert_eq!(revoked.status / 100, 2, "{}", revoked.body);
    }
    for key in [&used, &unused] {
        assert!(!passes(&server, key).await);
    }
    new_account(&server, operator).await;
    let listed = server.get("/v1/accounts").bearer(operator).send().await;
    assert_eq!(listed.json()["data"].as_array().map(Vec::len), Some(4));
    tokio::time::sleep(ANSWER_AGE_MAX).await;
    let ready = server.get("/readyz").send().await;
    assert_eq!(ready.json()["writable"], true, "{}", ready.body);
}
