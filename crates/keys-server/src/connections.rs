//! Maxima of open connections, in total and for each client address.
//!
//! Beyond a maximum, the connection that was answered least recently is closed to make room for the
//! new one. It closes as at the stop: an idle connection at once, and one with a request under way
//! after the answer, unless its client stalls. So a few more connections than the maximum may be
//! open for a moment.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use keys_core::address::TrustedProxies;
use keys_service::ports::Subject;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

/// The default maximum. Idle connections were measured at 18 KiB each, so this many take 290 MiB.
const TOTAL_DEFAULT: usize = 16_384;

/// Connections that may be closing beyond the maximum.
const CLOSING_MAX: usize = 64;

/// Files other than connections, threads and the database: standard streams, listening sockets,
/// signals, Redis, files of secrets.
const FILES_OTHER: usize = 64;

/// Files of one thread that answers requests.
const FILES_THREAD: usize = 4;

/// Files of one connection to the database: SQLite opens the file, its WAL and temporary files.
const FILES_DATABASE: usize = 4;

/// A connection that was answered this recently is in use and stays.
const IN_USE: Duration = Duration::from_millis(100);

/// Time limit for the client of a closing connection to send the rest of its request, or to read
/// its answer.
const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Client addresses with the most connections among which one is chosen first to make room.
const HEAVIEST: usize = 16;

/// Pause between two messages about refused connections.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Maxima of open connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    total: usize,
    /// `None` if one address may have all.
    per_address: Option<usize>,
}

impl Limits {
    /// Chooses the maxima. `open_files` is the limit of the process, `None` if it has none.
    ///
    /// A maximum that the open files do not allow is lowered to one that they do, with a warning.
    pub(crate) fn choose(
        total: Option<usize>,
        per_address: Option<usize>,
        open_files: Option<u64>,
        threads: usize,
        database_connections: usize,
    ) -> Self {
        let reserved = FILES_OTHER
            + CLOSING_MAX
            + FILES_THREAD * threads
            + FILES_DATABASE * database_connections;
        let allowed = open_files.map_or(usize::MAX, |files| {
            let files = usize::try_from(files).unwrap_or(usize::MAX);
            (files - reserved.min(files / 2)).max(1)
        });
        if let Some(total) = total.filter(|total| *total > allowed) {
            tracing::warn!(
                "setting `http.connections_max` is {total}, but the limit on open files allows {allowed}, which is \
                 used: raise the limit (`LimitNOFILE` of systemd, `ulimits` of containers)"
            );
        }
        let total = total.unwrap_or(TOTAL_DEFAULT).min(allowed);
        Self {
            total,
            per_address: per_address.map(|max| max.min(total.div_ceil(2))),
        }
    }

    /// Returns the number of connections that may be closing, beyond the total.
    fn closing(&self) -> usize {
        (self.total / 8).clamp(1, CLOSING_MAX)
    }
}

/// Reason why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are too many connections.
    Total,
    /// There are too many connections from this client address.
    Address,
}

impl Refused {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
        }
    }
}

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: Limits,
    /// Peers whose connections count towards the total only, because they carry requests of many
    /// clients.
    proxies: TrustedProxies,
    state: Mutex<State>,
    refused_total: [AtomicU64; 2],
    closed_total: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    closing: usize,
    clients: HashMap<IpAddr, Client>,
    /// The same clients, ordered by the number of their connections.
    heaviest: BTreeSet<(usize, IpAddr)>,
    next: u64,
    told_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Client {
    connections: HashMap<u64, Arc<Signal>>,
    closing: usize,
}

/// State of a connection that other threads can see.
#[derive(Debug)]
pub(crate) struct Signal {
    accepted_at: Instant,
    /// Time of its last answer, in milliseconds since it was accepted.
    answered: AtomicU64,
    is_closing: AtomicBool,
    close: Notify,
}

impl Signal {
    fn quiet_since(&self) -> Instant {
        self.accepted_at + Duration::from_millis(self.answered.load(Ordering::Relaxed))
    }

    /// Returns the time of the previous answer.
    fn note_answer(&self) -> u64 {
        let passed = self.accepted_at.elapsed().as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let before = self.answered.load(Ordering::Relaxed);
        self.answered.store(passed, Ordering::Relaxed);
        before
    }

    /// Returns once the connection should close.
    pub(crate) async fn closing(&self) {
        self.close.notified().await;
    }
}

/// The permit of an open connection. It is released when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    connections: Arc<Connections>,
    client: Option<IpAddr>,
    number: u64,
    signal: Arc<Signal>,
}

impl Permit {
    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        // It changes only under the lock.
        let is_closing = self.signal.is_closing.load(Ordering::Relaxed);
        state.open -= 1;
        state.closing -= usize::from(is_closing);
        if let Some(client) = self.client {
            state.remove(client, self.number, is_closing);
        }
    }
}

impl Connections {
    pub(crate) fn new(limits: Limits, proxies: TrustedProxies) -> Arc<Self> {
        let per_address = limits
            .per_address
            .map_or("any number".to_owned(), |max| max.to_string());
        tracing::info!(
            "connections: at most {}, {per_address} of them from one client address",
            limits.total
        );
        Arc::new(Self {
            limits,
            proxies,
            state: Mutex::default(),
            refused_total: Default::default(),
            closed_total: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a permit to a new connection, if one is free or can be freed.
    pub(crate) fn admit(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Permit, Refused> {
        let client = peer.and_then(|peer| self.client(peer));
        let mut state = self.state();
        if let Err(refused) = self.find_place(&mut state, client) {
            self.note_refusal(&mut state, refused);
            return Err(refused);
        }
        let signal = Arc::new(Signal {
            accepted_at: Instant::now(),
            answered: AtomicU64::new(0),
            is_closing: AtomicBool::new(false),
            close: Notify::new(),
        });
        let number = state.next;
        state.next += 1;
        state.open += 1;
        if let Some(client) = client {
            state.insert(client, number, Arc::clone(&signal));
        }
        drop(state);
        Ok(Permit {
            connections: Arc::clone(self),
            client,
            number,
            signal,
        })
    }

    /// Returns the address that the connection counts for. For IPv6 this is its /64, because one
    /// client can choose any address in it.
    fn client(&self, peer: IpAddr) -> Option<IpAddr> {
        match Subject::of_address(Some(peer)) {
            Subject::Address(client) if !self.proxies.contains(peer.to_canonical()) => client,
            _ => None,
        }
    }

    fn find_place(&self, state: &mut State, client: Option<IpAddr>) -> Result<(), Refused> {
        let closing_max = self.limits.closing();
        let is_full = |client: &Client| {
            let staying = client.connections.len().saturating_sub(client.closing);
            self.limits.per_address.is_some_and(|max| staying >= max)
        };
        if let Some(address) = client
            && let Some(client) = state.clients.get(&address)
            && is_full(client)
        {
            // Only a share of those that may be closing, so that one client cannot use them up.
            if client.closing >= (closing_max / 4).max(1)
                || state.closing >= closing_max
                || !self.close(state, state.quietest([address]))
            {
                return Err(Refused::Address);
            }
        }
        let own = client.and_then(|client| state.clients.get(&client));
        let own = own.map_or(0, |client| client.connections.len());
        let staying = state.open.saturating_sub(state.closing);
        if staying >= self.limits.total && !self.make_room_in(state, own) {
            return Err(Refused::Total);
        }
        Ok(())
    }

    /// Closes one connection, because no more files can be opened.
    pub(crate) fn make_room(&self) -> bool {
        self.make_room_in(&mut self.state(), 0)
    }

    /// Closes a connection of the client that has the most. A client with `own` connections takes
    /// none from a client that has fewer.
    fn make_room_in(&self, state: &mut State, own: usize) -> bool {
        if state.closing >= self.limits.closing() {
            return false;
        }
        let candidates = state.heaviest.range((own, Ipv4Addr::UNSPECIFIED.into())..);
        let mut candidates = candidates.rev().copied();
        let heaviest: Vec<_> = candidates.by_ref().take(HEAVIEST).collect();
        let found = heaviest
            .chunk_by(|(one, _), (other, _)| one == other)
            .find_map(|group| state.quietest(group.iter().map(|(_, address)| *address)))
            .or_else(|| state.quietest(candidates.map(|(_, address)| address)));
        self.close(state, found)
    }

    /// Signals a connection to close, if there is one.
    fn close(&self, state: &mut State, found: Option<(IpAddr, Arc<Signal>)>) -> bool {
        let Some((address, signal)) = found else {
            return false;
        };
        signal.is_closing.store(true, Ordering::Relaxed);
        state.closing += 1;
        if let Some(client) = state.clients.get_mut(&address) {
            client.closing += 1;
        }
        signal.close.notify_one();
        self.closed_total.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn note_refusal(&self, state: &mut State, refused: Refused) {
        self.refused_total[refused as usize].fetch_add(1, Ordering::Relaxed);
        let is_due = state
            .told_at
            .is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if is_due {
            state.told_at = Some(Instant::now());
            match refused {
                Refused::Total => tracing::warn!(
                    "connections are refused: {} are open (`http.connections_max`), and none is idle",
                    state.open
                ),
                Refused::Address => tracing::warn!(
                    "connections of a client address are refused: it has {} that are not idle \
                     (`http.connections_per_address_max`)",
                    self.limits.per_address.unwrap_or_default()
                ),
            }
        }
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.state().open
    }

    /// Returns the number of connections refused for that reason, since the start.
    pub(crate) fn refused_total(&self, refused: Refused) -> u64 {
        self.refused_total[refused as usize].load(Ordering::Relaxed)
    }

    /// Returns the number of connections closed to make room, since the start.
    pub(crate) fn closed_total(&self) -> u64 {
        self.closed_total.load(Ordering::Relaxed)
    }
}

impl State {
    /// Returns the connection of these clients that was answered least recently. `None` if all of
    /// them are in use or closing.
    fn quietest(&self, clients: impl IntoIterator<Item = IpAddr>) -> Option<(IpAddr, Arc<Signal>)> {
        let (since, address, signal) = clients
            .into_iter()
            .filter_map(|address| Some((address, self.clients.get(&address)?)))
            .flat_map(|(address, client)| {
                client.connections.values().map(move |one| (address, one))
            })
            .filter(|(_, signal)| !signal.is_closing.load(Ordering::Relaxed))
            .map(|(address, signal)| (signal.quiet_since(), address, signal))
            .min_by_key(|(since, ..)| *since)?;
        (since.elapsed() >= IN_USE).then(|| (address, Arc::clone(signal)))
    }

    fn insert(&mut self, address: IpAddr, number: u64, signal: Arc<Signal>) {
        let client = self.clients.entry(address).or_default();
        self.heaviest.remove(&(client.connections.len(), address));
        client.connections.insert(number, signal);
        self.heaviest.insert((client.connections.len(), address));
    }

    fn remove(&mut self, address: IpAddr, number: u64, is_closing: bool) {
        let Some(client) = self.clients.get_mut(&address) else {
            return;
        };
        self.heaviest.remove(&(client.connections.len(), address));
        client.connections.remove(&number);
        client.closing -= usize::from(is_closing);
        if client.connections.is_empty() {
            self.clients.remove(&address);
        } else {
            self.heaviest.insert((client.connections.len(), address));
        }
    }
}

/// A stream that records the time of each write. Once it should close, it waits for its client only
/// for a limited time.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    io: T,
    signal: Arc<Signal>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<T> Watched<T> {
    pub(crate) fn new(io: T, signal: Arc<Signal>) -> Self {
        Self {
            io,
            signal,
            closing: None,
        }
    }

    /// Returns whether the time of the client is over since the connection was signalled to close.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.signal.is_closing.load(Ordering::Relaxed)
            && self
                .closing
                .get_or_insert_with(|| Box::pin(sleep(CLOSING_TIME)))
                .as_mut()
                .poll(context)
                .is_ready()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_over(context) {
            // Like an end of the client's stream: a complete request is still answered.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Before the client can receive the answer.
        let before = this.signal.note_answer();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        if !matches!(written, Poll::Ready(Ok(1..))) {
            this.signal.answered.store(before, Ordering::Relaxed);
        }
        if written.is_pending() && this.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn connections(total: usize, per_address: usize) -> Arc<Connections> {
        let limits = Limits {
            total,
            per_address: Some(per_address),
        };
        let proxies = TrustedProxies::new(["10.0.0.0/8".parse().unwrap()]);
        Connections::new(limits, proxies)
    }

    fn admit(connections: &Arc<Connections>, peer: &str) -> Result<Permit, Refused> {
        connections.admit(Some(peer.parse().unwrap()))
    }

    fn refusal(connections: &Arc<Connections>, peer: &str) -> Option<Refused> {
        admit(connections, peer).err()
    }

    #[test]
    fn maximum_follows_from_the_limit_on_open_files() {
        let total = |configured, files| Limits::choose(configured, Some(1024), files, 2, 10).total;
        assert_eq!(total(None, Some(1024)), 1024 - 64 - 64 - 8 - 40);
        assert_eq!(total(None, Some(1_048_576)), 16_384);
        assert_eq!(total(None, None), 16_384);
        assert_eq!(total(Some(100_000), Some(1_048_576)), 100_000);
        assert_eq!(total(Some(100_000), Some(1024)), 848);
        assert_eq!(total(Some(10), Some(1024)), 10);
        // Half of them if there are very few.
        assert_eq!(total(None, Some(64)), 32);
        assert_eq!(total(None, Some(0)), 1);
    }

    #[test]
    fn one_address_has_at_most_half_of_all() {
        let per_address = |max| Limits::choose(None, max, Some(1024), 2, 10).per_address;
        assert_eq!(per_address(Some(1024)), Some(424));
        assert_eq!(per_address(Some(10)), Some(10));
        assert_eq!(per_address(None), None);
    }

    #[test]
    fn addresses_are_counted_apart_and_ipv6_by_its_64() {
        let connections = connections(100, 2);
        let mut held = Vec::new();
        for peer in [
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "2001:db8::1",
            "2001:db8::2",
        ] {
            held.push(admit(&connections, peer).unwrap());
        }
        for peer in ["192.0.2.1", "2001:db8::ffff:1"] {
            assert_eq!(refusal(&connections, peer), Some(Refused::Address));
        }
        for peer in ["192.0.2.2", "2001:db8:0:1::1"] {
            assert_eq!(refusal(&connections, peer), None);
        }
        drop(held);
        assert_eq!(refusal(&connections, "192.0.2.1"), None);
        assert_eq!(connections.open(), 0);
        assert_eq!(connections.refused_total(Refused::Address), 2);
        assert!(connections.state().clients.is_empty() && connections.state().heaviest.is_empty());
    }

    /// Marks it as answered an hour from now, so that the test may take its time.
    fn keep_in_use(permit: &Permit) {
        permit.signal.answered.store(3_600_000, Ordering::Relaxed);
    }

    #[test]
    fn trusted_proxies_and_peers_without_address_count_towards_the_total_only() {
        let connections = connections(4, 1);
        let _proxies = [(); 2].map(|()| admit(&connections, "10.1.2.3").unwrap());
        let _unknown = [(); 2].map(|()| connections.admit(None).unwrap());
        assert_eq!(refusal(&connections, "192.0.2.1"), Some(Refused::Total));
        assert_eq!(connections.refused_total(Refused::Total), 1);
    }

    #[test]
    fn connection_that_ends_while_it_is_told_to_close_is_counted_down_once_and_whole() {
        let connections = connections(16, 16);
        let permit = admit(&connections, "192.0.2.1").unwrap();
        std::thread::sleep(IN_USE);
        let mut state = connections.state();
        let ending = std::thread::spawn(move || drop(permit));
        // Long enough for it to wait for the lock.
        std::thread::sleep(Duration::from_millis(100));
        let found = state.quietest(["192.0.2.1".parse().unwrap()]);
        assert!(connections.close(&mut state, found));
        drop(state);
        ending.join().unwrap();
        let state = connections.state();
        assert_eq!((state.open, state.closing), (0, 0));
        assert!(state.clients.is_empty() && state.heaviest.is_empty());
    }

    #[test]
    fn room_is_made_by_any_client_if_the_heaviest_are_all_in_use() {
        let connections = connections(54, 54);
        let heavy: Vec<_> = (0..HEAVIEST * 3)
            .map(|number| admit(&connections, &format!("192.0.2.{}", number % HEAVIEST)).unwrap())
            .collect();
        let quiet = ["198.51.100.1"; 2].map(|peer| admit(&connections, peer).unwrap());
        let few = [
            "198.51.100.2",
            "198.51.100.3",
            "198.51.100.4",
            "198.51.100.5",
        ];
        let _few = few.map(|peer| admit(&connections, peer).unwrap());
        std::thread::sleep(IN_USE);
        heavy.iter().for_each(keep_in_use);
        // The one that was idle longest.
        let _own = admit(&connections, "198.51.100.2").unwrap();
        let closing = quiet
            .iter()
            .filter(|permit| permit.signal.is_closing.load(Ordering::Relaxed));
        assert_eq!(closing.count(), 1);
    }

    #[tokio::test]
    async fn answer_that_is_stuck_is_no_use_of_its_connection_and_given_up_once_it_is_to_close() {
        let connections = connections(16, 16);
        let permit = admit(&connections, "192.0.2.1").unwrap();
        let (server, _client) = tokio::io::duplex(4);
        let mut watched = Watched::new(server, Arc::clone(permit.signal()));
        watched.write_all(b"1234").await.unwrap();
        let since = permit.signal().quiet_since();
        let stuck = tokio::time::timeout(2 * IN_USE, watched.write_all(b"5"));
        assert!(stuck.await.is_err());
        assert_eq!(permit.signal().quiet_since(), since);
        assert!(connections.make_room());
        let start = Instant::now();
        let error = watched.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= CLOSING_TIME);
        assert_eq!(watched.read(&mut [0]).await.unwrap(), 0);
    }

    #[test]
    fn room_is_made_by_the_heaviest_client_and_never_without_end() {
        let connections = connections(16, 16);
        let many = [(); 15].map(|()| admit(&connections, "192.0.2.1").unwrap());
        let _few = admit(&connections, "192.0.2.2").unwrap();
        std::thread::sleep(IN_USE);
        keep_in_use(&many[0]);
        let _new = [(); 2].map(|()| admit(&connections, "192.0.2.3").unwrap());
        // Two of sixteen may be closing, and neither has closed yet.
        assert_eq!(refusal(&connections, "192.0.2.3"), Some(Refused::Total));
        let is_closing = |permit: &Permit| permit.signal.is_closing.load(Ordering::Relaxed);
        assert!(!is_closing(&many[0]));
        assert_eq!(many.iter().filter(|permit| is_closing(permit)).count(), 2);
        assert_eq!(connections.closed_total(), 2);
        drop(many);
        assert_eq!(connections.open(), 3);
        assert_eq!(connections.state().closing, 0);
    }
}
