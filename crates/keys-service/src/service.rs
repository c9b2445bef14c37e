//! The handle of the service, and its builder.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use keys_core::{AccountId, EventId, KeyId, LimitName, PepperRing, PlanName, Plans, Timestamp};
use parking_lot::Mutex;
use rand_core::CryptoRng;

use crate::actor::Actor;
use crate::cache::loader::{Loader, ReadState};
use crate::cache::record::PlanNames;
use crate::cache::{Cache, CacheOptions, lease};
use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, EntropyError};
use crate::limiter::LocalLimiter;
use crate::ports::{
    Change, ChangeFeed, Changed, Changes, Completion, KeyStore, LimiterState, RateLimiter,
    Readiness, StoreError,
};
use crate::setters::setters;
use crate::usage::{self, Unwritten, Used};

/// Issues, lists, authenticates and revokes keys. Cheap to clone; all clones are the same service.
///
/// ```
/// use keys_core::{Pepper, PepperRing, ScopeSet};
/// use keys_service::{Actor, KeyDraft, KeyService, MemoryStore, NewAccount, Requirement};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // In production: `Pepper::from_base64(&secret_from_your_vault)?`.
/// let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
/// let peppers = PepperRing::new("p1".parse()?, pepper);
/// let service = KeyService::builder(MemoryStore::default(), peppers).build();
///
/// let system = Actor::system();
/// let account = service
///     .create_account(&system, NewAccount::new("pro".parse()?))
///     .await?;
/// let draft = KeyDraft::new(account.id, "sk_live".parse()?);
/// let issued = service.issue_key(&system, draft).await?;
///
/// // Later, in a request that presents the key:
/// let identity = service
///     .authenticate(issued.secret.expose(), None, &Requirement::account_key())
///     .await?;
/// assert_eq!(identity.key.id, issued.key.id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KeyService {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn KeyStore>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) loader: Arc<Loader>,
    pub(crate) grace: Duration,
    pub(crate) peppers: PepperRing,
    pub(crate) plans: Arc<Plans>,
    pub(crate) plan_names: Arc<PlanNames>,
    pub(crate) limiter: Arc<dyn RateLimiter>,
    /// The name of the limit that failed authentications count against.
    pub(crate) unauthenticated: LimitName,
    pub(crate) clock: Arc<dyn Clock>,
    entropy: Entropy,
    /// State of the feed after its last turn.
    is_listening: AtomicBool,
    is_replicated_asynchronously: AtomicBool,
    /// Reason why changes cannot be followed, unless the store is unavailable.
    following_fault: Mutex<Option<String>>,
    /// Held while uses are written.
    flushing: tokio::sync::Mutex<()>,
    /// Age of the oldest row of the log of changes, after the last sweep.
    oldest_change: Mutex<Option<Duration>>,
    /// Plans of accounts that are not configured, each reported once.
    missing_plans: Mutex<HashSet<PlanName>>,
}

impl KeyService {
    /// Interval of writing uses of keys: `last_used_at` lags by at most this, and a crash loses at
    /// most this.
    pub const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

    /// Starts building a service over `store`, with digests under `peppers`.
    pub fn builder(store: impl KeyStore, peppers: PepperRing) -> KeyServiceBuilder {
        KeyServiceBuilder {
            store: Arc::new(store),
            cache: CacheOptions::default(),
            grace: Duration::ZERO,
            peppers,
            plans: Plans::documented(),
            limiter: None,
            clock: Arc::new(SystemClock),
            entropy: Entropy::system(),
        }
    }

    /// Returns the configured plans.
    #[must_use]
    pub fn plans(&self) -> &Plans {
        &self.inner.plans
    }

    /// Returns the size of the cache, and how far it is behind.
    #[must_use]
    pub fn cache_state(&self) -> CacheState {
        let inner = &*self.inner;
        let (entries, bytes) = inner.cache.keys.size();
        let elapsed = lease::nanos(inner.clock.elapsed());
        CacheState {
            entries,
            bytes,
            behind: inner
                .cache
                .lease
                .synced_at()
                .map(|synced_at| Duration::from_nanos(elapsed.saturating_sub(synced_at))),
            is_listening: inner.is_listening.load(Ordering::Relaxed),
            is_replicated_asynchronously: inner
                .is_replicated_asynchronously
                .load(Ordering::Relaxed),
        }
    }

    /// Returns the reason why changes cannot be followed although the store answers. `None` if they
    /// can, or the store is unavailable. Retrying does not help: an operator has to repair it.
    #[must_use]
    pub fn following_fault(&self) -> Option<String> {
        self.inner.following_fault.lock().clone()
    }

    /// Returns the numbers of reads of verification from the store.
    #[must_use]
    pub fn read_state(&self) -> ReadState {
        self.inner.loader.state()
    }

    /// Returns the limiter that decides at the moment.
    #[must_use]
    pub fn limiter_state(&self) -> LimiterState {
        self.inner.limiter.state()
    }

    /// Returns the requests decided by the fallback instead of the primary limiter, since start.
    #[must_use]
    pub fn limiter_undecided_total(&self) -> u64 {
        self.inner.limiter.undecided_total()
    }

    /// Checks that the store can be used, and returns whether it accepts changes.
    ///
    /// # Errors
    /// If it cannot be reached, or its schema is missing.
    pub async fn ready(&self) -> Result<Readiness, StoreError> {
        self.inner.store.ready().await
    }

    /// Returns peppers of usable keys that the ring lacks. Those keys cannot be found.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn missing_peppers(&self) -> Result<Vec<keys_core::PepperId>, StoreError> {
        let known: HashSet<_> = self.inner.peppers.ids().copied().collect();
        let used = self.inner.store.pepper_ids(self.now()).await?;
        Ok(used.into_iter().filter(|id| !known.contains(id)).collect())
    }

    /// Writes the uses gathered since the last time. If the store is unavailable, or if this is
    /// dropped half-way, they are kept for the next time. A batch whose result is unknown is
    /// written again, so counts are never too low. Uses of keys whose rows are locked by others are
    /// kept for the next time as well.
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn flush_uses(&self) -> Result<(), StoreError> {
        let inner = &*self.inner;
        // One at a time: at a stop, the last waits for the one under way.
        let _turn = inner.flushing.lock().await;
        let mut unwritten = Unwritten::new(Vec::new(), &inner.cache.uses);
        for uses in inner.cache.collect_uses() {
            unwritten.extend(uses);
            while unwritten.batch(USES_PER_BATCH).len() == USES_PER_BATCH {
                self.write_batch(&mut unwritten).await?;
            }
        }
        self.write_batch(&mut unwritten).await
    }

    async fn write_batch(&self, unwritten: &mut Unwritten<'_>) -> Result<(), StoreError> {
        let batch = usage::dated(unwritten.batch(USES_PER_BATCH), &*self.inner.clock);
        if batch.is_empty() {
            return Ok(());
        }
        let count = batch.len();
        let skipped = self.inner.store.record_uses(batch).await?;
        unwritten.written(count, &skipped);
        Ok(())
    }

    /// Writes the last uses before the program ends. Small batches, several concurrently: one that
    /// fails or takes long, for example because of a lock, loses only its own. Retries until all
    /// are written, so give it a time limit. Afterwards [`unwritten_uses`](Self::unwritten_uses)
    /// returns the number that is lost.
    pub async fn flush_last_uses(&self) {
        const PAUSE: Duration = Duration::from_millis(100);
        const BATCHES_AT_ONCE: usize = 4;
        /// How often the log tells at most that it fails.
        const TOLD_EVERY: Duration = Duration::from_secs(1);
        let inner = &*self.inner;
        let _turn = inner.flushing.lock().await;
        let mut told_at = None;
        loop {
            let uses: Vec<_> = inner.cache.collect_uses().flatten().collect();
            let batches: Vec<_> = uses
                .chunks(LAST_USES_PER_BATCH)
                .map(|batch| Unwritten::new(batch.to_vec(), &inner.cache.uses))
                .collect();
            let writes = batches
                .into_iter()
                .map(|mut unwritten| async move { self.write_batch(&mut unwritten).await.err() });
            let failures: Vec<StoreError> = futures_util::stream::iter(writes)
                .buffer_unordered(BATCHES_AT_ONCE)
                .filter_map(std::future::ready)
                .collect()
                .await;
            let now = inner.clock.elapsed();
            if let Some(error) = failures.first()
                && told_at.is_none_or(|told_at| now >= told_at + TOLD_EVERY)
            {
                told_at = Some(now);
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "some of the last uses of keys could not be written and are tried again"
                );
            }
            if inner.cache.uses.keys() == 0 {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the number of keys that have left the cache, or whose uses were to be written, and
    /// whose uses are not written yet.
    #[must_use]
    pub fn unwritten_uses(&self) -> usize {
        self.inner.cache.uses.keys()
    }

    /// Returns the number of uses that were dropped since the start, because those of too many keys
    /// waited to be written.
    #[must_use]
    pub fn uses_dropped_total(&self) -> u64 {
        self.inner.cache.uses.dropped_total()
    }

    /// Returns the age of the oldest row of the log of changes after the last sweep. `None` if the
    /// log was empty.
    #[must_use]
    pub fn oldest_change(&self) -> Option<Duration> {
        *self.inner.oldest_change.lock()
    }

    /// Follows the changes of others, and runs periodic work: writes uses, removes full buckets,
    /// deletes expired idempotent answers. Never ends: run it on a task of its own, on a runtime
    /// with several threads, and call [`flush_uses`](Self::flush_uses) once more at the end.
    ///
    /// Without it every verification asks the database, because changes would be missed.
    pub async fn maintain(&self) {
        tokio::join!(self.follow_changes(), self.keep_house(), self.sweep());
    }

    async fn keep_house(&self) {
        let mut ticks = tokio::time::interval(Self::FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut dropped_before = 0;
        loop {
            ticks.tick().await;
            if let Err(error) = self.flush_uses().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "uses of keys could not be written and are kept for the next time"
                );
            }
            let dropped = self.uses_dropped_total();
            if dropped > dropped_before {
                tracing::error!(
                    "{} uses of keys were dropped, because those of too many keys wait to be written",
                    dropped - dropped_before
                );
            }
            dropped_before = dropped;
        }
    }

    /// Deletes old rows, on a task of its own, because it may take some seconds, and writing uses
    /// must not wait.
    async fn sweep(&self) {
        const INTERVAL: Duration = Duration::from_mins(1);
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.inner.limiter.sweep();
            if let Err(error) = self.inner.store.sweep(self.now()).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a sweep of old rows was not finished and goes on in a minute"
                );
            }
            if let Ok(oldest) = self.inner.store.oldest_change().await {
                *self.inner.oldest_change.lock() = oldest;
            }
        }
    }

    /// Follows the changes of others, for ever. Without it nothing is served from the cache.
    async fn follow_changes(&self) {
        let inner = &*self.inner;
        let mut feed = inner.store.feed();
        let mut was_live = true;
        loop {
            feed.wait().await;
            // Before the poll is sent, because commits after this moment may be missing from its
            // answer.
            let began = lease::nanos(inner.clock.elapsed());
            match self.poll(&mut *feed).await {
                Ok(has_taken_over) => {
                    let heard_at = inner.cache.lease.heard_at();
                    inner.cache.lease.extend(began);
                    feed.applied().await;
                    if has_taken_over && let Some(heard_at) = heard_at {
                        self.replay_revocations(heard_at);
                    }
                    *inner.following_fault.lock() = None;
                    if !was_live {
                        tracing::info!("changes are followed again");
                    }
                    was_live = true;
                }
                Err(error) => {
                    let is_new_fault = self.note_fault(&error);
                    if was_live || is_new_fault {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "changes cannot be followed: the database is asked for every key until they can"
                        );
                    }
                    was_live = false;
                }
            }
            inner.is_listening.store(feed.is_live(), Ordering::Relaxed);
            let is_asynchronous = feed.is_replicated_asynchronously();
            let was_asynchronous = inner
                .is_replicated_asynchronously
                .swap(is_asynchronous, Ordering::Relaxed);
            if is_asynchronous && !was_asynchronous {
                tracing::warn!(
                    "the database acknowledges changes before a replica has them: a failover loses the last changes, revocations \
                     included. Set synchronous_standby_names on the primary"
                );
            }
            inner.loader.outage().feed_is(feed.is_live());
        }
    }

    /// Records why changes cannot be followed, and returns whether that is a new fault that does
    /// not pass by itself. While there is one, the log may be incomplete, so earlier polls are not
    /// trusted either.
    fn note_fault(&self, error: &StoreError) -> bool {
        let inner = &*self.inner;
        let mut fault = inner.following_fault.lock();
        if matches!(error, StoreError::Unavailable(_)) {
            *fault = None;
            return false;
        }
        inner.cache.lease.distrust();
        let said = keys_core::chain(error);
        let is_new = fault.as_ref() != Some(&said);
        *fault = Some(said);
        is_new
    }

    /// Applies the changes of one poll, page by page, and returns whether another server has taken
    /// over.
    async fn poll(&self, feed: &mut dyn ChangeFeed) -> Result<bool, StoreError> {
        loop {
            let changes = feed.poll().await?;
            self.apply(&changes);
            if !changes.more {
                return Ok(changes.took_over);
            }
            // Between pages, requests that share this thread get their turn.
            tokio::task::yield_now().await;
        }
    }

    fn apply(&self, changes: &Changes) {
        let cache = &self.inner.cache;
        let mut reset = changes.reset;
        let mut accounts = HashSet::new();
        for changed in &changes.changed {
            match *changed {
                Changed::Key(id) => cache.key_changed(id),
                Changed::Account(id) => {
                    accounts.insert(id);
                }
                Changed::Everything => reset = true,
            }
        }
        if reset {
            cache.everything_changed();
        } else if accounts.len() > ACCOUNTS_ONE_BY_ONE {
            cache.accounts_changed(&accounts);
        } else {
            for id in &accounts {
                cache.account_changed(*id);
            }
        }
        if reset || accounts.len() > ACCOUNTS_ONE_BY_ONE {
            self.inner.loader.refresh();
        }
    }

    /// Returns the time of the service's clock, by which statuses are judged.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(crate) fn entropy(&self) -> Entropy {
        self.inner.entropy.clone()
    }

    pub(crate) fn event_id(&self, at: Timestamp) -> Result<EventId, EntropyError> {
        EventId::generate(at, &mut self.entropy())
    }

    pub(crate) fn change(
        &self,
        by: &Actor,
        at: Timestamp,
        completion: Option<Completion>,
    ) -> Result<Change, EntropyError> {
        Ok(Change {
            at,
            event_id: self.event_id(at)?,
            authority: by.authority.clone(),
            completion,
            reason: None,
        })
    }

    pub(crate) fn record_use(&self, key_id: KeyId) {
        let now = lease::nanos(self.inner.clock.elapsed());
        self.inner.cache.uses.record(Used::once(key_id, now));
    }

    /// Returns whether any plan has a limit of that name. Another one would have no effect.
    pub(crate) fn is_known_limit(&self, name: &LimitName) -> bool {
        let mut plans = self.inner.plans.iter();
        plans.any(|(_, plan)| plan.limits.contains_key(name))
    }

    /// Returns the first of these names that no plan has.
    pub(crate) fn unknown_limit<'a>(
        &self,
        names: impl IntoIterator<Item = &'a LimitName>,
    ) -> Option<LimitName> {
        let mut names = names.into_iter();
        names.find(|name| !self.is_known_limit(name)).cloned()
    }

    /// Logs each plan of accounts that is not configured, once.
    pub(crate) fn note_missing_plan(&self, account: AccountId, plan: &PlanName) {
        if self.inner.plans.find(plan).is_none()
            && self.inner.missing_plans.lock().insert(plan.clone())
        {
            tracing::warn!(
                account.id = %account,
                plan = %plan,
                "account {account} is on plan {plan}, which is not configured: accounts on it are treated as without keys"
            );
        }
    }
}

impl fmt::Debug for KeyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyService")
            .field("peppers", &self.inner.peppers)
            .finish_non_exhaustive()
    }
}

/// Maximum grace: beyond five minutes a missed revocation is worse than an outage.
pub const GRACE_MAX: Duration = Duration::from_mins(5);

/// Accounts of one poll that are recorded one by one. Each also outdates the keys of one in 65,536
/// other accounts, which is negligible for a few. For more it is cheaper to examine every record in
/// the cache.
const ACCOUNTS_ONE_BY_ONE: usize = 256;

/// Uses written in one transaction: enough to be fast, few enough for a store's time limits.
const USES_PER_BATCH: usize = 10_000;

/// The same at the end of the program, where each must be done within a second or two.
const LAST_USES_PER_BATCH: usize = 1_000;

/// Size of the cache of a [`KeyService`], and how far it is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheState {
    /// Keys.
    pub entries: usize,
    /// Bytes they take beside their fixed part.
    pub bytes: usize,
    /// Time since all changes were last known. `None` as long as no changes are followed. Beyond
    /// [`REVOCATION_BOUND`](crate::ports::REVOCATION_BOUND) the cache is not used.
    pub behind: Option<Duration>,
    /// Whether changes were followed over a working connection at the last turn. While they are
    /// not, the cache is used until it is too far behind, and then the database is asked for every
    /// key.
    pub is_listening: bool,
    /// Whether the database has replicas and acknowledges changes before any of them has them. A
    /// failover then loses the last changes.
    pub is_replicated_asynchronously: bool,
}

/// Builds a [`KeyService`]. All defaults are suitable for production.
#[must_use]
pub struct KeyServiceBuilder {
    store: Arc<dyn KeyStore>,
    cache: CacheOptions,
    grace: Duration,
    peppers: PepperRing,
    plans: Plans,
    limiter: Option<Arc<dyn RateLimiter>>,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
}

impl KeyServiceBuilder {
    setters! {
        /// Sets the plans. Defaults to those of [`Plans::documented`].
        plans: Plans,
        /// Sets the limiter. Defaults to one that counts inside this process.
        limiter: Arc<dyn RateLimiter>,
        /// Sets the maximum size of the cache. Defaults to 1,000,000 keys and 256 MiB beside them.
        cache: CacheOptions,
    }

    /// Sets the time for which verification accepts keys that were valid at the last sync while the
    /// database is unavailable. Defaults to zero, at most [`GRACE_MAX`]. Such answers are marked as
    /// stale.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(GRACE_MAX);
        self
    }

    /// Sets the clock. Defaults to that of the operating system.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the source of secrets. Defaults to that of the operating system. For tests that must be
    /// repeatable.
    pub fn rng(mut self, rng: impl CryptoRng + Send + 'static) -> Self {
        self.entropy = Entropy::from_rng(rng);
        self
    }

    /// Builds the service.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "a constant name is legal")]
    pub fn build(self) -> KeyService {
        let limiter = self
            .limiter
            .unwrap_or_else(|| Arc::new(LocalLimiter::new(Arc::clone(&self.clock))));
        let plans = Arc::new(self.plans);
        let plan_names = Arc::new(PlanNames::new(&plans));
        let cache = Arc::new(Cache::new(self.cache, Arc::clone(&self.clock)));
        let loader = Arc::new(Loader::new(
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
            Arc::clone(&cache),
            Arc::clone(&plans),
            Arc::clone(&plan_names),
            self.peppers.current_id(),
        ));
        KeyService {
            inner: Arc::new(Inner {
                store: self.store,
                cache,
                loader,
                grace: self.grace,
                peppers: self.peppers,
                plans,
                plan_names,
                limiter,
                unauthenticated: "unauthenticated".parse().expect("the name is legal"),
                clock: self.clock,
                entropy: self.entropy,
                is_listening: AtomicBool::new(false),
                is_replicated_asynchronously: AtomicBool::new(false),
                following_fault: Mutex::default(),
                flushing: tokio::sync::Mutex::default(),
                oldest_change: Mutex::default(),
                missing_plans: Mutex::default(),
            }),
        }
    }
}
