//! Reads records that the cache lacks. Concurrent misses are gathered: while a few reads are under
//! way, other misses wait for the next, and all of them share one statement.
//!
//! So every request that takes a result arrived before its read began. That makes sharing safe: a
//! result that was read before a request arrived may lack a revocation that was answered in
//! between.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use keys_core::{Denial, KeyDigest, PepperId, PepperedDigest, Plans, StoredKey};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Cache;
use super::account_marks::Mark;
use super::generations::Snapshot;
use super::lease::Nanos;
use super::map::{Digest, Found, MapKey, OUTDATED, SHARDS, Stored};
use super::outage::Outage;
use super::record::{PlanNames, Record, account_record_id, key_record_id};
use crate::clock::Clock;
use crate::ports::{FoundKey, KeyStore, StoreError};

/// Maximum concurrent reads. Few, so that they are large under load, because a statement for many
/// keys costs little more than one for one.
const READS_MAX: usize = 4;

/// Maximum keys gathered for one read. A few dozen to some hundred measured best; with more,
/// planner and latency suffer. The keys of one call are always read together.
const BATCH_MAX: usize = 256;

/// Maximum waiting requests. Further ones get the error that the database is not available, so that
/// they do not pile up.
const WAITING_MAX: usize = 8_192;

/// Time limit of a request for its read. With the rest of its work it is answered within a second.
const PATIENCE: Duration = Duration::from_millis(900);

/// Repetitions of a read because of a concurrent change. After that the row is judged without being
/// cached.
const RETRIES: u8 = 3;

/// After a reset, keys that were used recently are read again: first those used within the first
/// time, then within the second.
const USED_LATELY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];

/// Minimum pause between two reads of outdated records.
const REFRESH_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Attempts of such a read while the database is unavailable, with pauses of 20, 40, 80, .. ms.
/// After that keys are read when they are verified.
const REFRESH_ATTEMPTS: u32 = 6;

/// Result of a read.
#[derive(Debug, Clone)]
pub(crate) enum Loaded {
    Known(Box<LoadedKey>),
    Unknown,
    /// The row exists and cannot be read. Not cached: the next request reads it again, repaired or
    /// not.
    Unreadable(Denial),
}

/// A key as it was read.
#[derive(Debug, Clone)]
pub(crate) struct LoadedKey {
    pub(crate) key_id: keys_core::KeyId,
    pub(crate) record: Record,
    /// Start of the read.
    pub(crate) read_at: Nanos,
    /// It contains all changes up to here.
    pub(crate) since: Snapshot,
}

/// A digest to be looked up: the one it is cached under, and all that it may be stored under.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) cached_as: MapKey,
    pub(crate) digests: Vec<PepperedDigest>,
}

type Outcome = Result<Loaded, Arc<StoreError>>;

/// The loader, see the module.
pub(crate) struct Loader {
    store: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    cache: Arc<Cache>,
    plans: Arc<Plans>,
    plan_names: Arc<PlanNames>,
    queue: Mutex<Queue>,
    outage: Outage,
    reads: AtomicU64,
    /// Number of keys in these reads.
    keys_asked: AtomicU64,
    /// The pepper of the cache's digests.
    pepper: PepperId,
    refresh: Refresh,
}

/// State of reading outdated records again.
#[derive(Default)]
struct Refresh {
    /// Number of requests for it.
    wanted: AtomicU64,
    is_under_way: AtomicBool,
}

/// Numbers of past and current reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadState {
    /// Statements sent to the store since the start.
    pub reads: u64,
    /// Keys in these statements.
    pub keys: u64,
    /// Reads under way. They are limited on purpose.
    pub under_way: usize,
    /// Requests that wait for the next one.
    pub waiting: usize,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    reads: usize,
    calls: u64,
}

impl Queue {
    /// Takes out the requests of the next read: whole calls, up to the maximum number of keys, and
    /// at least one call.
    fn next_batch(&mut self) -> Vec<Waiting> {
        let mut count = self.waiting.len().min(BATCH_MAX);
        while let Some(next) = self.waiting.get(count)
            && next.call == self.waiting[count - 1].call
        {
            count += 1;
        }
        self.waiting.drain(..count).collect()
    }
}

/// One of the reads under way. Dropping it frees its slot, however it ends.
struct Reader<'a>(&'a Loader);

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().reads -= 1;
    }
}

struct Waiting {
    wanted: Wanted,
    /// The call of this key.
    call: u64,
    retries: u8,
    answer: oneshot::Sender<Outcome>,
}

impl Loader {
    pub(crate) fn new(
        store: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
        cache: Arc<Cache>,
        plans: Arc<Plans>,
        plan_names: Arc<PlanNames>,
        pepper: PepperId,
    ) -> Self {
        Self {
            store,
            clock,
            cache,
            plans,
            plan_names,
            queue: Mutex::default(),
            outage: Outage::default(),
            reads: AtomicU64::new(0),
            keys_asked: AtomicU64::new(0),
            pepper,
            refresh: Refresh::default(),
        }
    }

    /// Returns the state of the database, as far as reads and the feed know it.
    pub(crate) fn outage(&self) -> &Outage {
        &self.outage
    }

    pub(crate) fn state(&self) -> ReadState {
        let queue = self.queue.lock();
        ReadState {
            reads: self.reads.load(Relaxed),
            keys: self.keys_asked.load(Relaxed),
            under_way: queue.reads,
            waiting: queue.waiting.len(),
        }
    }

    /// Reads several keys, in order. All of them may share one statement. While the database is
    /// known to be unavailable, one request at a time waits for it, and the others fail at once.
    pub(crate) async fn load(
        self: &Arc<Self>,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Loaded>, StoreError> {
        let probe = if self.outage.is_known() {
            let probe = self.outage.probe();
            Some(probe.ok_or_else(|| unavailable("the database is known to be away"))?)
        } else {
            None
        };
        let loaded = self.load_now(wanted).await;
        drop(probe);
        loaded
    }

    /// Like [`load`](Self::load), for keys that were cached before an outage: while the database is
    /// known to be unavailable they fail at once, and it is tried in the background.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Loaded>, StoreError> {
        if !self.outage.is_known() {
            return self.load_now(wanted).await;
        }
        if self.outage.probe().map(std::mem::forget).is_some() {
            let loader = Arc::clone(self);
            self.store.spawn(Box::pin(async move {
                let probe = loader.outage.resume();
                // The result is recorded where the read ends.
                let _ = loader.load_now(wanted).await;
                drop(probe);
            }));
        }
        Err(unavailable("the database is known to be away"))
    }

    async fn load_now(self: &Arc<Self>, wanted: Vec<Wanted>) -> Result<Vec<Loaded>, StoreError> {
        let answers = self.enqueue(wanted)?;
        let gather = async {
            let mut loaded = Vec::with_capacity(answers.len());
            for answer in answers {
                let outcome = answer
                    .await
                    .map_err(|_| unavailable("the read was given up"))?;
                loaded.push(outcome.map_err(|error| shared(&error))?);
            }
            Ok(loaded)
        };
        tokio::time::timeout(PATIENCE, gather).await.map_err(|_| {
            self.outage.read_has(true);
            unavailable("the database took too long to answer")
        })?
    }

    fn enqueue(
        self: &Arc<Self>,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<oneshot::Receiver<Outcome>>, StoreError> {
        let mut queue = self.queue.lock();
        if queue.waiting.len() + wanted.len() > WAITING_MAX {
            return Err(unavailable("too many requests wait for the database"));
        }
        queue.calls += 1;
        let call = queue.calls;
        let mut answers = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let (answer, receiver) = oneshot::channel();
            answers.push(receiver);
            queue.waiting.push(Waiting {
                wanted,
                call,
                retries: 0,
                answer,
            });
        }
        if queue.reads < READS_MAX {
            queue.reads += 1;
            drop(queue);
            let loader = Arc::clone(self);
            self.store
                .spawn(Box::pin(async move { loader.drain().await }));
        }
        Ok(answers)
    }

    /// Reads until no request waits.
    async fn drain(&self) {
        let reader = Reader(self);
        loop {
            let batch = {
                let mut queue = self.queue.lock();
                // Requests that were dropped meanwhile are not read for.
                queue.waiting.retain(|waiting| !waiting.answer.is_closed());
                if queue.waiting.is_empty() {
                    // Under the same lock as the check, so that later requests start a reader of
                    // their own.
                    queue.reads -= 1;
                    std::mem::forget(reader);
                    return;
                }
                queue.next_batch()
            };
            self.read(batch).await;
        }
    }

    /// Reads outdated and recently used records in the background, if possible before they are
    /// verified. Earlier requests read for themselves as usual.
    ///
    /// One read at a time, of as many keys as are gathered for requests, followed by a pause as
    /// long as the read. So other reads, and other instances that do the same, have at least half
    /// of the capacity of the database.
    pub(crate) fn refresh(self: &Arc<Self>) {
        let refresh = &self.refresh;
        refresh.wanted.fetch_add(1, SeqCst);
        if refresh.is_under_way.swap(true, SeqCst) {
            return;
        }
        let loader = Arc::clone(self);
        self.store.spawn(Box::pin(async move {
            let refresh = &loader.refresh;
            loop {
                let wanted = refresh.wanted.load(SeqCst);
                loader.refresh_once(wanted).await;
                if refresh.wanted.load(SeqCst) != wanted {
                    continue;
                }
                refresh.is_under_way.store(false, SeqCst);
                // A request between the last check and this one found a load under way.
                if refresh.wanted.load(SeqCst) == wanted || refresh.is_under_way.swap(true, SeqCst)
                {
                    return;
                }
            }
        }));
    }

    /// Goes over the cache once for each [`USED_LATELY`], until another refresh is requested.
    async fn refresh_once(&self, wanted: u64) {
        for lately in USED_LATELY {
            let mut batch = Vec::with_capacity(BATCH_MAX);
            for shard in 0..SHARDS {
                let now = super::lease::nanos(self.clock.elapsed());
                let lately = super::lease::nanos(lately);
                let used = |record: &Record| record.was_used(now, lately);
                for key in self.cache.keys.outdated(shard, used) {
                    batch.push(key);
                    if batch.len() == BATCH_MAX && !self.refresh_batch(&mut batch, wanted).await {
                        return;
                    }
                }
            }
            if !self.refresh_batch(&mut batch, wanted).await {
                return;
            }
        }
    }

    /// Reads some keys again, and returns whether to continue.
    async fn refresh_batch(&self, batch: &mut Vec<MapKey>, wanted: u64) -> bool {
        // Some have been read for requests since they were listed.
        let keys = batch.drain(..).filter_map(|key| {
            self.cache.keys.visit(&key, |found| match found {
                Found::Known(hit) if hit.read_at == OUTDATED => {
                    let stored_as = hit.value.stored_as().unwrap_or(PepperedDigest {
                        pepper: self.pepper,
                        digest: KeyDigest::from_bytes(key.digest),
                    });
                    Some((key, stored_as))
                }
                Found::Known(_) | Found::Tombstone | Found::Nothing => None,
            })
        });
        let keys: Vec<_> = keys.collect();
        for attempt in 0..REFRESH_ATTEMPTS {
            if keys.is_empty() {
                return true;
            }
            if self.refresh.wanted.load(SeqCst) != wanted {
                return false;
            }
            let began = self.clock.elapsed();
            let wanted = keys.iter().map(|(key, stored_as)| Waiting {
                wanted: Wanted {
                    cached_as: *key,
                    digests: vec![*stored_as],
                },
                call: 0,
                // Concurrent changes are read when their keys are verified.
                retries: RETRIES,
                answer: oneshot::channel().0,
            });
            let is_read = self.read(wanted.collect()).await;
            let took = self.clock.elapsed().saturating_sub(began);
            if is_read {
                tokio::time::sleep(took.clamp(REFRESH_PAUSE_MIN, PATIENCE)).await;
                return true;
            }
            tokio::time::sleep(REFRESH_PAUSE_MIN * (20 << attempt)).await;
        }
        false
    }

    /// Reads and answers, and returns whether the database answered.
    async fn read(&self, batch: Vec<Waiting>) -> bool {
        // Both before the read is sent. Otherwise a change in between would be missed.
        let read_at = super::lease::nanos(self.clock.elapsed());
        let since = self.cache.keys.snapshot();
        let made: HashMap<Digest, _> = batch
            .iter()
            .map(|waiting| {
                let digest = waiting.wanted.cached_as.digest;
                (digest, self.cache.unknown.made(&digest))
            })
            .collect();
        let mut digests: Vec<_> = batch
            .iter()
            .flat_map(|waiting| waiting.wanted.digests.iter().copied())
            .collect();
        digests.sort_unstable_by(|a, b| a.digest.as_bytes().cmp(b.digest.as_bytes()));
        digests.dedup();

        self.reads.fetch_add(1, Relaxed);
        self.keys_asked.fetch_add(made.len() as u64, Relaxed);
        let rows = match self.store.find_by_digests(digests).await {
            Ok(rows) => {
                self.outage.read_has(false);
                rows
            }
            Err(error) => {
                if matches!(error, StoreError::Unavailable(_)) {
                    self.outage.read_has(true);
                }
                let error = Arc::new(error);
                for waiting in batch {
                    let _ = waiting.answer.send(Err(Arc::clone(&error)));
                }
                return false;
            }
        };
        let by_digest = |found: FoundKey| (*found.digest.digest.as_bytes(), found);
        let rows: HashMap<Digest, FoundKey> = rows.into_iter().map(by_digest).collect();
        let mut again = Vec::new();
        for waiting in batch {
            let row = waiting.wanted.digests.iter().find_map(|digest| {
                let found = rows.get(digest.digest.as_bytes())?;
                (found.digest == *digest).then_some(found)
            });
            let MapKey { digest, .. } = &waiting.wanted.cached_as;
            let Some(found) = row else {
                self.cache.unknown.remember(digest, read_at, made[digest]);
                let removed = self.cache.keys.remove(&waiting.wanted.cached_as);
                self.cache.take_uses(removed);
                let _ = waiting.answer.send(Ok(Loaded::Unknown));
                continue;
            };
            let stored = match &found.stored {
                Ok(stored) => stored,
                Err(unreadable) => {
                    let denial = unreadable.denial();
                    let _ = waiting.answer.send(Ok(Loaded::Unreadable(denial)));
                    continue;
                }
            };
            let key = &waiting.wanted.cached_as;
            let (loaded, kept) = self.keep(key, &found.digest, stored, read_at, since);
            if kept || waiting.retries >= RETRIES {
                let _ = waiting.answer.send(Ok(Loaded::Known(Box::new(loaded))));
            } else {
                again.push(Waiting {
                    retries: waiting.retries + 1,
                    ..waiting
                });
            }
        }
        if !again.is_empty() {
            self.queue.lock().waiting.extend(again);
        }
        true
    }

    /// Remembers that a key was read as revoked outside of this loader.
    pub(crate) fn keep_revoked(&self, key: &MapKey, kept_as: &PepperedDigest, stored: &StoredKey) {
        let read_at = super::lease::nanos(self.clock.elapsed());
        let since = self.cache.keys.snapshot();
        self.keep(key, kept_as, stored, read_at, since);
    }

    /// Stores a loaded key in the cache, and returns whether that was possible.
    fn keep(
        &self,
        key: &MapKey,
        kept_as: &PepperedDigest,
        stored: &StoredKey,
        read_at: Nanos,
        since: Snapshot,
    ) -> (LoadedKey, bool) {
        let account_id = stored.account.as_ref().map(|account| account.id);
        let depends_on = account_id.map(account_record_id);
        // Before the generations are compared, which happens as the record is stored.
        let mark = account_id.map_or(Mark::default(), |id| self.cache.accounts.mark(id));
        let (plans, names) = (&self.plans, &self.plan_names);
        let stored_as = (*kept_as.digest.as_bytes() != key.digest).then_some(*kept_as);
        let mut record = Record::new(stored, mark, stored_as, plans, names);
        if self.cache.acknowledged.contains(stored.key.id) {
            // If the database says otherwise, it has lost the revocation in a failover.
            record = record.into_revoked();
        }
        let id = key_record_id(stored);
        if record.is_revoked() {
            // A concurrent verdict, by a load that read the key before it was revoked, must find
            // that it no longer holds. The map itself lets no older load replace a revoked record.
            self.cache.keys.bump(&id);
        }
        let stored_in_cache = self.cache.keys.store(
            key,
            id,
            depends_on.as_slice(),
            record.clone(),
            read_at,
            since,
        );
        let kept = match stored_in_cache {
            Stored::Yes(evicted) => {
                self.cache.take_uses(evicted);
                true
            }
            Stored::Changed => false,
            // This instance has read that the key is revoked. If the database says otherwise, it
            // has lost the revocation by a failover or by a restored backup, and is not believed.
            Stored::Final => {
                record = record.into_revoked();
                true
            }
        };
        let loaded = LoadedKey {
            key_id: stored.key.id,
            record,
            read_at,
            since,
        };
        (loaded, kept)
    }
}

fn unavailable(why: &'static str) -> StoreError {
    StoreError::Unavailable(why.into())
}

/// One failed read fails several requests, and errors cannot be cloned.
fn shared(error: &Arc<StoreError>) -> StoreError {
    match **error {
        StoreError::Unavailable(_) => StoreError::Unavailable(Box::new(Shared(Arc::clone(error)))),
        StoreError::Unexpected(_) => StoreError::Unexpected(Box::new(Shared(Arc::clone(error)))),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a read for several requests failed")]
struct Shared(#[source] Arc<StoreError>);
