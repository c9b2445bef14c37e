//! A store that fails on request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keys_core::{Denial, ExceededBound};
use keys_service::MemoryStore;
use keys_service::ports::{
    ChangeError, ChangeFeed, ChangeLog as _, Changes, Idempotency as _, KeyStore, Reservation,
    Reserved, StoreError,
};
use keys_testkit::store::{Overrides, TestStore};

/// A fault of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing can be read or written.
    Unavailable,
    /// Every operation fails with an unexpected error.
    Unexpected,
    /// The caller's key was revoked between authentication and change.
    CallerRevoked,
    /// The caller's account was disabled between authentication and change.
    CallerDisabled,
    /// The caller's key was given an earlier expiry between authentication and change.
    CallerRestricted,
    /// Another request with the same idempotency key is under way.
    InFlight,
}

/// A store in memory that fails on request. Clones are the same store.
pub(crate) type Faulty = TestStore<Faults>;

/// The faults of a [`Faulty`] store.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    store: Arc<MemoryStore>,
    fault: Arc<Mutex<Option<Fault>>>,
    calls: Arc<AtomicU64>,
    feed_fails: Arc<AtomicBool>,
    feed_fault: Arc<Mutex<Option<&'static str>>>,
    is_asynchronous: Arc<AtomicBool>,
}

impl Faults {
    pub(crate) fn fails_with(&self, fault: Fault) {
        *self
            .fault
            .lock()
            .expect("no test panics while it holds this") = Some(fault);
    }

    /// From now on no feed receives changes.
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

    /// Sets whether replicas lag behind acknowledged changes.
    pub(crate) fn replicates_asynchronously(&self, is_asynchronous: bool) {
        self.is_asynchronous.store(is_asynchronous, SeqCst);
    }

    /// Returns the number of reads and writes for requests. Upkeep runs at times of its own.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    fn fault(&self) -> Option<Fault> {
        *self
            .fault
            .lock()
            .expect("no test panics while it holds this")
    }
}

#[async_trait]
impl Overrides for Faults {
    fn store(&self) -> &dyn KeyStore {
        &*self.store
    }

    async fn before_read(&self) -> Result<(), StoreError> {
        self.calls.fetch_add(1, SeqCst);
        self.before_upkeep().await
    }

    async fn before_upkeep(&self) -> Result<(), StoreError> {
        match self.fault() {
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("connection refused".into())),
            Some(Fault::Unexpected) => Err(StoreError::Unexpected("no such column".into())),
            _ => Ok(()),
        }
    }

    async fn before_change(&self) -> Result<(), ChangeError> {
        self.before_read().await?;
        match self.fault() {
            Some(Fault::CallerRevoked) => Err(ChangeError::CallerDenied(Denial::Revoked)),
            Some(Fault::CallerDisabled) => Err(ChangeError::CallerDenied(Denial::AccountDisabled)),
            Some(Fault::CallerRestricted) => {
                Err(ChangeError::ExceedsCaller(ExceededBound::ExpiresAt))
            }
            _ => Ok(()),
        }
    }

    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        if self.fault() == Some(Fault::InFlight) {
            // Eight hundredths of a second less than 17.
            let until = reservation.at.saturating_add(Duration::from_millis(16_920));
            return Ok(Reserved::Pending { until });
        }
        self.store.reserve(reservation).await
    }

    fn feed(&self) -> Box<dyn ChangeFeed> {
        Box::new(FaultyFeed {
            feed: self.store.feed(),
            faults: self.clone(),
        })
    }
}

struct FaultyFeed {
    feed: Box<dyn ChangeFeed>,
    faults: Faults,
}

#[async_trait]
impl ChangeFeed for FaultyFeed {
    async fn wait(&mut self) {
        self.feed.wait().await;
    }

    async fn poll(&mut self) -> Result<Changes, StoreError> {
        if self.faults.fault() == Some(Fault::Unavailable) || self.faults.feed_fails.load(SeqCst) {
            return Err(StoreError::Unavailable("connection refused".into()));
        }
        let fault = *self
            .faults
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
        self.faults.is_asynchronous.load(SeqCst)
    }

    fn is_live(&self) -> bool {
        !self.faults.feed_fails.load(SeqCst) && self.feed.is_live()
    }
}
