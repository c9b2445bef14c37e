//! HTTP as bytes over a connection that stays open, for measuring: a client library takes longer over a request than the
//! server does.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection to a server.
pub(crate) struct KeepAlive {
    stream: TcpStream,
    received: Vec<u8>,
}

/// What was answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    pub(crate) status: u16,
    pub(crate) head: &'a str,
    pub(crate) body: &'a str,
}

impl KeepAlive {
    /// Connects to the server at `http://ADDRESS`.
    pub(crate) async fn connect(url: &str) -> Self {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Sends a whole request and reads its whole answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Heard<'_> {
        const END: &[u8] = b"\r\n\r\n";
        self.stream.write_all(request).await.unwrap();
        self.received.clear();
        let mut body: Option<(usize, usize)> = None;
        let (start, end) = loop {
            if let Some((start, len)) = body
                && self.received.len() >= start + len
            {
                break (start, start + len);
            }
            let read = self.stream.read_buf(&mut self.received).await.unwrap();
            assert_ne!(read, 0, "the server has hung up");
            if body.is_none()
                && let Some(at) = self
                    .received
                    .windows(END.len())
                    .position(|part| part == END)
            {
                let head = std::str::from_utf8(&self.received[..at]).unwrap();
                let length = header(head, "content-length").unwrap_or("0");
                body = Some((at + END.len(), length.parse().unwrap()));
            }
        };
        assert_eq!(end, self.received.len(), "one answer to one request");
        let head = std::str::from_utf8(&self.received[..start]).unwrap();
        Heard {
            // `HTTP/1.1 200 OK`
            status: head[9..12].parse().unwrap(),
            head,
            body: std::str::from_utf8(&self.received[start..end]).unwrap(),
        }
    }
}

impl Heard<'_> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A gateway's question about a key, for a client at that address.
pub(crate) fn auth(query: &str, key: &str, client: Ipv4Addr) -> Vec<u8> {
    format!(
        "GET /v1/auth{query} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {key}\r\nX-Forwarded-For: {client}\r\n\r\n"
    )
    .into_bytes()
}

/// A backend's question.
pub(crate) fn post(path: &str, operator: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {operator}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
