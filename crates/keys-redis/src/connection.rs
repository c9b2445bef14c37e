//! The connection to Redis: opened when it is first needed, and replaced when it was closed.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisError, RedisResult};
use tokio::sync::watch;

/// Time that connecting may take. Only probes wait that long.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Time without an answer after which a call first checks that its connection is still open. Few
/// answers of a healthy server take longer, and the rest of the 20 ms that calls have by default is
/// enough to connect and ask again.
const SILENCE: Duration = Duration::from_millis(5);

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

/// Waits for the answer to `call`, which sends its requests on this connection. Fails if the
/// connection is closed, even if `call` never ends.
///
/// The client does not tell every call that its connection was closed. When the connection ends,
/// the client closes its queue of requests and empties it. A request that got its place before, and
/// is put there after, is neither sent nor dropped (tokio-rs/tokio#7714). So a call without an
/// answer sends another request, which fails at once if the queue is closed. If the queue is open,
/// the request of the call will be sent or dropped.
pub(crate) async fn answer<T>(
    mut connection: MultiplexedConnection,
    call: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    let mut call = pin!(call);
    let mut silence = SILENCE;
    loop {
        if let Ok(answered) = tokio::time::timeout(silence, &mut call).await {
            return answered;
        }
        tokio::select! {
            biased;
            answered = &mut call => return answered,
            checked = check(&mut connection) => checked?,
        }
        // A call may consist of several requests.
        silence *= 2;
    }
}

/// Fails if the connection is closed. Waits for no answer.
async fn check(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let mut time = Cmd::new();
    // A command that the user of the script may call.
    time.arg("TIME").set_no_response(true);
    connection.send_packed_command(&time).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use keys_testkit::redis::Redis;
    use std::time::Instant;

    const SOON: Duration = Duration::from_secs(5);

    async fn until_closed(connection: &MultiplexedConnection) {
        let mut connection = connection.clone();
        let start = Instant::now();
        while check(&mut connection).await.is_ok() {
            assert!(start.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn connections(redis: &Redis) -> Connections {
        Connections::new(Client::open(redis.url()).unwrap())
    }

    async fn ping(connection: &MultiplexedConnection) -> RedisResult<String> {
        let mut own = connection.clone();
        let call = async move { redis::cmd("PING").query_async(&mut own).await };
        answer(connection.clone(), call).await
    }

    #[tokio::test]
    async fn call_that_is_never_answered_ends_when_the_connection_is_closed() {
        let redis = Redis::start();
        let connection = connections(&redis).current().opened().await.unwrap();
        let never = std::future::pending::<RedisResult<()>>();
        let waiting = tokio::spawn(answer(connection.clone(), never));
        tokio::time::sleep(SILENCE * 4).await;
        assert!(!waiting.is_finished(), "the connection is open");
        assert_eq!(ping(&connection).await.unwrap(), "PONG");

        redis.command("CLIENT KILL TYPE normal");
        until_closed(&connection).await;
        let ended = tokio::time::timeout(SOON, waiting).await;
        let error = ended.unwrap().unwrap().unwrap_err();
        assert!(error.is_connection_dropped(), "{error}");
        // Also if it was closed before.
        let never = std::future::pending::<RedisResult<()>>();
        let ended = tokio::time::timeout(SOON, answer(connection, never)).await;
        assert!(ended.unwrap().unwrap_err().is_connection_dropped());
    }

    #[tokio::test]
    async fn slow_answer_is_waited_for_through_the_checks() {
        let redis = Redis::start();
        let connection = connections(&redis).current().opened().await.unwrap();
        redis.pause();
        let waiting = {
            let connection = connection.clone();
            tokio::spawn(async move { ping(&connection).await })
        };
        // Several checks.
        tokio::time::sleep(SILENCE * 20).await;
        assert!(!waiting.is_finished());
        redis.resume();
        assert_eq!(waiting.await.unwrap().unwrap(), "PONG");
        // No answer is taken for that of another request.
        assert_eq!(ping(&connection).await.unwrap(), "PONG");
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
