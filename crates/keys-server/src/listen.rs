//! The endpoints of the server, and their listening sockets.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpSocket;

pub(crate) use crate::unix_socket::UnixMode;
use crate::unix_socket::{Bound, Listening, SocketPath};

/// Connections that the system keeps for the server until it accepts them.
pub(crate) const BACKLOG: u32 = 1024;

/// The answer to a connection beyond a maximum.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

/// An address that the server listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp(SocketAddr),
    Unix(SocketPath),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return path.parse().map(Self::Unix);
        }
        let address = text
            .parse()
            .map_err(|_| format!("must be ADDRESS:PORT or unix:/PATH, not {text:?}"))?;
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl Endpoint {
    /// Returns the network address, if it is one.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Returns the path of the Unix socket, if it is one.
    pub(crate) fn unix(&self) -> Option<&SocketPath> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Reserves the address or the path, with `mode` as the permissions of a Unix socket. `all` are
    /// the endpoints that the server listens on. Call it on a runtime.
    pub(crate) fn claim(&self, mode: UnixMode, all: &[Self]) -> io::Result<Claim> {
        match self {
            Self::Tcp(address) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    TcpSocket::new_v6()?
                };
                if self.leaves_ipv4_to_another(all) {
                    set_ipv6_v6only(&socket, true)?;
                }
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                let listener = socket.listen(BACKLOG)?;
                listener.into_std().map(Claim::Tcp)
            }
            Self::Unix(path) => Bound::new(path, mode).map(Claim::Unix),
        }
    }

    /// Returns whether this is the IPv6 wildcard, which takes IPv4 as well, and another endpoint
    /// needs IPv4 on its port.
    fn leaves_ipv4_to_another(&self, all: &[Self]) -> bool {
        self.tcp().is_some_and(|own| {
            let wants_ipv4 = |other: SocketAddr| other.is_ipv4() && other.port() == own.port();
            own.ip() == Ipv6Addr::UNSPECIFIED && all.iter().filter_map(Self::tcp).any(wants_ipv4)
        })
    }
}

/// An endpoint that is reserved by this process. It is released if this is dropped.
#[derive(Debug)]
pub(crate) enum Claim {
    Tcp(TcpListener),
    /// No client can connect yet.
    Unix(Bound),
}

impl Claim {
    pub(crate) fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => Ok(Listener::Tcp(listener)),
            Self::Unix(bound) => bound.listen(BACKLOG).map(Listener::Unix),
        }
    }
}

/// A non-blocking listening socket.
///
/// It belongs to no runtime, and neither do the connections that it accepts, because other threads
/// serve them.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(Listening),
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    /// Its peer has no address.
    Unix(UnixStream),
}

impl Accepted {
    /// Returns the address of the client, if it has one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(peer.ip()),
            Self::Unix(_) => None,
        }
    }

    /// Answers 503 and closes, without waiting.
    pub(crate) fn refuse(self) {
        // A socket that is closed with unread bytes resets the connection, and the client may lose
        // the answer.
        match self {
            Self::Tcp(mut stream, _) => {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write(REFUSAL);
                let _ = stream.shutdown(Shutdown::Write);
            }
            Self::Unix(mut stream) => {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write(REFUSAL);
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    }
}

impl Listener {
    /// Returns the endpoint, with the port that the system chose.
    pub(crate) fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Endpoint::Tcp),
            Self::Unix(listening) => Ok(Endpoint::Unix(listening.path())),
        }
    }

    /// Stops further clients from connecting, as far as the kind of socket allows that before it is
    /// closed.
    pub(crate) fn withdraw(&self) {
        if let Self::Unix(listening) = self {
            listening.withdraw();
        }
    }

    /// Waits until there may be a connection to accept. Returns `false` once the other end of
    /// `stop` is closed.
    pub(crate) fn wait(&self, stop: &UnixStream) -> io::Result<bool> {
        let listener = match self {
            Self::Tcp(listener) => PollFd::new(listener, PollFlags::IN),
            Self::Unix(listening) => PollFd::new(&listening.socket, PollFlags::IN),
        };
        let mut events = [listener, PollFd::new(stop, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) => Ok(events[1].revents().is_empty()),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Accepts a waiting connection, without blocking.
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Tcp(stream, peer))
            }
            Self::Unix(listening) => {
                let (stream, _) = listening.socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Accepted::Unix(stream))
            }
        }
    }
}

/// Waits for `time`, or until the other end of `stop` is closed. Returns `true` if it is.
pub(crate) fn is_closed_within(stop: &UnixStream, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).ok();
    if let Ok(ready) = poll(&mut [PollFd::new(stop, PollFlags::IN)], timeout.as_ref()) {
        return ready > 0;
    }
    thread::sleep(time);
    false
}

/// A connection on a runtime.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Stream {
    /// Registers an accepted connection with the runtime of this thread. Returns the address of its
    /// peer, if that has one.
    pub(crate) fn register(accepted: Accepted) -> io::Result<(Self, Option<SocketAddr>)> {
        match accepted {
            Accepted::Tcp(stream, peer) => {
                // Answers are written in one piece, so waiting for more to send would only delay
                // them.
                let _ = stream.set_nodelay(true);
                let stream = tokio::net::TcpStream::from_std(stream)?;
                Ok((Self::Tcp(stream), Some(peer)))
            }
            Accepted::Unix(stream) => {
                let stream = tokio::net::UnixStream::from_std(stream)?;
                Ok((Self::Unix(stream), None))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
