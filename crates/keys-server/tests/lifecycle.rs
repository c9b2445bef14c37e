//! Starting, serving during faults, and stopping: the real program, from outside.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod support {
    #[expect(dead_code, reason = "the tests of the command line use more of it")]
    pub(crate) mod program;
    pub(crate) mod wire;
}

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keys_testkit::fault_proxy::{Direction, Fault, FaultProxy};
use keys_testkit::postgres::{Cluster, Database};
use keys_testkit::process::signal;
use keys_testkit::server::{Answer, PEPPER, Server};
use serde_json::{Value, json};

use support::program::{BINARY, Place, Program};
use support::wire::Wire;

/// Time limit of a stop under all circumstances.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// A network that drops every packet.
const SILENT: Fault = Fault::Hold(Direction::Both);

/// An account on the Pro plan and its first key.
struct Customer {
    account: String,
    key: String,
}

impl Customer {
    async fn new(server: &Server) -> Self {
        let operator = server.operator_key("test");
        let answer = server
            .post("/v1/accounts")
            .bearer(&operator)
            .json(&json!({"plan": "pro"}))
            .send()
            .await;
        let account = answer.text("/id");
        let answer = server
            .post(&format!("/v1/accounts/{account}/keys"))
            .bearer(&operator)
            .json(&json!({"name": "First key"}))
            .send()
            .await;
        let key = answer.text("/key");
        Self { account, key }
    }

    async fn list(&self, server: &Server) -> Answer {
        server.get("/api/api-keys").bearer(&self.key).send().await
    }
}

/// Sends a signal, and waits until the server has ended successfully and in time.
fn stop_by(server: &mut Server, name: &str) -> Duration {
    let start = Instant::now();
    signal(name, server.process_id());
    // Seen before `stop` sends a signal of its own.
    while !server.stderr().contains("stopping") {
        assert!(start.elapsed() < STOPPED_WITHIN, "SIG{name} is not heard");
        std::thread::sleep(Duration::from_millis(10));
    }
    let status = server.stop();
    let took = start.elapsed();
    assert!(status.success(), "SIG{name}: {status}: {}", server.stderr());
    assert!(took < STOPPED_WITHIN, "SIG{name}: {took:?}");
    took
}

#[tokio::test]
async fn server_with_nothing_to_do_stops_at_once_on_either_signal() {
    for name in ["TERM", "INT"] {
        let mut server = Server::builder(BINARY).start().await;
        // The client that waited for the server keeps its connection, which must not matter here.
        let mut wire = Wire::connect(&server.url("")).await.unwrap();
        wire.send("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
        assert!(wire.read_to_end().await.starts_with("HTTP/1.1 200 "));
        let took = stop_by(&mut server, name);
        assert!(took < Duration::from_secs(5), "SIG{name}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_the_server_from_stopping() {
    let mut server = Server::builder(BINARY).start().await;
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::connect(&server.url("")).await.unwrap();
        wire.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(wire.read_until("}").await.starts_with("HTTP/1.1 200 "));
        kept.push(wire);
        // And one that never sends anything.
        kept.push(Wire::connect(&server.url("")).await.unwrap());
    }
    stop_by(&mut server, "TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_under_way_is_finished_after_sigterm() {
    let mut server = Server::builder(BINARY).start().await;
    let customer = Customer::new(&server).await;
    let body = r#"{"name":"made while stopping"}"#;
    let url = server.url("");
    let mut wire = Wire::connect(&url).await.unwrap();
    wire.send(format!(
        "POST /api/api-keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        customer.key,
        body.len()
    ))
    .await;
    assert_eq!(
        wire.read_until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    wire.send(&body[..10]).await;

    let start = Instant::now();
    signal("TERM", server.process_id());
    while !server.stderr().contains("stopping") {
        assert!(start.elapsed() < STOPPED_WITHIN);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // New connections are no longer served, at most a moment later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    if let Ok(mut late) = Wire::connect(&url).await {
        late.send("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(late.read_to_end().await, "");
    }
    wire.send(&body[10..]).await;
    let answer = wire.read_until("}").await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    assert!(
        answer.contains(r#""name":"made while stopping""#),
        "{answer}"
    );

    let status = server.stop();
    assert!(status.success(), "{status}: {}", server.stderr());
    assert!(start.elapsed() < STOPPED_WITHIN, "{:?}", start.elapsed());
    let listed = server.command(["key", "list", "--account", &customer.account]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("made while stopping"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_never_ends_does_not_keep_the_server_from_stopping() {
    let mut server = Server::builder(BINARY).start().await;
    let customer = Customer::new(&server).await;
    let mut wire = Wire::connect(&server.url("")).await.unwrap();
    wire.send(format!(
        "POST /api/api-keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{",
        customer.key
    ))
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stop_by(&mut server, "TERM");
}

#[tokio::test]
async fn last_uses_are_written_before_the_server_ends() {
    let mut server = Server::builder(BINARY).start().await;
    let customer = Customer::new(&server).await;
    assert_eq!(customer.list(&server).await.status, 200);
    assert!(server.stop().success());
    let listed = server.command(["key", "list", "--json", "--account", &customer.account]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(listed[0]["last_used_at"].is_string(), "{listed}");
}

#[tokio::test]
async fn keys_outlive_a_server_that_is_killed() {
    let mut server = Server::builder(BINARY).start().await;
    let customer = Customer::new(&server).await;
    server.kill();
    server.start_again().await;
    let answer = customer.list(&server).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()[0]["name"], "First key");
}

#[test]
fn port_in_use_is_refused_by_name_and_costs_the_first_start_nothing() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let program = Program::new(Place::Sqlite).with("KEYS_HTTP__LISTEN", &address);
    program
        .run(&["serve"])
        .refused(1, &["http.listen", &address, "in use"]);
    assert!(
        !program.folder().join("data").exists(),
        "the next start is still the first"
    );
}

/// Returns a port that is free on every address.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("::", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn endpoints_in_the_way_of_each_other_are_refused_and_cost_the_first_start_nothing() {
    let port = free_port();
    let listen = format!("0.0.0.0:{port},127.0.0.1:{port}");
    let program = Program::new(Place::Sqlite).with("KEYS_HTTP__LISTEN", &listen);
    let second = format!("127.0.0.1:{port}");
    program
        .run(&["serve"])
        .refused(1, &["http.listen", &second, "in use"]);
    assert!(!program.folder().join("data").exists());
}

#[tokio::test]
async fn both_wildcards_are_listened_on_in_any_order() {
    for order in [
        ["0.0.0.0", "[::]"],
        ["[::]", "0.0.0.0"],
        ["[::]", "127.0.0.1"],
    ] {
        let port = free_port();
        let [one, other] = order.map(|address| format!("{address}:{port}"));
        // The last one is that of the fixture.
        let listen = format!("{one},{other},127.0.0.1:0");
        let mut server = Server::builder(BINARY)
            .env("KEYS_HTTP__LISTEN", &listen)
            .start()
            .await;
        for address in ["127.0.0.1", "[::1]"] {
            let answer = reqwest::get(format!("http://{address}:{port}/livez")).await;
            assert_eq!(answer.unwrap().status(), 200, "{listen} {address}");
        }
        assert!(server.stop().success());
    }
}

#[test]
fn start_without_its_database_ends_in_time_and_names_the_setting() {
    // One that refuses connections, and one that never answers.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let silent = silent
        .local_addr()
        .map(|address| (silent, address))
        .unwrap();
    for (address, bound) in [("127.0.0.1:1".to_owned(), 2), (silent.1.to_string(), 15)] {
        let url = format!("postgres://keys@{address}/keys");
        let program = Program::new(Place::Sqlite)
            .with("KEYS_DATABASE__URL", &url)
            .with("KEYS_PEPPERS__KEYS__P1", PEPPER);
        let ran = program.run(&["serve"]).refused(1, &["database.url"]);
        assert!(ran.took < Duration::from_secs(bound), "{ran:#?}");
    }
}

/// `/readyz` says in JSON that the database is missing, and `/livez` that the process is up. No key
/// is called wrong.
async fn assert_without_database(server: &Server, customer: &Customer) {
    // Its answer is cached for a while.
    let start = Instant::now();
    let ready = loop {
        let ready = server.get("/readyz").send().await;
        if ready.status != 200 || start.elapsed() > Duration::from_secs(2) {
            break ready;
        }
    };
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert_eq!(ready.header("content-type"), Some("application/json"));
    assert_eq!(ready.header("retry-after"), Some("1"));
    assert_eq!(
        ready.json(),
        json!({"status": "unavailable", "database": "unreachable"})
    );
    let live = server.get("/livez").send().await;
    assert_eq!((live.status, live.json()), (200, json!({"status": "ok"})));
    let answer = customer.list(server).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.json()["code"], "unavailable");
}

async fn assert_recovered(server: &Server, customer: &Customer) {
    const RECOVERED_WITHIN: Duration = Duration::from_secs(10);
    let start = Instant::now();
    while server.get("/readyz").send().await.status != 200 {
        assert!(start.elapsed() < RECOVERED_WITHIN, "{}", server.stderr());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Every connection of the pool, not only one.
    for _ in 0..30 {
        let answer = customer.list(server).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// Returns a server whose PostgreSQL is on the other side of a network.
async fn behind_a_network(database: &Database) -> (Server, FaultProxy) {
    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
    let server = Server::builder(BINARY)
        .postgres(&url)
        .env("KEYS_PLANS__PRO__LIMITS__LIST__REQUESTS", "1000000")
        .start()
        .await;
    (server, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_goes_away_is_said_and_comes_back_without_a_restart() {
    let database = Database::create().await;
    let (server, proxy) = behind_a_network(&database).await;
    let customer = Customer::new(&server).await;
    let process = server.process_id();
    for _ in 0..2 {
        assert_eq!(customer.list(&server).await.status, 200);
        proxy.set(Fault::Cut).await;
        assert_without_database(&server, &customer).await;
        proxy.set(Fault::None).await;
        assert_recovered(&server, &customer).await;
    }
    assert_eq!(server.process_id(), process);
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_ends_all_connections_costs_no_restart() {
    let database = Database::create().await;
    let other = Database::create().await;
    let (mut server, _proxy) = behind_a_network(&database).await;
    let customer = Customer::new(&server).await;
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    let _ = other.sql(&format!("alter database {name} allow_connections false"));
    let _ = other.sql(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    ));
    assert_without_database(&server, &customer).await;
    let _ = other.sql(&format!("alter database {name} allow_connections true"));
    assert_recovered(&server, &customer).await;
    assert!(server.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn database_that_falls_silent_is_given_up_in_time() {
    const GIVEN_UP_WITHIN: Duration = Duration::from_secs(12);
    let database = Database::create().await;
    let (mut server, proxy) = behind_a_network(&database).await;
    let customer = Customer::new(&server).await;
    proxy.set(SILENT).await;
    // The answer of `/readyz` is cached for a while.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    let waiting = async {
        let answers = tokio::join!(server.get("/readyz").send(), customer.list(&server));
        (answers, start.elapsed())
    };
    let live = async {
        for _ in 0..20 {
            let asked = Instant::now();
            assert_eq!(server.get("/livez").send().await.status, 200);
            assert!(asked.elapsed() < Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (((ready, listed), took), ()) = tokio::join!(waiting, live);
    assert_eq!((ready.status, listed.status), (503, 503));
    assert_eq!(ready.json()["status"], "unavailable");
    assert!(took < GIVEN_UP_WITHIN, "{took:?}");
    proxy.set(Fault::None).await;
    assert_recovered(&server, &customer).await;
    // It does not keep the server from stopping either.
    proxy.set(SILENT).await;
    stop_by(&mut server, "TERM");
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_that_cannot_be_written_at_the_stop_are_said_once_a_second() {
    const SAID: &str = "last uses of keys could not be written and are tried again";
    let database = Database::create().await;
    let (mut server, proxy) = behind_a_network(&database).await;
    let customer = Customer::new(&server).await;
    assert_eq!(customer.list(&server).await.status, 200);
    proxy.set(Fault::Cut).await;
    stop_by(&mut server, "TERM");
    let said = server.stderr().matches(SAID).count();
    // It is tried for two seconds, twenty times.
    assert!((1..=3).contains(&said), "{}", server.stderr());
}

/// Ends the connections of feeds. The next ones read the state of the server at once.
const END_FEEDS: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
                         where application_name = 'keys feed' and datname = current_database()";

/// Waits until `/readyz` has these fields about following changes, with 200 at all times.
async fn until_readyz(server: &Server, is_said: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let answer = server.get("/readyz").send().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let said: Value = answer.json();
        if is_said(&said) {
            return said;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_replication_is_logged_once_and_shown_until_it_ends() {
    const LOGGED: &str = "synchronous_standby_names";
    let (primary, _standby) = tokio::task::spawn_blocking(|| {
        let primary = Cluster::start().unwrap();
        let standby = primary.standby().unwrap();
        (primary, standby)
    })
    .await
    .unwrap();
    let server = Server::builder(BINARY)
        .postgres(&primary.database_url("postgres"))
        .start()
        .await;
    let is_asynchronous = |said: &Value| said["replication"] == "asynchronous";
    until_readyz(&server, is_asynchronous).await;
    let feed = "select pid from pg_stat_activity where application_name = 'keys feed'";
    let first = primary.sql("postgres", feed);
    primary.sql("postgres", END_FEEDS);
    let start = Instant::now();
    while ["", &first].contains(&&*primary.sql("postgres", feed)) {
        assert!(start.elapsed() < STOPPED_WITHIN, "no other feed");
    }
    // Each new feed detects it by itself.
    tokio::time::sleep(Duration::from_secs(1)).await;
    until_readyz(&server, is_asynchronous).await;
    assert_eq!(server.stderr().matches(LOGGED).count(), 1);

    primary.replicate_synchronously();
    primary.sql("postgres", END_FEEDS);
    let said = until_readyz(&server, |said| said.get("replication").is_none()).await;
    assert_eq!(said["status"], "ok");
    assert_eq!(server.stderr().matches(LOGGED).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_trigger_is_shown_with_what_to_do_until_that_is_done() {
    let database = Database::create().await;
    let server = Server::builder(BINARY)
        .postgres(&database.url())
        .start()
        .await;
    until_readyz(&server, |said| said["changes"] == "followed").await;
    let _ = database.sql("alter table api_key disable trigger user");
    let _ = database.sql(END_FEEDS);
    let said = until_readyz(&server, |said| said.get("reason").is_some()).await;
    assert_eq!(said["changes"], "not_followed");
    let reason = said["reason"].as_str().unwrap();
    for word in ["triggers", "api_key", "`keys-server migrate`"] {
        assert!(reason.contains(word), "{reason}");
    }
    assert!(server.stderr().contains("triggers"), "{}", server.stderr());
    let migrated = server.command(["migrate"]);
    assert!(migrated.status.success(), "{migrated:?}");
    let said = until_readyz(&server, |said| said["changes"] == "followed").await;
    assert!(said.get("reason").is_none(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_start_at_once_on_an_empty_postgres_all_serve() {
    let database = Database::create().await;
    let url = database.url();
    let start = || Server::builder(BINARY).postgres(&url).start();
    let (one, two, three) = tokio::join!(start(), start(), start());
    // A key that one of them issues is known to the others.
    let customer = Customer::new(&one).await;
    for server in [&one, &two, &three] {
        let answer = customer.list(server).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let count = "select count(*) = count(distinct version) from __diesel_schema_migrations";
    assert_eq!(database.sql(count), "t\n");
}

/// Returns the commands that the first start prints.
fn printed_commands(stdout: &str) -> &str {
    let (_, commands) = stdout.split_once("paste these into a shell.\n").unwrap();
    commands
}

/// Runs commands as if they were pasted into a shell, and returns their output.
fn paste(commands: &str) -> Vec<String> {
    let mut shell = Command::new("bash")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash is installed");
    let mut stdin = shell.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, commands.as_bytes()).unwrap();
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "curl, grep and cut are needed: {errors}"
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout.lines().map(str::to_owned).collect()
}

/// Asserts the answers to the pasted commands.
fn assert_answers(lines: &[String]) {
    let json = |line: usize| -> Value {
        serde_json::from_str(&lines[line]).unwrap_or_else(|error| panic!("{error}: {lines:#?}"))
    };
    let members = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(lines.len(), 7, "{lines:#?}");

    let words: Vec<_> = lines[0].split(' ').collect();
    assert_eq!(
        (words[0], &words[2..5], words[1].len(), words.len()),
        ("account", &["has", "the", "key"][..], 22, 6),
        "{lines:#?}"
    );
    keys_core::SecretKey::parse(words[5]).unwrap();

    let created = json(1);
    assert_eq!(
        members(&created),
        ["createdAt", "id", "key", "keyPrefix", "name"]
    );
    assert_eq!(created["name"], "Production Server");
    let secret = created["key"].as_str().unwrap();
    assert!(
        secret.starts_with("sk_live_") && secret.len() == 40,
        "{secret}"
    );
    assert_eq!(created["keyPrefix"], secret[..12]);

    let listed = json(2);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["id"], created["id"]);
    assert_eq!(listed[1]["name"], "First key");
    assert_eq!(listed[1]["keyPrefix"], words[5][..12]);
    for key in listed.as_array().unwrap() {
        assert_eq!(
            members(key),
            ["createdAt", "id", "keyPrefix", "lastUsedAt", "name"]
        );
    }

    let created = json(3);
    assert_eq!(members(&created), ["data", "meta"]);
    let expected = json!({
        "identifier": created["data"]["identifier"],
        "description": "Development API Key",
        "allowed_ips": ["192.168.1.100"],
        "last_used_at": null,
        "created_at": created["data"]["created_at"],
    });
    assert_eq!(created["data"], expected);
    let secret = created["meta"]["secret_token"].as_str().unwrap();
    assert!(secret.starts_with("xyp_") && secret.len() == 36, "{secret}");

    let page = json(4);
    let pagination = json!({"page": 1, "perPage": 50, "total": 3, "totalPages": 1});
    assert_eq!(page["pagination"], pagination);
    assert_eq!(page["data"].as_array().unwrap().len(), 3);
    assert_eq!(page["data"][0]["identifier"], created["data"]["identifier"]);
    assert_eq!(page["data"][1]["description"], "Production Server");

    assert_eq!(lines[5], r#"{"success":true}"#);
    assert_eq!(
        lines[6],
        r#"{"message":"Unauthorized","code":"unauthorized"}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_printed_by_the_first_start_work_when_pasted() {
    let server = Server::builder(BINARY).start().await;
    assert_answers(&paste(printed_commands(&server.stdout())));
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_commands_work_on_postgres_with_the_key_of_the_command() {
    // PostgreSQL prints nothing, so this uses the output of an embedded start with another key and
    // address.
    let embedded = Server::builder(BINARY).start().await;
    let database = Database::create().await;
    let server = Server::builder(BINARY)
        .postgres(&database.url())
        .start()
        .await;
    let (key, url) = (server.operator_key("first"), server.url(""));
    let said = embedded.stdout();
    let commands = printed_commands(&said)
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("OPERATOR_KEY", _)) => format!("OPERATOR_KEY={key}"),
            Some(("URL", _)) => format!("URL={url}"),
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    assert!(commands.contains(&url) && !commands.contains(&embedded.url("")));
    assert_answers(&paste(&(commands + "\n")));
    assert_eq!(database.sql("select count(*) from account"), "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn printed_commands_follow_the_settings_and_work() {
    let server = Server::builder(BINARY)
        .env("KEYS_HTTP__FLAT__PATH", "/keys")
        .env("KEYS_HTTP__ACCOUNT__PATH", "/me/keys")
        .start()
        .await;
    let said = server.stdout();
    assert!(
        said.contains("$URL/keys ") && said.contains("$URL/me/keys?"),
        "{said}"
    );
    assert_answers(&paste(printed_commands(&said)));
}

#[cfg(target_os = "linux")]
#[test]
fn program_needs_no_library_but_that_of_c() {
    let output = Command::new("ldd").arg(BINARY).output();
    let output = output.expect("ldd is installed");
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(
        listed.contains("libc.so") || listed.contains("ld-musl"),
        "{listed}"
    );
    for line in listed.lines() {
        let path = line.split_whitespace().next().unwrap();
        let name = path.rsplit('/').next().unwrap();
        let stem = name.split(".so").next().unwrap();
        let known = [
            "linux-vdso",
            "linux-gate",
            "libc",
            "libm",
            "libgcc_s",
            "libpthread",
            "libdl",
            "librt",
        ];
        let loader = stem.starts_with("ld-linux") || stem.starts_with("ld-musl") || stem == "ld64";
        assert!(known.contains(&stem) || loader, "{name} in {listed}");
    }
}
