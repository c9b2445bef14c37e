//! Wake-ups of other instances after a change.

use std::time::Duration;

use diesel_async::SimpleAsyncConnection as _;
use keys_service::ports::{POLL_INTERVAL, StoreError};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::connection::{Connection, Pools};
use crate::postgres::CHANNEL;

/// Minimum interval of wake-ups. The first is sent at once. Woken instances poll every 42 ms at
/// most, so more wake-ups would only cost each instance and its server process. Inside each
/// transaction, `NOTIFY` would halve the throughput of changes (measured: 6,227 to 3,110 a second),
/// because PostgreSQL lets one such transaction commit at a time.
const PAUSE: Duration = Duration::from_millis(20);

/// Time limit of one wake-up. A later one would arrive no earlier than the next poll of its
/// receivers.
const PATIENCE: Duration = POLL_INTERVAL;

/// Sends wake-ups after changes, from a task of its own that ends when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Waker(mpsc::Sender<()>);

impl Waker {
    /// Starts the task. Call it on the store's runtime.
    pub(crate) fn new(pools: Pools) -> Self {
        // One waiting wake-up has the same effect as many.
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while receiver.recv().await.is_some() {
                // A lost wake-up costs others the time until their next poll, and nothing else.
                let _ = timeout(PATIENCE, notify(&pools)).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self(sender)
    }

    /// Sends a wake-up after a commit.
    pub(crate) fn wake(&self) {
        // Full: a waiting wake-up covers this change, too.
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
