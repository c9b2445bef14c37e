//! Following the log of changes in PostgreSQL.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use keys_service::ports::{
    CHANGES_MAX, CHANGES_PAGED_MAX, ChangeFeed, Changed, Changes, POLL_INTERVAL, StoreError,
};
use keys_service::{Clock as _, SystemClock};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage, Statement};

use super::connect::{PostgresConnector, Wire};
use super::identity::{Bond, SETTING, ServerIdentity};
use crate::error::ConnectError;
use crate::feed::{self, POLL_TIMEOUT, ROWS_MAX, Retry, in_time, not_connected, unavailable};

/// The channel of the notifications. They have no payload: an instance that receives one reads the
/// log.
pub(crate) const CHANNEL: &str = "key_change";

/// Time limit of a statement of the feed on the server.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_millis(400);

/// Time of silence of the other end after which the system probes it, and time limit of its
/// acknowledgement.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(1);
pub(super) const USER_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Pause between polls that wake-ups cause, after the first two.
const POLL_PAUSE: Duration = Duration::from_millis(42);

/// Number of polls without changes after which a feed that had stopped listening listens again:
/// half a second. Several writers send more wake-ups than it may poll, and each costs the server
/// 0.02 ms for every instance that listens.
const QUIET_POLLS: u8 = 12;

/// Minimum interval of an instance's reports: with every second poll, while each finds something.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

/// A poll contains a report if the last one is at least this old. Less than [`POLL_INTERVAL`], so
/// that an idle instance sends one statement for both.
const REPORT_DUE_AFTER: Duration = Duration::from_millis(450);

/// Interval of checking the triggers that write the log, in addition to each new connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The triggers that the log depends on, as rows of relation and name.
const TRIGGERS: &str = "(values \
    ('account', 'account_delete_noted'), ('account', 'account_update_noted'), \
    ('account', 'account_truncate_noted'), ('account', 'account_id_fixed'), \
    ('api_key', 'api_key_delete_noted'), ('api_key', 'api_key_update_noted'), \
    ('api_key', 'api_key_truncate_noted'), ('api_key', 'api_key_identity_fixed'), \
    ('api_key', 'api_key_revocation_final'), \
    ('key_change', 'key_change_kept'), ('key_change', 'key_change_edited'), \
    ('key_change', 'key_change_emptied'), \
    ('instance', 'instance_kept'), ('instance', 'instance_emptied')) as wanted (relation, name)";

/// The triggers that count the keys of each account. No verdict depends on them, so caches are used
/// without them.
const COUNTERS: &str = "(values \
    ('api_key', 'api_key_counted_insert'), ('api_key', 'api_key_counted_delete'), \
    ('api_key', 'api_key_counted_update'), ('api_key', 'api_key_counted_truncate')) as wanted (relation, name)";

/// Triggers that count in sessions with the role `replica`, where logical replication fires no
/// triggers for statements.
const REPLICA_COUNTERS: &str = "(values \
    ('api_key', 'api_key_counted_replicated_begin'), ('api_key', 'api_key_counted_replicated_end'), \
    ('api_key', 'api_key_counted_replicated_insert'), ('api_key', 'api_key_counted_replicated_delete'), \
    ('api_key', 'api_key_counted_replicated_update')) as wanted (relation, name)";

/// Returns a query for the triggers of a list that exist and are not enabled in this way, `always`
/// or `replica`.
fn altered(wanted: &str, enabled: &str) -> String {
    format!(
        "select fired.tgrelid::regclass as relation, fired.tgname as name, '{enabled}' as enabled \
         from {wanted} \
         join pg_catalog.pg_trigger as fired \
              on fired.tgrelid = to_regclass(wanted.relation) and fired.tgname = wanted.name \
         where not fired.tgisinternal and fired.tgenabled <> upper(left('{enabled}', 1))::\"char\""
    )
}

/// Returns a query that names the triggers that are not in order, describes all of them in a text
/// that changes whenever one of them or its function is altered, and returns whether changes are
/// acknowledged before a replica has them. Logical replication and running backups do not count as
/// replicas that could take over.
fn check_statement() -> String {
    format!(
        "with found as ( \
             select wanted.name, fired.oid, fired.xmin, fired.tgenabled, called.xmin as called \
             from {TRIGGERS} \
             left join pg_catalog.pg_trigger as fired \
                  on fired.tgrelid = to_regclass(wanted.relation) and fired.tgname = wanted.name \
                     and not fired.tgisinternal \
             left join pg_catalog.pg_proc as called on called.oid = fired.tgfoid) \
         select coalesce(string_agg(name, ', ' order by name) filter (where tgenabled is distinct from 'A'), ''), \
                md5(string_agg(concat_ws(':', name, oid, xmin, tgenabled, called), ',' order by name)), \
                current_setting('synchronous_standby_names') = '' and exists ( \
                    select from pg_catalog.pg_stat_replication as replica \
                    where replica.state is distinct from 'backup' \
                      and not exists (select from pg_catalog.pg_replication_slots as slot \
                                      where slot.active_pid = replica.pid and slot.slot_type = 'logical')) \
         from found"
    )
}

/// Returns a statement that enables the triggers of all lists in their replication roles, if they
/// exist.
pub(super) fn repair_statement() -> String {
    format!(
        "do $$ declare found record; begin \
             for found in {} union all {} union all {} loop \
                 execute format('alter table %s enable %s trigger %I', found.relation, found.enabled, found.name); \
             end loop; \
         end $$",
        altered(TRIGGERS, "always"),
        altered(COUNTERS, "always"),
        altered(REPLICA_COUNTERS, "replica"),
    )
}

/// The snapshot that has seen no transaction.
const NOTHING: &str = "1:1:";

/// Returns a statement that reports that this instance is alive. The first time, or if the row is
/// not the one that it left in this log, it also reports that it has seen nothing. The row differs
/// if the server crashed, or is a replica that took over, or was restored from a backup: its
/// transactions have other numbers than those this feed knows.
///
/// An epoch of another log is replaced, because the followers of this log are known from now on
/// only. An epoch without a log was left by the migration that created the table. If no instance
/// had registered by then, none has a cache.
fn register_statement() -> String {
    format!(
        "with server as (select current_setting('{SETTING}') as log), \
         epoch as ( \
             insert into instance_epoch as epoch (since, log) select now(), server.log from server \
             on conflict (one) do update set log = excluded.log, since = case \
                 when epoch.log = '' and epoch.since = '-infinity' and not exists (select from instance) \
                 then epoch.since else now() end \
             where epoch.log <> excluded.log \
         ) \
         insert into instance as known (id, seen, log) \
         select coalesce($1::text::uuid, gen_random_uuid()), '{NOTHING}', server.log from server \
         on conflict (id) do update set seen_at = now(), log = excluded.log, seen = case \
             when known.log = excluded.log and known.seen::text in ($2::text, $3::text) \
             then known.seen else excluded.seen end \
         returning id::text, seen::text"
    )
}

const REPORT: &str = "\
    update instance set seen = coalesce($2::text::pg_snapshot, seen), seen_at = now() where id = $1::text::uuid";

/// Returns a query for everything that the snapshot `seen` did not see and the one of this
/// statement sees: rows of transactions that began since, and of those that were under way and have
/// ended. Two conditions, each answered by the index, because one with `or` is not (measured with 6
/// million rows since an open transaction: 0.13 ms instead of 428 ms). A transaction that is still
/// under way is not looked up, however much it has written.
///
/// Transaction numbers in the future come from another server through a dump: rows with them are
/// left out, and a cursor or a mark with one is void.
fn news_of(seen: &str, columns: &str) -> String {
    format!(
        "select now.snapshot::text, \
                coalesce(pruned.mark >= pg_snapshot_xmin(now.seen) and pruned.mark < pg_snapshot_xmax(now.snapshot) \
                         or pg_snapshot_xmax(now.seen) > pg_snapshot_xmax(now.snapshot), true), \
                {columns} \
         from (select {seen}::pg_snapshot as seen, pg_current_snapshot() as snapshot offset 0) as now \
         left join key_change_pruned as pruned on pruned.one \
         left join lateral ( \
             select kind, ref from ( \
                 select kind, ref from key_change \
                 where xid >= pg_snapshot_xmax(now.seen) and xid < pg_snapshot_xmax(now.snapshot) \
                 union all \
                 select kind, ref from key_change \
                 where xid = any(array( \
                     select ended from pg_snapshot_xip(now.seen) as ended \
                     where pg_visible_in_snapshot(ended, now.snapshot))) \
             ) as news "
    )
}

/// Returns a query for the changes after the snapshot `$1`.
fn poll_statement() -> String {
    let news = news_of("$1::text", "new.kind, new.ref::text");
    format!("{news} limit {ROWS_MAX}) as new on true")
}

/// Does the same and reports for the instance `$2` that it has applied everything up to there. A
/// statement of its own, because a condition for the report would make polls without one a third
/// more expensive.
fn poll_and_report_statement() -> String {
    let news = news_of(
        "$1::text",
        "new.kind, new.ref::text, (select count(*) from reported)",
    );
    format!(
        "with reported as ( \
             update instance set seen = coalesce($1::text::pg_snapshot, seen), seen_at = now() \
             where id = $2::text::uuid returning 1 \
         ) {news} limit {ROWS_MAX}) as new on true"
    )
}

/// Opens a cursor that reads page by page the changes that do not fit into one, from one snapshot.
fn open_pages_statement(seen: &str) -> String {
    let news = news_of(&format!("'{seen}'"), "new.kind, new.ref::text");
    format!(
        "begin isolation level read committed read only; \
         declare news no scroll cursor without hold for {news}) as new on true"
    )
}

/// The feed of one instance.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct PostgresFeed {
    connector: Arc<PostgresConnector>,
    runtime: Handle,
    /// Assigned by the database, and kept across connections.
    id: Option<String>,
    /// The server of the cursors.
    server: Option<ServerIdentity>,
    /// See [`Followed::follow`](super::identity::Followed::follow).
    strays: u64,
    /// Whether another server took over from the one of the last applied poll.
    took_over: bool,
    link: Option<Link>,
    retry: Retry,
    is_live: bool,
    polled_at: Instant,
    /// Time of the last check of the triggers on this connection, and its result.
    checked_at: Option<Instant>,
    triggers: Option<String>,
    is_replicated_asynchronously: bool,
    pace: Pace,
    /// Whether a wake-up has arrived after the last poll.
    is_woken: bool,
    /// Whether wake-ups come faster than polls may.
    is_crowded: bool,
    listening: Listening,
    /// Number of returned rows of a poll that takes several pages.
    paged: Option<usize>,
    /// The snapshot of the last poll, until it is applied, and whether it found changes.
    found: Option<String>,
    found_news: bool,
    /// The snapshot up to which everything has been applied.
    applied: Option<String>,
    report: Report,
}

/// The last report to the other instances.
#[derive(Default)]
struct Report {
    is_due: bool,
    /// Send time of the last one that arrived, on a clock that counts suspended time.
    sent_at: Option<Duration>,
    /// Its content, and that of the last one of which it is unknown whether it arrived.
    known: Option<String>,
    attempted: Option<String>,
}

impl Report {
    fn age(&self) -> Duration {
        self.sent_at.map_or(Duration::MAX, |sent_at| {
            SystemClock.elapsed().saturating_sub(sent_at)
        })
    }

    /// Records that the report `said`, sent at `sent_at`, has been written; or that there is no row
    /// for it.
    fn arrived(
        &mut self,
        sent_at: Duration,
        said: Option<&String>,
        is_registered: bool,
    ) -> Result<(), StoreError> {
        if !is_registered {
            // The table was emptied. Connecting again registers again.
            return Err(unavailable("this instance is not registered any more"));
        }
        if let Some(said) = said {
            self.known = Some(said.clone());
        }
        self.attempted = None;
        self.sent_at = Some(sent_at);
        self.is_due = false;
        Ok(())
    }
}

/// Limits polls caused by wake-ups to 25 a second, whatever the writers do: a burst of two, then
/// one each [`POLL_PAUSE`]. Contains the time at which the burst is full again.
#[derive(Debug)]
struct Pace(Instant);

impl Pace {
    fn polled(&mut self) {
        self.0 = self.0.max(Instant::now()) + POLL_PAUSE;
    }

    fn next_at(&self) -> Instant {
        self.0.checked_sub(POLL_PAUSE).unwrap_or(self.0)
    }
}

/// Whether the feed listens for wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listening {
    On,
    /// It polls as if it were woken all the time, and this many consecutive polls have found
    /// nothing.
    Off {
        quiet_polls: u8,
    },
}

impl PostgresFeed {
    pub(crate) fn new(connector: Arc<PostgresConnector>, runtime: Handle) -> Self {
        Self {
            connector,
            runtime,
            id: None,
            server: None,
            strays: 0,
            took_over: false,
            checked_at: None,
            triggers: None,
            is_replicated_asynchronously: false,
            link: None,
            retry: Retry::new(),
            is_live: false,
            polled_at: Instant::now(),
            pace: Pace(Instant::now()),
            is_woken: false,
            is_crowded: false,
            listening: Listening::On,
            paged: None,
            found: None,
            found_news: false,
            applied: None,
            report: Report::default(),
        }
    }

    async fn try_poll(&mut self) -> Result<Changes, StoreError> {
        if self.paged.is_some() {
            return in_time(self.next_page()).await;
        }
        if self.link.as_ref().is_none_or(Link::is_closed) {
            self.link = None;
            self.retry.pause().await;
            self.connect().await?;
        }
        if self
            .checked_at
            .is_none_or(|at| at.elapsed() >= CHECK_INTERVAL)
        {
            in_time(self.check()).await?;
        }
        in_time(self.update_listening()).await?;
        self.polled_at = Instant::now();
        self.pace.polled();
        if let Some(changes) = in_time(self.read()).await? {
            return Ok(changes);
        }
        in_time(self.open_pages()).await?;
        in_time(self.next_page()).await
    }

    /// Connects and starts to listen. Only a poll after that misses nothing.
    async fn connect(&mut self) -> Result<(), StoreError> {
        let connector = Arc::clone(&self.connector);
        let opening = async move { Link::open(&connector).await };
        let link = feed::connect(&self.runtime, opening).await?;
        in_time(self.register(&link)).await?;
        self.link = Some(link);
        self.checked_at = None;
        self.is_crowded = false;
        self.listening = Listening::On;
        Ok(())
    }

    /// Stops listening while wake-ups come faster than polls may, and listens again once there are
    /// no changes. Commits before it listens again are found by the next poll.
    async fn update_listening(&mut self) -> Result<(), StoreError> {
        let link = self.link.as_ref().ok_or_else(not_connected)?;
        let (command, listening) = match self.listening {
            Listening::On if self.is_crowded => ("unlisten", Listening::Off { quiet_polls: 0 }),
            Listening::Off {
                quiet_polls: QUIET_POLLS..,
            } => ("listen", Listening::On),
            Listening::On | Listening::Off { .. } => return Ok(()),
        };
        let statement = format!("{command} {CHANNEL}");
        link.execute(&statement).await?;
        self.is_crowded = false;
        self.listening = listening;
        Ok(())
    }

    /// Checks the triggers that write the log. `alter table .. disable trigger` disables them, and
    /// `pg_restore --disable-triggers` leaves them so that they do not fire in every replication
    /// role.
    async fn check(&mut self) -> Result<(), StoreError> {
        let link = self.link.as_ref().ok_or_else(not_connected)?;
        let row = link
            .client
            .query_one(&check_statement(), &[])
            .await
            .map_err(classify)?;
        let wrong: String = row.try_get(0).map_err(unexpected)?;
        let triggers: String = row.try_get(1).map_err(unexpected)?;
        self.is_replicated_asynchronously = row.try_get(2).map_err(unexpected)?;
        if !wrong.is_empty() {
            // Changes made until they are right are not in the log.
            self.applied = None;
            self.triggers = None;
            return Err(StoreError::Unexpected(
                format!(
                    "the log of changes is not complete, because triggers are missing, disabled, or do not fire in every replication \
                     role: {wrong}. Run `keys-server migrate`, which enables those that exist"
                )
                .into(),
            ));
        }
        if self
            .triggers
            .as_ref()
            .is_some_and(|before| *before != triggers)
        {
            tracing::warn!(
                "triggers that write the log of changes were altered, so changes may be missing from it: every cached record is read again"
            );
            self.applied = None;
        }
        self.triggers = Some(triggers);
        self.checked_at = Some(Instant::now());
        Ok(())
    }

    async fn register(&mut self, link: &Link) -> Result<(), StoreError> {
        if self.server.as_ref() != Some(&link.server) {
            if let Some(before) = &self.server {
                tracing::warn!(
                    "changes are followed on another server than before, or it was started anew: every cached record is read again \
                     (cluster/timeline/start was {}, is {})",
                    before.log(),
                    link.server.log(),
                );
                self.took_over |= link.server.took_over_from(before);
            }
            self.applied = None;
            self.server = Some(link.server.clone());
        }
        if self.strays != link.strays {
            // Records that were read from another server meanwhile must not stay in the cache.
            self.applied = None;
            self.strays = link.strays;
        }
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

    /// Reads the changes. `None` if there are more than one page.
    async fn read(&mut self) -> Result<Option<Changes>, StoreError> {
        let link = self.link.as_ref().ok_or_else(not_connected)?;
        // Wake-ups from now on may be too late for this poll.
        let _ = link.bond.wake.notified().now_or_never();
        self.is_woken = false;
        // Others wait for an instance with a recent sign of life. A poll renews the trust in this
        // instance's cache, so a sign of life must be committed before the poll returns.
        let pause = if self.report.is_due {
            REPORT_PAUSE
        } else {
            REPORT_DUE_AFTER
        };
        let is_reporting = self.report.age() >= pause;
        let sent_at = SystemClock.elapsed();
        if is_reporting {
            self.report.attempted.clone_from(&self.applied);
        }
        let polling = if is_reporting {
            let parameters: [&(dyn ToSql + Sync); 2] = [&self.applied, &self.id];
            link.client.query(&link.poll_and_report, &parameters).await
        } else {
            link.client.query(&link.poll, &[&self.applied]).await
        };
        let rows = polling.map_err(classify)?;
        let first = rows
            .first()
            .ok_or_else(|| StoreError::Unexpected("a poll without a row".into()))?;
        let snapshot: String = first.try_get(0).map_err(unexpected)?;
        let is_reset: bool = first.try_get(1).map_err(unexpected)?;
        if is_reporting {
            let reported: i64 = first.try_get(4).map_err(unexpected)?;
            self.report
                .arrived(sent_at, self.applied.as_ref(), reported == 1)?;
        }
        if rows.len() >= ROWS_MAX && !is_reset {
            return Ok(None);
        }
        let mut changed = Vec::new();
        for row in rows.iter().filter(|_| !is_reset) {
            let kind: Option<i16> = row.try_get(2).map_err(unexpected)?;
            let reference: Option<&str> = row.try_get(3).map_err(unexpected)?;
            if let Some(kind) = kind {
                changed.push(parse_changed(kind.into(), reference)?);
            }
        }
        self.found = Some(snapshot);
        self.found_news = is_reset || !changed.is_empty();
        if let Listening::Off { quiet_polls } = &mut self.listening {
            *quiet_polls = if self.found_news { 0 } else { *quiet_polls + 1 };
        }
        let mut changes = Changes::default();
        changes.changed = changed;
        changes.reset = is_reset;
        changes.took_over = self.took_over;
        Ok(Some(changes))
    }

    async fn open_pages(&mut self) -> Result<(), StoreError> {
        let (Some(link), Some(applied)) = (&self.link, &self.applied) else {
            return Err(not_connected());
        };
        // It becomes part of a statement, so it must have the form of a snapshot.
        if !applied
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b":,".contains(&byte))
        {
            return Err(StoreError::Unexpected("a snapshot that is none".into()));
        }
        let statement = open_pages_statement(applied);
        link.execute(&statement).await?;
        self.paged = Some(0);
        self.found_news = true;
        Ok(())
    }

    /// Reads the next page of a poll that takes several.
    async fn next_page(&mut self) -> Result<Changes, StoreError> {
        // Taken, so that neither an error nor a caller that gives up leaves the transaction half
        // read.
        let (Some(link), Some(paged)) = (self.link.take(), self.paged.take()) else {
            return Err(not_connected());
        };
        let fetch = format!("fetch forward {CHANGES_MAX} from news");
        let messages = link.client.simple_query(&fetch).await.map_err(classify)?;
        let mut changed = Vec::new();
        let mut is_reset = false;
        for message in messages {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            if self.found.is_none() {
                self.found = row.get(0).map(str::to_owned);
            }
            is_reset |= row.get(1) != Some("f");
            if let Some(kind) = row.get(2) {
                let kind = kind.parse().map_err(unexpected)?;
                changed.push(parse_changed(kind, row.get(3))?);
            }
        }
        let paged = paged + changed.len();
        let more = changed.len() >= CHANGES_MAX;
        let is_reset = is_reset || (more && paged >= CHANGES_PAGED_MAX);
        let more = more && !is_reset;
        if more {
            self.paged = Some(paged);
        } else {
            link.execute("commit").await?;
        }
        self.link = Some(link);
        if is_reset {
            return Ok(Changes::everything());
        }
        let mut changes = Changes::default();
        changes.changed = changed;
        changes.more = more;
        Ok(changes)
    }

    async fn send_report(&mut self) -> Result<(), StoreError> {
        let (Some(link), Some(id)) = (&self.link, &self.id) else {
            return Err(not_connected());
        };
        let sent_at = SystemClock.elapsed();
        self.report.attempted.clone_from(&self.applied);
        let updated = link
            .client
            .execute(&link.report, &[id, &self.applied])
            .await
            .map_err(classify)?;
        self.report
            .arrived(sent_at, self.applied.as_ref(), updated == 1)
    }

    /// Like [`send_report`](Self::send_report), but an error shows in the next poll.
    async fn report(&mut self) {
        let sent = timeout(POLL_TIMEOUT, self.send_report()).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.link = None;
            self.is_live = false;
        }
    }

    fn until_report(&self) -> Option<Duration> {
        // After a reconnection, the first one shows that the row is still this instance's own.
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
            let mut next_poll = self.polled_at + POLL_INTERVAL;
            if self.is_woken || self.listening != Listening::On {
                next_poll = next_poll.min(self.pace.next_at());
            }
            let next_report = self
                .until_report()
                .map(|after| Instant::now() + after)
                // The poll contains it if that comes soon.
                .filter(|_| !self.is_woken && self.listening == Listening::On);
            tokio::select! {
                () = link.bond.wake.notified() => {
                    self.is_crowded |= self.is_woken;
                    self.is_woken = true;
                }
                () = sleep_until(next_poll) => {
                    self.is_woken = false;
                    return;
                }
                () = sleep_until(next_report.unwrap_or(next_poll)), if next_report.is_some() => {
                    self.report().await;
                }
            }
        }
    }

    async fn poll(&mut self) -> Result<Changes, StoreError> {
        // Also if this future is dropped half-way.
        self.is_live = false;
        if self.paged.is_none() {
            self.found = None;
        }
        let outcome = self.try_poll().await;
        if outcome.is_ok() {
            self.retry.succeeded();
        } else {
            // A connection that failed once is not used again. Its changes are read again from the
            // log.
            self.link = None;
            self.retry.failed();
        }
        if self.link.is_none() {
            self.paged = None;
        }
        self.is_live = outcome.is_ok();
        outcome
    }

    async fn applied(&mut self) {
        let Some(found) = self.found.take() else {
            return;
        };
        self.applied = Some(found);
        self.took_over = false;
        // Otherwise nothing was applied that others may wait for, and the next poll reports anyway.
        self.report.is_due |= self.found_news;
        if self.until_report() == Some(Duration::ZERO) {
            self.report().await;
        }
    }

    fn is_replicated_asynchronously(&self) -> bool {
        self.is_replicated_asynchronously
    }

    fn is_live(&self) -> bool {
        self.is_live && self.link.as_ref().is_some_and(|link| !link.is_closed())
    }
}

/// A connection that listens.
struct Link {
    client: Client,
    server: ServerIdentity,
    register: Statement,
    report: Statement,
    poll: Statement,
    poll_and_report: Statement,
    /// Wakes the feed when changes are announced.
    bond: Arc<Bond>,
    strays: u64,
    /// Reads and writes the connection. Aborted when dropped, without waiting for a termination
    /// message that may never arrive.
    _driver: JoinSet<()>,
}

impl Link {
    async fn open(connector: &PostgresConnector) -> Result<Self, ConnectError> {
        let bond = Arc::new(Bond::default());
        let opened = connector.connect_direct().await?;
        let client = opened.client;
        let mut driver = JoinSet::new();
        driver.spawn(drive(opened.wire, Arc::clone(&bond)));
        let server = opened.server;
        let register = register_statement();
        let poll = poll_statement();
        let poll_and_report = poll_and_report_statement();
        let listen = format!("listen {CHANNEL}");
        let life = super::life::show_statement();
        let ((), (), register, report, poll, poll_and_report) = tokio::try_join!(
            client.batch_execute(&listen),
            client.batch_execute(&life),
            client.prepare(&register),
            client.prepare(REPORT),
            client.prepare(&poll),
            client.prepare(&poll_and_report),
        )?;
        // Before the first poll, so that no record is read elsewhere after it.
        let strays = connector.followed().follow(&server, &bond);
        Ok(Self {
            client,
            server,
            register,
            report,
            poll,
            poll_and_report,
            bond,
            strays,
            _driver: driver,
        })
    }

    async fn execute(&self, statement: &str) -> Result<(), StoreError> {
        let executed = self.client.batch_execute(statement).await;
        executed.map_err(classify)
    }

    fn is_closed(&self) -> bool {
        self.bond.is_over()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.bond.end();
    }
}

/// Reports the end of a connection, however it ended.
struct Over(Arc<Bond>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn drive(mut connection: Wire, bond: Arc<Bond>) {
    let over = Over(bond);
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            over.0.wake.notify_one();
        }
    }
}

/// A lost connection, an overloaded or restarting server may recover, and so may the successor of
/// one that fails with I/O or internal errors. A missing table will not.
fn classify(error: tokio_postgres::Error) -> StoreError {
    const MAY_PASS: [&str; 8] = ["08", "25", "40", "53", "55", "57", "58", "XX"];
    match error.code() {
        Some(state) if !MAY_PASS.iter().any(|class| state.code().starts_with(class)) => {
            unexpected(error)
        }
        _ => unavailable(error),
    }
}

fn parse_changed(kind: i64, reference: Option<&str>) -> Result<Changed, StoreError> {
    let reference = reference.map(str::parse).transpose().map_err(unexpected)?;
    Ok(feed::changed(kind, reference))
}

fn unexpected(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unexpected(Box::new(error))
}
