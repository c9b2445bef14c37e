//! HTTP as bytes: nothing between the stamp and the socket, and many requests in one write.

use std::io::{Error, ErrorKind};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An open connection to a server.
pub(crate) struct Wire {
    address: String,
    stream: TcpStream,
    /// The server has said that it will close the connection.
    is_closing: bool,
    buffer: Vec<u8>,
    /// How much of the buffer belongs to the answer that was given out last.
    given: usize,
}

/// An answer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    head: &'a str,
    pub(crate) body: &'a str,
}

impl Answer<'_> {
    /// A header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(self.head, name)
    }
}

impl Wire {
    /// Connects to the server at `http://ADDRESS`.
    pub(crate) async fn connect(url: &str) -> Self {
        let address = url.trim_start_matches("http://");
        Self {
            address: address.to_owned(),
            stream: open(address).await,
            is_closing: false,
            buffer: Vec::with_capacity(16 * 1024),
            given: 0,
        }
    }

    /// Sends requests, as they stand.
    pub(crate) async fn send(&mut self, requests: &[u8]) {
        if self.is_closing {
            *self = Self::connect(&self.address).await;
        }
        self.stream.write_all(requests).await.unwrap();
    }

    /// Reads the next answer to its end.
    pub(crate) async fn answer(&mut self) -> Answer<'_> {
        self.try_answer().await.unwrap()
    }

    async fn try_answer(&mut self) -> Result<Answer<'_>, Error> {
        self.buffer.drain(..self.given);
        self.given = 0;
        let (head, end) = loop {
            if let Some(found) = complete(&self.buffer) {
                break found;
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        self.given = end;
        let text = str::from_utf8(&self.buffer[..end]).map_err(Error::other)?;
        let (head, body) = text.split_at(head);
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        self.is_closing = header(head, "connection") == Some("close");
        Ok(Answer {
            status: status.ok_or(ErrorKind::InvalidData)?,
            head,
            body,
        })
    }

    /// One request and its answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Answer<'_> {
        self.send(request).await;
        self.answer().await
    }
}

async fn open(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Where the head of the first answer ends, and where the answer does.
fn complete(buffer: &[u8]) -> Option<(usize, usize)> {
    const BLANK: &[u8] = b"\r\n\r\n";
    let blank = buffer.windows(BLANK.len()).position(|four| four == BLANK)?;
    let head = blank + BLANK.len();
    let text = str::from_utf8(&buffer[..head]).unwrap();
    let length: usize = header(text, "content-length").map_or(0, |length| length.parse().unwrap());
    (buffer.len() >= head + length).then_some((head, head + length))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").find_map(|line| {
        let (start, value) = line.split_once(": ")?;
        start.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// A request without a body.
pub(crate) fn request(method: &str, path: &str, credential: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {credential}\r\n\r\n")
        .into_bytes()
}

/// A request with a body of JSON.
pub(crate) fn request_with(method: &str, path: &str, credential: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: keys\r\nAuthorization: Bearer {credential}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[test]
fn answers_are_told_apart() {
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 401 Unauthorized\r\n\r\n";
    assert_eq!(complete(two), Some((38, 40)));
    assert_eq!(complete(&two[..39]), None);
    assert_eq!(complete(&two[..20]), None);
    assert_eq!(complete(&two[40..]), Some((29, 29)));
}
