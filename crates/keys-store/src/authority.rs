//! Whether a change may still be made, judged inside its transaction.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::KeyId;
use keys_service::store::{Authority, Change, ChangeError, StoreError, StoredKey, UnreadableKey};

use crate::connection::{Connection, query};
use crate::error::optional;
use crate::rows::{KeyRow, stored_key};
use crate::schema::api_key;
use crate::types::DbId;
use crate::{accounts, postgres};

/// Judges the caller on what the transaction sees, and keeps its key from being revoked before the transaction ends.
///
/// Its account is kept as well wherever the change is to that account, which has then been locked before.
pub(crate) async fn check(connection: &mut Connection, change: &Change) -> Result<(), ChangeError> {
    let Authority::Caller(caller) = &change.authority else {
        return Ok(());
    };
    let stored = find(connection, caller.key_id).await?;
    let stored = stored
        .transpose()
        .map_err(|unreadable| ChangeError::CallerDenied(unreadable.denial()))?;
    caller
        .check(stored.as_ref(), change.at)
        .map_err(ChangeError::CallerDenied)
}

async fn find(
    connection: &mut Connection,
    id: KeyId,
) -> Result<Option<Result<StoredKey, UnreadableKey>>, StoreError> {
    let id = DbId(id.as_uuid());
    let found = match connection {
        Connection::Postgres(lease) => {
            let outcome = postgres::key_for_share(lease.enter(), id).await;
            lease.leave(outcome)
        }
        // An immediate transaction has locked everything.
        Connection::Sqlite(_) => query!(&mut *connection, |open| api_key::table
            .find(id)
            .select(KeyRow::as_select())
            .first(open)),
    };
    let Some(row) = optional(found)? else {
        return Ok(None);
    };
    let mut stored = match stored_key(row, None) {
        Ok(stored) => stored,
        Err(unreadable) => return Ok(Some(Err(unreadable))),
    };
    let Some(account_id) = stored.key.account_id else {
        return Ok(Some(Ok(stored)));
    };
    let Some(account) = accounts::find_in(connection, account_id).await? else {
        return Ok(Some(Ok(stored)));
    };
    Ok(Some(match accounts::readable(account) {
        Ok(account) => {
            stored.account = Some(account);
            Ok(stored)
        }
        Err(_) => Err(UnreadableKey {
            id: Some(stored.key.id),
            is_revoked: stored.key.revoked_at.is_some(),
        }),
    }))
}
