//! Keys as management sees them.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{AuditSubject, KeyDetails, KeyId};
use keys_service::ports::{
    Change, ChangeError, Commit, KeyOwner, KeyPatch, StoreError, UnreadableKey,
};

use crate::connection::{Connection, Pools, query};
use crate::error::{QueryError, optional};
use crate::opening::{Opened, Opening};
use crate::rows::{self, AccountRow, ChangedKeyRow, KeyDetailsRow};
use crate::schema::api_key;
use crate::types::DbId;
use crate::{audit, authority, changes, idempotency, load};

pub(crate) async fn find(
    pools: Pools,
    id: KeyId,
) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError> {
    let row = read(&mut pools.read().await?, id).await?;
    Ok(row.map(KeyDetailsRow::read_or_log))
}

async fn read(connection: &mut Connection, id: KeyId) -> Result<Option<KeyDetailsRow>, QueryError> {
    optional(query!(connection, |open| api_key::table
        .find(DbId(id.as_uuid()))
        .select(KeyDetailsRow::as_select())
        .first(open)))
}

pub(crate) async fn update(
    pools: Pools,
    owner: KeyOwner,
    id: KeyId,
    patch: KeyPatch,
    change: Change,
) -> Result<Option<(KeyDetails, Commit)>, ChangeError> {
    let account = match owner {
        KeyOwner::Account(id) => Some(id),
        KeyOwner::Operators => None,
    };
    let opening = Opening::new(&change, account, Some(id));
    let (mut connection, opened) = load::open(&pools, &opening).await?;
    let outcome = match opened {
        Ok(opened) => update_in(&mut connection, opened, owner, id, &patch, &change).await,
        Err(error) => Err(error.into()),
    };
    connection.finish(outcome).await
}

/// Changes a key that is locked, with the account and the caller.
async fn update_in(
    connection: &mut Connection,
    opened: Opened,
    owner: KeyOwner,
    id: KeyId,
    patch: &KeyPatch,
    change: &Change,
) -> Result<Option<(KeyDetails, Commit)>, ChangeError> {
    let account = opened.caller_account.or(opened.account);
    let account = account.map(AccountRow::read);
    let caller = authority::judge(change, opened.caller, account.as_ref())?;
    let Some(row) = read(connection, id).await? else {
        return Ok(None);
    };
    let before = row.read().map_err(|corrupt| {
        rows::log(&corrupt.row);
        StoreError::from(corrupt.row)
    })?;
    if !owner.owns(&before.key) {
        return Ok(None);
    }
    let after = patch.apply(&before, caller.as_ref(), change.at)?;
    if let Some(action) = KeyPatch::action(&before, &after) {
        let row = ChangedKeyRow::from(&after);
        let updated = query!(&mut *connection, |open| diesel::update(
            api_key::table.find(DbId(id.as_uuid()))
        )
        .set(row)
        .execute(open))?;
        if updated != 1 {
            return Err(StoreError::Unexpected("the locked key is gone".into()).into());
        }
        let event = audit::event(change, action, AuditSubject::Key(id));
        audit::write(connection, event).await?;
    }
    idempotency::complete(connection, change).await?;
    Ok(Some((after, changes::commit(connection).await?)))
}
