//! Unix sockets: the file, serving over it, and the addresses of its clients.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keys_testkit::process::{Watch, signal};
use keys_testkit::server::{Server, ServerBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::BINARY;

/// Time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(20);

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
const READYZ: &str = "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";

/// Returns a folder for a socket, and the path of the socket.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.sock");
    (folder, path)
}

/// Returns a server that listens on the socket, and on TCP for the readiness check of the testkit.
fn builder(path: &Path) -> ServerBuilder {
    let listen = format!("127.0.0.1:0,unix:{}", path.display());
    Server::builder(BINARY).env("KEYS_HTTP__LISTEN", listen)
}

/// Returns the identity of a file.
fn identity(path: &Path) -> (u64, u64) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.dev(), found.ino())
}

/// Sends a request and reads its answer. All bodies here are JSON objects or empty.
async fn exchange(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&said).into_owned();
            let lower = text.to_lowercase();
            if let Some((head, body)) = lower.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let length = length.map_or(0, |length| length.parse().unwrap());
                if body.len() >= length {
                    return text;
                }
            }
            if stream.read_buf(&mut said).await.unwrap() == 0 {
                return text;
            }
        }
    };
    timeout(PATIENCE, read).await.unwrap()
}

/// Returns the answer to a request on a connection of its own.
async fn ask(path: &Path, request: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(path).await?;
    Ok(exchange(&mut stream, request).await)
}

fn status(answer: &str) -> u16 {
    let status = answer.split(' ').nth(1);
    let status = status.and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_has_the_configured_mode_and_is_removed_at_the_stop() {
    for (configured, mode) in [(None, 0o660), (Some("0600"), 0o600), (Some("666"), 0o666)] {
        let (_folder, path) = place();
        let mut builder = builder(&path);
        if let Some(configured) = configured {
            builder = builder.env("KEYS_HTTP__UNIX_MODE", configured);
        }
        let mut server = builder.start().await;
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, mode);
        let told = format!("listening on unix:{}", path.display());
        assert!(server.stderr().contains(&told), "{}", server.stderr());
        assert!(server.stop().success());
        assert!(!path.exists(), "the socket was left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_is_kept_and_serves_one_request_after_another() {
    let (_folder, path) = place();
    let _server = builder(&path).start().await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    for _ in 0..3 {
        for (request, expected) in [
            (LIVEZ, 200),
            (READYZ, 200),
            ("GET /v1/auth HTTP/1.1\r\nHost: x\r\n\r\n", 401),
            ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ] {
            let answer = exchange(&mut stream, request).await;
            assert_eq!(status(&answer), expected, "{answer}");
            assert!(!answer.contains("connection: close"), "{answer}");
        }
    }
    // The limits of a connection apply here too.
    let start = Instant::now();
    let unfinished = exchange(&mut stream, "GET /livez HTTP/1.1\r\nHo").await;
    assert_eq!(status(&unfinished), 408, "{unfinished}");
    assert!(start.elapsed() >= Duration::from_secs(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_socket_is_replaced() {
    let (_folder, path) = place();
    // A listener that is closed leaves its file.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut server = builder(&path).start().await;
    assert_eq!(status(&ask(&path, LIVEZ).await.unwrap()), 200);
    server.kill();
    assert!(path.exists(), "a killed process removes nothing");
    server.start_again().await;
    assert_eq!(status(&ask(&path, LIVEZ).await.unwrap()), 200);
    assert!(server.stop().success());
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn live_socket_is_refused_and_left_alone() {
    let (_folder, path) = place();
    let mut server = builder(&path).start().await;
    let before = identity(&path);
    let second = builder(&path).run();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr);
    let shown = path.display().to_string();
    for word in ["http.listen", &shown, "process that listens on it"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(identity(&path), before);
    assert_eq!(status(&ask(&path, LIVEZ).await.unwrap()), 200);
    assert!(server.stop().success());

    // No process accepts connections here, and the queue is full.
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let start = Instant::now();
    let refused = builder(&path).run();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("process that listens on it"), "{said}");
    assert!(start.elapsed() < PATIENCE);
    drop(listener);
    fs::remove_file(&path).unwrap();

    let _datagrams = UnixDatagram::bind(&path).unwrap();
    let refused = builder(&path).run();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("uses it for something else"), "{said}");
    assert!(path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_servers_that_start_together_one_has_the_socket() {
    let (_folder, path) = place();
    drop(UnixListener::bind(&path).unwrap());
    let started: Vec<_> = (0..4)
        .map(|_| {
            let folder = tempfile::tempdir().unwrap();
            let process = bare(&path, folder.path()).spawn().unwrap();
            let watch = Watch::over_process(process.id()).unwrap();
            (process, Some(watch), folder)
        })
        .collect();
    let start = Instant::now();
    let mut left = started;
    while left.len() > 1 {
        assert!(start.elapsed() < PATIENCE, "more than one has it");
        tokio::time::sleep(Duration::from_millis(20)).await;
        left.retain_mut(|(process, watch, _)| {
            let is_running = process.try_wait().unwrap().is_none();
            if let Some(watch) = (!is_running).then(|| watch.take()).flatten() {
                watch.disarm();
            }
            is_running
        });
    }
    let (mut process, watch, _folder) = left.pop().expect("one of them serves");
    let served = until_served(&path).await;
    signal("TERM", process.id());
    assert!(process.wait().unwrap().success());
    watch.unwrap().disarm();
    assert_eq!(status(&served), 200);
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_that_another_process_has_locked_stops_no_start() {
    let (folder, path) = place();
    let held = fs::File::open(folder.path()).unwrap();
    held.lock().unwrap();
    let mut server = builder(&path).start().await;
    assert_eq!(status(&ask(&path, LIVEZ).await.unwrap()), 200);
    assert!(server.stop().success());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn other_kinds_of_files_and_missing_folders_are_refused_and_left_alone() {
    let (folder, path) = place();
    let refusal = |path: &Path| {
        let refused = builder(path).run();
        assert!(!refused.status.success());
        String::from_utf8_lossy(&refused.stderr).into_owned()
    };
    fs::write(&path, "precious").unwrap();
    let said = refusal(&path);
    assert!(said.contains("is not a socket"), "{said}");
    assert!(said.contains(&path.display().to_string()), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    // A link, even to a dead socket or to a missing file.
    let dead = folder.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    for target in [dead.as_path(), Path::new("/nowhere/keys.sock")] {
        let link = folder.path().join("link.sock");
        symlink(target, &link).unwrap();
        let said = refusal(&link);
        assert!(said.contains("is not a socket"), "{said}");
        assert_eq!(fs::read_link(&link).unwrap(), target);
        fs::remove_file(&link).unwrap();
    }
    assert!(dead.exists());
    assert!(refusal(folder.path()).contains("is not a socket"));

    let said = refusal(&folder.path().join("missing").join("keys.sock"));
    assert!(said.contains("does not exist: create it"), "{said}");
    let long = folder.path().join("x".repeat(107));
    let said = refusal(&long);
    assert!(said.contains("at most 107"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_is_not_the_servers_any_more_is_left_at_the_stop() {
    let (_folder, path) = place();
    let mut server = builder(&path).start().await;
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let before = identity(&path);
    assert!(server.stop().success());
    assert_eq!(identity(&path), before);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_serves_new_and_kept_connections_and_loses_none() {
    const DRAIN: Duration = Duration::from_secs(2);
    let (_folder, path) = place();
    let builder = builder(&path).env("KEYS_HTTP__DRAIN_SECONDS", DRAIN.as_secs().to_string());
    let mut server = builder.start().await;
    let mut kept = UnixStream::connect(&path).await.unwrap();
    assert_eq!(status(&exchange(&mut kept, LIVEZ).await), 200);
    signal("TERM", server.process_id());
    let start = Instant::now();
    while !server.stderr().contains("stopping: not ready") {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ready = ask(&path, READYZ).await.unwrap();
    assert!(ready.ends_with(r#"{"status":"draining"}"#), "{ready}");
    let last = exchange(&mut kept, LIVEZ).await;
    assert!(last.contains("connection: close"), "{last}");
    // Until no client can connect any more. Each that could gets an answer.
    let mut answered = 0;
    loop {
        assert!(start.elapsed() < PATIENCE);
        match ask(&path, LIVEZ).await {
            Ok(answer) => {
                assert_eq!(status(&answer), 200, "{answer:?} after {answered}");
                answered += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
                break;
            }
        }
    }
    assert!(answered > 10, "{answered}");
    assert!(server.wait().success());
}

/// Returns the program on the socket alone, in a folder.
fn bare(path: &Path, folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command
        .env("KEYS_HTTP__LISTEN", format!("unix:{}", path.display()))
        .env("KEYS_HTTP__DRAIN_SECONDS", "0")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(fs::File::create(folder.join("stdout")).unwrap())
        .stderr(fs::File::create(folder.join("stderr")).unwrap());
    command
}

/// Returns the first answer over the socket.
async fn until_served(path: &Path) -> String {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "nothing is served");
        if let Ok(answer) = ask(path, LIVEZ).await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_start_tells_commands_that_use_the_socket() {
    let (_folder, path) = place();
    let folder = tempfile::tempdir().unwrap();
    let mut process = bare(&path, folder.path()).spawn().unwrap();
    let watch = Watch::over_process(process.id()).unwrap();
    let served = until_served(&path).await;
    signal("TERM", process.id());
    let ended = process.wait().unwrap();
    watch.disarm();
    assert_eq!(status(&served), 200);
    assert!(ended.success());
    let said = fs::read_to_string(folder.path().join("stdout")).unwrap();
    let command = format!("curl -s --unix-socket {} ", path.display());
    assert!(said.contains(&command), "{said}");
    let rest = said.replace(&command, "");
    assert!(!rest.contains("curl "), "{said}");
}

/// Returns the secret of a key that may be used from these addresses.
async fn key(server: &Server, operator: &str, allowed_ips: &[&str]) -> String {
    let post = |path: &str, body: Value| server.post(path).bearer(operator).json(&body);
    let account = post("/v1/accounts", json!({ "plan": "pro" })).send().await;
    assert_eq!(account.status, 201, "{account:?}");
    let account: Value = account.json();
    let path = format!("/v1/accounts/{}/keys", account["id"].as_str().unwrap());
    let issued = post(&path, json!({ "allowed_ips": allowed_ips }))
        .send()
        .await;
    assert_eq!(issued.status, 201, "{issued:?}");
    let issued: Value = issued.json();
    issued["key"].as_str().unwrap().to_owned()
}

/// Returns the status of `/v1/auth` over the socket, for a key and with header lines.
async fn judged(path: &Path, key: &str, headers: &str) -> u16 {
    let request =
        format!("GET /v1/auth HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{headers}\r\n");
    status(&ask(path, &request).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_of_a_unix_socket_has_no_address() {
    let (_folder, path) = place();
    // Trusting an address does not trust a Unix socket.
    let builder = builder(&path).env("KEYS_HTTP__TRUSTED_PROXIES", "127.0.0.1,0.0.0.0/0,::/0");
    let server = builder.start().await;
    let operator = server.operator_key("test");
    let anywhere = key(&server, &operator, &[]).await;
    assert_eq!(judged(&path, &anywhere, "").await, 200);
    for list in [
        &["127.0.0.1", "::1"][..],
        &["0.0.0.0/0", "::/0"],
        &["203.0.113.7"],
    ] {
        let bound = key(&server, &operator, list).await;
        for headers in [
            "",
            "X-Forwarded-For: 203.0.113.7\r\n",
            "Forwarded: for=203.0.113.7\r\n",
            "X-Real-IP: 203.0.113.7\r\n",
        ] {
            let status = judged(&path, &bound, headers).await;
            assert_eq!(status, 403, "{list:?} {headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_unix_socket_tells_the_address_of_the_client() {
    let (_folder, path) = place();
    let builder = builder(&path).env("KEYS_HTTP__TRUSTED_PROXIES", "unix,10.0.0.0/8");
    let server = builder.start().await;
    let operator = server.operator_key("test");
    let bound = key(&server, &operator, &["203.0.113.7"]).await;
    for (headers, expected) in [
        ("X-Forwarded-For: 203.0.113.7\r\n", 200),
        ("X-Forwarded-For: 1.1.1.1, 203.0.113.7, 10.0.0.3\r\n", 200),
        ("Forwarded: for=203.0.113.7;proto=https\r\n", 200),
        ("Forwarded: for=\"203.0.113.7:_p\"\r\n", 200),
        (
            "Forwarded: for=203.0.113.7\r\nX-Forwarded-For: 203.0.113.7\r\n",
            200,
        ),
        (
            "Forwarded: for=203.0.113.8\r\nX-Forwarded-For: 203.0.113.7\r\n",
            403,
        ),
        ("X-Forwarded-For: 203.0.113.7, 203.0.113.8\r\n", 403),
        ("X-Forwarded-For: unix:\r\n", 403),
        ("Forwarded: for=unknown\r\n", 403),
        ("", 403),
    ] {
        assert_eq!(
            judged(&path, &bound, headers).await,
            expected,
            "{headers:?}"
        );
    }
    // Over TCP this server trusts others.
    let claimed = server.get("/v1/auth").bearer(&bound);
    let claimed = claimed
        .header("X-Forwarded-For", "203.0.113.7")
        .send()
        .await;
    assert_eq!(claimed.status, 403, "{claimed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_over_an_untrusted_unix_socket_share_one_bucket() {
    const CONFIG: &str = "[http]\nunauthenticated = { requests = 3, period_seconds = 3600 }\n";
    const NO_KEY: &str = "sk_live_000000000000000000000000003vSKjy";
    for trusted in [false, true] {
        let (_folder, path) = place();
        let mut builder = builder(&path).config(CONFIG);
        if trusted {
            builder = builder.env("KEYS_HTTP__TRUSTED_PROXIES", "unix");
        }
        let server = builder.start().await;
        let mut seen = Vec::new();
        for number in 1..=5 {
            let headers = format!("X-Forwarded-For: 203.0.113.{number}\r\n");
            seen.push(judged(&path, NO_KEY, &headers).await);
        }
        if trusted {
            // Each client has a bucket of its own.
            assert_eq!(seen, [401; 5]);
        } else {
            assert_eq!(seen, [401, 401, 401, 429, 429]);
        }
        // A client with an address has another bucket.
        let elsewhere = server.get("/v1/auth").bearer(NO_KEY).send().await;
        assert_eq!(elsewhere.status, 401, "{elsewhere:?}");
    }
}

/// Returns the whole output of the server on a new connection. The request may arrive too late at a
/// server that refuses at once.
async fn heard(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut said = Vec::new();
    let read = stream.read_to_end(&mut said);
    // A connection that is closed before the request was read ends with an error, after the answer.
    let _ = timeout(PATIENCE, read).await.unwrap();
    String::from_utf8(said).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_beyond_the_maximum_is_answered_503_until_another_one_has_gone() {
    const MAX: usize = 4;
    const CLOSING: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (_folder, path) = place();
    let builder = builder(&path).env("KEYS_HTTP__CONNECTIONS_MAX", MAX.to_string());
    let server = builder.start().await;
    // The TCP connection of the readiness check is idle by then, and makes room.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut kept = Vec::new();
    for _ in 0..MAX {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        assert_eq!(status(&exchange(&mut stream, LIVEZ).await), 200);
        kept.push(stream);
    }
    // One that sends first, and one that waits for the server.
    for request in [CLOSING, ""] {
        let answer = heard(&path, request).await;
        assert_eq!(status(&answer), 503, "{answer}");
        for line in ["content-length: 0", "retry-after: 1", "connection: close"] {
            assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
        }
    }
    let said = server.stderr();
    assert!(said.contains("`http.connections_max`"), "{said}");
    // No connection of a peer without an address is closed, even if it is idle, because the peer
    // may be a gateway with many clients.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(status(&heard(&path, CLOSING).await), 503);
    for stream in &mut kept {
        assert_eq!(status(&exchange(stream, LIVEZ).await), 200);
    }
    let metrics = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let metrics = exchange(&mut kept[0], metrics).await;
    let refused = "keys_http_connections_refused_total{reason=\"total\"} 3\n";
    assert!(metrics.contains(refused), "{metrics}");

    drop(kept.pop());
    let start = Instant::now();
    let mut answer = heard(&path, CLOSING).await;
    while status(&answer) == 503 {
        assert!(start.elapsed() < PATIENCE, "the place is not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = heard(&path, CLOSING).await;
    }
    assert_eq!(status(&answer), 200, "{answer}");
}
