//! What only PostgreSQL does: row locks, advisory locks, arrays as tables, its connections.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text};
use diesel::{QueryResult, sql_query};
use diesel_async::{
    AnsiTransactionManager, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _,
};
use keys_core::KeyDigest;
use keys_service::store::KeyUse;
use tokio_postgres::NoTls;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connection::ConnectError;
use crate::options::StoreOptions;
use crate::rows::{AccountRow, FoundRow, KeyRow};
use crate::schema::{account, api_key};
use crate::tls::{self, TlsError};
use crate::types::{DbId, DbTimestamp, Id, Moment};
use crate::url::PostgresLocation;

/// How many keys one statement updates: with many more the planner changes its mind and reads the whole table.
const USES_PER_STATEMENT: usize = 1_000;

/// Only one instance migrates at a time. An arbitrary number ("keysmigr" in ASCII) that no other program should use.
const MIGRATION_LOCK: i64 = 0x6b65_7973_6d69_6772;

/// How long to wait for another instance that is migrating.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_mins(1);

/// Makes connections.
pub(crate) struct PostgresConnector {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    connect_timeout: Duration,
}

impl PostgresConnector {
    pub(crate) fn new(
        location: &PostgresLocation,
        options: &StoreOptions,
    ) -> Result<Self, TlsError> {
        let mut config = location.config.clone();
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            SslMode::Prefer => Some(tls::opportunistic()),
            _ => Some(tls::verified(location.root_certificates.as_deref())?),
        };
        if config.get_application_name().is_none() {
            config.application_name("keys");
        }
        // A replica would answer with keys as they were; it is not even connected to.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.connect_timeout(options.connect_timeout);
        // A peer that vanished without a word is noticed rather than waited for. The system counts whole seconds.
        let silence_max = options.operation_timeout.max(Duration::from_secs(1));
        config.tcp_user_timeout(silence_max);
        config.keepalives_idle(silence_max);
        // What is said last holds, so these win over the URL's own options.
        let settings = format!(
            "{} -c statement_timeout={} -c idle_in_transaction_session_timeout={} -c synchronous_commit=on",
            config.get_options().unwrap_or_default(),
            options.statement_timeout.as_millis(),
            options.operation_timeout.as_millis(),
        );
        config.options(settings.trim());
        Ok(Self {
            config,
            tls: tls.map(MakeRustlsConnect::new),
            connect_timeout: options.connect_timeout,
        })
    }

    pub(crate) async fn connect(&self) -> Result<AsyncPgConnection, ConnectError> {
        // The driver's own limit ends with the TCP handshake; who answers may still keep silent after it.
        tokio::time::timeout(self.connect_timeout, self.open()).await?
    }

    async fn open(&self) -> Result<AsyncPgConnection, ConnectError> {
        let opened = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        };
        Ok(opened?)
    }

    /// A connection that alone may migrate, for as long as it is open.
    pub(crate) async fn connect_to_migrate(&self) -> Result<AsyncPgConnection, ConnectError> {
        let mut connection = self.connect().await?;
        let set_up = format!(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = {}; \
             select pg_advisory_lock({MIGRATION_LOCK})",
            MIGRATION_LOCK_TIMEOUT.as_millis()
        );
        connection.batch_execute(&set_up).await?;
        Ok(connection)
    }
}

pub(crate) async fn begin(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    // Counting under the lock on the account is only right if each statement sees what was committed before it.
    let sql = "begin isolation level read committed read write";
    AnsiTransactionManager::begin_transaction_sql(connection, sql).await
}

/// The account, kept from being changed or given keys by others until the transaction ends.
pub(crate) async fn lock_account(
    connection: &mut AsyncPgConnection,
    id: DbId,
) -> QueryResult<AccountRow> {
    account::table
        .find(id)
        .select(AccountRow::as_select())
        .for_no_key_update()
        .first(connection)
        .await
}

/// The key, kept from being changed by others until the transaction ends.
pub(crate) async fn key_for_share(
    connection: &mut AsyncPgConnection,
    id: DbId,
) -> QueryResult<KeyRow> {
    api_key::table
        .find(id)
        .select(KeyRow::as_select())
        .for_share()
        .first(connection)
        .await
}

/// Locks keys that are about to be judged and changed, always in the same order: two operators revoking each other's
/// keys would otherwise wait for each other.
pub(crate) async fn lock_keys(
    connection: &mut AsyncPgConnection,
    ids: Vec<DbId>,
) -> QueryResult<()> {
    api_key::table
        .filter(api_key::id.eq_any(ids))
        .order(api_key::id)
        .select(api_key::id)
        .for_no_key_update()
        .load::<DbId>(connection)
        .await?;
    Ok(())
}

/// The keys kept under any of these digests, by one prepared statement, however many they are.
pub(crate) async fn keys_by_digest(
    connection: &mut AsyncPgConnection,
    wanted: &[[u8; KeyDigest::LEN]],
) -> QueryResult<Vec<FoundRow>> {
    let wanted: Vec<&[u8]> = wanted
        .iter()
        .map(<[u8; KeyDigest::LEN]>::as_slice)
        .collect();
    api_key::table
        .left_join(account::table)
        .filter(api_key::digest.eq_any(wanted))
        .select((
            api_key::digest,
            api_key::pepper_id,
            KeyRow::as_select(),
            Option::<AccountRow>::as_select(),
        ))
        .load(connection)
        .await
}

/// The number of the transaction under way.
pub(crate) async fn transaction_number(connection: &mut AsyncPgConnection) -> QueryResult<u64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        number: String,
    }
    let row: Row = sql_query("select pg_current_xact_id()::text as number")
        .get_result(connection)
        .await?;
    row.number
        .parse()
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}

/// Lets one attempt at a time reserve any of these look-up digests.
pub(crate) async fn lock_lookups(
    connection: &mut AsyncPgConnection,
    lookups: &[[u8; 32]],
) -> QueryResult<()> {
    let mut locks: Vec<i64> = lookups
        .iter()
        .filter_map(|lookup| lookup.first_chunk())
        .map(|start| i64::from_be_bytes(*start))
        .collect();
    locks.sort_unstable();
    locks.dedup();
    for lock in locks {
        sql_query("select pg_advisory_xact_lock($1)")
            .bind::<BigInt, _>(lock)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Records uses, sorted by key.
pub(crate) async fn record_uses(
    connection: &mut AsyncPgConnection,
    uses: &[KeyUse],
) -> QueryResult<()> {
    // Losing the last of these in a crash costs nothing that matters; waiting for the disk each time does.
    connection
        .batch_execute("set local synchronous_commit = off")
        .await?;
    for uses in uses.chunks(USES_PER_STATEMENT) {
        let ids: Vec<_> = uses.iter().map(|one| DbId(one.key_id.as_uuid())).collect();
        let times: Vec<_> = uses
            .iter()
            .map(|one| DbTimestamp(one.last_used_at))
            .collect();
        let counts: Vec<_> = uses.iter().map(|one| count(one.count)).collect();
        sql_query(
            "update api_key set \
             last_used_at = greatest(api_key.last_used_at, one.at), \
             use_count = api_key.use_count + least(one.count, 9223372036854775807 - api_key.use_count) \
             from unnest($1, $2, $3) as one (id, at, count) \
             where api_key.id = one.id",
        )
        .bind::<Array<Id>, _>(ids)
        .bind::<Array<Moment>, _>(times)
        .bind::<Array<BigInt>, _>(counts)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// Forgets changes that every cache has seen or has given up on.
pub(crate) async fn prune_changes(
    connection: &mut AsyncPgConnection,
    kept: Duration,
) -> QueryResult<usize> {
    sql_query("delete from key_change where at < now() - $1 * interval '1 second'")
        .bind::<BigInt, _>(i64::try_from(kept.as_secs()).unwrap_or(i64::MAX))
        .execute(connection)
        .await
}

fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
