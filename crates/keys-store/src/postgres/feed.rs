//! Following the log of changes in PostgreSQL.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use keys_service::feed::{ChangeFeed, Changes, POLL_INTERVAL, REPORT_AGE_MAX};
use keys_service::store::StoreError;
use keys_service::{Clock as _, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls, Socket, Statement};

use super::PostgresConnector;
use super::wake::CHANNEL;
use crate::changes::{self, CONNECT_TIMEOUT, POLL_TIMEOUT, ROWS_MAX, Retry, unavailable};
use crate::connection::ConnectError;

/// How long one statement of the feed may take, as the server counts.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_millis(400);

/// How long the other end may be silent before the system asks whether it is there, and how long it may then not
/// acknowledge anything.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(1);
pub(super) const USER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How often an instance reports at most how far it is.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

/// The snapshot that has seen no transaction.
const NOTHING: &str = "1:1:";

/// Says that this instance is alive and, the first time or when the row is not the one that it left, that it has seen
/// nothing. The row is then another one because the server crashed, or is a replica that took over, or was restored from
/// a backup: its transactions have other numbers than those this feed knows.
const REGISTER: &str = "\
    with epoch as (insert into instance_epoch (since) values (now()) on conflict do nothing) \
    insert into instance as known (id, seen) \
    values (coalesce($1::text::uuid, gen_random_uuid()), '1:1:') \
    on conflict (id) do update set seen_at = now(), seen = case \
        when known.seen::text in ($2::text, $3::text) then known.seen else '1:1:' end \
    returning id::text, seen::text";

const REPORT: &str = "\
    update instance set seen = coalesce($2::text::pg_snapshot, seen), seen_at = now() where id = $1::text::uuid";

/// Everything that the snapshot `$1` did not see and the one of this very statement sees. A cursor of numbers alone would have
/// every row since an open transaction come again each time, however long that is open. Rows of transactions that lie in the
/// future, and a mark there, come from another server by way of a dump.
fn poll_statement() -> String {
    format!(
        "select now.snapshot::text, \
                coalesce(pruned.mark >= pg_snapshot_xmin($1::text::pg_snapshot) \
                         and pruned.mark < pg_snapshot_xmax(now.snapshot), true), \
                new.kind, new.ref::text \
         from (select pg_current_snapshot() as snapshot offset 0) as now \
         left join key_change_pruned as pruned on pruned.one \
         left join lateral ( \
             select kind, ref from key_change \
             where xid >= pg_snapshot_xmin($1::text::pg_snapshot) and xid < pg_snapshot_xmax(now.snapshot) \
               and not pg_visible_in_snapshot(xid, $1::text::pg_snapshot) \
             limit {ROWS_MAX} \
         ) as new on true"
    )
}

/// The feed of one instance.
pub(crate) struct PostgresFeed {
    connector: Arc<PostgresConnector>,
    runtime: Handle,
    /// Given by the database; kept from one connection to the next.
    id: Option<String>,
    link: Option<Link>,
    retry: Retry,
    is_live: bool,
    polled_at: Instant,
    /// The snapshot of the last poll, until it is applied.
    found: Option<String>,
    /// The snapshot up to which everything has been applied.
    applied: Option<String>,
    report: Report,
}

/// What the others were told.
#[derive(Default)]
struct Report {
    is_due: bool,
    /// When the last one that arrived was sent, on a clock that counts suspended time.
    sent_at: Option<Duration>,
    /// What it said, and what the last one said of which nobody knows whether it arrived.
    known: Option<String>,
    attempted: Option<String>,
}

impl Report {
    fn age(&self) -> Duration {
        self.sent_at.map_or(Duration::MAX, |sent_at| {
            SystemClock.elapsed().saturating_sub(sent_at)
        })
    }
}

impl PostgresFeed {
    pub(crate) fn new(connector: Arc<PostgresConnector>, runtime: Handle) -> Self {
        Self {
            connector,
            runtime,
            id: None,
            link: None,
            retry: Retry::new(),
            is_live: false,
            polled_at: Instant::now(),
            found: None,
            applied: None,
            report: Report::default(),
        }
    }

    async fn try_poll(&mut self) -> Result<Changes, StoreError> {
        if self.link.as_ref().is_none_or(Link::is_closed) {
            self.link = None;
            self.retry.pause().await;
            self.connect().await?;
        }
        self.polled_at = Instant::now();
        timeout(POLL_TIMEOUT, self.read())
            .await
            .map_err(unavailable)?
    }

    /// Connects and starts to listen. Only a poll that comes after that misses nothing.
    async fn connect(&mut self) -> Result<(), StoreError> {
        let connector = Arc::clone(&self.connector);
        // The store's runtime drives the connection, whichever runtime this is.
        let opening = self
            .runtime
            .spawn(async move { timeout(CONNECT_TIMEOUT, Link::open(&connector)).await });
        let link = opening
            .await
            .map_err(unavailable)?
            .map_err(unavailable)?
            .map_err(StoreError::Unavailable)?;
        timeout(POLL_TIMEOUT, self.register(&link))
            .await
            .map_err(unavailable)??;
        self.link = Some(link);
        Ok(())
    }

    async fn register(&mut self, link: &Link) -> Result<(), StoreError> {
        let sent_at = SystemClock.elapsed();
        let row = link
            .client
            .query_one(
                &link.register,
                &[&self.id, &self.report.known, &self.report.attempted],
            )
            .await
            .map_err(classify)?;
        self.id = Some(row.try_get(0).map_err(unexpected)?);
        let seen: String = row.try_get(1).map_err(unexpected)?;
        let is_ours = seen != NOTHING
            && [&self.report.known, &self.report.attempted]
                .into_iter()
                .flatten()
                .any(|known| *known == seen);
        if !is_ours {
            self.applied = None;
        }
        self.report = Report {
            is_due: self.applied.is_some(),
            sent_at: Some(sent_at),
            known: Some(seen),
            attempted: None,
        };
        Ok(())
    }

    async fn read(&mut self) -> Result<Changes, StoreError> {
        // Others wait for whoever was heard of lately. A poll makes this instance's cache trusted anew, so it must not
        // begin unheard.
        if self.report.age() > REPORT_AGE_MAX {
            self.send_report().await?;
        }
        let Some(link) = &self.link else {
            return Err(unavailable("not connected"));
        };
        // What wakes from now on may be too late for this poll.
        link.news.forget();
        let rows = link
            .client
            .query(&link.poll, &[&self.applied])
            .await
            .map_err(classify)?;
        let first = rows
            .first()
            .ok_or_else(|| StoreError::Unexpected("a poll without a row".into()))?;
        let snapshot: String = first.try_get(0).map_err(unexpected)?;
        let is_reset: bool = first.try_get(1).map_err(unexpected)?;
        let mut changed = Vec::new();
        for row in &rows {
            let kind: Option<i16> = row.try_get(2).map_err(unexpected)?;
            let reference: Option<String> = row.try_get(3).map_err(unexpected)?;
            if let Some(kind) = kind {
                let reference = reference
                    .map(|id| id.parse())
                    .transpose()
                    .map_err(unexpected)?;
                changed.push(changes::changed(kind.into(), reference));
            }
        }
        self.found = Some(snapshot);
        Ok(changes::bounded(changed, is_reset))
    }

    async fn send_report(&mut self) -> Result<(), StoreError> {
        let (Some(link), Some(id)) = (&self.link, &self.id) else {
            return Err(unavailable("not connected"));
        };
        let sent_at = SystemClock.elapsed();
        self.report.attempted.clone_from(&self.applied);
        let updated = link
            .client
            .execute(&link.report, &[id, &self.applied])
            .await
            .map_err(classify)?;
        if updated != 1 {
            // Somebody emptied the table. Connecting again registers again.
            return Err(unavailable("this instance is not registered any more"));
        }
        if self.applied.is_some() {
            self.report.known.clone_from(&self.applied);
        }
        self.report.attempted = None;
        self.report.sent_at = Some(sent_at);
        self.report.is_due = false;
        Ok(())
    }

    /// As [`send_report`](Self::send_report), but a failure shows in the next poll.
    async fn report(&mut self) {
        let sent = timeout(POLL_TIMEOUT, self.send_report()).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.link = None;
            self.is_live = false;
        }
    }

    fn until_report(&self) -> Option<Duration> {
        // The first one shows, after a reconnection, that the row is still this instance's own.
        let is_first = self.report.known.as_deref() == Some(NOTHING);
        let after = REPORT_PAUSE.saturating_sub(self.report.age());
        self.report
            .is_due
            .then_some(if is_first { Duration::ZERO } else { after })
    }
}

#[async_trait]
impl ChangeFeed for PostgresFeed {
    async fn wait(&mut self) {
        loop {
            let Some(link) = self.link.as_ref().filter(|link| !link.is_closed()) else {
                return;
            };
            let next_poll = self.polled_at + POLL_INTERVAL;
            let next_report = self.until_report().map(|after| Instant::now() + after);
            tokio::select! {
                () = link.news.arrives() => return,
                () = sleep_until(next_poll) => return,
                () = sleep_until(next_report.unwrap_or(next_poll)), if next_report.is_some() => {}
            }
            self.report().await;
        }
    }

    async fn poll(&mut self) -> Result<Changes, StoreError> {
        // Also for whoever drops this future half-way.
        self.is_live = false;
        let outcome = self.try_poll().await;
        if outcome.is_ok() {
            self.retry.succeeded();
        } else {
            // A connection that failed once is not asked again; what was said on it is read anew from the log.
            self.link = None;
            self.retry.failed();
        }
        self.is_live = outcome.is_ok();
        outcome
    }

    async fn applied(&mut self) {
        let Some(found) = self.found.take() else {
            return;
        };
        self.applied = Some(found);
        self.report.is_due = true;
        if self.until_report() == Some(Duration::ZERO) {
            self.report().await;
        }
    }

    fn is_live(&self) -> bool {
        self.is_live && self.link.as_ref().is_some_and(|link| !link.is_closed())
    }
}

/// A connection that listens.
struct Link {
    client: Client,
    register: Statement,
    report: Statement,
    poll: Statement,
    news: Arc<News>,
    _driver: Driver,
}

impl Link {
    async fn open(connector: &PostgresConnector) -> Result<Self, ConnectError> {
        let news = Arc::new(News::default());
        let (client, driver) = match &connector.tls {
            None => {
                let (client, connection) = connector.listening.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, Arc::clone(&news))))
            }
            Some(tls) => {
                let (client, connection) = connector.listening.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, Arc::clone(&news))))
            }
        };
        let driver = Driver(driver.abort_handle());
        let poll = poll_statement();
        let listen = format!("listen {CHANNEL}");
        let ((), register, report, poll) = tokio::try_join!(
            client.batch_execute(&listen),
            client.prepare(REGISTER),
            client.prepare(REPORT),
            client.prepare(&poll),
        )?;
        Ok(Self {
            client,
            register,
            report,
            poll,
            news,
            _driver: driver,
        })
    }

    fn is_closed(&self) -> bool {
        self.news.is_over.load(Ordering::Acquire)
    }
}

/// Ends the task that reads and writes a connection together with whoever uses it, without waiting for a farewell that may
/// never get through.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What comes over a connection without being asked for.
#[derive(Default)]
struct News {
    wake: Notify,
    is_over: AtomicBool,
}

impl News {
    async fn arrives(&self) {
        self.wake.notified().await;
    }

    fn forget(&self) {
        let _ = self.wake.notified().now_or_never();
    }
}

/// Says that a connection is over, in whichever way it ended.
struct Over(Arc<News>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

async fn drive<S>(mut connection: tokio_postgres::Connection<Socket, S>, news: Arc<News>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let over = Over(news);
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            over.0.wake.notify_one();
        }
    }
}

/// A lost connection, an overloaded or restarting server may do better later; a missing table will not.
fn classify(error: tokio_postgres::Error) -> StoreError {
    const MAY_PASS: [&str; 6] = ["08", "25", "40", "53", "55", "57"];
    match error.code() {
        Some(state) if !MAY_PASS.iter().any(|class| state.code().starts_with(class)) => {
            unexpected(error)
        }
        _ => unavailable(error),
    }
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(Box::new(error))
}
