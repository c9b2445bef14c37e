//! Checks that are made once, when a store is opened.

use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use diesel::dsl::sql;
use diesel::sql_types::BigInt;
use diesel::{QueryResult, Queryable};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::{ConnectFailure, Opened, PostgresConnector};

/// Time for which a start waits for the server to have a connection left, because instances that
/// are being replaced release theirs.
const FULL_PATIENCE: Duration = Duration::from_secs(30);

/// Pause between attempts.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// Time limit of each query to a pooler.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Number of repetitions, because other clients of the pooler may get between the queries.
const ROUNDS: usize = 3;

/// An instance counts if it gave a sign of life within this time. It gives one each second.
const INSTANCE_HEARD: &str = "10 seconds";

/// Reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartFailure {
    #[error(
        "the server has had no connection left for this program for {} s: raise max_connections of the server or the connection \
         limit of the role, lower `database.connections_max`, or run fewer instances",
        FULL_PATIENCE.as_secs()
    )]
    Full(#[source] ConnectFailure),
    #[error("no connection")]
    Connect(#[source] ConnectFailure),
    #[error(
        "the connections of `database.url` go through a pooler that gives them another server connection for each transaction: \
         set it to session mode (PgBouncer: pool_mode = session), or let `database.url` lead to the server itself \
         (`database.direct_url` alone is not enough: only the feed, migrations and signs of life use it)"
    )]
    TransactionPooling,
    #[error("the server could not be asked whether a pooler stands in front of it")]
    Unclear(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl PostgresConnector {
    /// Checks that the database is usable, and that sessions belong to one client.
    pub(crate) async fn start(&self) -> Result<(), StartFailure> {
        let began = Instant::now();
        let one = patiently(began, || self.connect_raw()).await?;
        let other = patiently(began, || self.connect_raw()).await?;
        if self.has_direct_route() {
            patiently(began, || self.connect_direct()).await?;
        }
        // Aborts the tasks that drive the connections when dropped.
        let mut drivers = JoinSet::new();
        let [one, other] = [one, other].map(|opened| {
            let mut wire = opened.wire;
            drivers.spawn(async move {
                while let Some(Ok(_)) = poll_fn(|context| wire.poll_message(context)).await {}
            });
            opened.client
        });
        for _ in 0..ROUNDS {
            if shares_a_session(&one, &other).await? {
                return Err(StartFailure::TransactionPooling);
            }
        }
        Ok(())
    }
}

/// Connects, and waits until the server has a connection left.
async fn patiently<F>(began: Instant, connect: impl Fn() -> F) -> Result<Opened, StartFailure>
where
    F: Future<Output = Result<Opened, ConnectFailure>>,
{
    loop {
        match connect().await {
            Ok(opened) => return Ok(opened),
            Err(failure) if !failure.is_full() => return Err(StartFailure::Connect(failure)),
            Err(failure) if began.elapsed() >= FULL_PATIENCE => {
                return Err(StartFailure::Full(failure));
            }
            Err(failure) => tracing::warn!(
                error = &failure as &dyn std::error::Error,
                "the server has no connection left; trying again"
            ),
        }
        sleep(FULL_PAUSE).await;
    }
}

/// Returns whether a session of the server is given to two clients in turn. One of them leaves a
/// mark in its session. A pooler in transaction mode then either gives that session to the other
/// one, which finds the mark, or, once the other one holds a session by a transaction, gives the
/// first one another session, which lacks the mark. Equal process numbers would prove nothing,
/// because the connections may lead to two servers.
async fn shares_a_session(one: &Client, other: &Client) -> Result<bool, StartFailure> {
    let mark = format!("{:016x}", RandomState::new().hash_one("mark"));
    ask(
        one,
        &format!("select set_config('keys.pooler', '{mark}', false)"),
    )
    .await?;
    let seen_by = async |client| {
        let seen = ask(client, "select current_setting('keys.pooler', true)").await?;
        Ok::<_, StartFailure>(seen.as_deref() == Some(mark.as_str()))
    };
    if !seen_by(one).await? {
        return Ok(true);
    }
    // A pooler in statement mode allows no transactions.
    if other.simple_query("begin").await.is_err() {
        return Ok(true);
    }
    if seen_by(other).await? {
        return Ok(true);
    }
    let is_kept = seen_by(one).await?;
    ask(other, "rollback").await?;
    Ok(!is_kept)
}

/// Returns the first column of the first row.
async fn ask(client: &Client, sql: &str) -> Result<Option<String>, StartFailure> {
    let asked = timeout(ANSWER_TIMEOUT, client.simple_query(sql)).await;
    let messages = asked
        .map_err(|elapsed| StartFailure::Unclear(Box::new(elapsed)))?
        .map_err(|error| StartFailure::Unclear(Box::new(error)))?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

/// Connections that the server has for this program, and instances that share them.
#[derive(Queryable)]
pub(crate) struct Capacity {
    /// The limits of the server, the database and the role.
    pub(crate) connections: i64,
    /// Instances with a recent sign of life.
    pub(crate) instances: i64,
}

pub(crate) async fn capacity(connection: &mut AsyncPgConnection) -> QueryResult<Capacity> {
    // `reserved_connections` exists since PostgreSQL 16.
    let query = format!(
        "select least( \
             current_setting('max_connections')::bigint - case when rolsuper then 0 else \
                 current_setting('superuser_reserved_connections')::bigint \
                 + coalesce(current_setting('reserved_connections', true)::bigint, 0) end, \
             case when rolconnlimit < 0 then null else rolconnlimit end, \
             case when datconnlimit < 0 then null else datconnlimit end) as connections, \
             (select count(*) from instance where seen_at > now() - interval '{INSTANCE_HEARD}') as instances \
         from pg_catalog.pg_roles, pg_catalog.pg_database \
         where rolname = current_user and datname = current_database()"
    );
    sql::<(BigInt, BigInt)>(&query).get_result(connection).await
}
