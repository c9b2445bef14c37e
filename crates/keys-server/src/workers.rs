//! Threads that answer requests, and the hand-over of connections to them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use actix_http::HttpService;
use actix_service::{
    IntoServiceFactory as _, Service, ServiceFactory as _, ServiceFactoryExt as _, map_config,
};
use actix_web::App;
use actix_web::dev::AppConfig;
use anyhow::Context as _;
use keys_http::{Api, Guarded};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::connections::{Connections, Permit, Signal, Watched};
use crate::listen::{Accepted, BACKLOG, Listener, Stream, is_closed_within};

/// Time limit for the head of the first request of a connection. Longer than the limit of
/// [`Guarded`], so that [`Guarded`] refuses and counts heads that have begun.
const CLIENT_REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// Time after which an idle connection is closed: longer than the usual 60 s of load balancers,
/// which would otherwise find it closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Time limit for the client of a closing connection to confirm that it has read everything.
const CLIENT_DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Time for which idle connections are still read after the last one was accepted, so that no
/// request that has arrived is lost.
const READ_ON: Duration = Duration::from_millis(100);

/// Time limit for requests under way after that. With the default drain and the last flush the
/// whole stop stays below the ten seconds after which container runtimes kill a process.
const UNDER_WAY: Duration = Duration::from_secs(4);

/// Pause after a connection could not be accepted, for example because of too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running threads.
#[derive(Debug)]
pub(crate) struct Workers {
    hands: Vec<Hand>,
    next: AtomicUsize,
    places: Arc<Connections>,
}

/// Channel to one worker.
#[derive(Debug)]
struct Hand {
    connections: mpsc::UnboundedSender<(Accepted, Permit)>,
    /// Number of its connections.
    open: Arc<AtomicUsize>,
}

/// Ends once every worker has ended.
#[derive(Debug)]
pub(crate) struct Ended(mpsc::UnboundedReceiver<()>);

impl Ended {
    pub(crate) async fn wait(&mut self) {
        while self.0.recv().await.is_some() {}
    }
}

impl Workers {
    /// Starts the threads, each with an application of its own, and waits until they can answer.
    pub(crate) async fn start(
        count: usize,
        api: &Api,
        places: Arc<Connections>,
    ) -> anyhow::Result<(Self, Ended)> {
        let (is_alive, ended) = mpsc::unbounded_channel();
        let mut all_ready = Vec::new();
        let hands = (0..count)
            .map(|number| {
                let (ready, is_ready) = oneshot::channel();
                all_ready.push(is_ready);
                let (connections, queue) = mpsc::unbounded_channel();
                let open = Arc::new(AtomicUsize::new(0));
                let worker = Worker {
                    api: api.clone(),
                    queue,
                    open: Arc::clone(&open),
                    ready,
                    _is_alive: is_alive.clone(),
                };
                thread::Builder::new()
                    .name(format!("http {number}"))
                    .spawn(move || {
                        if let Err(error) = worker.run() {
                            tracing::error!(
                                error = format!("{error:#}"),
                                "a thread that answers requests ended"
                            );
                        }
                    })
                    .context("starting a thread that answers requests")?;
                Ok(Hand { connections, open })
            })
            .collect::<anyhow::Result<_>>()?;
        for is_ready in all_ready {
            let started = is_ready.await;
            started.context(
                "a thread that answers requests ended at its start; the log has the cause",
            )?;
        }
        let workers = Self {
            hands,
            next: AtomicUsize::new(0),
            places,
        };
        Ok((workers, Ended(ended)))
    }

    /// Hands a connection to the worker with the fewest connections.
    fn hand_over(&self, mut connection: (Accepted, Permit)) {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let turn = |number: usize| &self.hands[(start + number) % self.hands.len()];
        let mut order: Vec<_> = (0..self.hands.len()).map(turn).collect();
        order.sort_by_key(|hand| hand.open.load(Ordering::Relaxed));
        for hand in order {
            hand.open.fetch_add(1, Ordering::Relaxed);
            match hand.connections.send(connection) {
                Ok(()) => return,
                Err(mpsc::error::SendError(returned)) => connection = returned,
            }
        }
    }

    /// Accepts connections until the other end of `stop` is closed, then those that have already
    /// arrived.
    fn accept(&self, listener: &Listener, stop: &UnixStream) {
        loop {
            let mut goes_on = listener.wait(stop).unwrap_or_else(|error| {
                tracing::error!(%error, "connections cannot be waited for");
                !is_closed_within(stop, ACCEPT_PAUSE)
            });
            let mut is_told = false;
            loop {
                if !goes_on {
                    // Before the queue is emptied for the last time, so that no client connects
                    // after it.
                    listener.withdraw();
                }
                let Err(error) = self.accept_all(listener) else {
                    break;
                };
                // Logged once each time that it begins, not ten times a second.
                if !std::mem::replace(&mut is_told, true) {
                    tracing::error!(%error, "connections cannot be accepted at the moment");
                }
                if !goes_on {
                    break;
                }
                // The usual reason is that no more files can be opened. Closing an idle connection
                // frees one.
                self.places.make_room();
                goes_on = !is_closed_within(stop, ACCEPT_PAUSE);
            }
            if !goes_on {
                return;
            }
        }
    }

    /// Accepts all waiting connections, up to a maximum.
    fn accept_all(&self, listener: &Listener) -> io::Result<()> {
        /// More than the system queues, so that a flood of connections cannot delay the stop.
        const ACCEPTED_MAX: u32 = 4 * BACKLOG;
        for _ in 0..ACCEPTED_MAX {
            match listener.accept() {
                Ok(connection) => {
                    tracing::trace!("accepted a connection");
                    match self.places.admit(connection.address()) {
                        Ok(permit) => self.hand_over((connection, permit)),
                        Err(_) => connection.refuse(),
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    // The client is gone already; the next one may be waiting.
                    io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// Accepts connections on `listeners` until `stop` is dropped, one thread for each.
pub(crate) fn accept(listeners: Vec<Listener>, workers: Workers) -> io::Result<UnixStream> {
    let (stop, stopped) = UnixStream::pair()?;
    let workers = Arc::new(workers);
    for (number, listener) in listeners.into_iter().enumerate() {
        let (workers, stopped) = (Arc::clone(&workers), stopped.try_clone()?);
        thread::Builder::new()
            .name(format!("accept {number}"))
            .spawn(move || workers.accept(&listener, &stopped))?;
    }
    Ok(stop)
}

/// Waits until the stop has begun, or its sender is dropped.
async fn begun(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}

/// A thread that answers requests.
struct Worker {
    api: Api,
    queue: mpsc::UnboundedReceiver<(Accepted, Permit)>,
    open: Arc<AtomicUsize>,
    /// Notified once it can answer.
    ready: oneshot::Sender<()>,
    _is_alive: mpsc::UnboundedSender<()>,
}

/// Decrements the number of connections when dropped.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .context("starting its runtime")?;
        runtime.block_on(self.serve())
    }

    /// Serves connections until no more arrive, and the open ones until they end or the time is
    /// over.
    async fn serve(mut self) -> anyhow::Result<()> {
        let (closing, is_closing) = watch::channel(false);
        // The signal of the connection with which the service is about to be called. The service
        // takes it at once.
        let next_signal = Rc::new(RefCell::new(None::<Arc<Signal>>));
        let asked_signal = Rc::clone(&next_signal);
        let api = self.api.clone();
        let app = App::new()
            .wrap(api.log_requests())
            .configure(|app| api.configure(app));
        let app = app
            .into_factory()
            .map_err(|error: actix_web::Error| error.error_response());
        let service = HttpService::build()
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(CLIENT_REQUEST_TIMEOUT)
            .client_disconnect_timeout(CLIENT_DISCONNECT_TIMEOUT)
            .graceful_shutdown_signal(move || {
                let mut is_closing = is_closing.clone();
                let signal = asked_signal.take();
                async move {
                    let Some(signal) = signal else {
                        return begun(&mut is_closing).await;
                    };
                    tokio::select! {
                        () = begun(&mut is_closing) => {}
                        () = signal.closing() => {}
                    }
                }
            })
            .h1(map_config(app, |()| AppConfig::default()));
        let service = service.new_service(()).await;
        let service =
            Rc::new(service.map_err(|()| anyhow::anyhow!("the application cannot be made"))?);
        // The receiver is dropped only if the start was given up.
        let _ = self.ready.send(());
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.queue.recv() => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let Some((accepted, permit)) = accepted else {
                break;
            };
            let open = Open(Arc::clone(&self.open));
            let service = Rc::clone(&service);
            let next_signal = Rc::clone(&next_signal);
            connections.spawn_local(async move {
                let _open = open;
                let Ok((stream, peer)) = register(accepted, permit.signal()) else {
                    return;
                };
                let is_ready = poll_fn(|context| {
                    Service::<(Guarded<Watched<Stream>>, Option<SocketAddr>)>::poll_ready(
                        &*service, context,
                    )
                });
                if is_ready.await.is_ok() {
                    // Errors of one connection concern only its client.
                    next_signal.replace(Some(Arc::clone(permit.signal())));
                    let _ = service.call((stream, peer)).await;
                }
            });
        }
        let mut read_on = std::pin::pin!(tokio::time::sleep(READ_ON));
        loop {
            tokio::select! {
                () = &mut read_on => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        closing.send_replace(true);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(UNDER_WAY, ended).await;
        Ok(())
    }
}

/// Registers an accepted connection with this thread.
fn register(
    accepted: Accepted,
    signal: &Arc<Signal>,
) -> io::Result<(Guarded<Watched<Stream>>, Option<SocketAddr>)> {
    let (stream, peer) = Stream::register(accepted)?;
    Ok((Guarded::new(Watched::new(stream, Arc::clone(signal))), peer))
}
