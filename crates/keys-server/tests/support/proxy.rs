//! A network between the server and its database that can be taken away.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards connections to a database as long as the network is there.
pub(crate) struct Proxy {
    target: String,
    address: SocketAddr,
    forwarding: Option<JoinHandle<()>>,
    stalled: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards to `HOST:PORT`, from a free port.
    pub(crate) async fn start(target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut proxy = Self {
            target: target.to_owned(),
            address: listener.local_addr().unwrap(),
            forwarding: None,
            stalled: watch::Sender::new(false),
        };
        proxy.forward(listener);
        proxy
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and refuses new ones.
    pub(crate) async fn cut(&mut self) {
        let forwarding = self.forwarding.take().unwrap();
        forwarding.abort();
        // The listener is closed when the task is gone.
        let _ = forwarding.await;
    }

    /// Lets connections through again after [`cut`](Self::cut).
    pub(crate) async fn mend(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.forward(listener);
    }

    /// Takes everything and hands nothing on, as a network does that drops packets; or goes on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    fn forward(&mut self, listener: TcpListener) {
        let target = self.target.clone();
        let stalled = self.stalled.subscribe();
        self.forwarding = Some(tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connect(client, target.clone(), stalled.clone()));
            }
        }));
    }
}

async fn connect(client: TcpStream, target: String, stalled: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = copy(client_read, server_write, stalled.clone()) => {}
        () = copy(server_read, client_write, stalled) => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if stalled.wait_for(|stalled| !stalled).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
