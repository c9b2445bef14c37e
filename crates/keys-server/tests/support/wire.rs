//! HTTP as bytes, for requests that no client library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time limit of an answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// An open connection to a server.
pub(crate) struct Wire(TcpStream);

impl Wire {
    /// Connects to the server at `http://ADDRESS`.
    pub(crate) async fn connect(url: &str) -> std::io::Result<Self> {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        TcpStream::connect(address).await.map(Self)
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until `end` has been read, or the connection is closed.
    pub(crate) async fn read_until(&mut self, end: &str) -> String {
        let mut said = Vec::new();
        let read = async {
            while !said.windows(end.len()).any(|part| part == end.as_bytes()) {
                // A reset is an end too.
                match self.0.read_buf(&mut said).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        };
        let in_time = timeout(ANSWERED_WITHIN, read).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        in_time.unwrap_or_else(|_| panic!("no {end:?} in {said:?}"));
        said
    }

    /// Reads until the server closes the connection.
    pub(crate) async fn read_to_end(&mut self) -> String {
        // A text that no answer contains.
        self.read_until("\0\0\0\0").await
    }
}
