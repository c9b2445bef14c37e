//! HTTP as bytes over a connection that stays open, for measuring: no library between the time
//! stamp and the socket, and many requests in one write. A client library takes longer for a
//! request than the server does.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An open connection to a server.
#[derive(Debug)]
pub struct Wire {
    address: String,
    stream: TcpStream,
    /// Set when the server has announced that it will close the connection.
    is_closing: bool,
    buffer: Vec<u8>,
    /// Length of the last returned answer in the buffer.
    given: usize,
}

/// An answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// The text of its body.
    pub body: &'a str,
    head: &'a str,
}

impl<'a> Answer<'a> {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        header(self.head, name)
    }
}

impl Wire {
    /// Connects to the server at `http://ADDRESS`.
    pub async fn connect(url: &str) -> Self {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let stream = TcpStream::connect(address).await.expect("a server listens");
        stream.set_nodelay(true).expect("a connection has options");
        Self {
            address: address.to_owned(),
            stream,
            is_closing: false,
            buffer: Vec::with_capacity(16 * 1024),
            given: 0,
        }
    }

    /// Sends requests, unchanged.
    pub async fn send(&mut self, requests: &[u8]) {
        if self.is_closing {
            *self = Self::connect(&self.address).await;
        }
        let sent = self.stream.write_all(requests).await;
        sent.expect("the server takes requests");
    }

    /// Reads the next answer to its end.
    pub async fn answer(&mut self) -> Answer<'_> {
        let head = self.receive().await;
        self.given(head)
    }

    /// Sends one request and reads its answer.
    pub async fn ask(&mut self, request: &[u8]) -> Answer<'_> {
        self.send(request).await;
        let head = self.receive().await;
        assert_eq!(self.given, self.buffer.len(), "one answer to one request");
        self.given(head)
    }

    /// Reads until an answer is complete. Returns the end of its head.
    async fn receive(&mut self) -> usize {
        self.buffer.drain(..self.given);
        self.given = 0;
        loop {
            if let Some((head, end)) = complete(&self.buffer) {
                self.given = end;
                return head;
            }
            let read = self.stream.read_buf(&mut self.buffer).await;
            let read = read.expect("the server answers");
            assert_ne!(read, 0, "the server has hung up");
        }
    }

    /// Returns the answer that was received last.
    fn given(&mut self, head: usize) -> Answer<'_> {
        let text = str::from_utf8(&self.buffer[..self.given]).expect("an answer is text");
        let (head, body) = text.split_at(head);
        self.is_closing = header(head, "connection") == Some("close");
        // `HTTP/1.1 200 OK`
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        Answer {
            status: status.expect("an answer has a status"),
            body,
            head,
        }
    }
}

/// Returns the end of the head of the first answer, and the end of the answer.
fn complete(buffer: &[u8]) -> Option<(usize, usize)> {
    const BLANK: &[u8] = b"\r\n\r\n";
    let blank = buffer.windows(BLANK.len()).position(|four| four == BLANK)?;
    let head = blank + BLANK.len();
    let text = str::from_utf8(&buffer[..head]).expect("a head is text");
    let length: usize = header(text, "content-length")
        .map_or(0, |length| length.parse().expect("a length is a number"));
    (buffer.len() >= head + length).then_some((head, head + length))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Returns a request without a body.
#[must_use]
pub fn request(method: &str, path: &str, credential: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {credential}\r\n\r\n")
        .into_bytes()
}

/// Returns a request with a body of JSON.
#[must_use]
pub fn request_with(method: &str, path: &str, credential: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {credential}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Returns a gateway's request about a key, for a client at that address.
#[must_use]
pub fn forward_auth(query: &str, key: &str, client: Ipv4Addr) -> Vec<u8> {
    format!(
        "GET /v1/auth{query} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {key}\r\nX-Forwarded-For: {client}\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let two =
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 401 Unauthorized\r\n\r\n";
        assert_eq!(complete(two), Some((38, 40)));
        assert_eq!(complete(&two[..39]), None);
        assert_eq!(complete(&two[..20]), None);
        assert_eq!(complete(&two[40..]), Some((29, 29)));
    }
}
