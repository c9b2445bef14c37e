//! Reads of rows inside a transaction, with locks that prevent their change.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::AccountId;
use keys_service::ports::StoreError;

use crate::connection::{Connection, Pools, query};
use crate::error::{QueryError, optional};
use crate::opening::{Opened, Opening};
#[cfg(feature = "postgres")]
use crate::postgres;
use crate::purpose::Purpose;
use crate::rows::{AccountRow, KeyRow};
use crate::schema::{account, api_key};
use crate::types::DbId;

/// Begins a transaction. End it with [`Connection::finish`], also if the opening failed.
pub(crate) async fn open(
    pools: &Pools,
    opening: &Opening,
) -> Result<(Connection, Result<Opened, StoreError>), StoreError> {
    #[cfg(feature = "postgres")]
    if let Pools::Postgres(pool) = pools {
        let (lease, opened) = pool.begin_with(Purpose::Write, opening).await?;
        return Ok((Connection::Postgres(lease), opened.map_err(Into::into)));
    }
    let mut connection = pools.begin().await?;
    let opened = read(&mut connection, opening).await;
    Ok((connection, opened))
}

/// For SQLite, whose immediate transaction has locked everything.
async fn read(connection: &mut Connection, opening: &Opening) -> Result<Opened, StoreError> {
    let mut opened = Opened::default();
    if let Some(id) = opening.account {
        opened.account = account(connection, id).await?;
    }
    if let Some(id) = opening.caller {
        opened.caller = optional(query!(&mut *connection, |open| api_key::table
            .find(id)
            .select(KeyRow::as_select())
            .first(open)))?;
    }
    if let Some(id) = opening.caller_account {
        opened.caller_account = account(connection, id).await?;
    }
    Ok(opened)
}

/// Reads the row of the account and locks it: no other transaction changes it or gives it keys
/// until this one ends.
pub(crate) async fn locked_account(
    connection: &mut Connection,
    id: AccountId,
) -> Result<Option<AccountRow>, StoreError> {
    match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::lock_account(lease.enter(), DbId(id.as_uuid())).await;
            Ok(optional(lease.leave(outcome))?)
        }
        // An immediate transaction has locked everything.
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => account(connection, DbId(id.as_uuid())).await,
    }
}

/// Reads the row of the account.
pub(crate) async fn account(
    connection: &mut Connection,
    id: DbId,
) -> Result<Option<AccountRow>, StoreError> {
    let found: Result<AccountRow, QueryError> = query!(connection, |open| account::table
        .find(id)
        .select(AccountRow::as_select())
        .first(open));
    Ok(optional(found)?)
}

/// Reads the row of the key and locks it: no other transaction changes it until this one ends.
pub(crate) async fn locked_key(
    connection: &mut Connection,
    id: DbId,
) -> Result<Option<KeyRow>, StoreError> {
    let found = match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::key_for_share(lease.enter(), id).await;
            lease.leave(outcome)
        }
        // An immediate transaction has locked everything.
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => query!(&mut *connection, |open| api_key::table
            .find(id)
            .select(KeyRow::as_select())
            .first(open)),
    };
    Ok(optional(found)?)
}
