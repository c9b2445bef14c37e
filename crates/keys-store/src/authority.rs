//! The check inside the transaction whether a change may still be made.

use keys_core::{Account, AccountId, ApiKey};
use keys_service::ports::{Authority, Change, ChangeError, UnreadableKey};

use crate::connection::Connection;
use crate::load;
#[cfg(feature = "postgres")]
use crate::postgres::Held;
use crate::rows::{self, AccountRow, CorruptAccount, KeyRow, stored_key};
use crate::types::DbId;

/// The condition that the caller is as it was when it was accepted, for a change to `account` in
/// one statement. `None` unless the caller's key belongs to the account and is acceptable by the
/// records that are known.
///
/// The lock on the account comes first, so two such changes never wait for each other's keys.
/// Callers without an account in common, such as two operators that revoke each other's keys, need
/// both keys locked in order, which takes several statements.
#[cfg(feature = "postgres")]
pub(crate) fn held(change: &Change, account: AccountId) -> Option<(Held, &ApiKey, &Account)> {
    let Authority::Caller(caller) = &change.authority else {
        return None;
    };
    let accepted = caller.accepted.as_deref()?;
    let own = accepted.account.as_ref().filter(|own| own.id == account)?;
    let is_known = accepted.key.id == caller.key_id && change.completion.is_none();
    let is_acceptable = is_known && caller.check(Some(accepted), change.at).is_ok();
    is_acceptable.then(|| (Held::new(own, &accepted.key), &accepted.key, own))
}

/// Checks the caller with the rows of the transaction, and keeps its key from being revoked before
/// the transaction ends.
///
/// Its account is locked as well if the change is to that account, which has been locked before.
pub(crate) async fn check(connection: &mut Connection, change: &Change) -> Result<(), ChangeError> {
    let Authority::Caller(caller) = &change.authority else {
        return Ok(());
    };
    let key = load::locked_key(connection, DbId(caller.key_id.as_uuid())).await?;
    let account = match caller.account_id {
        Some(id) => load::account(connection, DbId(id.as_uuid())).await?,
        None => None,
    };
    judge(change, key, account.map(AccountRow::read).as_ref()).map(drop)
}

/// Checks the caller with its key and its account, as the transaction sees them. An account other
/// than the key's counts as missing. Returns the caller's key, or `None` if the change is made
/// without a caller.
pub(crate) fn judge(
    change: &Change,
    key: Option<KeyRow>,
    account: Option<&Result<Account, Box<CorruptAccount>>>,
) -> Result<Option<ApiKey>, ChangeError> {
    let Authority::Caller(caller) = &change.authority else {
        return Ok(None);
    };
    let refused = |key: UnreadableKey| ChangeError::CallerDenied(key.denial());
    let mut stored = key
        .map(|key| stored_key(key, None))
        .transpose()
        .map_err(refused)?;
    if let Some(stored) = &mut stored
        && let Some(id) = stored.key.account_id
    {
        match account {
            Some(Ok(account)) if account.id == id => stored.account = Some(account.clone()),
            Some(Err(corrupt)) if corrupt.row.id == Some(id.as_uuid()) => {
                rows::log(&corrupt.row);
                return Err(refused(UnreadableKey::new(
                    Some(stored.key.id),
                    stored.key.revoked_at.is_some(),
                )));
            }
            _ => {}
        }
    }
    caller
        .check(stored.as_ref(), change.at)
        .map_err(ChangeError::CallerDenied)?;
    Ok(stored.map(|stored| stored.key))
}
