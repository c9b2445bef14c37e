//! Following the log of changes in a SQLite file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable};
use keys_service::ports::{ChangeFeed, Changes, POLL_INTERVAL, Page, Place, Readers, StoreError};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::presence::Presence;
use super::{Access, SqliteConnection, SqliteConnector};
use crate::error::QueryError;
use crate::feed::{self, POLL_TIMEOUT, ROWS_MAX, Retry, in_time, not_connected};
use crate::types::{DbId, Id};

/// Interval of checking whether another connection, of this process or another, has committed
/// anything. Costs microseconds.
const VERSION_INTERVAL: Duration = Duration::from_millis(50);

/// The followers of a file in this store.
pub(crate) struct Followers {
    pub(crate) readers: Readers,
    pub(crate) presence: Presence,
    woken: watch::Sender<()>,
}

impl Followers {
    pub(crate) fn new(connector: &SqliteConnector) -> Self {
        Self {
            readers: Readers::default(),
            presence: Presence::new(connector.file()),
            woken: watch::Sender::new(()),
        }
    }

    /// Wakes them after a commit.
    pub(crate) fn wake(&self) {
        self.woken.send_replace(());
    }
}

/// The feed of one instance.
pub(crate) struct SqliteFeed {
    connector: Arc<SqliteConnector>,
    runtime: Handle,
    followers: Arc<Followers>,
    woken: watch::Receiver<()>,
    place: Place,
    connection: Option<SqliteConnection>,
    retry: Retry,
    is_live: bool,
    polled_at: Instant,
    /// SQLite's counter of commits of other connections, as it was before the last poll.
    version: i64,
    version_read_at: Instant,
    /// The number of the last change that the last poll saw, until it is applied.
    found: Option<i64>,
    /// Start of the next page of a poll that takes several.
    page: Option<Page>,
    applied: Option<i64>,
}

impl SqliteFeed {
    pub(crate) fn new(
        connector: Arc<SqliteConnector>,
        runtime: Handle,
        followers: Arc<Followers>,
    ) -> Self {
        Self {
            connector,
            runtime,
            woken: followers.woken.subscribe(),
            place: followers.readers.join(),
            followers,
            connection: None,
            retry: Retry::new(),
            is_live: false,
            polled_at: Instant::now(),
            version: 0,
            version_read_at: Instant::now(),
            found: None,
            page: None,
            applied: None,
        }
    }

    async fn try_poll(&mut self) -> Result<Changes, StoreError> {
        self.connector.file().check()?;
        if !self.followers.presence.is_found() {
            self.connection = None;
        }
        if self.connection.is_none() {
            self.retry.pause().await;
            self.connect().await?;
        }
        self.polled_at = Instant::now();
        self.place.heard();
        // Before the log is read, because later commits must wake.
        self.woken.mark_unchanged();
        in_time(self.read()).await
    }

    async fn connect(&mut self) -> Result<(), StoreError> {
        let connector = Arc::clone(&self.connector);
        let followers = Arc::clone(&self.followers);
        let opening = async move {
            tokio::task::spawn_blocking(move || followers.presence.announce()).await??;
            connector.connect(Access::Read).await
        };
        self.connection = Some(feed::connect(&self.runtime, opening).await?);
        Ok(())
    }

    async fn read(&mut self) -> Result<Changes, StoreError> {
        let connection = self.connection.as_mut().ok_or_else(not_connected)?;
        let page = self.page.take();
        let after = page.and_then(|page| i64::try_from(page.after).ok());
        let applied = after.or(self.applied);
        let read_at = Instant::now();
        let (version, rows) = connection
            .spawn_blocking(move |open| Ok((version(open)?, poll(open, applied)?)))
            .await
            .map_err(QueryError::from)?;
        (self.version, self.version_read_at) = (version, read_at);
        let first = rows
            .first()
            .ok_or_else(|| StoreError::Unexpected("a poll without a row".into()))?;
        self.found = Some(first.last);
        if first.is_reset {
            return Ok(Changes::everything());
        }
        let new = rows.iter().filter_map(|row| {
            let number = u64::try_from(row.number?).ok()?;
            let changed = feed::changed(row.kind?, row.reference.map(|id| id.0));
            Some((number, changed))
        });
        let (changes, next) = Page::next(page, new.collect());
        self.page = next;
        Ok(changes)
    }

    /// Returns whether another connection has committed anything since the last poll. `true` if in
    /// doubt.
    async fn is_outdated(&mut self) -> bool {
        self.version_read_at = Instant::now();
        if self.connector.file().check().is_err() || !self.followers.presence.is_found() {
            // The next poll reports the fault of the file, or announces this process again.
            return true;
        }
        let Some(connection) = &mut self.connection else {
            return true;
        };
        let read = timeout(POLL_TIMEOUT, connection.spawn_blocking(version));
        !matches!(read.await, Ok(Ok(version)) if version == self.version)
    }
}

#[async_trait]
impl ChangeFeed for SqliteFeed {
    async fn wait(&mut self) {
        if self.connection.is_none() {
            return;
        }
        loop {
            let next_poll = self.polled_at + POLL_INTERVAL;
            let next_look = self.version_read_at + VERSION_INTERVAL;
            tokio::select! {
                // The followers that this feed holds keep the other end open.
                _ = self.woken.changed() => return,
                () = sleep_until(next_poll) => return,
                () = sleep_until(next_look) => {}
            }
            if self.is_outdated().await {
                return;
            }
        }
    }

    async fn poll(&mut self) -> Result<Changes, StoreError> {
        // Also if this future is dropped half-way.
        self.is_live = false;
        let outcome = self.try_poll().await;
        if outcome.is_ok() {
            self.retry.succeeded();
        } else {
            self.connection = None;
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
        self.place.applied(u64::try_from(found).unwrap_or(0));
    }

    fn is_live(&self) -> bool {
        self.is_live
    }
}

#[derive(QueryableByName)]
struct LogRow {
    #[diesel(sql_type = BigInt)]
    last: i64,
    #[diesel(sql_type = Bool)]
    is_reset: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    number: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    kind: Option<i64>,
    #[diesel(sql_type = Nullable<Id>)]
    reference: Option<DbId>,
}

/// Reads everything after `applied`, the end of the log, and whether it still reaches back to
/// there: one statement, which sees one state of the file. A log that ends before `applied` is
/// another one.
fn poll(open: &mut diesel::SqliteConnection, applied: Option<i64>) -> QueryResult<Vec<LogRow>> {
    let query = format!(
        "select log.last, \
                coalesce(?1 < log.mark or ?1 > log.last, true) as is_reset, \
                new.seq as number, new.kind, new.ref as reference \
         from (select coalesce((select max(seq) from sqlite_sequence where name = 'key_change'), 0) as last, \
                      (select mark from key_change_pruned) as mark) as log \
         left join (select seq, kind, ref from key_change where seq > ?1 order by seq limit {ROWS_MAX}) as new"
    );
    sql_query(query)
        .bind::<Nullable<BigInt>, _>(applied)
        .load(open)
}

fn version(open: &mut diesel::SqliteConnection) -> QueryResult<i64> {
    sql::<BigInt>("pragma data_version").get_result(open)
}
