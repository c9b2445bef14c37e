//! Replacement of keys by new ones.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{KeyDetails, KeyId, RevocationReason};
use keys_service::ports::{Change, ChangeError, Commit, KeyRotation};

use crate::connection::{Connection, Pools, query};
use crate::error::{QueryError, optional};
use crate::opening::{Opened, Opening};
use crate::rows::{EventRow, KeyDetailsRow, NewKeyRow};
use crate::schema::api_key;
use crate::types::{DbId, DbTimestamp};
use crate::{audit, changes, keys, load};

pub(crate) async fn rotate(
    pools: Pools,
    rotation: KeyRotation,
    change: Change,
) -> Result<(Option<KeyId>, Commit), ChangeError> {
    let account = rotation.new.key.account_id;
    let opening = Opening::new(&change, account, Some(rotation.old)).also(rotation.oldest);
    let (mut connection, opened) = load::open(&pools, &opening).await?;
    let outcome = match opened {
        Ok(opened) => rotate_in(&mut connection, opened, &rotation, &change).await,
        Err(error) => Err(error.into()),
    };
    connection.finish(outcome).await
}

async fn rotate_in(
    connection: &mut Connection,
    opened: Opened,
    rotation: &KeyRotation,
    change: &Change,
) -> Result<(Option<KeyId>, Commit), ChangeError> {
    keys::admit(connection, opened, &rotation.new, change).await?;
    let old = details(connection, rotation.old).await?;
    let old = old
        .filter(|old| old.version() == rotation.version)
        .ok_or(ChangeError::KeyChanged)?;
    let oldest = match rotation.oldest {
        Some(id) => details(connection, id).await?,
        None => None,
    };

    let row = NewKeyRow::new(&rotation.new, change);
    let event = EventRow::from(rotation.created_event(change));
    keys::insert_in(connection, row, event, change).await?;

    let ended = oldest.and_then(|oldest| rotation.superseded(oldest, change));
    let ended_id = ended.as_ref().map(|key| key.key.id);
    if let (Some(ended), Some(id)) = (&ended, ended_id) {
        write(connection, ended).await?;
        audit::write(connection, rotation.ended_event(id, change).into()).await?;
    }
    write(connection, &rotation.replaced(old, change)).await?;
    audit::write(connection, rotation.rotated_event(change).into()).await?;
    Ok((ended_id, changes::commit(connection).await?))
}

/// Reads a key that is locked. `None` also for one that cannot be read.
async fn details(connection: &mut Connection, id: KeyId) -> Result<Option<KeyDetails>, QueryError> {
    let row = query!(connection, |open| api_key::table
        .find(DbId(id.as_uuid()))
        .select(KeyDetailsRow::as_select())
        .first(open));
    let row = optional(row)?;
    Ok(row.and_then(|row: KeyDetailsRow| row.read_or_log().ok()))
}

/// Writes the end and the successor of a key that is locked.
async fn write(connection: &mut Connection, changed: &KeyDetails) -> Result<(), QueryError> {
    let id = DbId(changed.key.id.as_uuid());
    let successor = changed.successor.map(|id| DbId(id.as_uuid()));
    let expires_at = changed.key.expires_at.map(DbTimestamp);
    let revoked_at = changed.key.revoked_at.map(DbTimestamp);
    let reason = changed.revocation.reason.map(RevocationReason::as_str);
    query!(connection, |open| diesel::update(api_key::table.find(id))
        .set((
            api_key::successor_id.eq(successor),
            api_key::expires_at.eq(expires_at),
            api_key::revoked_at.eq(revoked_at),
            api_key::revoked_reason.eq(reason),
        ))
        .execute(open))?;
    Ok(())
}
