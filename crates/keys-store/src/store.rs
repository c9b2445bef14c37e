//! The store: the methods of the ports, each run to its end on the store's own runtime.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use keys_core::{
    Account, AccountId, EventId, KeyDetails, KeyId, PepperId, PepperedDigest, Revocation, ScopeSet,
    Timestamp,
};
use keys_service::ports::{
    AccountEntry, AccountPatch, AccountQuery, Accounts, BoxFuture, Change, ChangeError, ChangeFeed,
    ChangeLog, Commit, FoundKey, Idempotency, KeyListing, KeyManagement, KeyOwner, KeyPage,
    KeyPatch, KeyRotation, KeySelection, KeyUse, KeyUses, Keys, ListedKeys, Maintenance, NewKey,
    Readiness, Reservation, Reserved, RevokedKeys, StoreError, UnreadableKey,
};
use tokio::runtime::Handle;

use crate::check::{self, Position, RowFault, Table};
use crate::connection::{Connection, Pools};
use crate::databases::by_database;
use crate::health::WriteHealth;
use crate::life::Life;
use crate::migrate::{self, MigrateError};
use crate::options::{InvalidOptions, StoreOptions};
#[cfg(feature = "postgres")]
use crate::postgres::{self, Pool, PostgresConnector, PostgresFeed};
#[cfg(feature = "sqlite")]
use crate::sqlite::{self, FileLost, Followers, LifeFile, SqliteConnector, SqliteFeed, UnsafeFile};
#[cfg(feature = "postgres")]
use crate::tls::TlsError;
use crate::url::{DatabaseUrl, Location};
#[cfg(feature = "postgres")]
use crate::wake::Waker;
use crate::{accounts, idempotency, keys, lists, management, revocations, rotation, sweep};

/// Time limit of looking keys up in PostgreSQL. Callers do not wait much longer, and a connection
/// whose other end vanished must not be waited for when the database is back.
const LOOK_UP_TIMEOUT: Duration = Duration::from_millis(800);

/// Time limit of a readiness check, because load balancers do not wait longer.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Stores keys and accounts in PostgreSQL or SQLite.
///
/// Cheap to clone; all clones share their connections. Every operation runs on the runtime that the
/// store was opened on, whichever runtime calls it. So connections outlive the workers of a web
/// server, and a change continues to its end even if its caller no longer waits. That runtime must
/// outlive the store, and should be multi-threaded.
///
#[cfg_attr(feature = "sqlite", doc = "```")]
#[cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
/// use keys_service::ports::Maintenance as _;
/// use keys_store::{DatabaseUrl, Store};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("keys.db");
/// let store = Store::open(&DatabaseUrl::sqlite(path)).await?;
/// store.ready().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    pools: Pools,
    connector: Connector,
    runtime: Handle,
    life: Life,
    operation_timeout: Duration,
    connections_max: u32,
    health: WriteHealth,
    /// Whether it was logged that the schema is newer than this program.
    newer_told: AtomicBool,
}

enum Connector {
    #[cfg(feature = "postgres")]
    Postgres {
        connector: Arc<PostgresConnector>,
        waker: Waker,
    },
    #[cfg(feature = "sqlite")]
    Sqlite {
        connector: Arc<SqliteConnector>,
        followers: Arc<Followers>,
    },
}

/// Error returned when a store could not be opened. Never repeats the URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Called outside a Tokio runtime.
    #[error("a store is opened inside a Tokio runtime")]
    NoRuntime,
    /// The options do not fit together.
    #[error("the options of the store cannot be used")]
    Options(#[source] InvalidOptions),
    /// The SQLite file cannot be created, or its path cannot be used.
    #[cfg(feature = "sqlite")]
    #[error("the SQLite file cannot be created")]
    File(#[source] std::io::Error),
    /// The SQLite file must not be used in its state.
    #[cfg(feature = "sqlite")]
    #[error("the SQLite file is not opened")]
    UnsafeFile(#[source] UnsafeFile),
    /// TLS cannot be set up.
    #[cfg(feature = "postgres")]
    #[error("TLS to PostgreSQL cannot be set up")]
    Tls(#[source] TlsError),
    /// [`StoreOptions::direct_url`] is not a URL of PostgreSQL.
    #[error("the direct URL must lead to PostgreSQL")]
    DirectUrl,
    /// The database refuses the connection, or cannot be reached.
    #[error("the database cannot be reached")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The database could not be migrated.
    #[error("the database cannot be brought up to date")]
    Migrate(#[source] MigrateError),
}

/// The server has fewer connections than all instances together may open.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{instances} instances with up to {connections_max} connections each may need {}, and the server has {available} for them: \
     lower `database.connections_max` to {} or raise max_connections (or the connection limit of the role or database)",
    .instances * .connections_max,
    (.available / .instances).max(3)
)]
#[non_exhaustive]
pub struct ConnectionsShort {
    /// Connections that each instance may open.
    pub connections_max: u64,
    /// Instances with a recent sign of life, and this one.
    pub instances: u64,
    /// Connections that the server, the database and the role allow, without reserved ones.
    pub available: u64,
}

impl Store {
    /// Opens the database with the default options and migrates its schema: everything that an
    /// embedding program needs.
    ///
    /// # Errors
    /// As [`connect`](Self::connect) and [`migrate`](Self::migrate).
    pub async fn open(url: &DatabaseUrl) -> Result<Self, OpenError> {
        let store = Self::connect(url, StoreOptions::default()).await?;
        store.migrate().await.map_err(OpenError::Migrate)?;
        Ok(store)
    }

    /// Opens the database without migrating it, and checks that it can be reached. A missing SQLite
    /// file is created, with its folder, accessible only to its owner.
    ///
    /// # Errors
    /// If it cannot be reached, or must not be used, or the options [do not fit
    /// together](StoreOptions::check).
    pub async fn connect(url: &DatabaseUrl, options: StoreOptions) -> Result<Self, OpenError> {
        options.check().map_err(OpenError::Options)?;
        Self::connect_unchecked(url, options).await
    }

    async fn connect_unchecked(
        url: &DatabaseUrl,
        options: StoreOptions,
    ) -> Result<Self, OpenError> {
        let runtime = Handle::try_current().map_err(|_| OpenError::NoRuntime)?;
        let health = WriteHealth::default();
        let (pools, connector, life) = match &url.0 {
            #[cfg(feature = "postgres")]
            Location::Postgres(location) => {
                let connector =
                    PostgresConnector::new(location, &options).map_err(OpenError::Tls)?;
                warn_of_connect_timeout(&connector, &options);
                let connector = Arc::new(match &options.direct_url {
                    None => connector,
                    Some(DatabaseUrl(Location::Postgres(location))) => {
                        connector.direct(location).map_err(OpenError::Tls)?
                    }
                    #[cfg(feature = "sqlite")]
                    Some(DatabaseUrl(Location::Sqlite(_))) => return Err(OpenError::DirectUrl),
                });
                let started = connector.start().await;
                started.map_err(|failure| OpenError::Connect(Box::new(failure)))?;
                let pool = Pool::new(Arc::clone(&connector), &options, health.clone());
                let pools = Pools::Postgres(pool);
                let waker = Waker::new(pools.clone());
                let life = match options.direct_url {
                    Some(_) => Life::Unknown,
                    None => Life::Postgres(postgres::own_number()),
                };
                (pools, Connector::Postgres { connector, waker }, life)
            }
            #[cfg(feature = "sqlite")]
            Location::Sqlite(path) => {
                let connector = SqliteConnector::new(path, &options)
                    .map_err(OpenError::File)?
                    .map_err(OpenError::UnsafeFile)?;
                let connector = Arc::new(connector);
                connector.open().await.map_err(OpenError::Connect)?;
                let pool = sqlite::pool::Pool::new(&connector, &options, health.clone());
                let pools = Pools::Sqlite(pool);
                let followers = Arc::new(Followers::new(&connector));
                let life = Life::Sqlite(LifeFile::new(connector.file()));
                let connector = Connector::Sqlite {
                    connector,
                    followers,
                };
                (pools, connector, life)
            }
        };
        Ok(Self(Arc::new(Inner {
            pools,
            connector,
            runtime,
            life,
            operation_timeout: options.operation_timeout,
            connections_max: options.connections_max.get(),
            health,
            newer_told: AtomicBool::new(false),
        })))
    }

    /// Migrates the schema. May be called from any runtime, and by several instances at once: one
    /// migrates, the others wait for it, for a minute at most.
    ///
    /// # Errors
    /// If a migration fails, or the database is newer than this program.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        let migrated = by_database!(&self.0.connector, Connector {
            Postgres { connector, .. } => {
                migrate::postgres(&self.0.runtime, Arc::clone(connector)).await
            },
            Sqlite { connector, .. } => migrate::sqlite(Arc::clone(connector)).await,
        });
        if migrated.is_err() {
            // A database that is read-only at the moment must not prevent a start.
            let pools = self.pools();
            let is_done = async move { is_up_to_date(&pools).await };
            if matches!(self.run(is_done).await, Ok(true)) {
                return Ok(());
            }
        }
        migrated
    }

    /// Compares the stored number of keys of each account with its keys, and counts again if it
    /// differs, which happens if triggers were disabled for a while. Returns whether it counted
    /// again. Reads every key; takes about a second for each million on PostgreSQL. On SQLite,
    /// where triggers cannot be disabled, it does nothing.
    ///
    /// # Errors
    /// If the database cannot be reached, or a table stays locked for a minute.
    #[cfg(feature = "postgres")]
    pub async fn recount_keys(&self) -> Result<bool, MigrateError> {
        by_database!(&self.0.connector, Connector {
            Postgres { connector, .. } => {
                migrate::recount_keys(&self.0.runtime, Arc::clone(connector)).await
            },
            Sqlite { .. } => Ok(false),
        })
    }

    /// Resolves when the SQLite file of this store was replaced or removed. From then on every
    /// operation fails permanently: the program should log it and end, and start again once the
    /// right file is in place. The file is checked before each change is acknowledged, every 50 ms
    /// while the feed is followed, and otherwise by operations. Never resolves for PostgreSQL.
    #[cfg(feature = "sqlite")]
    pub async fn lost(&self) -> FileLost {
        by_database!(&self.0.connector, Connector {
            Postgres { .. } => std::future::pending().await,
            Sqlite { connector, .. } => connector.file().lost().await,
        })
    }

    /// Reads every account, key and audit event, and reports each column that breaks a rule of this
    /// program: such a row was written by hand, by an import, or by another version. Ordered by
    /// table, then by identifier. Returns how many there are.
    ///
    /// The schema refuses such values in new rows. Older rows are not changed, and their keys or
    /// accounts are refused. Reads a page at a time, so that tables of any size take little memory.
    ///
    /// # Errors
    /// If the database cannot answer.
    pub async fn check_rows(
        &self,
        mut report: impl FnMut(RowFault) + Send,
    ) -> Result<u64, StoreError> {
        let mut count = 0;
        for table in Table::ALL {
            let mut next = Some(Position::START);
            while let Some(from) = next {
                let page = check::page(self.pools(), table, from);
                let faults;
                (faults, next) = self.run(page).await?;
                for fault in faults {
                    count += 1;
                    report(fault);
                }
            }
        }
        Ok(count)
    }

    /// Returns the numbers if the server does not have enough connections for all instances with a
    /// recent sign of life and this one, each with as many as its options allow. `None` if it has,
    /// and with SQLite.
    ///
    /// # Errors
    /// If the database cannot be reached.
    #[cfg(feature = "postgres")]
    pub async fn connections_short(&self) -> Result<Option<ConnectionsShort>, StoreError> {
        let pools = self.pools();
        let found = self.run(async move { capacity(&pools).await }).await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let short = ConnectionsShort {
            connections_max: self.0.connections_max.max(3).into(),
            // Its own feed has not announced itself yet.
            instances: u64::try_from(found.instances).unwrap_or(0) + 1,
            available: u64::try_from(found.connections).unwrap_or(0),
        };
        let needed = short.instances.saturating_mul(short.connections_max);
        Ok((needed > short.available).then_some(short))
    }

    fn pools(&self) -> Pools {
        self.0.pools.clone()
    }

    /// Like [`run`](Self::run), and wakes other instances at once.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ChangeError>> + Send + 'static,
    ) -> Result<T, ChangeError> {
        let inner = Arc::clone(&self.0);
        self.run(async move {
            let outcome = work.await;
            // A change whose result got lost on the way may have been made.
            if matches!(outcome, Ok(_) | Err(ChangeError::Store(_))) {
                by_database!(&inner.connector, Connector {
                    Postgres { waker, .. } => waker.wake(),
                    Sqlite { followers, .. } => followers.wake(),
                });
            }
            outcome
        })
        .await
    }

    /// Runs `work` on the store's runtime, also if the caller stops waiting.
    async fn run<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.run_within(self.0.operation_timeout, Look::Always, work)
            .await
    }

    async fn run_within<T, E>(
        &self,
        timeout: Duration,
        look: Look,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let task = self
            .0
            .runtime
            .spawn(within(self.pools(), timeout, look, work));
        task.await.unwrap_or_else(|error| {
            Err(if error.is_panic() {
                StoreError::Unexpected(Box::new(error)).into()
            } else {
                StoreError::Unavailable(Box::new(error)).into()
            })
        })
    }
}

/// When to check that a SQLite file is still the one that was opened.
#[derive(Debug, Clone, Copy)]
enum Look {
    /// After the operation. A change to a file that was moved away is not acknowledged, because it
    /// is not in the file that has its name.
    Always,
    /// If that was not done a moment ago.
    NowAndThen,
}

async fn within<T, E: From<StoreError>>(
    pools: Pools,
    timeout: Duration,
    look: Look,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    pools.check_file_now_and_then()?;
    let began = Instant::now();
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(done)) => {
            match look {
                Look::Always => pools.check_file()?,
                Look::NowAndThen => pools.check_file_now_and_then()?,
            }
            Ok(done)
        }
        Ok(refused) => refused,
        Err(elapsed) => {
            pools.forget_made_before(began);
            Err(StoreError::Unavailable(Box::new(elapsed)).into())
        }
    }
}

/// Shows the kind of database, and nothing about its address.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(by_database!(self.0.connector, Connector {
            Postgres { .. } => "Store(postgres)",
            Sqlite { .. } => "Store(sqlite)",
        }))
    }
}

#[async_trait]
impl Keys for Store {
    async fn find_by_digests(
        &self,
        digests: Vec<PepperedDigest>,
    ) -> Result<Vec<FoundKey>, StoreError> {
        let timeout = by_database!(&self.0.connector, Connector {
            Postgres { .. } => LOOK_UP_TIMEOUT.min(self.0.operation_timeout),
            Sqlite { .. } => self.0.operation_timeout,
        });
        let found = keys::find_by_digests(self.pools(), digests);
        // The loader runs on this runtime already, and needs no task for each look-up.
        if Handle::try_current().is_ok_and(|current| current.id() == self.0.runtime.id()) {
            return within(self.pools(), timeout, Look::NowAndThen, found).await;
        }
        self.run_within(timeout, Look::NowAndThen, found).await
    }

    async fn keys(&self, owner: KeyOwner, offset: u64, limit: u32) -> Result<KeyPage, StoreError> {
        self.run(keys::list(self.pools(), owner, offset, limit))
            .await
    }

    async fn insert_key(&self, key: NewKey, change: Change) -> Result<(), ChangeError> {
        // Nothing of it is in any cache, so no instance is woken.
        self.run(keys::insert(self.pools(), key, change)).await
    }

    async fn revoke_key(
        &self,
        owner: Option<KeyOwner>,
        id: KeyId,
        revocation: Revocation,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError> {
        // Boxed, because on the stack it would make every change large to move.
        let revocation = keys::revoke(self.pools(), owner, id, revocation, change);
        self.change(Box::pin(revocation)).await
    }
}

#[async_trait]
impl KeyManagement for Store {
    async fn find_key(
        &self,
        id: KeyId,
    ) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError> {
        self.run(management::find(self.pools(), id)).await
    }

    async fn list_keys(&self, listing: KeyListing) -> Result<ListedKeys, StoreError> {
        self.run(lists::list(self.pools(), listing)).await
    }

    async fn revoke_keys(
        &self,
        selection: KeySelection,
        revocation: Revocation,
        change: Change,
    ) -> Result<RevokedKeys, ChangeError> {
        self.change(revocations::revoke(
            self.pools(),
            selection,
            revocation,
            change,
        ))
        .await
    }

    async fn set_operator_scopes(
        &self,
        id: KeyId,
        scopes: ScopeSet,
        keeps_an_operator: bool,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError> {
        self.change(revocations::set_operator_scopes(
            self.pools(),
            id,
            scopes,
            keeps_an_operator,
            change,
        ))
        .await
    }

    async fn rotate_key(
        &self,
        rotation: KeyRotation,
        change: Change,
    ) -> Result<(Option<KeyId>, Commit), ChangeError> {
        let rotation = rotation::rotate(self.pools(), rotation, change);
        self.change(Box::pin(rotation)).await
    }

    async fn update_key(
        &self,
        owner: KeyOwner,
        id: KeyId,
        patch: KeyPatch,
        change: Change,
    ) -> Result<Option<(KeyDetails, Commit)>, ChangeError> {
        let update = management::update(self.pools(), owner, id, patch, change);
        self.change(Box::pin(update)).await
    }
}

#[async_trait]
impl KeyUses for Store {
    async fn record_uses(&self, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError> {
        self.run(keys::record_uses(self.pools(), uses)).await
    }
}

#[async_trait]
impl Accounts for Store {
    async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        self.run(accounts::find(self.pools(), id)).await
    }

    async fn accounts(&self, query: AccountQuery) -> Result<Vec<Account>, StoreError> {
        let entries = self.account_entries(query).await?;
        Ok(entries.into_iter().filter_map(Result::ok).collect())
    }

    async fn account_entry(&self, id: AccountId) -> Result<Option<AccountEntry>, StoreError> {
        self.run(accounts::entry(self.pools(), id)).await
    }

    async fn account_entries(&self, query: AccountQuery) -> Result<Vec<AccountEntry>, StoreError> {
        self.run(accounts::list(self.pools(), query)).await
    }

    async fn insert_account(&self, account: Account, change: Change) -> Result<(), ChangeError> {
        // Nothing of it is in any cache, so no instance is woken.
        self.run(accounts::insert(self.pools(), account, change))
            .await
    }

    async fn update_account(
        &self,
        id: AccountId,
        patch: AccountPatch,
        change: Change,
    ) -> Result<(Account, Commit), ChangeError> {
        self.change(accounts::update(self.pools(), id, patch, change))
            .await
    }
}

#[async_trait]
impl Idempotency for Store {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        let inner = Arc::clone(&self.0);
        self.run(async move {
            idempotency::reserve(inner.pools.clone(), reservation, &inner.life).await
        })
        .await
    }

    async fn release(&self, lookup: [u8; 32], token: EventId) -> Result<(), StoreError> {
        self.run(idempotency::release(self.pools(), lookup, token))
            .await
    }
}

#[async_trait]
impl ChangeLog for Store {
    fn feed(&self) -> Box<dyn ChangeFeed> {
        let runtime = self.0.runtime.clone();
        by_database!(&self.0.connector, Connector {
            Postgres { connector, .. } => {
                Box::new(PostgresFeed::new(Arc::clone(connector), runtime))
            },
            Sqlite { connector, followers } => {
                Box::new(SqliteFeed::new(Arc::clone(connector), runtime, Arc::clone(followers)))
            },
        })
    }

    async fn is_seen_everywhere(
        &self,
        commit: &Commit,
        silence: Duration,
    ) -> Result<bool, StoreError> {
        let (inner, commit) = (Arc::clone(&self.0), *commit);
        self.run(async move { is_seen_everywhere(&inner, commit, silence).await })
            .await
    }

    async fn oldest_change(&self) -> Result<Option<Duration>, StoreError> {
        self.run(sweep::oldest_change(self.pools())).await
    }
}

#[async_trait]
impl Maintenance for Store {
    async fn ready(&self) -> Result<Readiness, StoreError> {
        let inner = Arc::clone(&self.0);
        self.run_within(
            READY_TIMEOUT.min(self.0.operation_timeout),
            Look::Always,
            async move { ready(&inner).await },
        )
        .await
    }

    async fn pepper_ids(&self, now: Timestamp) -> Result<Vec<PepperId>, StoreError> {
        self.run(keys::pepper_ids(self.pools(), now)).await
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let inner = Arc::clone(&self.0);
        // Each batch has the time limit of an operation, and there may be many.
        let work = async move { sweep(&inner, now).await };
        self.run_within(sweep::TIMEOUT, Look::Always, work).await
    }

    fn spawn(&self, future: BoxFuture<'static, ()>) {
        drop(self.0.runtime.spawn(future));
    }
}

async fn is_seen_everywhere(
    inner: &Inner,
    commit: Commit,
    silence: Duration,
) -> Result<bool, StoreError> {
    match &inner.connector {
        #[cfg(feature = "postgres")]
        Connector::Postgres { .. } => {
            let Connection::Postgres(mut lease) = inner.pools.read().await? else {
                return Ok(false);
            };
            let outcome = postgres::is_seen_everywhere(lease.enter(), commit, silence).await;
            Ok(lease.leave(outcome)?)
        }
        #[cfg(feature = "sqlite")]
        Connector::Sqlite { followers, .. } => {
            if !followers.readers.have_applied(commit.number()) {
                return Ok(false);
            }
            let followers = Arc::clone(followers);
            tokio::task::spawn_blocking(move || followers.presence.is_alone(silence))
                .await
                .map_err(|error| StoreError::Unexpected(Box::new(error)))
        }
    }
}

async fn sweep(inner: &Inner, now: Timestamp) -> Result<u64, StoreError> {
    let slowest = by_database!(&inner.connector, Connector {
        // The database knows all of them.
        Postgres { .. } => None,
        Sqlite { followers, .. } => followers.readers.slowest(),
    });
    let deleted = sweep::sweep(&inner.pools, slowest, now, inner.operation_timeout).await?;
    #[cfg(feature = "sqlite")]
    if let Life::Sqlite(files) = &inner.life {
        let mut connection = inner.pools.read().await?;
        idempotency::sweep_files(&mut connection, files).await?;
    }
    Ok(deleted)
}

/// Logs if the URL allows more time to connect than an operation has. That is no error, because a
/// connection that is ready too late for its operation is kept for the next one.
#[cfg(feature = "postgres")]
fn warn_of_connect_timeout(connector: &PostgresConnector, options: &StoreOptions) {
    let timeout = connector.connect_timeout();
    if let Some(room) = options.room_to_connect(timeout) {
        tracing::warn!(
            "the database URL allows {timeout:?} to connect (`connect_timeout` for each host), and an operation is \
             given up after {:?} in all: lower it to at most {room:?} for all hosts together",
            options.operation_timeout,
        );
    }
}

#[cfg(feature = "postgres")]
async fn capacity(pools: &Pools) -> Result<Option<postgres::Capacity>, StoreError> {
    match &mut pools.read().await? {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::capacity(lease.enter()).await;
            Ok(Some(lease.leave(outcome)?))
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => Ok(None),
    }
}

/// Returns whether the database has the schema that this program knows, or a newer compatible one.
async fn is_up_to_date(pools: &Pools) -> Result<bool, StoreError> {
    let mut connection = pools.look_up().await?;
    Ok(migrate::check(&mut connection).await?.is_ok())
}

async fn ready(inner: &Inner) -> Result<Readiness, StoreError> {
    let mut connection = inner.pools.look_up().await?;
    let checked = migrate::check(&mut connection).await?;
    let newer = checked.map_err(|error| StoreError::Unexpected(Box::new(error)))?;
    if !newer.is_empty() && !inner.newer_told.swap(true, Ordering::Relaxed) {
        tracing::info!(
            "the database was migrated by a newer program, with {newer:?}; this one can go on with it"
        );
    }
    let takes_writes = migrate::probe(&mut connection).await?;
    Ok(Readiness::new(
        takes_writes && inner.health.is_writable() && inner.pools.commits_end(),
    ))
}

#[cfg(test)]
mod tests;
