//! Accounts.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{Account, AccountId, AuditAction, AuditSubject, ExternalId};
use keys_service::ports::{
    AccountEntry, AccountPatch, AccountQuery, Change, ChangeError, Commit, StoreError,
};
use uuid::Uuid;

use crate::connection::{Connection, Pools, query};
use crate::rows::{self, AccountRow, NewAccountRow};
use crate::schema::account;
use crate::types::DbId;
use crate::{audit, authority, changes, idempotency, load};

pub(crate) async fn find(pools: Pools, id: AccountId) -> Result<Option<Account>, StoreError> {
    let row = load::account(&mut pools.read().await?, DbId(id.as_uuid())).await?;
    Ok(row.map(Account::try_from).transpose()?)
}

pub(crate) async fn entry(pools: Pools, id: AccountId) -> Result<Option<AccountEntry>, StoreError> {
    let row = load::account(&mut pools.read().await?, DbId(id.as_uuid())).await?;
    Ok(row.and_then(shown))
}

/// Returns the account as lists show it. `None` if not even its identifier can be read.
fn shown(row: AccountRow) -> Option<AccountEntry> {
    match row.read() {
        Ok(account) => Some(Ok(account)),
        Err(corrupt) => {
            rows::log(&corrupt.row);
            corrupt.shown.map(Err)
        }
    }
}

pub(crate) async fn list(
    pools: Pools,
    wanted: AccountQuery,
) -> Result<Vec<AccountEntry>, StoreError> {
    let mut connection = pools.read().await?;
    // No account has the nil UUID, so every account comes after it.
    let after = DbId(wanted.after.map_or(Uuid::nil(), AccountId::as_uuid));
    let limit = i64::from(wanted.limit);
    let rows: Vec<AccountRow> = match wanted.external_id {
        Some(external_id) => query!(&mut connection, |open| account::table
            .filter(account::external_id.eq(external_id.as_str()))
            .filter(account::id.gt(after))
            .order(account::id)
            .limit(limit)
            .select(AccountRow::as_select())
            .load(open)),
        None => query!(&mut connection, |open| account::table
            .filter(account::id.gt(after))
            .order(account::id)
            .limit(limit)
            .select(AccountRow::as_select())
            .load(open)),
    }?;
    Ok(rows.into_iter().filter_map(shown).collect())
}

pub(crate) async fn insert(
    pools: Pools,
    account: Account,
    change: Change,
) -> Result<(), ChangeError> {
    let mut connection = pools.begin().await?;
    let outcome = insert_in(&mut connection, &account, &change).await;
    connection.finish(outcome).await
}

async fn insert_in(
    connection: &mut Connection,
    account: &Account,
    change: &Change,
) -> Result<(), ChangeError> {
    authority::check(connection, change).await?;
    let row = NewAccountRow::from(account);
    let inserted = query!(connection, |open| diesel::insert_into(account::table)
        .values(row)
        .on_conflict(account::external_id)
        .do_nothing()
        .execute(open))?;
    if inserted == 0 {
        return Err(ChangeError::ExternalIdTaken);
    }
    let subject = AuditSubject::Account(account.id);
    let event = audit::event(change, AuditAction::AccountCreated, subject);
    audit::write(connection, event).await?;
    idempotency::complete(connection, change).await
}

pub(crate) async fn update(
    pools: Pools,
    id: AccountId,
    patch: AccountPatch,
    change: Change,
) -> Result<(Account, Commit), ChangeError> {
    let mut connection = pools.begin().await?;
    let outcome = update_in(&mut connection, id, patch, &change).await;
    connection.finish(outcome).await
}

async fn update_in(
    connection: &mut Connection,
    id: AccountId,
    patch: AccountPatch,
    change: &Change,
) -> Result<(Account, Commit), ChangeError> {
    let locked = load::locked_account(connection, id).await?;
    authority::check(connection, change).await?;
    let row = locked.ok_or(ChangeError::AccountNotFound)?;
    let account = row.patched(patch).map_err(|corrupt| {
        rows::log(&corrupt);
        ChangeError::AccountUnreadable {
            columns: corrupt.faults.iter().map(|fault| fault.column).collect(),
        }
    })?;
    let updated = query!(connection, |open| diesel::update(
        account::table.find(DbId(id.as_uuid()))
    )
    .set((
        account::plan.eq(account.plan.as_str()),
        account::disabled.eq(account.disabled),
        account::external_id.eq(account.external_id.as_ref().map(ExternalId::as_str)),
    ))
    .execute(open));
    match updated {
        Ok(1) => {}
        Ok(_) => return Err(ChangeError::AccountNotFound),
        // The identifier itself is not set, so only the external one can collide.
        Err(error) if error.is_unique_violation() => return Err(ChangeError::ExternalIdTaken),
        Err(error) => return Err(error.into()),
    }
    let subject = AuditSubject::Account(id);
    let event = audit::event(change, AuditAction::AccountUpdated, subject);
    audit::write(connection, event).await?;
    idempotency::complete(connection, change).await?;
    Ok((account, changes::commit(connection).await?))
}
