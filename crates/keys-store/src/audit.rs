//! The trace each change leaves.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_service::store::Change;
use uuid::Uuid;

use crate::connection::{Connection, query};
use crate::error::QueryError;
use crate::schema::audit_event;
use crate::types::{DbAddress, DbId, DbTimestamp};

#[derive(Insertable)]
#[diesel(table_name = audit_event, treat_none_as_default_value = false)]
struct EventRow {
    id: DbId,
    at: DbTimestamp,
    actor_kind: &'static str,
    actor_id: Option<DbId>,
    action: &'static str,
    subject_id: DbId,
    address: Option<DbAddress>,
    reason: Option<String>,
}

/// Writes that `action` was done to `subject`, in the transaction that does it.
pub(crate) async fn record(
    connection: &mut Connection,
    change: &Change,
    action: &'static str,
    subject: Uuid,
) -> Result<(), QueryError> {
    let (actor_kind, actor_id) = change.actor();
    let event = EventRow {
        id: DbId(change.event_id.as_uuid()),
        at: DbTimestamp(change.at),
        actor_kind,
        actor_id: actor_id.map(|id| DbId(id.as_uuid())),
        action,
        subject_id: DbId(subject),
        address: change.address().map(DbAddress),
        reason: change.reason.map(str::to_owned),
    };
    query!(connection, |open| diesel::insert_into(audit_event::table)
        .values(event)
        .execute(open))?;
    Ok(())
}
