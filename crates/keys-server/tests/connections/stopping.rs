//! The drain: serving between the signal and the stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keys_testkit::process::signal;
use keys_testkit::server::Server;

use crate::BINARY;
use crate::wire::Wire;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
const READYZ: &str = "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n";

async fn server(drain_seconds: u64) -> Server {
    let server = Server::builder(BINARY).env("KEYS_HTTP__DRAIN_SECONDS", drain_seconds.to_string());
    server.start().await
}

/// Waits until the log of the server says that it stops.
pub(crate) async fn until_stopping(server: &Server) {
    server.until_logged("stopping: not ready").await;
}

/// Returns the answer to a request on a connection of its own.
async fn ask(url: &str, request: &str) -> String {
    let mut wire = Wire::connect(url).await.unwrap();
    wire.send(request).await;
    wire.read_until("}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_server_is_not_ready_and_serves_new_and_kept_connections() {
    for name in ["TERM", "INT", "QUIT"] {
        let mut server = server(2).await;
        let url = server.url("");
        let mut kept = Wire::connect(&url).await.unwrap();
        kept.send(LIVEZ).await;
        let before = kept.read_until("}").await;
        assert!(!before.contains("connection: close"), "{before}");

        let start = Instant::now();
        signal(name, server.process_id());
        until_stopping(&server).await;

        let ready = ask(&url, READYZ).await;
        assert!(ready.starts_with("HTTP/1.1 503 "), "SIG{name}: {ready}");
        assert!(ready.ends_with(r#"{"status":"draining"}"#), "{ready}");
        let fresh = ask(&url, LIVEZ).await;
        let question = "GET /v1/auth HTTP/1.1\r\nHost: x\r\n\r\n";
        let verification = ask(&url, question).await;
        kept.send(LIVEZ).await;
        let last = kept.read_to_end().await;
        for (answer, status) in [(&fresh, "200"), (&last, "200"), (&verification, "401")] {
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "SIG{name}: {answer}");
            assert!(answer.contains("connection: close"), "SIG{name}: {answer}");
        }
        assert!(start.elapsed() < Duration::from_secs(2), "too slow to tell");

        let status = loop {
            assert!(start.elapsed() < Duration::from_secs(10), "SIG{name}");
            if Wire::connect(&url).await.is_err() {
                break server.wait();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success(), "SIG{name}: {status}");
        assert!(start.elapsed() >= Duration::from_secs(2), "SIG{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn second_signal_ends_the_drain() {
    for second in ["TERM", "INT", "QUIT"] {
        let mut server = server(60).await;
        let start = Instant::now();
        signal("TERM", server.process_id());
        until_stopping(&server).await;
        signal(second, server.process_id());
        assert!(server.wait().success(), "SIG{second}");
        assert!(start.elapsed() < Duration::from_secs(10), "SIG{second}");
    }
}

/// Clients send requests over new and kept connections until the end of the drain is near.
#[tokio::test(flavor = "multi_thread")]
async fn request_that_arrives_before_the_end_of_the_drain_is_answered() {
    const DRAIN: Duration = Duration::from_secs(2);
    /// Requests that arrive up to this long before the end are answered.
    const BEFORE_THE_END: Duration = Duration::from_millis(100);
    let mut server = server(DRAIN.as_secs()).await;
    let url = server.url("");
    // Connections that were opened before, and that stay silent until shortly before the end.
    let mut kept = Vec::new();
    for _ in 0..50 {
        let mut wire = Wire::connect(&url).await.unwrap();
        wire.send(LIVEZ).await;
        assert!(wire.read_until("}").await.starts_with("HTTP/1.1 200 "));
        kept.push(wire);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (url, is_over) = (url.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut answered = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = ask(&url, LIVEZ).await;
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Not later than the time from which the server counts.
    let start = Instant::now();
    signal("TERM", server.process_id());
    tokio::time::sleep(DRAIN.saturating_sub(BEFORE_THE_END + start.elapsed())).await;
    is_over.store(true, Ordering::Relaxed);
    for wire in &mut kept {
        wire.send(LIVEZ).await;
    }
    let is_in_time = start.elapsed() < DRAIN;
    for wire in &mut kept {
        let answer = wire.read_until("}").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") || !is_in_time,
            "{answer:?}"
        );
    }
    for client in clients {
        let answered = client.await.unwrap();
        assert!(answered > 10, "{answered}");
    }
    assert!(server.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_prolong_the_stop() {
    let mut server = server(0).await;
    let url = server.url("");
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::connect(&url).await.unwrap();
        wire.send(LIVEZ).await;
        wire.read_until("}").await;
        kept.push(wire);
        kept.push(Wire::connect(&url).await.unwrap());
    }
    let start = Instant::now();
    signal("TERM", server.process_id());
    assert!(server.wait().success());
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}
