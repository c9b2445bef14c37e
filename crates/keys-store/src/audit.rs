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
pub(crate) struct EventRow {
    pub(crate) id: DbId,
    pub(crate) at: DbTimestamp,
    pub(crate) actor_kind: &'static str,
    pub(crate) actor_id: Option<DbId>,
    pub(crate) action: &'static str,
    pub(crate) subject_id: DbId,
    pub(crate) address: Option<DbAddress>,
    pub(crate) reason: Option<String>,
}

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
