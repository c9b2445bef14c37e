//! A store that fails when told to.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keys_core::pepper::PepperedDigest;
use keys_core::{Account, AccountId, Denial, EventId, KeyId, PepperId, Timestamp};
use keys_service::ports::{
    AccountPatch, AccountQuery, BoxFuture, Change, ChangeError, FoundKey, KeyOwner, KeyPage,
    KeyStore, KeyUse, NewKey, Reservation, Reserved, StoreError,
};
use keys_service::{ChangeFeed, Changes, Commit, MemoryStore, Readiness};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing can be read or written.
    Unavailable,
    /// Everything is answered with nonsense.
    Unexpected,
    /// Between authentication and change the caller's key was revoked.
    CallerRevoked,
    /// Between authentication and change the caller's account was disabled.
    CallerDisabled,
    /// Another request with the same idempotency key is being worked on.
    InFlight,
}

/// A store in memory that fails when told to. Clones are the same store.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    store: Arc<MemoryStore>,
    fault: Arc<Mutex<Option<Fault>>>,
    calls: Arc<AtomicU64>,
    feed_fails: Arc<AtomicBool>,
    feed_fault: Arc<Mutex<Option<&'static str>>>,
    is_asynchronous: Arc<AtomicBool>,
}

impl Faulty {
    pub(crate) fn fails_with(&self, fault: Fault) {
        *self
            .fault
            .lock()
            .expect("no test panics while it holds this") = Some(fault);
    }

    /// From now on nobody hears of changes.
    pub(crate) fn feed_fails(&self) {
        self.feed_fails.store(true, SeqCst);
    }

    /// From now on changes cannot be followed for this reason, or can again.
    pub(crate) fn feed_has(&self, fault: Option<&'static str>) {
        *self
            .feed_fault
            .lock()
            .expect("no test panics while it holds this") = fault;
    }

    /// Whether replicas lag behind what is acknowledged.
    pub(crate) fn replicates_asynchronously(&self, is_asynchronous: bool) {
        self.is_asynchronous.store(is_asynchronous, SeqCst);
    }

    /// How often anything was read or written.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    fn fault(&self) -> Option<Fault> {
        *self
            .fault
            .lock()
            .expect("no test panics while it holds this")
    }

    fn reads(&self) -> Result<(), StoreError> {
        self.calls.fetch_add(1, SeqCst);
        match self.fault() {
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("connection refused".into())),
            Some(Fault::Unexpected) => Err(StoreError::Unexpected("no such column".into())),
            _ => Ok(()),
        }
    }

    fn changes(&self) -> Result<(), ChangeError> {
        self.reads()?;
        match self.fault() {
            Some(Fault::CallerRevoked) => Err(ChangeError::CallerDenied(Denial::Revoked)),
            Some(Fault::CallerDisabled) => Err(ChangeError::CallerDenied(Denial::AccountDisabled)),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl KeyStore for Faulty {
    async fn find_by_digests(
        &self,
        digests: Vec<PepperedDigest>,
    ) -> Result<Vec<FoundKey>, StoreError> {
        self.reads()?;
        self.store.find_by_digests(digests).await
    }

    async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.reads()?;
        self.store.find_account(id).await
    }

    async fn accounts(&self, query: AccountQuery) -> Result<Vec<Account>, StoreError> {
        self.reads()?;
        self.store.accounts(query).await
    }

    async fn insert_account(&self, account: Account, change: Change) -> Result<(), ChangeError> {
        self.changes()?;
        self.store.insert_account(account, change).await
    }

    async fn update_account(
        &self,
        id: AccountId,
        patch: AccountPatch,
        change: Change,
    ) -> Result<(Account, Commit), ChangeError> {
        self.changes()?;
        self.store.update_account(id, patch, change).await
    }

    async fn insert_key(&self, key: NewKey, change: Change) -> Result<(), ChangeError> {
        self.changes()?;
        self.store.insert_key(key, change).await
    }

    async fn keys(&self, owner: KeyOwner, offset: u64, limit: u32) -> Result<KeyPage, StoreError> {
        self.reads()?;
        self.store.keys(owner, offset, limit).await
    }

    async fn revoke_key(
        &self,
        owner: Option<KeyOwner>,
        id: KeyId,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError> {
        self.changes()?;
        self.store.revoke_key(owner, id, change).await
    }

    async fn record_uses(&self, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError> {
        self.reads()?;
        self.store.record_uses(uses).await
    }

    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        self.reads()?;
        if self.fault() == Some(Fault::InFlight) {
            // Eight hundredths of a second less than 17.
            let until = reservation.at.saturating_add(Duration::from_millis(16_920));
            return Ok(Reserved::Pending { until });
        }
        self.store.reserve(reservation).await
    }

    async fn release(&self, lookup: [u8; 32], token: EventId) -> Result<(), StoreError> {
        self.reads()?;
        self.store.release(lookup, token).await
    }

    fn feed(&self) -> Box<dyn ChangeFeed> {
        Box::new(FaultyFeed {
            feed: self.store.feed(),
            store: self.clone(),
        })
    }

    async fn is_seen_everywhere(
        &self,
        commit: &Commit,
        silence: Duration,
    ) -> Result<bool, StoreError> {
        self.reads()?;
        self.store.is_seen_everywhere(commit, silence).await
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.store.spawn(future);
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.reads()?;
        self.store.sweep(now).await
    }

    async fn pepper_ids(&self, now: Timestamp) -> Result<Vec<PepperId>, StoreError> {
        self.reads()?;
        self.store.pepper_ids(now).await
    }

    async fn ready(&self) -> Result<Readiness, StoreError> {
        self.reads()?;
        self.store.ready().await
    }
}

struct FaultyFeed {
    feed: Box<dyn ChangeFeed>,
    store: Faulty,
}

#[async_trait]
impl ChangeFeed for FaultyFeed {
    async fn wait(&mut self) {
        self.feed.wait().await;
    }

    async fn poll(&mut self) -> Result<Changes, StoreError> {
        if self.store.fault() == Some(Fault::Unavailable) || self.store.feed_fails.load(SeqCst) {
            return Err(StoreError::Unavailable("connection refused".into()));
        }
        let fault = *self
            .store
            .feed_fault
            .lock()
            .expect("no test panics while it holds this");
        if let Some(fault) = fault {
            return Err(StoreError::Unexpected(fault.into()));
        }
        self.feed.poll().await
    }

    async fn applied(&mut self) {
        self.feed.applied().await;
    }

    fn is_replicated_asynchronously(&self) -> bool {
        self.store.is_asynchronous.load(SeqCst)
    }

    fn is_live(&self) -> bool {
        !self.store.feed_fails.load(SeqCst) && self.feed.is_live()
    }
}
