//! Maxima of connections, in total and for each client address.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keys_testkit::process::signal;
use keys_testkit::server::{Server, ServerBuilder};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::BINARY;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// A request whose body is incomplete.
const UNFINISHED: &str = "POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
    Content-Length: 10\r\n\r\n";

/// Addresses of two clients. The fixture itself uses 127.0.0.1.
const GREEDY: &str = "127.0.0.3";
const OTHER: &str = "127.0.0.2";

/// Longer than the time for which a connection counts as in use after an answer.
const QUIET: Duration = Duration::from_millis(300);

fn server(total: usize, per_address: usize) -> ServerBuilder {
    Server::builder(BINARY)
        .env("KEYS_HTTP__CONNECTIONS_MAX", total.to_string())
        .env(
            "KEYS_HTTP__CONNECTIONS_PER_ADDRESS_MAX",
            per_address.to_string(),
        )
}

/// A connection from an address.
struct Client(TcpStream);

impl Client {
    async fn connect(server: &Server, from: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let address = server.url("").replace("http://", "").parse().unwrap();
        Self(socket.connect(address).await.unwrap())
    }

    /// Returns a connection on which one request was answered.
    async fn kept(server: &Server, from: &str) -> Self {
        let mut client = Self::connect(server, from).await;
        assert_eq!(client.ask(LIVEZ).await, 200);
        client
    }

    /// Returns a connection with a request under way.
    async fn busy(server: &Server, from: &str) -> Self {
        let mut client = Self::kept(server, from).await;
        client.0.write_all(UNFINISHED.as_bytes()).await.unwrap();
        client
    }

    /// Sends a request. Returns the status of the answer, or 0 if the connection is closed without
    /// one.
    async fn ask(&mut self, request: &str) -> u16 {
        let _ = self.0.write_all(request.as_bytes()).await;
        let answer = self.answer().await;
        answer
            .get(9..12)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0)
    }

    /// Returns the next answer.
    async fn answer(&mut self) -> String {
        let mut bytes = [0; 4096];
        let read = timeout(Duration::from_secs(15), self.0.read(&mut bytes));
        let count = read.await.unwrap().unwrap_or(0);
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    /// Returns whether the server has closed it.
    async fn is_closed(&mut self) -> bool {
        let mut bytes = [0; 64];
        let read = timeout(Duration::from_secs(2), self.0.read(&mut bytes));
        matches!(read.await, Ok(Ok(0) | Err(_)))
    }
}

/// Tries new connections from an address until one is accepted, as clients do after
/// `Retry-After: 1`.
async fn gets_in(server: &Server, from: &str) -> Client {
    for _ in 0..20 {
        let mut client = Client::connect(server, from).await;
        if client.ask(LIVEZ).await == 200 {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("{from} does not get in: {}", server.stderr());
}

async fn metric(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics").send().await.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.unwrap_or_else(|| panic!("no {name} in {text}"));
    value.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn address_at_its_maximum_is_refused_and_others_get_in() {
    // Five more may be closing, one of them of the same address.
    let server = server(40, 8).start().await;
    let mut busy = Vec::new();
    for _ in 0..8 {
        busy.push(Client::busy(&server, GREEDY).await);
    }
    tokio::time::sleep(QUIET).await;
    // A request under way is answered as the last one on its connection, which still holds its
    // permit.
    let mut last = Client::kept(&server, GREEDY).await;
    let mut refused = Client::connect(&server, GREEDY).await;
    let answer = refused.answer().await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(refused.is_closed().await);
    for _ in 0..8 {
        Client::kept(&server, OTHER).await;
    }
    let refused = "keys_http_connections_refused_total{reason=\"address\"}";
    assert_eq!(metric(&server, refused).await, 1);
    let total = "keys_http_connections_refused_total{reason=\"total\"}";
    assert_eq!(metric(&server, total).await, 0);
    assert!(metric(&server, "keys_http_connections ").await >= 9);
    assert!(server.stderr().contains("http.connections_per_address_max"));
    // Requests under way were not interrupted.
    for client in &mut busy {
        assert_eq!(client.ask("0123456789").await, 401);
    }
    assert_eq!(last.ask(LIVEZ).await, 200);
    // Permits are released.
    drop((busy, last));
    let mut again = Vec::new();
    for _ in 0..8 {
        again.push(gets_in(&server, GREEDY).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_is_idle_longest_makes_room_for_a_new_one() {
    let server = server(40, 4).start().await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        kept.push(Client::kept(&server, GREEDY).await);
    }
    let mut other = Client::kept(&server, OTHER).await;
    tokio::time::sleep(QUIET).await;
    // The first one is no longer the one that was answered least recently.
    assert_eq!(kept[0].ask(LIVEZ).await, 200);
    let mut new = Client::kept(&server, GREEDY).await;
    assert!(kept.remove(1).is_closed().await);
    for client in kept.iter_mut().chain([&mut new, &mut other]) {
        assert_eq!(client.ask(LIVEZ).await, 200);
    }
    assert_eq!(
        metric(&server, "keys_http_connections_closed_total").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn total_is_kept_at_the_expense_of_the_client_with_the_most() {
    // Two more may be closing.
    let server = server(16, 0).start().await;
    let mut other = Client::kept(&server, OTHER).await;
    tokio::time::sleep(QUIET).await;
    let mut greedy = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect(&server, GREEDY).await;
        let _ = client.0.write_all(UNFINISHED.as_bytes()).await;
        greedy.push(client);
    }
    // A kept connection still works, and a new one takes the permit of the client with the most.
    assert_eq!(other.ask(LIVEZ).await, 200);
    let mut new = gets_in(&server, OTHER).await;
    for client in [&mut new, &mut other] {
        assert_eq!(client.ask(LIVEZ).await, 200);
    }
    drop(greedy);
    gets_in(&server, GREEDY).await;
    let total = "keys_http_connections_refused_total{reason=\"total\"}";
    assert!(metric(&server, total).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_arrive_hold_the_places_of_closing_connections_for_a_moment_only() {
    // Up to five may be closing.
    let server = server(40, 20).start().await;
    // Without a key, the server would not wait for the body.
    let key = format!("Authorization: Bearer {}\r\n", server.operator_key("test"));
    let unfinished = UNFINISHED.replace("Content-Length", &(key + "Content-Length"));
    let mut slow = Vec::new();
    // Two more are those of the fixture itself.
    for number in 0..38 {
        let from = [GREEDY, "127.0.0.4"][number % 2];
        let mut client = Client::kept(&server, from).await;
        client.0.write_all(unfinished.as_bytes()).await.unwrap();
        slow.push(client);
    }
    tokio::time::sleep(QUIET).await;
    let start = std::time::Instant::now();
    let mut new = Vec::new();
    for _ in 0..11 {
        new.push(gets_in(&server, OTHER).await);
    }
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    for client in &mut new {
        assert_eq!(client.ask(LIVEZ).await, 200);
    }
    // The server still waits for the others.
    let mut last = slow.pop().unwrap();
    assert_eq!(last.ask("0123456789").await, 400);
    assert!(!last.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn trusted_proxy_may_have_any_number_of_connections() {
    let server = server(40, 2)
        .env("KEYS_HTTP__TRUSTED_PROXIES", GREEDY)
        .start()
        .await;
    let mut proxy = Vec::new();
    for _ in 0..12 {
        proxy.push(Client::kept(&server, GREEDY).await);
    }
    tokio::time::sleep(QUIET).await;
    for client in &mut proxy {
        assert_eq!(client.ask(LIVEZ).await, 200);
    }
}

/// Returns a program that runs the server with at most this many open files, as a hard limit.
fn with_open_files(folder: &tempfile::TempDir, files: usize) -> std::path::PathBuf {
    let path = folder.path().join("few-files");
    let script = format!("#!/bin/sh\nulimit -n {files}\nexec {BINARY} \"$@\"\n");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_connections_of_one_client_lock_no_other_out() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::builder(with_open_files(&folder, 128)).start().await;
    let mut other = Client::kept(&server, OTHER).await;
    let mut greedy = Vec::new();
    for number in 0..300 {
        let mut client = Client::connect(&server, GREEDY).await;
        // Silent connections, the first byte of a head, and requests without their bodies.
        let said = ["", "G", UNFINISHED][number % 3];
        let _ = client.0.write_all(said.as_bytes()).await;
        greedy.push(client);
        if number % 50 == 0 {
            tokio::time::sleep(QUIET).await;
        }
    }
    // At the first attempt.
    Client::kept(&server, OTHER).await;
    assert_eq!(other.ask(LIVEZ).await, 200);
    assert_eq!(server.get("/readyz").send().await.status, 200);
    let said = server.stderr();
    assert!(!said.contains("cannot be accepted"), "{said}");
}

#[test]
fn start_fails_if_a_thread_that_answers_requests_cannot_start() {
    let folder = tempfile::tempdir().unwrap();
    // Each of them needs some files.
    let refused = Server::builder("timeout")
        .argument("20")
        .argument(with_open_files(&folder, 128))
        .argument("serve")
        .env("KEYS_HTTP__WORKERS", "100")
        .env("KEYS_HTTP__LISTEN", "127.0.0.1:0")
        .run();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("a thread that answers requests ended at its start"),
        "{said}"
    );
    assert!(said.contains("Too many open files"), "{said}");
    assert!(!said.contains("listening on"), "{said}");
}

/// Processor time of a process so far, in hundredths of a second.
pub(crate) fn processor_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_can_open_no_file_waits_and_makes_room_and_stops() {
    let mut server = Server::builder(BINARY)
        .env("KEYS_HTTP__DRAIN_SECONDS", "0")
        .start()
        .await;
    let busy = Client::busy(&server, OTHER).await;
    let process = server.process_id();
    let is_open =
        |number: &u64| std::path::Path::new(&format!("/proc/{process}/fd/{number}")).exists();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| {
        let limit = Rlimit { current, maximum };
        let pid = Pid::from_raw(process.try_into().unwrap());
        prlimit(pid, Resource::Nofile, limit).unwrap()
    };
    let first_free = (0..1_000_000).find(|number| !is_open(number)).unwrap();
    limit(Some(first_free));
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(Client::connect(&server, GREEDY).await);
    }
    // Idle connections make room for the new ones until none is left.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = processor_time(process);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = processor_time(process) - before;
    assert!(used < 100, "{used} of 200 hundredths of a second");
    assert!(server.stderr().contains("cannot be accepted"));
    limit(maximum);
    for mut client in waiting {
        // Connections that were closed to make room; their clients try again.
        let _ = client.ask(LIVEZ).await;
    }
    gets_in(&server, GREEDY).await;
    drop(busy);
    // So few that closing connections makes no room either.
    limit(Some(3));
    let _waiting = Client::connect(&server, GREEDY).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told = server.stderr().matches("cannot be accepted").count();
    assert!(told >= 2, "{told}");
    let start = std::time::Instant::now();
    signal("TERM", process);
    assert!(server.wait().success());
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}
