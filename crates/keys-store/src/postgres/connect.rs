//! Connections to PostgreSQL: the host, the settings, and whether the server may be used.
//!
//! Every connection of the store is made here, and every new one passes [`Facts::check`] before it
//! is used.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use keys_core::chain;
use tokio::time::{sleep, timeout};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{
    AsyncMessage, CancelToken, Client, Connection, NoTls, SimpleQueryMessage, Socket,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::feed;
use super::identity::{Elsewhere, Followed, ServerIdentity, Servers};
use crate::error::ConnectError;
use crate::feed::CONNECT_TIMEOUT;
use crate::options::StoreOptions;
use crate::tls::{self, TlsError};
use crate::url::{self, PassfileError, PostgresHost, PostgresLocation};

/// Lets only one instance migrate at a time. An arbitrary number ("keysmigr" in ASCII) that no
/// other program should use.
const MIGRATION_LOCK: i64 = 0x6b65_7973_6d69_6772;

/// Time limit of waiting for another instance that is migrating.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_mins(1);

/// Time limit of a migration for a lock on a table. Every read queues behind it meanwhile, so it
/// gives up soon and retries.
const TABLE_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Time of silence of a host after which the next one is tried as well. Long enough for a healthy
/// server far away, and short enough to write again within a second of a failover while the old
/// primary is stopped and answers nothing.
const NEXT_HOST_AFTER: Duration = Duration::from_millis(250);

/// Time limit of cancelling a statement on the server.
const CANCEL_TIMEOUT: Duration = Duration::from_millis(500);

/// The only encoding of a database that this program works with.
const ENCODING: &str = "UTF8";

/// The query on a new connection, in this order of columns.
const FACTS: &str = "select pg_catalog.pg_is_in_recovery(), pg_catalog.getdatabaseencoding(), \
                     pg_catalog.pg_backend_pid()";

/// Creates connections.
pub(crate) struct PostgresConnector {
    /// Route of pooled connections.
    pooled: Route,
    /// Route of the feed and migrations, if it differs.
    direct: Option<Route>,
    session: Session,
    listening: Session,
    servers: Servers,
    followed: Followed,
}

/// A route to a database.
struct Route {
    location: PostgresLocation,
    tls: Option<MakeRustlsConnect>,
    /// The host of the last successful connection, which is tried first.
    last_good: AtomicUsize,
}

/// Settings of connections for one purpose.
struct Session {
    /// Appended to the application name.
    name_suffix: &'static str,
    /// Time limit of connecting, over all hosts.
    timeout: Duration,
    /// Time limits of the system that override the URL. `None` uses those of the URL, or these as
    /// defaults.
    keep_alive: Option<Duration>,
    user_timeout: Duration,
    is_user_timeout_fixed: bool,
    /// Settings that override those of the URL.
    settings: Vec<(&'static str, String)>,
}

/// Properties of a server on a new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    is_standby: bool,
    encoding: String,
    /// The process of the server that serves this connection.
    pub(crate) backend: i32,
}

/// Reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectFailure {
    #[error("the server refused the connection or cannot be reached")]
    Driver(#[source] tokio_postgres::Error),
    #[error(
        "the server asks for a client certificate: add `sslcert` and `sslkey` to the URL, with the paths of the certificate and of its \
         private key"
    )]
    ClientCertificate(#[source] tokio_postgres::Error),
    #[error("the connection could not be set up")]
    SetUp(#[source] diesel::ConnectionError),
    #[error("the server did not answer in time")]
    Timeout,
    #[error("the server is a standby, which cannot be used: it may not know of a revocation yet")]
    Standby,
    #[error(
        "the database is encoded in {0}, and this program needs UTF8; \
         create another one with `create database .. encoding 'UTF8' template template0`"
    )]
    Encoding(String),
    #[error("the server said something unexpected about itself")]
    Facts,
    #[error("the server is not one that may be used")]
    Identity(#[source] ConnectError),
    #[error(transparent)]
    Elsewhere(#[from] Elsewhere),
    #[error(transparent)]
    Passfile(#[from] PassfileError),
    #[error("none of the hosts can be used: {}", Listed(.0))]
    Hosts(Vec<(String, ConnectFailure)>),
}

/// Failures of several hosts, with their causes.
struct Listed<'a>(&'a [(String, ConnectFailure)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (host, failure)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{host}: {}", chain(failure))?;
        }
        Ok(())
    }
}

impl ConnectFailure {
    /// Returns whether a server has no connection left for this role.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Driver(error) => error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS),
            Self::Hosts(failures) => failures.iter().any(|(_, failure)| failure.is_full()),
            _ => false,
        }
    }
}

type RustlsConnection = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The half of a connection that reads and writes, while it is polled.
pub(super) enum Wire {
    Plain(Box<Connection<Socket, tokio_postgres::tls::NoTlsStream>>),
    Tls(Box<RustlsConnection>),
}

impl Wire {
    /// See [`Connection::poll_message`].
    pub(super) fn poll_message(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> {
        match self {
            Self::Plain(connection) => connection.poll_message(context),
            Self::Tls(connection) => connection.poll_message(context),
        }
    }

    /// Drives the connection until `work` is done.
    async fn drive<T>(
        &mut self,
        work: impl Future<Output = Result<T, ConnectFailure>>,
    ) -> Result<T, ConnectFailure> {
        let over = async {
            // Notices are not used yet.
            while let Some(message) = poll_fn(|context| self.poll_message(context)).await {
                message?;
            }
            Ok::<(), tokio_postgres::Error>(())
        };
        tokio::pin!(work);
        tokio::select! {
            biased;
            outcome = &mut work => outcome,
            ended = over => match ended {
                Err(error) => Err(ConnectFailure::Driver(error)),
                // The driver reports the closed connection to `work`.
                Ok(()) => work.await,
            },
        }
    }
}

/// A connection that is set up and checked.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) wire: Wire,
    pub(super) facts: Facts,
    pub(super) server: ServerIdentity,
}

/// A connection for the pool.
pub(crate) struct Pooled {
    pub(crate) connection: AsyncPgConnection,
    pub(crate) facts: Facts,
    pub(super) server: ServerIdentity,
    /// See [`Followed::moves`].
    pub(super) moves: u64,
}

impl PostgresConnector {
    pub(crate) fn new(
        location: &PostgresLocation,
        options: &StoreOptions,
    ) -> Result<Self, TlsError> {
        let hosts = u32::try_from(location.hosts.len()).unwrap_or(u32::MAX);
        let timeout = location
            .connect_timeout
            .map_or(options.connect_timeout, |each| each.saturating_mul(hosts));
        // Detects a peer that vanished instead of waiting for it. The system counts whole seconds.
        let silence_max = options.operation_timeout.max(Duration::from_secs(1));
        let session = Session {
            name_suffix: "",
            timeout,
            keep_alive: None,
            user_timeout: silence_max,
            is_user_timeout_fixed: false,
            settings: vec![
                ("statement_timeout", millis(options.statement_timeout)),
                (
                    "idle_in_transaction_session_timeout",
                    millis(options.operation_timeout),
                ),
                ("synchronous_commit", "on".to_owned()),
                // A statement that waited for a lock must see the commits made meanwhile,
                // independent of the defaults of the role or the database.
                ("default_transaction_isolation", "read committed".to_owned()),
                // Plans statements once for each connection, not once for each execution. By
                // default the server plans a look-up of few keys each time, because it expects a
                // list of unknown length to be longer, and that costs more than the look-up. Sweeps
                // are planned for their parameters: see `plan_each_time`.
                ("plan_cache_mode", "force_generic_plan".to_owned()),
            ],
        };
        let listening = Session {
            name_suffix: " feed",
            timeout: CONNECT_TIMEOUT,
            keep_alive: Some(feed::KEEP_ALIVE),
            user_timeout: feed::USER_TIMEOUT,
            is_user_timeout_fixed: true,
            // The position of an instance is useless after a crash, so it does not wait for the
            // disk. However large the planner believes the log to be, new changes are read through
            // the index, one row after the other, and without compiling the statement first.
            settings: vec![
                ("statement_timeout", millis(feed::STATEMENT_TIMEOUT)),
                ("synchronous_commit", "off".to_owned()),
                ("enable_seqscan", "off".to_owned()),
                ("enable_bitmapscan", "off".to_owned()),
                ("jit", "off".to_owned()),
                ("plan_cache_mode", "force_generic_plan".to_owned()),
            ],
        };
        Ok(Self {
            pooled: Route::new(location)?,
            direct: None,
            session,
            listening,
            servers: Servers::default(),
            followed: Followed::default(),
        })
    }

    /// Returns the time limit of establishing a connection of the pool.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.session.timeout
    }

    /// Connects the feed and migrations to `location`, to bypass a pooler.
    pub(crate) fn direct(mut self, location: &PostgresLocation) -> Result<Self, TlsError> {
        self.direct = Some(Route::new(location)?);
        Ok(self)
    }

    /// Returns a connection for the pool, to the server whose changes are followed.
    pub(crate) async fn connect(&self) -> Result<Pooled, ConnectFailure> {
        let mut opened = self.pooled.connect(&self.session, &self.servers).await?;
        let moves = self.followed.moves();
        let log = self.followed.agree(&opened.server).await?;
        if log != opened.server.log() {
            timeout(self.session.timeout, opened.keep(log))
                .await
                .map_err(|_| ConnectFailure::Timeout)??;
        }
        opened.pooled(moves).await
    }

    /// Returns the server whose changes are followed, and whether it still is.
    pub(super) fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Connects as the feed would. The connection has to be driven.
    pub(super) async fn connect_direct(&self) -> Result<Opened, ConnectFailure> {
        self.direct_route()
            .connect(&self.listening, &self.servers)
            .await
    }

    /// Returns whether a pooled connection may be used now.
    pub(super) fn may_use(&self, pooled: &mut Pooled) -> bool {
        pooled.moves = self.followed.moves();
        self.followed.admit(&pooled.server)
    }

    /// Returns whether the feed has moved to another server since `pooled` was taken into use.
    pub(super) fn has_left(&self, pooled: &Pooled) -> bool {
        self.followed.has_left(&pooled.server, pooled.moves)
    }

    /// Returns a connection for the pool whose other half has to be driven.
    pub(super) async fn connect_raw(&self) -> Result<Opened, ConnectFailure> {
        self.pooled.connect(&self.session, &self.servers).await
    }

    /// Returns a connection that alone may migrate, as long as it is open.
    pub(crate) async fn connect_to_migrate(&self) -> Result<AsyncPgConnection, ConnectError> {
        let opened = self
            .direct_route()
            .connect(&self.session, &self.servers)
            .await?;
        let mut connection = opened.pooled(self.followed.moves()).await?.connection;
        let set_up = format!(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = {}; \
             select pg_advisory_lock({MIGRATION_LOCK}); set lock_timeout = {}",
            MIGRATION_LOCK_TIMEOUT.as_millis(),
            TABLE_LOCK_TIMEOUT.as_millis()
        );
        connection.batch_execute(&set_up).await?;
        Ok(connection)
    }

    /// Requests that the server cancel the statement on a pooled connection.
    pub(crate) async fn cancel(&self, token: &CancelToken) {
        let cancelled = async {
            match &self.pooled.tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => token.cancel_query(tls.clone()).await,
            }
        };
        // If the request is lost, the statement ends by its own time limit.
        let _ = timeout(CANCEL_TIMEOUT, cancelled).await;
    }

    /// Returns whether the feed and migrations use another route than pooled connections.
    pub(super) fn has_direct_route(&self) -> bool {
        self.direct.is_some()
    }

    fn direct_route(&self) -> &Route {
        self.direct.as_ref().unwrap_or(&self.pooled)
    }
}

impl Route {
    fn new(location: &PostgresLocation) -> Result<Self, TlsError> {
        let tls = match location.config.get_ssl_mode() {
            SslMode::Disable => None,
            SslMode::Prefer => Some(tls::opportunistic(&location.tls)?),
            _ => Some(tls::verified(&location.tls)?),
        };
        Ok(Self {
            location: location.clone(),
            tls: tls.map(MakeRustlsConnect::new),
            last_good: AtomicUsize::new(0),
        })
    }

    async fn connect(
        &self,
        session: &Session,
        servers: &Servers,
    ) -> Result<Opened, ConnectFailure> {
        timeout(session.timeout, self.first_of_all(session, servers))
            .await
            .map_err(|_| ConnectFailure::Timeout)?
    }

    /// Tries the hosts one after the other, without waiting for a silent one before the next is
    /// tried as well. The driver would wait: its own time limit ends with the TCP handshake, which
    /// a stopped process completes too. While one is silent, those that refused are asked again,
    /// because one of them may be promoted.
    async fn first_of_all(
        &self,
        session: &Session,
        servers: &Servers,
    ) -> Result<Opened, ConnectFailure> {
        let mut waiting = self.order().into_iter();
        let mut attempts = FuturesUnordered::new();
        // The first attempts that have not ended.
        let mut silent = 0_usize;
        let mut failures = BTreeMap::new();
        let attempt = |index: usize, pause: Duration| async move {
            sleep(pause).await;
            let host = &self.location.hosts[index];
            let outcome = self.open(host, session, servers).await;
            (index, pause.is_zero(), outcome)
        };
        loop {
            if silent == 0 {
                let Some(index) = waiting.next() else {
                    let mut failures: Vec<_> = failures.into_values().collect();
                    return Err(match failures.pop() {
                        Some((_, failure)) if failures.is_empty() => failure,
                        last => {
                            failures.extend(last);
                            ConnectFailure::Hosts(failures)
                        }
                    });
                };
                silent += 1;
                attempts.push(attempt(index, Duration::ZERO));
            }
            tokio::select! {
                Some((index, is_first, outcome)) = attempts.next() => {
                    silent -= usize::from(is_first);
                    match outcome {
                        Ok(opened) => {
                            self.last_good.store(index, Ordering::Relaxed);
                            return Ok(opened);
                        }
                        Err(failure) => {
                            failures.insert(index, (name(&self.location.hosts[index]), failure));
                            attempts.push(attempt(index, NEXT_HOST_AFTER));
                        }
                    }
                }
                () = sleep(NEXT_HOST_AFTER), if waiting.len() > 0 => {
                    silent += waiting.len().min(1);
                    attempts.extend(waiting.next().map(|index| attempt(index, Duration::ZERO)));
                }
            }
        }
    }

    /// Returns the hosts in the order of the attempts.
    fn order(&self) -> Vec<usize> {
        let count = self.location.hosts.len();
        let mut order: Vec<usize> = (0..count).collect();
        if self.location.random_order {
            // The seeds of hash maps are random enough.
            let seed = RandomState::new();
            order.sort_by_cached_key(|index| seed.hash_one(index));
        } else {
            let first = self.last_good.load(Ordering::Relaxed).min(count - 1);
            order[..=first].rotate_right(1);
        }
        order
    }

    async fn open(
        &self,
        host: &PostgresHost,
        session: &Session,
        servers: &Servers,
    ) -> Result<Opened, ConnectFailure> {
        let config = self.config(host, session).await?;
        let refused = |error| self.refused(error);
        let (client, mut wire) = match &self.tls {
            // Sockets in the file system do not use TLS.
            Some(tls) if config.get_ssl_mode() != SslMode::Disable => {
                let (client, connection) = config.connect(tls.clone()).await.map_err(refused)?;
                (client, Wire::Tls(Box::new(connection)))
            }
            _ => {
                let (client, connection) = config.connect(NoTls).await.map_err(refused)?;
                (client, Wire::Plain(Box::new(connection)))
            }
        };
        let set_up = session.set_up(&self.location.settings);
        let asked = async {
            let messages = client.simple_query(&set_up).await;
            let messages = messages.map_err(ConnectFailure::Driver)?;
            let facts = Facts::read(&messages).ok_or(ConnectFailure::Facts)?;
            facts.check()?;
            let server = ServerIdentity::read(&client).await;
            Ok((facts, server.map_err(ConnectFailure::Identity)?))
        };
        let (facts, server) = wire.drive(asked).await?;
        servers.admit(&server).map_err(ConnectFailure::Identity)?;
        Ok(Opened {
            client,
            wire,
            facts,
            server,
        })
    }

    /// Returns the reason why the server refused the connection.
    fn refused(&self, error: tokio_postgres::Error) -> ConnectFailure {
        // The messages of pg_hba's method `cert`, and of `clientcert` with other methods.
        let is_about_certificate = error.as_db_error().is_some_and(|error| {
            *error.code() == SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                && error.message().contains("valid client certificate")
        });
        if is_about_certificate && self.location.tls.client.is_none() {
            ConnectFailure::ClientCertificate(error)
        } else {
            ConnectFailure::Driver(error)
        }
    }

    async fn config(
        &self,
        host: &PostgresHost,
        session: &Session,
    ) -> Result<tokio_postgres::Config, ConnectFailure> {
        let mut config = self.location.config.clone();
        match &host.host {
            Host::Tcp(name) => {
                config.host(name);
            }
            Host::Unix(folder) => {
                config.host_path(folder);
                config.ssl_mode(SslMode::Disable);
            }
        }
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        config.port(host.port);
        let name = config.get_application_name().unwrap_or("keys");
        let name = format!("{name}{}", session.name_suffix);
        config.application_name(name);
        config.connect_timeout(session.timeout);
        if session.is_user_timeout_fixed || config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(session.user_timeout);
        }
        if let Some(keep_alive) = session.keep_alive {
            config.keepalives(true);
            config.keepalives_idle(keep_alive);
            config.keepalives_interval(keep_alive);
        } else if config.get_keepalives_idle()
            == tokio_postgres::Config::new().get_keepalives_idle()
        {
            config.keepalives_idle(session.user_timeout);
        }
        if config.get_password().is_none()
            && let Some(password) = self.password(host).await?
        {
            config.password(&*password);
        }
        Ok(config)
    }

    /// Returns the password for `host` in the password file, which is read each time, so that it
    /// can be changed.
    async fn password(
        &self,
        host: &PostgresHost,
    ) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, ConnectFailure> {
        let Some(path) = self.location.passfile.clone() else {
            return Ok(None);
        };
        let name = match &host.host {
            Host::Tcp(name) => name.clone(),
            // As in libpq.
            Host::Unix(folder) if folder.as_os_str() == "/var/run/postgresql" => {
                "localhost".to_owned()
            }
            Host::Unix(folder) => folder.display().to_string(),
        };
        let port = host.port;
        let config = &self.location.config;
        let user = config.get_user().unwrap_or("").to_owned();
        // As in libpq, and as the server does.
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let read = move || url::password_in_file(&path, &name, port, &database, &user);
        tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| ConnectFailure::Timeout)?
            .map_err(ConnectFailure::Passfile)
    }
}

impl Session {
    /// Returns the statements for a new connection. They are not start-up options, because poolers
    /// refuse or drop those.
    fn set_up(&self, of_url: &[(String, String)]) -> String {
        let mut text = String::new();
        // First, because the time limit of the role may be too short for the rest.
        for (name, value) in &self.settings {
            let _ = write!(text, "set {name} = {}; ", literal(value));
        }
        for (name, value) in of_url {
            let is_ours = |(ours, _): &(&str, String)| name.eq_ignore_ascii_case(ours);
            if !self.settings.iter().any(is_ours) {
                let _ = write!(
                    text,
                    "select pg_catalog.set_config({}, {}, false); ",
                    literal(name),
                    literal(value)
                );
            }
        }
        text.push_str(FACTS);
        text
    }
}

/// Returns a literal that is right with any `standard_conforming_strings`.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

impl Facts {
    fn read(messages: &[SimpleQueryMessage]) -> Option<Self> {
        let row = messages.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })?;
        Some(Self {
            is_standby: row.try_get(0).ok()?? == "t",
            encoding: row.try_get(1).ok()??.to_owned(),
            backend: row.try_get(2).ok()??.parse().ok()?,
        })
    }

    /// Checks whether this connection may be used.
    fn check(&self) -> Result<(), ConnectFailure> {
        // A standby would answer with old keys.
        if self.is_standby {
            return Err(ConnectFailure::Standby);
        }
        if self.encoding != ENCODING {
            return Err(ConnectFailure::Encoding(self.encoding.clone()));
        }
        Ok(())
    }
}

impl Opened {
    /// Stores `log` in the session.
    async fn keep(&mut self, log: String) -> Result<(), ConnectFailure> {
        let kept = self.server.keep(&self.client, log);
        let kept = async { kept.await.map_err(ConnectFailure::Driver) };
        self.wire.drive(kept).await
    }

    /// Hands the connection over to a task of the current runtime.
    async fn pooled(self, moves: u64) -> Result<Pooled, ConnectFailure> {
        let Self {
            client,
            wire,
            facts,
            server,
        } = self;
        let connection = match wire {
            Wire::Plain(connection) => {
                AsyncPgConnection::try_from_client_and_connection(client, *connection).await
            }
            Wire::Tls(connection) => {
                AsyncPgConnection::try_from_client_and_connection(client, *connection).await
            }
        };
        Ok(Pooled {
            connection: connection.map_err(ConnectFailure::SetUp)?,
            facts,
            server,
            moves,
        })
    }
}

/// Returns the name of a host in messages.
fn name(host: &PostgresHost) -> String {
    match &host.host {
        Host::Tcp(name) => format!("{name}:{}", host.port),
        Host::Unix(folder) => format!("{}:{}", folder.display(), host.port),
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_url_yield_to_ours_and_cannot_end_their_literal() {
        let session = Session {
            name_suffix: "",
            timeout: Duration::ZERO,
            keep_alive: None,
            user_timeout: Duration::ZERO,
            is_user_timeout_fixed: false,
            settings: vec![("synchronous_commit", "on".to_owned())],
        };
        let of_url = [
            (
                "search_path".to_owned(),
                "a'; drop table x; -- \\".to_owned(),
            ),
            ("Synchronous_Commit".to_owned(), "off".to_owned()),
        ];
        assert_eq!(
            session.set_up(&of_url),
            format!(
                "set synchronous_commit = E'on'; \
                 select pg_catalog.set_config(E'search_path', E'a''; drop table x; -- \\\\', false); {FACTS}"
            )
        );
    }
}
