//! A network that fails on request: a TCP proxy whose faults can be changed while connections are
//! open.
//!
//! ```no_run
//! # async fn example() {
//! use keys_testkit::fault_proxy::{Direction, Fault, FaultProxy};
//!
//! let proxy = FaultProxy::start("127.0.0.1:5432").await;
//! // Clients connect to `proxy.address()`.
//! proxy.set(Fault::Cut).await;
//! proxy.set(Fault::None).await;
//! // Only the connections on which a client has sent this, now and from now on.
//! proxy.aim("keys feed", Fault::Swallow(Direction::ToClient));
//! # }
//! ```

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Number of first bytes of a client that are kept, to identify connections by them.
const REMEMBERED: usize = 4 * 1024;

/// Size of a read. Up to this many chunks are in transit.
const CHUNK: usize = 16 * 1024;
const CHUNKS_MAX: usize = 64;

/// A fault of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Delays all bytes.
    Delay(Duration),
    /// Closes connections, and refuses new ones.
    Cut,
    /// Drops bytes. A connection that has lost some stays silent in that direction, also after the
    /// fault.
    Swallow(Direction),
    /// Keeps bytes and delivers them after the fault, as TCP does after lost packets.
    Hold(Direction),
    /// The server is gone without notice to the client: connections stay open, new ones are
    /// accepted, and nothing is ever answered, also not after the fault.
    HalfOpen,
    /// Delivers bytes one by one, with this pause before each.
    Trickle(Duration),
}

/// The bytes that a fault affects.
///
/// If a client closes its connection, the server is notified in any case, so that a test does not
/// leave it with connections that no client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Bytes from the client.
    ToServer,
    /// Bytes from the server.
    ToClient,
    /// All.
    Both,
}

impl Direction {
    fn covers(self, other: Self) -> bool {
        self == Self::Both || self == other
    }
}

/// Error returned when a text does not name a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFault(String);

impl std::fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is none of: pass, delay TIME, cut, swallow [to-server|to-client], hold [to-server|to-client], \
             half-open, trickle TIME (a time is 20ms or 2s)",
            self.0
        )
    }
}

impl std::error::Error for UnknownFault {}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let fault = match words[..] {
            ["pass"] => Some(Self::None),
            ["cut"] => Some(Self::Cut),
            ["half-open"] => Some(Self::HalfOpen),
            ["delay", time] => duration(time).map(Self::Delay),
            ["trickle", time] => duration(time).map(Self::Trickle),
            ["swallow", ref rest @ ..] => direction(rest).map(Self::Swallow),
            ["hold", ref rest @ ..] => direction(rest).map(Self::Hold),
            _ => None,
        };
        fault.ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

fn direction(words: &[&str]) -> Option<Direction> {
    match words {
        [] => Some(Direction::Both),
        ["to-server"] => Some(Direction::ToServer),
        ["to-client"] => Some(Direction::ToClient),
        _ => None,
    }
}

fn duration(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    let seconds = text.strip_suffix('s')?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The proxy. It ends with this value, and all its connections with it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    network: Arc<Network>,
    listening: watch::Receiver<bool>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Network {
    /// Target of new connections.
    target: Mutex<String>,
    rules: watch::Sender<Rules>,
    open: AtomicUsize,
    opened: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
struct Rules {
    everybody: Fault,
    /// Text that a client must have sent, and the fault of its connection.
    aimed: Option<(String, Fault)>,
}

impl FaultProxy {
    /// Forwards to `HOST:PORT`, from a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(target: &str) -> Self {
        let proxy = Self::listen("127.0.0.1:0", target).await;
        proxy.expect("there is a free port")
    }

    /// Forwards to the database at `postgres://USER@HOST:PORT/NAME`. Also returns the URL through
    /// the proxy.
    ///
    /// # Panics
    /// If the URL has another form, or there is no free port.
    pub async fn in_front_of(database: &str) -> (Self, String) {
        let parts = database.split_once('@').and_then(|(user, rest)| {
            let (target, name) = rest.split_once('/')?;
            Some((user, target, name))
        });
        let (user, target, name) = parts.expect("the URL has a user, a host and a name");
        let proxy = Self::start(target).await;
        let url = format!("{user}@{}/{name}", proxy.address());
        (proxy, url)
    }

    /// Forwards to `HOST:PORT`, from this address.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn listen(address: &str, target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let network = Arc::new(Network {
            target: Mutex::new(target.to_owned()),
            rules: watch::Sender::default(),
            open: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
        });
        let (is_listening, listening) = watch::channel(true);
        let accepting = tokio::spawn(accept(
            listener,
            address,
            Arc::clone(&network),
            is_listening,
        ));
        Ok(Self {
            address,
            network,
            listening,
            accepting,
        })
    }

    /// Returns the address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault of all connections that have no fault by [`aim`](Self::aim).
    ///
    /// # Panics
    /// If it is no longer listening and another process has taken the port.
    pub async fn set(&self, fault: Fault) {
        let rules = &self.network.rules;
        rules.send_modify(|rules| rules.everybody = fault);
        let is_reached = |listening: &bool| *listening == (fault != Fault::Cut);
        let mut listening = self.listening.clone();
        let reached = listening.wait_for(is_reached).await;
        reached.expect("the port is still free");
    }

    /// Sets the fault of all connections, now and later, on which a client has sent `text` in its
    /// first bytes.
    pub fn aim(&self, text: &str, fault: Fault) {
        let aimed = Some((text.to_owned(), fault));
        self.network.rules.send_modify(|rules| rules.aimed = aimed);
    }

    /// Forwards new connections to `HOST:PORT` from now on. Open connections are not affected.
    pub fn lead_to(&self, target: &str) {
        target.clone_into(&mut self.network.target.lock());
    }

    /// Returns the number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.network.open.load(Ordering::Relaxed)
    }

    /// Returns the number of connections made so far.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.network.opened.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    network: Arc<Network>,
    is_listening: watch::Sender<bool>,
) {
    let mut rules = network.rules.subscribe();
    // Dropped with this task, which closes all connections.
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        if rules.borrow_and_update().everybody == Fault::Cut {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            let Ok(again) = TcpListener::bind(address).await else {
                return;
            };
            listener = Some(again);
        }
        is_listening.send_replace(listener.is_some());
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return },
            accepted = accepted => if let Ok((client, _)) = accepted {
                connections.spawn(carry(client, Arc::clone(&network)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection.
struct Wire {
    said: Mutex<Vec<u8>>,
    fault: watch::Sender<Fault>,
    network: Arc<Network>,
}

impl Wire {
    /// Remembers the first bytes that the client sends.
    fn heard(&self, bytes: &[u8]) {
        let mut said = self.said.lock();
        if said.len() < REMEMBERED {
            said.extend_from_slice(bytes);
            drop(said);
            self.judge(&self.network.rules.borrow());
        }
    }

    fn judge(&self, rules: &Rules) {
        let said = self.said.lock();
        let has_said = |text: &str| {
            said.windows(text.len().max(1))
                .any(|part| part == text.as_bytes())
        };
        let fault = match &rules.aimed {
            Some((text, fault)) if has_said(text) => *fault,
            _ => rules.everybody,
        };
        self.fault
            .send_if_modified(|old| std::mem::replace(old, fault) != fault);
    }

    async fn follow(&self) {
        let mut rules = self.network.rules.subscribe();
        loop {
            self.judge(&rules.borrow_and_update());
            if rules.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Network>);

impl Open {
    fn new(network: Arc<Network>) -> Self {
        network.open.fetch_add(1, Ordering::Relaxed);
        network.opened.fetch_add(1, Ordering::Relaxed);
        Self(network)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn carry(mut client: TcpStream, network: Arc<Network>) {
    let _open = Open::new(Arc::clone(&network));
    let wire = Wire {
        said: Mutex::default(),
        fault: watch::Sender::default(),
        network,
    };
    wire.judge(&wire.network.rules.borrow());
    let connected = async {
        // A client that connects while the server is gone does not notice.
        if *wire.fault.borrow() == Fault::HalfOpen {
            return;
        }
        let target = wire.network.target.lock().clone();
        let Ok(mut server) = TcpStream::connect(target).await else {
            return;
        };
        // Nagle's algorithm would add delays of its own.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let mut fault = wire.fault.subscribe();
        tokio::select! {
            () = pump(client_read, server_write, Direction::ToServer, &wire) => {}
            () = pump(server_read, client_write, Direction::ToClient, &wire) => {}
            _ = fault.wait_for(|fault| matches!(fault, Fault::Cut | Fault::HalfOpen)) => {}
        }
    };
    tokio::select! {
        () = connected => {}
        () = wire.follow() => {}
    }
    if *wire.fault.borrow() == Fault::HalfOpen {
        let mut listened = vec![0; CHUNK];
        // Until the client gives up, or the proxy ends.
        while matches!(client.read(&mut listened).await, Ok(1..)) {}
    }
}

/// A chunk and the time of its arrival. An empty one is the end.
struct Taken(Instant, Vec<u8>);

/// Forwards bytes in one direction until it ends.
async fn pump(from: ReadHalf<'_>, to: WriteHalf<'_>, direction: Direction, wire: &Wire) {
    let (queue, arrivals) = mpsc::channel(CHUNKS_MAX);
    let take = async {
        take(from, queue, direction, wire).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = take => {}
        () = hand_on(arrivals, to, direction, wire) => {}
    }
}

async fn take(
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<Taken>,
    direction: Direction,
    wire: &Wire,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        let bytes = buffer[..length].to_vec();
        if direction == Direction::ToServer {
            // First, so that a fault aimed at this text applies to these bytes.
            wire.heard(&bytes);
        }
        let taken = Taken(Instant::now(), bytes);
        if queue.send(taken).await.is_err() || length == 0 {
            return;
        }
    }
}

async fn hand_on(
    mut arrivals: mpsc::Receiver<Taken>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    wire: &Wire,
) {
    let mut fault = wire.fault.subscribe();
    let mut has_hole = false;
    while let Some(Taken(at, bytes)) = arrivals.recv().await {
        let is_end = bytes.is_empty();
        if is_end && direction == Direction::ToServer {
            return;
        }
        let mut rest = &bytes[..];
        loop {
            let now = *fault.borrow_and_update();
            has_hole |= matches!(now, Fault::Swallow(which) if which.covers(direction));
            let (due, count) = match now {
                _ if has_hole => break,
                // The connection is about to end.
                Fault::Cut | Fault::HalfOpen => (None, 0),
                Fault::Hold(which) if which.covers(direction) => (None, 0),
                Fault::Delay(by) => (Some(at + by), rest.len()),
                Fault::Trickle(pause) => (Some(Instant::now() + pause), 1),
                Fault::None | Fault::Hold(_) | Fault::Swallow(_) => (Some(at), rest.len()),
            };
            let is_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = fault.changed() => continue,
                () = is_due => {}
            }
            if is_end {
                return;
            }
            let (next, later) = rest.split_at(count);
            if to.write_all(next).await.is_err() {
                return;
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }
    // No more bytes arrive, and the peer must not notice the end.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const A_MOMENT: Duration = Duration::from_millis(50);

    /// A server that sends each byte twice, and counts the connections it has lost.
    struct Parrot {
        address: String,
        lost: watch::Receiver<usize>,
        _serving: JoinSet<()>,
    }

    async fn parrot() -> Parrot {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (ended, lost) = watch::channel(0);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let ended = ended.clone();
                tokio::spawn(async move {
                    let mut heard = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut heard).await {
                        let twice = [&heard[..length], &heard[..length]].concat();
                        stream.write_all(&twice).await.unwrap();
                    }
                    ended.send_modify(|count| *count += 1);
                });
            }
        });
        Parrot {
            address,
            lost,
            _serving: serving,
        }
    }

    struct Client(TcpStream);

    impl Client {
        async fn of(proxy: &FaultProxy) -> Self {
            Self(TcpStream::connect(proxy.address()).await.unwrap())
        }

        async fn say(&mut self, text: &str) {
            self.0.write_all(text.as_bytes()).await.unwrap();
        }

        async fn hears(&mut self, text: &str) {
            let mut heard = vec![0; text.len()];
            let read = self.0.read_exact(&mut heard);
            tokio::time::timeout(SOON, read).await.unwrap().unwrap();
            assert_eq!(String::from_utf8(heard).unwrap(), text);
        }

        async fn hears_nothing(&mut self) {
            let read = tokio::time::timeout(A_MOMENT, self.0.read_u8()).await;
            assert!(read.is_err(), "{read:?}");
        }

        async fn is_closed(&mut self) {
            let read = tokio::time::timeout(SOON, self.0.read_u8()).await;
            read.unwrap().unwrap_err();
        }
    }

    #[tokio::test]
    async fn sound_network_hands_on_and_ends_with_either_end() {
        let mut parrot = parrot().await;
        let proxy = FaultProxy::start(&parrot.address).await;
        let mut client = Client::of(&proxy).await;
        client.say("a").await;
        client.hears("aa").await;
        assert_eq!((proxy.open(), proxy.opened()), (1, 1));
        drop(client);
        parrot.lost.wait_for(|lost| *lost == 1).await.unwrap();
        let mut client = Client::of(&proxy).await;
        drop(parrot);
        drop(proxy);
        client.is_closed().await;
    }

    #[tokio::test]
    async fn delay_holds_for_each_byte_and_not_for_one_after_the_other() {
        let parrot = parrot().await;
        let proxy = FaultProxy::start(&parrot.address).await;
        let mut client = Client::of(&proxy).await;
        let by = Duration::from_millis(400);
        proxy.set(Fault::Delay(by)).await;
        let start = Instant::now();
        client.say("a").await;
        tokio::time::sleep(by / 2).await;
        client.say("b").await;
        client.hears("aa").await;
        assert!(start.elapsed() >= by * 2);
        client.hears("bb").await;
        assert!(start.elapsed() >= by * 5 / 2);
        // Delays one after the other would add up to four of them.
        assert!(start.elapsed() < by * 7 / 2, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn cut_network_closes_and_refuses_until_it_is_mended() {
        let mut parrot = parrot().await;
        let proxy = FaultProxy::start(&parrot.address).await;
        let mut client = Client::of(&proxy).await;
        client.say("a").await;
        client.hears("aa").await;
        proxy.set(Fault::Cut).await;
        client.is_closed().await;
        parrot.lost.wait_for(|lost| *lost == 1).await.unwrap();
        TcpStream::connect(proxy.address()).await.unwrap_err();
        proxy.set(Fault::None).await;
        let mut client = Client::of(&proxy).await;
        client.say("b").await;
        client.hears("bb").await;
    }

    #[tokio::test]
    async fn new_connections_lead_to_the_new_target_and_old_ones_stay() {
        let (mut first, second) = (parrot().await, parrot().await);
        let proxy = FaultProxy::start(&first.address).await;
        let mut old = Client::of(&proxy).await;
        old.say("a").await;
        old.hears("aa").await;
        proxy.lead_to(&second.address);
        let mut new = Client::of(&proxy).await;
        new.say("b").await;
        new.hears("bb").await;
        old.say("c").await;
        old.hears("cc").await;
        drop(old);
        first.lost.wait_for(|lost| *lost == 1).await.unwrap();
        drop(first);
        new.say("d").await;
        new.hears("dd").await;
    }

    #[tokio::test]
    async fn swallowed_bytes_are_lost_and_the_connection_stays_silent() {
        for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
            let mut parrot = parrot().await;
            let proxy = FaultProxy::start(&parrot.address).await;
            let mut client = Client::of(&proxy).await;
            client.say("a").await;
            client.hears("aa").await;
            proxy.set(Fault::Swallow(direction)).await;
            client.say("b").await;
            client.hears_nothing().await;
            proxy.set(Fault::None).await;
            client.say("c").await;
            client.hears_nothing().await;
            let mut new = Client::of(&proxy).await;
            new.say("d").await;
            new.hears("dd").await;
            drop(client);
            parrot.lost.wait_for(|lost| *lost == 1).await.unwrap();
        }
    }

    #[tokio::test]
    async fn end_of_the_server_is_swallowed_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let proxy = FaultProxy::start(&target).await;
        let mut client = Client::of(&proxy).await;
        let (server, _) = listener.accept().await.unwrap();
        proxy.set(Fault::Swallow(Direction::ToClient)).await;
        drop(server);
        client.hears_nothing().await;
    }

    #[tokio::test]
    async fn held_bytes_arrive_when_it_is_over() {
        for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
            let parrot = parrot().await;
            let proxy = FaultProxy::start(&parrot.address).await;
            let mut client = Client::of(&proxy).await;
            proxy.set(Fault::Hold(direction)).await;
            client.say("a").await;
            client.hears_nothing().await;
            proxy.set(Fault::None).await;
            client.hears("aa").await;
        }
    }

    #[tokio::test]
    async fn half_open_connections_lose_the_server_and_answer_nothing() {
        let mut parrot = parrot().await;
        let proxy = FaultProxy::start(&parrot.address).await;
        let mut old = Client::of(&proxy).await;
        old.say("a").await;
        old.hears("aa").await;
        proxy.set(Fault::HalfOpen).await;
        parrot.lost.wait_for(|lost| *lost == 1).await.unwrap();
        let mut new = Client::of(&proxy).await;
        for client in [&mut old, &mut new] {
            client.say("b").await;
            client.hears_nothing().await;
        }
        proxy.set(Fault::None).await;
        for client in [&mut old, &mut new] {
            client.say("c").await;
            client.hears_nothing().await;
        }
        let mut later = Client::of(&proxy).await;
        later.say("d").await;
        later.hears("dd").await;
        // Connections that are never answered count, too.
        proxy.set(Fault::Cut).await;
        old.is_closed().await;
        new.is_closed().await;
    }

    #[tokio::test]
    async fn trickling_bytes_arrive_one_by_one() {
        let parrot = parrot().await;
        let proxy = FaultProxy::start(&parrot.address).await;
        let mut client = Client::of(&proxy).await;
        let pause = Duration::from_millis(20);
        proxy.set(Fault::Trickle(pause)).await;
        let start = Instant::now();
        client.say("12345").await;
        let mut heard = [0; 16];
        let first = client.0.read(&mut heard).await.unwrap();
        assert_eq!(first, 1);
        assert!(start.elapsed() >= pause * 2);
        // The rest without pauses.
        proxy.set(Fault::None).await;
        let mut count = first;
        while count < 10 {
            count += client.0.read(&mut heard).await.unwrap();
        }
    }

    #[tokio::test]
    async fn fault_is_aimed_at_those_who_said_a_word() {
        let parrot = parrot().await;
        let proxy = FaultProxy::start(&parrot.address).await;
        let mut old = Client::of(&proxy).await;
        // In two parts, and not at the beginning.
        old.say("I lis").await;
        old.hears("I lisI lis").await;
        let mut other = Client::of(&proxy).await;
        proxy.aim("listen", Fault::Swallow(Direction::ToClient));
        old.say("ten").await;
        old.hears_nothing().await;
        other.say("a").await;
        other.hears("aa").await;
        let mut new = Client::of(&proxy).await;
        new.say("listen").await;
        new.hears_nothing().await;
        proxy.aim("listen", Fault::Cut);
        new.is_closed().await;
        proxy.aim("listen", Fault::None);
        let mut new = Client::of(&proxy).await;
        new.say("listen").await;
        new.hears("listenlisten").await;
        other.say("b").await;
        other.hears("bb").await;
    }

    #[test]
    fn faults_are_read() {
        let millis = Duration::from_millis;
        for (text, fault) in [
            ("pass", Fault::None),
            (" cut ", Fault::Cut),
            ("half-open", Fault::HalfOpen),
            ("delay 20ms", Fault::Delay(millis(20))),
            ("trickle 2s", Fault::Trickle(millis(2_000))),
            ("swallow", Fault::Swallow(Direction::Both)),
            ("swallow to-client", Fault::Swallow(Direction::ToClient)),
            ("hold to-server", Fault::Hold(Direction::ToServer)),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
        for text in ["", "delay", "delay 20", "swallow up", "cut now", "Pass"] {
            text.parse::<Fault>().unwrap_err();
        }
    }
}
