//! Telling other instances at once that something has changed.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection as _;
use keys_service::ports::{POLL_INTERVAL, StoreError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::connection::{Connection, Pools};
use crate::postgres::CHANNEL;

/// At most one wake-up in this time; the first is sent at once. Those who are woken poll every 42 ms at most, so more of them would
/// only cost each instance and its server process. Inside each transaction, `NOTIFY` would halve the throughput of changes (measured: 6,227
/// to 3,110 a second), because PostgreSQL lets one such transaction commit at a time.
const PAUSE: Duration = Duration::from_millis(20);

/// How long one wake-up may take. Later, it comes no earlier than the next poll of those it is for.
const PATIENCE: Duration = POLL_INTERVAL;

/// Sends wake-ups after changes, from a task of its own that ends when the last clone is gone.
#[derive(Clone)]
pub(crate) struct Waker(mpsc::Sender<()>);

impl Waker {
    /// To be called on the store's runtime.
    pub(crate) fn new(pools: Pools) -> Self {
        // One that waits to be sent says as much as many.
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while receiver.recv().await.is_some() {
                // One that is lost costs others the time until their next poll, and nothing else.
                let _ = timeout(PATIENCE, notify(&pools)).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self(sender)
    }

    /// Something has been committed.
    pub(crate) fn wake(&self) {
        // Full: one is about to be sent that covers this one, too.
        let _ = self.0.try_send(());
    }
}

async fn notify(pools: &Pools) -> Result<(), StoreError> {
    if let Connection::Postgres(mut lease) = pools.read().await? {
        let statement = format!("notify {CHANNEL}");
        let outcome = lease.enter().batch_execute(&statement).await;
        lease.leave(outcome)?;
    }
    Ok(())
}
