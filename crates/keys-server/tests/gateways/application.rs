//! The application behind a gateway.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Error, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An application that answers with the request as it arrived: its head, then its body, then its
/// trailers. If those are long, it answers with a [digest] of them.
pub(crate) struct Application {
    pub(crate) address: SocketAddr,
    reached: Arc<AtomicUsize>,
}

impl Application {
    pub(crate) fn start() -> Self {
        let reached = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&reached);
        // As most applications do, it keeps connections open.
        let address = serve(usize::MAX, move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            // Traefik, like other proxies in Go, may cut off a long answer that begins before the
            // end of the request.
            let rest = match request.rest.len() {
                0..=1_000 => request.rest,
                _ => digest(&request.rest).into_bytes(),
            };
            let length = request.head.len() + rest.len();
            let mut answer =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
            if !request.head.starts_with(b"HEAD ") {
                answer.extend(request.head);
                answer.extend(rest);
            }
            answer
        });
        Self { address, reached }
    }

    /// Returns the number of requests that have reached it.
    pub(crate) fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }
}

/// Returns a digest that differs for different bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{} bytes, {:x}", bytes.len(), hasher.finish())
}

/// A request as bytes.
pub(crate) struct Request {
    pub(crate) head: Vec<u8>,
    /// Body and trailers.
    pub(crate) rest: Vec<u8>,
}

/// Answers a number of requests of each connection with some bytes, on a free port, until the
/// process ends.
pub(crate) fn serve(
    requests_max: usize,
    answer: impl Fn(Request) -> Vec<u8> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                for _ in 0..requests_max {
                    let request = read(&mut reader);
                    let answered = request.and_then(|one| (&stream).write_all(&answer(one)));
                    // A client that goes away is not an error.
                    if answered.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn read(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Err(Error::other("the end of the connection"));
        }
    }
    let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let value = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let mut rest = Vec::new();
    if value("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim_end(), 16).map_err(Error::other)?;
            if size == 0 {
                break;
            }
            reader.take(size).read_to_end(&mut rest)?;
            reader.read_line(&mut String::new())?;
        }
        // Trailers up to an empty line.
        while reader.read_until(b'\n', &mut rest)? > 2 {}
    } else if let Some(length) = value("content-length") {
        let length = length.parse().unwrap();
        reader.take(length).read_to_end(&mut rest)?;
    }
    Ok(Request { head, rest })
}
