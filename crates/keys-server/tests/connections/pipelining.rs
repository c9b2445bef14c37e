//! Requests that are sent before the answers to earlier ones.

use std::time::{Duration, Instant};

use keys_testkit::process::signal;
use keys_testkit::server::Server;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::BINARY;
use crate::maximums::processor_time;
use crate::stopping::until_stopping;
use crate::wire::Wire;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
const READYZ: &str = "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";

/// The start of each answer.
const ANSWER: &str = "HTTP/1.1 ";

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order_and_each_as_it_asked() {
    let server = Server::builder(BINARY).start().await;
    let mut wire = Wire::connect(&server.url("")).await.unwrap();
    // The readiness probe takes longer than the next request, which has no body.
    let head = LIVEZ.replace("GET", "HEAD");
    let body = "POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let last = LIVEZ.replace("Host: x", "Host: x\r\nConnection: close");
    wire.send(format!("{READYZ}{head}{body}{READYZ}{last}{LIVEZ}"))
        .await;
    let said = wire.read_to_end().await;
    let answers: Vec<_> = said.split(ANSWER).skip(1).collect();
    let statuses: Vec<_> = answers.iter().map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "401", "200", "200"], "{said}");
    for number in [0, 3] {
        assert!(answers[number].ends_with('}'), "{said}");
        assert!(answers[number].contains("writable"), "{said}");
    }
    assert!(answers[1].ends_with("\r\n\r\n"), "{said}");
    assert!(!answers[3].contains("connection: close"), "{said}");
    assert!(answers[4].contains("connection: close"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_pipelines_and_never_reads_costs_little() {
    /// Time until the buffers of the system are full. The server gives up such a connection after
    /// 30 s.
    const AT_REST_WITHIN: Duration = Duration::from_secs(15);
    let server = Server::builder(BINARY).start().await;
    let process = server.process_id();
    let address = server.url("").replace("http://", "").parse().unwrap();
    // Heads that are as short as possible, and long answers.
    let text = "GET /metrics HTTP/1.1\r\nHost:\r\n\r\n".repeat(20_000);
    let memory = memory_kib(process);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        let send = client.write_all(text.as_bytes());
        // The buffers of the system may take all of it.
        let _ = timeout(Duration::from_millis(200), send).await;
        clients.push(client);
    }
    let start = Instant::now();
    loop {
        let before = processor_time(process);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let used = processor_time(process) - before;
        if used < 20 {
            break;
        }
        let is_late = start.elapsed() > AT_REST_WITHIN;
        assert!(!is_late, "{used} of 100 hundredths of a second");
    }
    let grown = memory_kib(process).saturating_sub(memory);
    assert!(grown < 8 * 1024, "{grown} KiB");
}

/// Resident memory of a process.
fn memory_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let digits = line.unwrap().trim().trim_end_matches(" kB");
    digits.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_answered_after_the_one_that_closes_the_connection() {
    let server = Server::builder(BINARY)
        .env("KEYS_HTTP__DRAIN_SECONDS", "5")
        .start()
        .await;
    let mut wire = Wire::connect(&server.url("")).await.unwrap();
    wire.send(LIVEZ).await;
    wire.read_until("}").await;
    signal("TERM", server.process_id());
    until_stopping(&server).await;
    // Longer than one read, so that unread bytes are left when the connection ends.
    wire.send(READYZ.to_owned() + &LIVEZ.repeat(1000)).await;
    let said = wire.read_to_end().await;
    assert!(said.starts_with("HTTP/1.1 503 "), "{said}");
    assert!(said.ends_with(r#"{"status":"draining"}"#), "{said}");
    assert_eq!(said.matches(ANSWER).count(), 1, "{said}");
}
