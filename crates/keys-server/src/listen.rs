//! Where the server listens, and the listening sockets.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::net::TcpSocket;

/// Connections that the system keeps for the server until it accepts them.
pub(crate) const BACKLOG: u32 = 1024;

/// An address that the server listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text
            .parse()
            .map_err(|_| format!("must be ADDRESS:PORT, not {text:?}"))?;
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
        }
    }
}

impl Endpoint {
    /// The network address, if it is one.
    #[expect(clippy::unnecessary_wraps, reason = "not every endpoint will have one")]
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
        }
    }

    /// Whether it could be listened on at this moment.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self {
            Self::Tcp(address) => TcpListener::bind(address).map(drop),
        }
    }

    /// Listens. Call it on a runtime.
    pub(crate) fn listen(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(address) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                let listener = socket.listen(BACKLOG)?;
                listener.into_std().map(Listener::Tcp)
            }
        }
    }
}

/// A listening socket, which does not block.
///
/// It belongs to no runtime, and neither do the connections that it accepts, because other threads serve them.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
}

/// A connection as it was accepted.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
}

impl Listener {
    /// Where it listens, with the port that the system chose.
    pub(crate) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Endpoint::Tcp),
        }
    }

    /// Waits until there may be a connection to accept. Returns `false` once the other end of `stop` is closed.
    pub(crate) fn wait(&self, stop: &UnixStream) -> io::Result<bool> {
        let listener = match self {
            Self::Tcp(listener) => PollFd::new(listener, PollFlags::IN),
        };
        let mut events = [listener, PollFd::new(stop, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) => Ok(events[1].revents().is_empty()),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Accepts a connection that is there, without waiting.
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Tcp(stream, peer))
            }
        }
    }
}
