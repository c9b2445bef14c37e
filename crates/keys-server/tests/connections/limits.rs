//! Limits of a connection: every request has the limits that the first has.

use std::time::{Duration, Instant};

use keys_testkit::server::Server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::BINARY;
use crate::wire::Wire;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// Returns a connection on which one request was answered.
async fn used(server: &Server) -> Wire {
    let mut wire = Wire::connect(&server.url("")).await.unwrap();
    wire.send(LIVEZ).await;
    assert!(wire.read_until("}").await.starts_with("HTTP/1.1 200 "));
    wire
}

/// Returns how long a connection stays open while `piece` is sent twice a second after `first`.
async fn closed_after(server: &Server, first: &str, piece: &str, at_most: Duration) -> Duration {
    let address = server.url("").replace("http://", "");
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(first.as_bytes()).await.unwrap();
    let start = Instant::now();
    let piece = piece.to_owned();
    let drip = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if writer.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let mut scratch = [0; 4096];
    let end = async { while matches!(reader.read(&mut scratch).await, Ok(1..)) {} };
    let ended = timeout(at_most, end).await;
    assert!(ended.is_ok(), "still open after {at_most:?}: {first:?}");
    drip.abort();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn request_that_is_never_finished_is_given_up_also_after_the_first() {
    /// 5 s for a head and 15 s for a body, and some time for a busy machine.
    const HEAD: Duration = Duration::from_secs(9);
    const BODY: Duration = Duration::from_secs(20);
    let server = Server::builder(BINARY).start().await;
    let refused = "POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        (format!("{LIVEZ}G"), "", HEAD),
        (format!("{LIVEZ}GET / HTTP/1.1\r\n"), "a: b\r\n", HEAD),
        (LIVEZ.to_owned(), "\r\n", HEAD),
        (format!("{LIVEZ}{refused}5\r\nab"), "", BODY),
        (format!("{LIVEZ}{refused}"), "1\r\na\r\n", BODY),
        (format!("{LIVEZ}{refused}0\r\n"), "A: b\r\n", BODY),
        (format!("{refused}1"), ";x", BODY),
    ];
    let waits = cases
        .iter()
        .map(|(first, piece, at_most)| closed_after(&server, first, piece, *at_most));
    for (took, (first, _, at_most)) in futures(waits).await.into_iter().zip(&cases) {
        let is_head = *at_most == HEAD;
        assert!(
            !is_head || took > Duration::from_secs(1),
            "{took:?} {first:?}"
        );
    }
    // A connection that is idle between two requests is not closed.
    let mut idle = used(&server).await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    idle.send(LIVEZ).await;
    assert!(idle.read_until("}").await.starts_with("HTTP/1.1 200 "));
}

/// Waits for all concurrently.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = all.map(Box::pin).map(Some).collect();
    let mut done: Vec<Option<T>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (place, future) in done.iter_mut().zip(&mut pending) {
            if let Some(waiting) = future
                && let std::task::Poll::Ready(value) = waiting.as_mut().poll(context)
            {
                *place = Some(value);
                *future = None;
            }
        }
        if pending.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn body_of_a_refused_request_is_not_taken_without_end() {
    let server = Server::builder(BINARY).start().await;
    let address = server.url("").replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = "10000\r\n".to_owned() + &"x".repeat(0x10000) + "\r\n";
    let mut taken = 0_usize;
    let send = async {
        while stream.write_all(chunk.as_bytes()).await.is_ok() {
            taken += chunk.len();
        }
    };
    timeout(Duration::from_secs(20), send).await.unwrap();
    // The amount that the server reads, and the buffers of two sockets.
    assert!(taken < 40_000_000, "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_heads_are_refused_and_panic_nowhere() {
    let server = Server::builder(BINARY).start().await;
    let long = "n".repeat(65_536);
    for (text, status) in [
        (format!("GET /livez HTTP/1.1\r\nHost: x\r\n{long}: y\r\n\r\n"), "431"),
        (format!("GET /livez HTTP/1.1\r\nHost: x\r\nY: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), "431"),
        (format!("{long}{long}"), "431"),
        ("GET /livez HTTP/1.1\nHost: x\n\n".to_owned(), "400"),
        (
            "POST /v1/auth HTTP/1.1\r\nHost: x\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "400",
        ),
    ] {
        let mut wire = used(&server).await;
        wire.send(&text).await;
        let answer = wire.read_to_end().await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{answer:?} to {}", &text[..40]);
    }
    // A long head inside a body is refused too, because two readers could disagree about the end of
    // a chunked body.
    let chunked = "POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let next = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{long}: y\r\n\r\n");
    let cover = "POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n";
    let size = cover.len() + 2;
    for (body, answers) in [
        (format!("0\r\n\n{cover}"), 1),
        (format!("{size:030x}\r\n\r\n{cover}\r\n0\r\n\r\n"), 2),
    ] {
        let mut wire = used(&server).await;
        wire.send(format!("{chunked}{body}{next}")).await;
        let said = wire.read_to_end().await;
        assert_eq!(said.matches("HTTP/1.1 ").count(), answers, "{said:?}");
    }
    for byte in 0..=u8::MAX {
        for (before, after) in [
            ("GET /livez HTTP/1.1\r\nHost: x\r\nA", "b: c\r\n\r\n"),
            ("GET /livez HTTP/1.1\r\nHost: x\r\nA: b", "c\r\n\r\n"),
            ("GET /li", "vez HTTP/1.1\r\nHost: x\r\n\r\n"),
            ("G", "ET /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
        ] {
            let mut wire = Wire::connect(&server.url("")).await.unwrap();
            let text = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            wire.send(text).await;
            let answer = wire.read_until("\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 "), "{byte}: {answer:?}");
        }
    }
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_heads_are_counted_by_reason_and_logged_without_their_bytes() {
    let server = Server::builder(BINARY)
        .env("KEYS_LOG__FILTER", "debug")
        .start()
        .await;
    let long = "n".repeat(65_536);
    for (text, times) in [
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), 3),
        ("GET /sk_live_secret HTTP/1.1\n\n".to_owned(), 2),
        ("GET /sk_live_secret HTTP/1.1\r\n".to_owned(), 1),
    ] {
        for _ in 0..times {
            let mut wire = Wire::connect(&server.url("")).await.unwrap();
            wire.send(&text).await;
            assert!(wire.read_to_end().await.contains("connection: close"));
        }
    }
    let metrics = server.get("/metrics").send().await.body;
    for (reason, count) in [("too_large", 3), ("malformed", 2), ("timeout", 1)] {
        let line = format!("keys_http_heads_refused_total{{reason=\"{reason}\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
    // Those of the first moment in one line, and the last one in another.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let log = server.stderr();
    assert!(!log.contains("secret"), "{log}");
    let told = log
        .matches("connections were closed because what they sent is not HTTP")
        .count();
    assert!((2..=4).contains(&told), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offer_to_upgrade_is_ignored_and_the_connection_goes_on() {
    let server = Server::builder(BINARY).start().await;
    let offers = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        "Connection: upgrade\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        "Upgrade: websocket\r\n",
    ];
    for path in [
        "/api/api-keys",
        "/api/account/api-keys",
        "/v1/accounts",
        "/v1/keys/verify",
        "/v1/auth",
        "/livez",
        "/nowhere",
    ] {
        for offer in offers {
            let mut wire = used(&server).await;
            for method in ["GET", "POST"] {
                let body = if method == "POST" { "{}" } else { "" };
                wire.send(format!(
                    "{method} {path} HTTP/1.1\r\nHost: x\r\n{offer}Content-Type: application/json\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    body.len()
                ))
                .await;
                let answer = wire.read_until("}").await.to_ascii_lowercase();
                assert!(
                    answer.starts_with("http/1.1 "),
                    "{path} {offer}: {answer:?}"
                );
                assert!(!answer.contains("connection: upgrade"), "{answer}");
                if answer.contains("connection: close") {
                    wire = used(&server).await;
                }
            }
            wire.send(LIVEZ).await;
            let next = wire.read_until("}").await;
            assert!(next.contains("HTTP/1.1 200 "), "{path} {offer}: {next:?}");
        }
    }
}
