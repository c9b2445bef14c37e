//! The trace each change leaves.

use diesel_async::RunQueryDsl;
use keys_service::ports::Change;
use uuid::Uuid;

use crate::connection::{Connection, query};
use crate::error::QueryError;
use crate::rows::EventRow;
use crate::schema::audit_event;
use crate::types::{DbAddress, DbId, DbTimestamp};

/// The event that says that `action` was done to `subject`.
pub(crate) fn event(change: &Change, action: &'static str, subject: Uuid) -> EventRow {
    let (actor_kind, actor_id) = change.actor();
    EventRow {
        id: DbId(change.event_id.as_uuid()),
        at: DbTimestamp(change.at),
        actor_kind,
        actor_id: actor_id.map(|id| DbId(id.as_uuid())),
        action,
        subject_id: DbId(subject),
        address: change.address().map(DbAddress),
        reason: change.reason.map(str::to_owned),
    }
}

/// Writes that `action` was done to `subject`, in the transaction that does it.
pub(crate) async fn record(
    connection: &mut Connection,
    change: &Change,
    action: &'static str,
    subject: Uuid,
) -> Result<(), QueryError> {
    write(connection, event(change, action, subject)).await
}

pub(crate) async fn write(connection: &mut Connection, event: EventRow) -> Result<(), QueryError> {
    query!(connection, |open| diesel::insert_into(audit_event::table)
        .values(event)
        .execute(open))?;
    Ok(())
}
