//! The pooled connections to PostgreSQL.
//!
//! One budget is shared so that work that hangs cannot block the rest:
//!
//! | Purpose | May use |
//! |---|---|
//! | [`LookUp`](Purpose::LookUp): verification and readiness | every connection |
//! | [`Read`](Purpose::Read): lists and the like | all but a quarter |
//! | [`Write`](Purpose::Write): changes | fewer still, so that lists work |
//!
//! A statement that is given up is cancelled on the server, and its permits are kept until that is
//! done. A `COMMIT` is the exception: while it waits for a synchronous standby, cancelling it would
//! make the change visible although no standby has it, and a repeated request would then be
//! answered as if it were safe. So it continues in the background, keeps its permits, and further
//! writes are refused at once until it has ended.
//!
//! Only a few connections are made at once. Each keeps its permits while it is being made, and if
//! its requester gives up it goes to the next one. Otherwise a slow server would be asked for new
//! connections without end, and each would be ready only after its requester had gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::dsl::sql;
use diesel::pg::Pg;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, Integer};
use diesel_async::pooled_connection::PoolableConnection as _;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join};
use keys_service::ports::StoreError;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SetOnce, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use super::connect::{ConnectFailure, Pooled, PostgresConnector};
use super::opening::{OpenFailure, open};
use crate::error::QueryError;
use crate::health::WriteHealth;
use crate::opening::{self, Opened};
use crate::options::StoreOptions;
use crate::purpose::Purpose;

/// Time for which an unused connection is kept. The last one is kept for verification.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Interval of checking idle connections.
const REAP_INTERVAL: Duration = Duration::from_secs(2);

/// Interval of attempts to connect while the server has no connection left.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of connections that are being made.
const CONNECTING_MAX: usize = 4;

/// Maximum of those for purposes other than verification.
const CONNECTING_FOR_WORK_MAX: usize = 3;

/// Time after its time limit in which the server may end the last statement of a transaction.
const STATEMENT_END_WITHIN: Duration = Duration::from_secs(1);

/// Time limit of the first statement on a connection. It has no effect yet, so it may be retried on
/// another one.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval of asking the server whether commits that were given up have ended.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Time limit of asking that.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Reason why there is no connection.
#[derive(Debug, thiserror::Error)]
enum PoolError {
    #[error(
        "no connection to the database became free in time (setting `database.connections_max`)"
    )]
    Busy,
    #[error(
        "the server has no connection left for this program, and none of its own became free in time; \
         raise max_connections of the server, or lower `database.connections_max` of all instances"
    )]
    Full,
    #[error("no connection to the database could be made")]
    Connect(#[source] ConnectFailure),
    #[error("connections to the database take too long to be made")]
    Connecting,
    #[error(
        "the database does not finish commits, most likely because a synchronous standby is away; \
         writes are refused until it does"
    )]
    CommitsHang,
    #[error("the database did not answer the beginning of a transaction")]
    Silent,
    #[error(
        "the change was committed on a server that is no longer the one whose changes are followed, most likely an old primary: \
         it may be lost"
    )]
    Left,
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// The pool of connections, see the module. Cheap to clone; all clones are the same pool.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    connector: Arc<PostgresConnector>,
    runtime: Handle,
    wait: Duration,
    commit_timeout: Duration,
    /// One permit for each connection.
    slots: Arc<Semaphore>,
    /// One permit for each that is not for verification.
    shared: Arc<Semaphore>,
    /// One permit for each that writes.
    writing: Arc<Semaphore>,
    state: Mutex<State>,
    /// Notified when a connection was returned or closed.
    returned: Notify,
    commits: Commits,
    health: WriteHealth,
}

struct State {
    /// Idle connections, the most recently used last.
    idle: Vec<Object>,
    /// Number of connections, including idle ones and those that are being made.
    open: usize,
    /// Number of those that are being made.
    connecting: usize,
    /// Number of those in use that are not for verification.
    in_work: usize,
    /// Connections made before this time are not used any more.
    valid_since: Instant,
    /// Time until which the server is not asked for a further connection, because it had none left.
    full_until: Instant,
}

/// Result of making a connection. With an error, the permits are returned.
type Opening = Result<Lease, (ConnectFailure, Vec<OwnedSemaphorePermit>)>;

struct Object {
    pooled: Pooled,
    made_at: Instant,
    used_at: Instant,
}

/// Commits that were given up and have not ended.
#[derive(Default)]
struct Commits {
    next: AtomicU64,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    commits: HashMap<u64, PendingCommit>,
    is_watched: bool,
}

struct PendingCommit {
    backend: i32,
    task: AbortHandle,
}

/// Numbers of connections for each purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) connections: usize,
    pub(crate) shared: usize,
    pub(crate) writing: usize,
}

impl Shares {
    /// Divides `connections_max`, of which one is the feed's. At least two are pooled: one for
    /// verification, one for the rest.
    pub(crate) fn of(connections_max: u32) -> Self {
        let connections = usize::try_from(connections_max)
            .unwrap_or(usize::MAX)
            .saturating_sub(1)
            .clamp(2, Semaphore::MAX_PERMITS);
        let shared = connections - (connections / 4).max(1);
        let writing = (shared - (shared / 4).max(1)).max(1);
        Self {
            connections,
            shared,
            writing,
        }
    }
}

impl Pool {
    /// Creates the pool. Call it on the runtime that drives the connections.
    pub(crate) fn new(
        connector: Arc<PostgresConnector>,
        options: &StoreOptions,
        health: WriteHealth,
    ) -> Self {
        let shares = Shares::of(options.connections_max.get());
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let runtime = Handle::current();
        let inner = Arc::new(Inner {
            connector,
            runtime: runtime.clone(),
            wait: options.pool_wait,
            commit_timeout: options.statement_timeout,
            slots: semaphore(shares.connections),
            shared: semaphore(shares.shared),
            writing: semaphore(shares.writing),
            state: Mutex::new(State {
                idle: Vec::new(),
                open: 0,
                connecting: 0,
                in_work: 0,
                valid_since: Instant::now(),
                full_until: Instant::now(),
            }),
            returned: Notify::new(),
            commits: Commits::default(),
            health,
        });
        runtime.spawn(reap(Arc::downgrade(&inner)));
        Self(inner)
    }

    /// Closes the connections that were made before `began`, those in use as soon as they are
    /// returned. The cause that silenced one of them has silenced all of them, and each would be
    /// detected one by one. Commits on them are not waited for.
    pub(crate) fn forget_made_before(&self, began: Instant) {
        let forgotten: Vec<Object> = {
            let mut state = self.0.state.lock();
            state.valid_since = state.valid_since.max(began);
            let (kept, forgotten) = state
                .idle
                .drain(..)
                .partition(|object| object.made_at >= began);
            state.idle = kept;
            forgotten
        };
        self.closed(forgotten.len());
    }

    /// Returns a connection, within the time limit of the pool and that for connecting.
    pub(crate) async fn take(&self, purpose: Purpose) -> Result<Lease, StoreError> {
        let inner = &*self.0;
        let deadline = tokio::time::Instant::now() + inner.wait;
        let permit = |semaphore: &Arc<Semaphore>| {
            let permit = Arc::clone(semaphore).acquire_owned();
            async move {
                match timeout_at(deadline, permit).await {
                    Ok(Ok(permit)) => Ok(permit),
                    // The semaphores are never closed.
                    Ok(Err(_)) | Err(_) => Err(PoolError::Busy),
                }
            }
        };
        let mut permits = Vec::with_capacity(3);
        if matches!(purpose, Purpose::Write) {
            permits.push(permit(&inner.writing).await?);
        }
        if !matches!(purpose, Purpose::LookUp) {
            permits.push(permit(&inner.shared).await?);
        }
        permits.push(permit(&inner.slots).await?);
        let mut was_full = false;
        loop {
            if let Some(object) = self.take_idle(purpose) {
                return Ok(self.lease(object, purpose, permits));
            }
            // Only one of those that wait asks the server again.
            if let Some(place) = Place::reserve(self, purpose) {
                let ended = self.open(place, std::mem::take(&mut permits)).await;
                match ended.map_err(|_| PoolError::Connect(ConnectFailure::Timeout))? {
                    Ok(lease) => return Ok(lease),
                    Err((failure, returned))
                        if failure.is_full() && tokio::time::Instant::now() < deadline =>
                    {
                        permits = returned;
                    }
                    Err((failure, _)) => return Err(PoolError::Connect(failure).into()),
                }
            }
            // The server has no connection left, or enough are being made. One of ours may be
            // returned or become ready, or one of another program may end.
            was_full |= inner.state.lock().full_until > Instant::now();
            let now = tokio::time::Instant::now();
            if now >= deadline {
                let error = if was_full {
                    PoolError::Full
                } else {
                    PoolError::Connecting
                };
                return Err(error.into());
            }
            tokio::select! {
                () = inner.returned.notified() => {}
                () = sleep_until(deadline.min(now + FULL_PAUSE)) => {}
            }
        }
    }

    /// Returns a connection with a transaction open for writing.
    pub(crate) async fn begin(&self, purpose: Purpose) -> Result<Lease, StoreError> {
        let (lease, opened) = self
            .begin_with(purpose, &opening::Opening::default())
            .await?;
        opened?;
        Ok(lease)
    }

    /// Runs `statement`, which is a transaction by itself. It is not known whether one that is
    /// given up has begun to commit, so it is left to its end, as a commit is.
    ///
    /// `None` if no connection was used lately. A statement on a dead connection would hang, and
    /// keep all other changes waiting. A transaction asks for an answer first.
    pub(crate) async fn at_once<T, S>(&self, statement: S) -> Result<Option<T>, StoreError>
    where
        T: Send + 'static,
        S: Send + 'static + for<'a> FnOnce(&'a AsyncPgConnection) -> BoxFuture<'a, QueryResult<T>>,
    {
        if self.has_pending_commits() {
            return Err(PoolError::CommitsHang.into());
        }
        let began = Instant::now();
        let mut lease = self.take(Purpose::Write).await?;
        if !lease.was_used_lately() {
            return Ok(None);
        }
        lease.in_transaction = true;
        let committing = Arc::new(SetOnce::new_with(Some(())));
        // Before it commits, the server ends it by the time limit for statements.
        let done = lease
            .end(committing, STATEMENT_END_WITHIN, |connection| {
                statement(connection)
            })
            .await;
        if let Err(StoreError::Unavailable(error)) = &done
            && let Some(PoolError::CommitsHang) = error.downcast_ref()
        {
            self.forget_made_before(began);
        }
        done.map(Some)
    }

    /// Returns a connection with a transaction open for writing, which has locked and read.
    pub(crate) async fn begin_with(
        &self,
        purpose: Purpose,
        opening: &opening::Opening,
    ) -> Result<(Lease, Result<Opened, QueryError>), StoreError> {
        const ATTEMPTS: usize = 2;
        for _ in 0..ATTEMPTS {
            if self.has_pending_commits() {
                return Err(PoolError::CommitsHang.into());
            }
            let began = Instant::now();
            let mut lease = self.take(purpose).await?;
            lease.in_transaction = true;
            let outcome = match open(lease.enter(), opening, BEGIN_TIMEOUT).await {
                Ok(opened) => Ok(opened),
                Err(OpenFailure::Query(error)) => Err(error),
                // Most likely the other end is gone.
                Err(OpenFailure::Silent) => {
                    self.forget_made_before(began);
                    continue;
                }
            };
            let opened = lease.leave(outcome);
            return Ok((lease, opened));
        }
        Err(PoolError::Silent.into())
    }

    /// Returns an idle connection. Work leaves one behind: while the server has none left, and work
    /// hangs, verification needs it.
    fn take_idle(&self, purpose: Purpose) -> Option<Object> {
        let mut broken = Vec::new();
        let taken = {
            let mut state = self.0.state.lock();
            let left = match purpose {
                Purpose::LookUp | Purpose::Housekeeping => 0,
                Purpose::Read | Purpose::Write => 1,
            };
            loop {
                if state.open.saturating_sub(state.in_work) <= left {
                    break None;
                }
                let Some(mut object) = state.idle.pop() else {
                    break None;
                };
                // A connection to another server than the one whose changes are followed must not
                // be read from.
                if object.pooled.connection.is_broken()
                    || !self.0.connector.may_use(&mut object.pooled)
                {
                    state.open -= 1;
                    broken.push(object);
                    continue;
                }
                if purpose != Purpose::LookUp {
                    state.in_work += 1;
                }
                break Some(object);
            }
        };
        drop(broken);
        taken
    }

    /// Makes a connection, which becomes idle if the receiver has gone. It keeps its permits until
    /// it is made or has failed, so that there are never more than the setting allows.
    fn open(&self, place: Place, permits: Vec<OwnedSemaphorePermit>) -> oneshot::Receiver<Opening> {
        let (requester, receiver) = oneshot::channel();
        let connector = Arc::clone(&self.0.connector);
        // Driven by the runtime of the store, on any calling runtime.
        self.0.runtime.spawn(async move {
            let made_at = Instant::now();
            let opening = match connector.connect().await {
                Ok(pooled) => {
                    let object = Object {
                        pooled,
                        made_at,
                        used_at: made_at,
                    };
                    Ok(Lease::new(object, place.taken(permits)))
                }
                Err(failure) => {
                    if failure.is_full() {
                        // Before the permit is free and another request asks.
                        place.pool.0.state.lock().full_until = Instant::now() + FULL_PAUSE;
                    }
                    drop(place);
                    Err((failure, permits))
                }
            };
            // A lease that is not received returns its connection.
            let _ = requester.send(opening);
        });
        receiver
    }

    fn lease(&self, object: Object, purpose: Purpose, permits: Vec<OwnedSemaphorePermit>) -> Lease {
        let place = Place {
            pool: self.clone(),
            purpose,
            is_taken: true,
            is_kept: false,
            permits,
        };
        Lease::new(object, place)
    }

    fn closed(&self, count: usize) {
        if count > 0 {
            self.0.state.lock().open -= count;
            self.0.returned.notify_waiters();
        }
    }

    /// Records that a commit was given up. It may or may not have been made.
    fn give_up(&self, id: u64, backend: i32, task: AbortHandle) {
        let mut pending = self.0.commits.pending.lock();
        if task.is_finished() {
            return;
        }
        pending.commits.insert(id, PendingCommit { backend, task });
        if !pending.is_watched {
            pending.is_watched = true;
            self.0.runtime.spawn(watch(Arc::downgrade(&self.0)));
        }
    }

    fn ended(&self, id: u64) {
        self.0.commits.pending.lock().commits.remove(&id);
    }

    /// Returns which of these processes of the server are still active.
    async fn active(&self, backends: Vec<i32>) -> Result<Vec<i32>, StoreError> {
        let mut lease = self.take(Purpose::LookUp).await?;
        let active = sql::<Integer>(
            "select pid from pg_catalog.pg_stat_activity where state = 'active' and pid = any(",
        )
        .bind::<Array<Integer>, _>(backends)
        .sql(")");
        let outcome = active.load(lease.enter()).await;
        Ok(lease.leave(outcome)?)
    }

    /// Returns whether commits that were given up have not ended.
    pub(crate) fn has_pending_commits(&self) -> bool {
        !self.0.commits.pending.lock().commits.is_empty()
    }
}

/// Watches commits that were given up until all of them have ended. A connection to a server that
/// is gone never reports its end, but its process does not exist on the current server.
async fn watch(pool: Weak<Inner>) {
    loop {
        sleep(WATCH_INTERVAL).await;
        let Some(pool) = pool.upgrade().map(Pool) else {
            return;
        };
        let asked: Vec<(u64, i32)> = {
            let mut pending = pool.0.commits.pending.lock();
            if pending.commits.is_empty() {
                pending.is_watched = false;
                return;
            }
            let commits = pending.commits.iter();
            commits.map(|(id, commit)| (*id, commit.backend)).collect()
        };
        let began = Instant::now();
        let backends = asked.iter().map(|(_, backend)| *backend).collect();
        match timeout(WATCH_TIMEOUT, pool.active(backends)).await {
            Ok(Ok(active)) => {
                let mut pending = pool.0.commits.pending.lock();
                for (id, backend) in asked {
                    if !active.contains(&backend)
                        && let Some(commit) = pending.commits.remove(&id)
                    {
                        commit.task.abort();
                    }
                }
            }
            Ok(Err(_)) => {}
            Err(_) => pool.forget_made_before(began),
        }
    }
}

/// Closes idle connections.
async fn reap(pool: Weak<Inner>) {
    loop {
        sleep(REAP_INTERVAL).await;
        let Some(pool) = pool.upgrade().map(Pool) else {
            return;
        };
        let closed = {
            let mut state = pool.0.state.lock();
            let mut closed: Vec<Object> = Vec::new();
            let mut kept: Vec<Object> = Vec::new();
            for mut object in std::mem::take(&mut state.idle) {
                if object.pooled.connection.is_broken() || object.used_at.elapsed() > IDLE_MAX {
                    closed.push(object);
                } else {
                    kept.push(object);
                }
            }
            if kept.is_empty()
                && state.open == closed.len()
                && let Some(mut last) = closed.pop()
            {
                if last.pooled.connection.is_broken() {
                    closed.push(last);
                } else {
                    kept.push(last);
                }
            }
            state.idle = kept;
            closed
        };
        pool.closed(closed.len());
    }
}

/// The place of a connection in its pool: its permits, and its part in the counts.
struct Place {
    pool: Pool,
    purpose: Purpose,
    /// Whether it has a connection.
    is_taken: bool,
    /// Whether the connection stays open.
    is_kept: bool,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Place {
    /// Reserves a place for a connection that is about to be made. `None` if enough are being made,
    /// or the server had none left a moment ago. It is counted from now on, so that concurrent
    /// requests do not take the same place.
    fn reserve(pool: &Pool, purpose: Purpose) -> Option<Self> {
        let connecting_max = match purpose {
            Purpose::LookUp => CONNECTING_MAX,
            _ => CONNECTING_FOR_WORK_MAX,
        };
        let mut state = pool.0.state.lock();
        if state.connecting >= connecting_max || state.full_until > Instant::now() {
            return None;
        }
        state.connecting += 1;
        state.open += 1;
        if purpose != Purpose::LookUp {
            state.in_work += 1;
        }
        drop(state);
        Some(Self {
            pool: pool.clone(),
            purpose,
            is_taken: false,
            is_kept: false,
            permits: Vec::new(),
        })
    }

    /// Marks the connection as made.
    fn taken(mut self, permits: Vec<OwnedSemaphorePermit>) -> Self {
        self.is_taken = true;
        self.permits = permits;
        self.pool.0.state.lock().connecting -= 1;
        // The next one may be made.
        self.pool.0.returned.notify_one();
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pool.0.state.lock();
        if self.purpose != Purpose::LookUp {
            state.in_work -= 1;
        }
        if !self.is_kept {
            state.open -= 1;
        }
        if !self.is_taken {
            state.connecting -= 1;
        }
        drop(state);
        // A waiting request finds the permits free, too.
        self.permits.clear();
        self.pool.0.returned.notify_one();
    }
}

/// A connection that returns to its pool only while it is known to be in order. One that was given
/// up in the middle of a query or transaction is closed, which releases all its locks; a statement
/// under way is cancelled first.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own when the connection comes back"
)]
pub(crate) struct Lease {
    // Boxed, because a connection is large and is moved often.
    object: Option<Box<Object>>,
    place: Option<Place>,
    in_query: bool,
    in_transaction: bool,
    is_committing: bool,
    broken: bool,
}

impl Lease {
    fn new(object: Object, place: Place) -> Self {
        Self {
            object: Some(Box::new(object)),
            place: Some(place),
            in_query: false,
            in_transaction: false,
            is_committing: false,
            broken: false,
        }
    }

    /// Returns the connection, until [`leave`](Self::leave).
    pub(crate) fn enter(&mut self) -> &mut AsyncPgConnection {
        self.in_query = true;
        let object = self.object.as_mut().expect("held until dropped");
        &mut object.pooled.connection
    }

    pub(crate) fn leave<T>(&mut self, outcome: QueryResult<T>) -> Result<T, QueryError> {
        self.in_query = false;
        outcome.map_err(|error| {
            let error = QueryError::from(error);
            self.broken |= error.is_transient();
            if self.in_transaction
                && let Some(place) = &self.place
            {
                place.pool.0.health.failed(&error);
            }
            error
        })
    }

    /// Whether the server answered on this connection a moment ago.
    fn was_used_lately(&self) -> bool {
        let object = self.object.as_ref();
        object.is_some_and(|object| object.used_at.elapsed() < BEGIN_TIMEOUT)
    }

    /// Commits. A commit that is given up half-way continues in the background.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let committing = Arc::new(SetOnce::new_with(Some(())));
        self.end(committing, Duration::ZERO, |connection| {
            connection.batch_execute("commit").boxed()
        })
        .await
    }

    /// Sends the last statement together with the commit, which saves a round trip. If the
    /// statement fails, the server rolls back instead.
    pub(crate) async fn commit_with<T, S>(self, last: S) -> Result<T, StoreError>
    where
        T: Send + 'static,
        S: Send + 'static + for<'a> FnOnce(&'a AsyncPgConnection) -> BoxFuture<'a, QueryResult<T>>,
    {
        let committing = Arc::new(SetOnce::new());
        let begun = Arc::clone(&committing);
        self.end(committing, Duration::ZERO, |connection| {
            let connection = &*connection;
            let last = last(connection).inspect(move |_| {
                let _ = begun.set(());
            });
            commit_after(connection, last).boxed()
        })
        .await
    }

    /// Runs `ending`, which sets `committing` when its commit begins. Before that it waits for a
    /// statement, which the server ends by its own time limit, and which does not affect commits.
    /// `slack` is for a statement that the commit cannot be told from.
    async fn end<T, S>(
        mut self,
        committing: Arc<SetOnce<()>>,
        slack: Duration,
        ending: S,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        S: Send
            + 'static
            + for<'a> FnOnce(&'a mut AsyncPgConnection) -> BoxFuture<'a, QueryResult<T>>,
    {
        let (Some(place), Some(object)) = (&self.place, &self.object) else {
            return Err(PoolError::Busy.into());
        };
        let pool = place.pool.clone();
        let backend = object.pooled.facts.backend;
        let id = pool.0.commits.next.fetch_add(1, Ordering::Relaxed);
        self.is_committing = true;
        let of_task = pool.clone();
        let begun = Arc::clone(&committing);
        let patience = pool.0.commit_timeout;
        let mut task = pool.0.runtime.spawn(async move {
            let outcome = tokio::select! {
                outcome = ending(self.enter()) => self.committed(outcome),
                () = never_commits(&begun, patience) => Err(PoolError::Silent.into()),
            };
            if outcome.is_ok() {
                of_task.0.health.succeeded();
            }
            drop(self);
            of_task.ended(id);
            outcome
        });
        let mut given_up = GivenUp {
            pool: &pool,
            id,
            backend,
            committing: &committing,
            task: Some(task.abort_handle()),
        };
        let hangs = async {
            committing.wait().await;
            sleep(patience + slack).await;
        };
        tokio::select! {
            ended = &mut task => {
                given_up.task = None;
                ended.unwrap_or_else(|error| Err(StoreError::Unavailable(Box::new(error))))
            }
            () = hangs => Err(PoolError::CommitsHang.into()),
        }
    }

    /// Records the result of a commit. It is not acknowledged if the feed has moved to another
    /// server meanwhile.
    fn committed<T>(&mut self, outcome: QueryResult<T>) -> Result<T, StoreError> {
        let outcome = self.leave(outcome)?;
        self.in_transaction = false;
        if let (Some(place), Some(object)) = (&self.place, &self.object)
            && place.pool.0.connector.has_left(&object.pooled)
        {
            self.broken = true;
            return Err(PoolError::Left.into());
        }
        Ok(outcome)
    }

    /// Rolls back.
    pub(crate) async fn roll_back(mut self) -> Result<(), QueryError> {
        let outcome = self.enter().batch_execute("rollback").await;
        let outcome = self.leave(outcome);
        if outcome.is_ok() {
            self.in_transaction = false;
        }
        outcome
    }
}

/// Resolves if no commit has begun by the time at which the server must have ended the statement.
async fn never_commits(committing: &SetOnce<()>, statement_timeout: Duration) {
    sleep(statement_timeout + STATEMENT_END_WITHIN).await;
    if committing.initialized() {
        std::future::pending::<()>().await;
    }
}

/// Records a commit that is not waited for any more, also if the waiting future is dropped. A
/// statement before it is not recorded: it keeps its permits until the server ends it.
struct GivenUp<'a> {
    pool: &'a Pool,
    id: u64,
    backend: i32,
    committing: &'a SetOnce<()>,
    task: Option<AbortHandle>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take()
            && self.committing.initialized()
        {
            self.pool.give_up(self.id, self.backend, task);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(mut object), Some(mut place)) = (self.object.take(), self.place.take()) else {
            return;
        };
        if self.in_query && !self.is_committing {
            // The permits are kept until the server has received the cancellation, so that it never
            // has more of our connections than the setting allows.
            let inner = Arc::clone(&place.pool.0);
            let runtime = inner.runtime.clone();
            let token = object.pooled.connection.cancel_token();
            let cancel = async move {
                inner.connector.cancel(&token).await;
                drop((object, place));
            };
            runtime.spawn(cancel);
            return;
        }
        if self.in_query || self.in_transaction || self.broken {
            drop(object);
            drop(place);
            return;
        }
        object.used_at = Instant::now();
        place.is_kept = {
            let mut state = place.pool.0.state.lock();
            let is_valid = object.made_at >= state.valid_since;
            if is_valid {
                state.idle.push(*object);
            }
            is_valid
        };
    }
}

/// Commits after `last`, in the same round trip. `last` must be a query of diesel's, like the
/// commit itself: those are sent in the order in which they are polled first, also if one has to be
/// prepared.
async fn commit_after<T>(
    mut connection: &AsyncPgConnection,
    last: impl Future<Output = QueryResult<T>>,
) -> QueryResult<T> {
    let (outcome, committed) = join(last, Commitment.execute(&mut connection)).await;
    let outcome = outcome?;
    committed?;
    Ok(outcome)
}

/// `COMMIT` as a prepared statement.
#[derive(QueryId)]
struct Commitment;

impl QueryFragment<Pg> for Commitment {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("commit");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_some_for_look_ups_and_some_for_lists() {
        for connections_max in 1..=100 {
            let shares = Shares::of(connections_max);
            // With one or two there is nothing to divide. The feed has a connection beside them.
            let expected = usize::try_from(connections_max).unwrap().max(3) - 1;
            assert_eq!(shares.connections, expected);
            assert!(shares.shared < shares.connections, "{shares:?}");
            assert!((1..=shares.shared).contains(&shares.writing), "{shares:?}");
            if connections_max >= 5 {
                assert!(shares.writing < shares.shared, "{shares:?}");
            }
        }
        let of_ten = Shares::of(10);
        assert_eq!(
            (of_ten.connections, of_ten.shared, of_ten.writing),
            (9, 7, 6)
        );
    }
}
