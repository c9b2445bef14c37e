//! The connection to Redis: opened when it is first needed, and replaced when it was closed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use tokio::sync::watch;

/// Time that connecting may take. Only probes wait that long.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The current connection.
pub(crate) struct Connections {
    client: Client,
    current: RwLock<Option<Arc<Connection>>>,
}

impl Connections {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            current: RwLock::new(None),
        }
    }

    /// Returns the current connection. Starts to open one if there is none, or if the last one
    /// could not be opened.
    pub(crate) fn current(&self) -> Arc<Connection> {
        let current = self.current.read().clone();
        match current {
            Some(connection) if !connection.has_failed() => connection,
            unusable => self.instead_of(unusable.as_ref()),
        }
    }

    /// Returns the connection that replaces one that was closed. The first caller starts to open
    /// it, and all callers share it.
    pub(crate) fn instead_of(&self, closed: Option<&Arc<Connection>>) -> Arc<Connection> {
        let mut current = self.current.write();
        if let Some(connection) = &*current
            && closed.is_none_or(|closed| !Arc::ptr_eq(connection, closed))
        {
            return Arc::clone(connection);
        }
        let opening = Arc::new(Connection::open(self.client.clone()));
        Arc::clone(current.insert(opening))
    }

    /// Forgets the current connection, so that the next call opens another.
    pub(crate) fn reset(&self) {
        *self.current.write() = None;
    }
}

/// One connection. All calls share it.
pub(crate) struct Connection(watch::Receiver<Option<RedisResult<MultiplexedConnection>>>);

impl Connection {
    /// Opens a connection on a task of its own, because calls give up before a slow server has
    /// accepted one.
    fn open(client: Client) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let config = config();
            let opened = client.get_multiplexed_async_connection_with_config(&config);
            sender.send_replace(Some(opened.await));
        });
        Self(receiver)
    }

    fn has_failed(&self) -> bool {
        matches!(*self.0.borrow(), Some(Err(_)))
    }

    /// Waits until it is open.
    pub(crate) async fn opened(&self) -> RedisResult<MultiplexedConnection> {
        let mut state = self.0.clone();
        match state.wait_for(Option::is_some).await {
            Ok(opened) => opened.clone().unwrap_or_else(|| Err(closed())),
            // The runtime that was to open it has ended.
            Err(_) => Err(closed()),
        }
    }
}

fn config() -> AsyncConnectionConfig {
    // Calls that may wait in the queue.
    const LINE: usize = 1_024;
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        // Calls have their own.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(LINE)
}

fn closed() -> RedisError {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_testkit::redis::Redis;

    fn connections(redis: &Redis) -> Connections {
        Connections::new(Client::open(redis.url()).unwrap())
    }

    async fn ping(connection: &MultiplexedConnection) -> RedisResult<String> {
        let mut connection = connection.clone();
        redis::cmd("PING").query_async(&mut connection).await
    }

    #[tokio::test]
    async fn calls_share_one_connection_and_one_that_replaces_it() {
        let redis = Redis::start();
        let connections = connections(&redis);
        let first = connections.current();
        assert!(Arc::ptr_eq(&first, &connections.current()));
        first.opened().await.unwrap();

        let second = connections.instead_of(Some(&first));
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &connections.instead_of(Some(&first))));
        assert!(Arc::ptr_eq(&second, &connections.current()));
        ping(&second.opened().await.unwrap()).await.unwrap();

        connections.reset();
        assert!(!Arc::ptr_eq(&second, &connections.current()));
    }

    #[tokio::test]
    async fn connection_that_could_not_be_opened_is_replaced() {
        let mut redis = Redis::stopped();
        let connections = connections(&redis);
        let failed = connections.current();
        failed.opened().await.unwrap_err();
        redis.bring_up();
        let connection = connections.current();
        assert!(!Arc::ptr_eq(&failed, &connection));
        ping(&connection.opened().await.unwrap()).await.unwrap();
    }

    #[test]
    fn connection_that_a_runtime_did_not_open_before_its_end_is_closed() {
        let redis = Redis::start();
        let connections = connections(&redis);
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let first = runtime().block_on(async { connections.current() });
        let error = runtime().block_on(first.opened()).err().unwrap();
        assert!(error.is_connection_dropped(), "{error}");
    }
}
