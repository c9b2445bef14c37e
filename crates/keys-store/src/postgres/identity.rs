//! The identity of the server of a connection.
//!
//! Transaction numbers and snapshots are valid only in the cluster, on the timeline and since the
//! start of the server that assigned them. Each new connection therefore reads these three once and
//! stores them as the session's setting [`keys.log`](SETTING). Statements that compare positions
//! compare that setting as well.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::ConnectError;

/// The setting of each session that contains [`ServerIdentity::log`].
pub(super) const SETTING: &str = "keys.log";

/// The identifier that `initdb` gave the cluster. A dump does not copy it; a base backup and a
/// restored volume do.
const SYSTEM: &str = "(select system_identifier::text from pg_control_system())";

/// The timeline, from the name of the current WAL file. `pg_control_checkpoint()` lags a promotion
/// by up to a checkpoint (measured: 21 s).
const TIMELINE: &str = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";

/// Start time of the server, in microseconds. A restored volume keeps the cluster's identifier and
/// timeline, but its server is started again.
const STARTED: &str = "(extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text";

/// Placeholder for a part that the server does not tell.
const UNTOLD: &str = "-";

/// The server at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    /// `None` if the server does not tell.
    system: Option<u64>,
    /// `None` if the server does not tell.
    timeline: Option<u32>,
    /// In microseconds. `None` if the server does not tell.
    started: Option<u64>,
    /// See [`log`](Self::log).
    log: String,
}

impl ServerIdentity {
    /// Reads the identity and stores it as the session's setting [`SETTING`].
    pub(crate) async fn read(client: &Client) -> Result<Self, ConnectError> {
        let all = format!(
            "select set_config('{SETTING}', concat_ws('/', {SYSTEM}, {TIMELINE}, {STARTED}), false)"
        );
        match first_column(client, &all).await {
            Ok(log) => Self::parse(&log),
            Err(error) if is_refused(&error) => Self::read_parts(client).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Some managed offers do not have these functions, or do not allow them to ordinary roles.
    async fn read_parts(client: &Client) -> Result<Self, ConnectError> {
        let mut parts = Vec::new();
        for part in [SYSTEM, TIMELINE, STARTED] {
            parts.push(
                match first_column(client, &format!("select {part}")).await {
                    Ok(text) => text,
                    Err(error) if is_refused(&error) => UNTOLD.to_owned(),
                    Err(error) => return Err(error.into()),
                },
            );
        }
        let mut identity = Self::parse(&parts.join("/"))?;
        let log = identity.log.clone();
        identity.keep(client, log).await?;
        Ok(identity)
    }

    /// Stores `log`, which the parser has accepted, as the session's setting [`SETTING`].
    pub(super) async fn keep(
        &mut self,
        client: &Client,
        log: String,
    ) -> Result<(), tokio_postgres::Error> {
        // The parser accepts only digits, hexadecimal digits, dashes and slashes.
        let set = format!("select set_config('{SETTING}', '{log}', false)");
        first_column(client, &set).await?;
        self.log = log;
        Ok(())
    }

    fn parse(log: &str) -> Result<Self, ConnectError> {
        let unexpected = || format!("the server says that it is {log:?}");
        let parts: Vec<&str> = log.split('/').collect();
        let [system, timeline, started] = parts[..] else {
            return Err(unexpected().into());
        };
        let number = |text: &str, radix| {
            if text == UNTOLD {
                Ok(None)
            } else {
                u64::from_str_radix(text, radix)
                    .map(Some)
                    .map_err(|_| unexpected())
            }
        };
        let timeline = number(timeline, 16)?;
        Ok(Self {
            system: number(system, 10)?,
            timeline: timeline
                .map(u32::try_from)
                .transpose()
                .map_err(|_| unexpected())?,
            started: number(started, 10)?,
            log: log.to_owned(),
        })
    }

    /// Returns the identity of the log of changes: the value of [`SETTING`] in this session. On a
    /// pooled connection it is that of the feed's session, which may see more or less of the
    /// server.
    pub(crate) fn log(&self) -> &str {
        &self.log
    }

    /// Returns whether `self` and `other` may be one server: the parts that both have are equal.
    /// Roles of different rights see different parts.
    fn may_be(&self, other: &Self) -> bool {
        fn agree<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        agree(self.system, other.system)
            && agree(self.timeline, other.timeline)
            && agree(self.started, other.started)
    }

    /// Returns whether `self` took over from `other`: a later timeline of the same cluster.
    pub(crate) fn took_over_from(&self, other: &Self) -> bool {
        self.system.is_some()
            && self.system == other.system
            && other.timeline.is_some()
            && self.timeline > other.timeline
    }

    /// Returns the guarantees that are lost because the server does not tell part of its identity.
    pub(crate) fn lost_guarantees(&self) -> impl Iterator<Item = &'static str> {
        let system = self.system.is_none().then_some(
            "the server does not tell its system identifier (pg_control_system) to the role of `database.url` or `database.direct_url`: \
             after a move to another cluster, revocations are followed only if the server's start time or its transaction numbers give it \
             away. Stop all instances before you move the database",
        );
        let timeline = self.timeline.is_none().then_some(
            "the server does not tell its timeline (pg_walfile_name) to the role of `database.url` or `database.direct_url`: after a \
             failover, connections to the old primary are not refused. Make sure that the old primary is fenced",
        );
        system.into_iter().chain(timeline)
    }
}

/// Returns the identity of a log as a number, to be stored with the number of a transaction.
pub(super) fn log_number(log: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    log.hash(&mut hasher);
    hasher.finish()
}

/// Returns the first column of the only row.
async fn first_column(client: &Client, sql: &str) -> Result<String, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or(UNTOLD).to_owned())
}

/// Returns whether the server refused to tell: insufficient privilege, no such function, feature
/// not supported, and the errors of managed offers in their place. A server in recovery (55000) is
/// a replica, which must not be used at all.
fn is_refused(error: &tokio_postgres::Error) -> bool {
    const REFUSALS: [&str; 4] = ["42", "0A", "P0", "XX"];
    error
        .code()
        .is_some_and(|state| REFUSALS.iter().any(|class| state.code().starts_with(class)))
}

/// Number of clusters that are remembered. A store is connected to one, and to another one after a
/// move.
const CLUSTERS_MAX: usize = 16;

/// The servers that this store has been connected to.
#[derive(Debug, Default)]
pub(crate) struct Servers(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The highest timeline of each cluster by its system identifier, the least recently seen
    /// first.
    timelines: VecDeque<(u64, u32)>,
    /// Lost guarantees that have been logged.
    lost: Vec<&'static str>,
}

impl Servers {
    /// Records a connection to `server`.
    ///
    /// # Errors
    /// Refuses a server on an earlier timeline than one that was seen: an old primary that was not
    /// fenced.
    pub(crate) fn admit(&self, server: &ServerIdentity) -> Result<(), ConnectError> {
        let mut seen = self.0.lock();
        if let (Some(system), Some(timeline)) = (server.system, server.timeline) {
            seen.note_timeline(system, timeline)?;
        }
        for lost in seen.lost_anew(server) {
            tracing::warn!("{lost}");
        }
        Ok(())
    }
}

impl Seen {
    /// Returns the guarantees that are lost with `server` and with none before. The roles of two
    /// URLs may see different parts.
    fn lost_anew(&mut self, server: &ServerIdentity) -> Vec<&'static str> {
        let mut lost: Vec<_> = server.lost_guarantees().collect();
        lost.retain(|one| !self.lost.contains(one));
        self.lost.extend(&lost);
        lost
    }

    fn note_timeline(&mut self, system: u64, timeline: u32) -> Result<(), ConnectError> {
        let timelines = &mut self.timelines;
        let place = timelines.iter().position(|(known, _)| *known == system);
        let known = place.and_then(|place| timelines.remove(place));
        let latest = known.map_or(timeline, |(_, latest)| latest.max(timeline));
        if timelines.len() >= CLUSTERS_MAX {
            timelines.pop_front();
        }
        timelines.push_back((system, latest));
        if latest > timeline {
            return Err(format!(
                "the server is on timeline {timeline}, but timeline {latest} of the same cluster has been in use: \
                 this is an old primary, stop it"
            )
            .into());
        }
        Ok(())
    }
}

/// Time limit of a new pooled connection to another server than the feed's for the feed to
/// reconnect.
const AGREEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Error of a pooled connection that leads to another server than the one whose changes are
/// followed. A record that is read there must not be cached, because its changes would be missed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the connection leads to another server than the one whose changes are followed (cluster/timeline/start is {server}, followed is \
     {followed}); make sure that `database.url` and `database.direct_url` lead to one primary only"
)]
pub(crate) struct Elsewhere {
    server: String,
    followed: String,
}

/// Whether the connection of a feed is still in use.
#[derive(Debug, Default)]
pub(super) struct Bond {
    is_over: AtomicBool,
    /// Wakes the feed.
    pub(super) wake: Notify,
}

impl Bond {
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Makes the feed reconnect.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.wake.notify_one();
    }
}

/// The server whose changes are followed. Pooled connections have to lead to it as well.
#[derive(Debug, Default)]
pub(super) struct Followed {
    state: Mutex<Following>,
    /// Number of moves of the feed to another log.
    moves: AtomicU64,
    /// Notified when the feed has connected.
    connected: Notify,
}

#[derive(Debug, Default)]
struct Following {
    /// The last one.
    server: Option<ServerIdentity>,
    bond: Weak<Bond>,
    /// Number of uses of a pooled connection to another server while none was followed.
    strays: u64,
}

impl Following {
    fn is_live(&self) -> bool {
        self.bond.upgrade().is_some_and(|bond| !bond.is_over())
    }
}

impl Followed {
    /// Records that the feed is connected to `server` from now on, for as long as `bond` holds.
    /// Pooled connections to other servers are not used any more.
    ///
    /// Returns a number that differs from the previous one if connections to other servers were
    /// used since: records read over them must be read again.
    pub(super) fn follow(&self, server: &ServerIdentity, bond: &Arc<Bond>) -> u64 {
        let mut state = self.state.lock();
        let before = state.server.replace(server.clone());
        if before.is_none_or(|before| before.log != server.log) {
            self.moves.fetch_add(1, Ordering::Release);
        }
        state.bond = Arc::downgrade(bond);
        let strays = state.strays;
        drop(state);
        self.connected.notify_waiters();
        strays
    }

    /// Returns whether a pooled connection to `server` may be used now. While no changes are
    /// followed, records are not served from memory, and any server is allowed. One that has
    /// another log than the feed is not allowed, even if it may be the same server, because its
    /// transaction numbers would not be understood.
    pub(super) fn admit(&self, server: &ServerIdentity) -> bool {
        let mut state = self.state.lock();
        if state
            .server
            .as_ref()
            .is_none_or(|followed| followed.log == server.log)
        {
            return true;
        }
        if state.is_live() {
            return false;
        }
        state.strays += 1;
        true
    }

    /// Returns the number of moves of the feed to another log. Read it before a connection is
    /// admitted, and pass it to [`has_left`](Self::has_left) after a commit on it.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Acquire)
    }

    /// Returns whether the feed has moved on from `server`, which was admitted after `moves`. A
    /// commit there may be lost, because an old primary that is not fenced yet still acknowledges
    /// commits.
    pub(super) fn has_left(&self, server: &ServerIdentity, moves: u64) -> bool {
        // It rarely moves, so this is one read of memory.
        if self.moves() == moves {
            return false;
        }
        let state = self.state.lock();
        state
            .server
            .as_ref()
            .is_some_and(|followed| !followed.may_be(server))
    }

    /// Returns the log for a new pooled connection to `server`. `None` if it may not be used now.
    fn admit_new(&self, server: &ServerIdentity) -> Option<String> {
        let followed = self.state.lock().server.clone();
        if let Some(followed) = followed.filter(|followed| followed.may_be(server)) {
            return Some(followed.log);
        }
        self.admit(server).then(|| server.log.clone())
    }

    /// Makes the feed reconnect if it follows another server than `server`: one of the two
    /// connections leads to an old primary, or to one that is gone. Returns the log for the
    /// connection.
    pub(super) async fn agree(&self, server: &ServerIdentity) -> Result<String, Elsewhere> {
        let deadline = Instant::now() + AGREEMENT_TIMEOUT;
        let connected = self.connected.notified();
        tokio::pin!(connected);
        connected.as_mut().enable();
        if let Some(log) = self.admit_new(server) {
            return Ok(log);
        }
        if let Some(bond) = self.state.lock().bond.upgrade() {
            tracing::warn!(
                "a new connection leads to another server than the one whose changes are followed: the feed connects anew"
            );
            bond.end();
        }
        // If the feed cannot connect, no changes are followed, and nothing is served from memory.
        let _ = timeout_at(deadline, connected).await;
        if let Some(log) = self.admit_new(server) {
            return Ok(log);
        }
        let followed = self.state.lock().server.clone();
        Err(Elsewhere {
            server: server.log.clone(),
            followed: followed.map(|followed| followed.log).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(log: &str) -> ServerIdentity {
        ServerIdentity::parse(log).unwrap()
    }

    #[test]
    fn identities_are_read_and_what_is_none_is_refused() {
        let identity = server("7714058709807327365/0000000A/1764532800000000");
        assert_eq!(identity.system, Some(7_714_058_709_807_327_365));
        assert_eq!(identity.timeline, Some(10));
        assert_eq!(identity.lost_guarantees().count(), 0);
        let untold = server("-/-/1764532800000000");
        assert_eq!((untold.system, untold.timeline), (None, None));
        assert_eq!(untold.lost_guarantees().count(), 2);
        for bad in ["", "-", "1/2", "1/2/3/4", "x/1/1", "1/1FFFFFFFF/1", "1/1/'"] {
            assert!(ServerIdentity::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn servers_on_an_earlier_timeline_are_refused_and_other_clusters_are_not() {
        let servers = Servers::default();
        servers.admit(&server("7/00000002/1")).unwrap();
        servers.admit(&server("7/00000002/2")).unwrap();
        servers.admit(&server("7/00000003/1")).unwrap();
        let refused = servers.admit(&server("7/00000002/2")).unwrap_err();
        assert!(refused.to_string().contains("timeline 2"), "{refused}");
        servers.admit(&server("7/00000003/5")).unwrap();
        servers.admit(&server("8/00000001/1")).unwrap();
    }

    #[test]
    fn parts_that_one_side_is_not_told_are_equal_to_anything() {
        let told = server("7/00000002/1");
        for same in [
            "7/00000002/1",
            "-/00000002/1",
            "7/-/1",
            "7/00000002/-",
            "-/-/1",
            "-/-/-",
        ] {
            let same = server(same);
            assert!(told.may_be(&same) && same.may_be(&told), "{same:?}");
        }
        for other in [
            "8/00000002/1",
            "7/00000003/1",
            "7/00000002/2",
            "-/-/2",
            "8/-/-",
            "-/00000003/-",
        ] {
            let other = server(other);
            assert!(!told.may_be(&other) && !other.may_be(&told), "{other:?}");
        }
        assert!(server("7/-/1").may_be(&server("-/00000002/1")));
    }

    #[test]
    fn each_lost_guarantee_is_told_once_whichever_role_loses_it() {
        let mut seen = Seen::default();
        let mut lost = |log: &str| seen.lost_anew(&server(log)).concat();
        assert_eq!(lost("7/00000002/1"), "");
        assert!(lost("7/-/1").contains("pg_walfile_name"));
        let system = lost("-/-/1");
        assert!(system.contains("pg_control_system") && !system.contains("pg_walfile_name"));
        assert_eq!(lost("-/-/1"), "");
    }

    #[tokio::test]
    async fn new_connections_keep_the_log_of_the_feed_and_old_ones_without_it_are_not_used() {
        let (told, untold) = (server("7/00000002/1"), server("-/-/1"));
        for (pooled, feeds) in [(&told, &untold), (&untold, &told)] {
            let followed = Followed::default();
            assert_eq!(followed.agree(pooled).await.unwrap(), pooled.log);
            let bond = Arc::new(Bond::default());
            followed.follow(feeds, &bond);
            assert!(!followed.admit(pooled));
            assert_eq!(followed.agree(pooled).await.unwrap(), feeds.log);
            assert!(followed.admit(feeds));
            assert!(!bond.is_over());
        }
    }

    #[test]
    fn server_is_left_when_the_feed_has_moved_on_to_another_one_since() {
        let (old, new) = (server("7/00000002/1"), server("7/00000003/2"));
        let bond = Arc::new(Bond::default());
        let followed = Followed::default();
        let moves = followed.moves();
        assert!(!followed.has_left(&old, moves));
        followed.follow(&old, &bond);
        assert!(!followed.has_left(&old, moves));
        // A connection to the new server that was admitted while none was followed.
        bond.end();
        let moves = followed.moves();
        assert!(followed.admit(&new));
        assert!(!followed.has_left(&new, moves));
        followed.follow(&new, &Arc::new(Bond::default()));
        assert!(!followed.has_left(&new, moves));
        // Also when the new one is lost.
        assert!(followed.has_left(&old, moves));
        // The same server as another role sees it.
        followed.follow(&server("-/-/2"), &bond);
        assert!(!followed.has_left(&new, moves));
    }

    #[test]
    fn old_primary_is_refused_also_after_other_clusters_were_seen() {
        let servers = Servers::default();
        servers.admit(&server("7/00000002/1")).unwrap();
        for system in 100..100 + u64::try_from(CLUSTERS_MAX).unwrap() - 1 {
            let other = server(&format!("{system}/00000009/1"));
            servers.admit(&other).unwrap();
            servers.admit(&server("-/-/1")).unwrap();
            servers.admit(&server("7/-/1")).unwrap();
        }
        servers.admit(&server("7/00000001/1")).unwrap_err();
        servers.admit(&server("7/00000002/1")).unwrap();
        // Of that many clusters, the least recently seen one is forgotten.
        servers.admit(&server("99/00000001/1")).unwrap();
        servers.admit(&server("7/00000001/1")).unwrap_err();
        servers.admit(&server("100/00000008/1")).unwrap();
        servers.admit(&server("102/00000008/1")).unwrap_err();
    }

    #[test]
    fn only_a_later_timeline_of_the_same_cluster_has_taken_over() {
        let before = server("7/00000002/1");
        assert!(server("7/00000003/9").took_over_from(&before));
        for other in [
            "7/00000002/9",
            "7/00000001/9",
            "8/00000003/9",
            "7/-/9",
            "-/00000003/9",
        ] {
            assert!(!server(other).took_over_from(&before), "{other}");
        }
        assert!(!server("-/00000003/9").took_over_from(&server("-/00000002/1")));
        assert!(!server("7/00000003/9").took_over_from(&server("7/-/1")));
    }

    #[tokio::test]
    async fn while_one_server_is_followed_no_other_one_is_used() {
        let (one, other) = (server("7/00000002/1"), server("8/00000001/1"));
        let followed = Followed::default();
        assert!(followed.admit(&other));
        let bond = Arc::new(Bond::default());
        let strays = followed.follow(&one, &bond);
        assert!(followed.admit(&one) && !followed.admit(&other));
        followed.agree(&one).await.unwrap();
        assert!(!bond.is_over());

        // A connection to another one makes the feed reconnect, which decides.
        let bond = {
            let anew = Arc::new(Bond::default());
            let (agreed, _) = tokio::join!(followed.agree(&other), async {
                bond.wake.notified().await;
                assert!(bond.is_over());
                followed.follow(&one, &anew)
            });
            assert!(agreed.unwrap_err().to_string().contains("another server"));
            anew
        };
        assert_eq!(followed.follow(&one, &bond), strays);

        // If it cannot, none is followed, and the next one that is gets the number.
        followed.agree(&other).await.unwrap();
        assert!(bond.is_over());
        assert!(followed.follow(&one, &Arc::new(Bond::default())) > strays);
    }
}
