//! The audit event of each change.

use diesel_async::RunQueryDsl;
use keys_core::{AuditAction, AuditSubject};
use keys_service::ports::Change;

use crate::connection::{Connection, query};
use crate::error::QueryError;
use crate::rows::EventRow;
use crate::schema::audit_event;

/// Returns the event for `action` on `subject`.
pub(crate) fn event(change: &Change, action: AuditAction, subject: AuditSubject) -> EventRow {
    EventRow::from(change.event(action, subject))
}

/// Returns the event number `index` of a change that leaves several.
pub(crate) fn event_number(
    index: usize,
    change: &Change,
    action: AuditAction,
    subject: AuditSubject,
) -> EventRow {
    let mut event = change.event(action, subject);
    event.id = change.event_id_of(index);
    EventRow::from(event)
}

/// Writes an event, in the transaction of the change.
pub(crate) async fn write(connection: &mut Connection, event: EventRow) -> Result<(), QueryError> {
    query!(connection, |open| diesel::insert_into(audit_event::table)
        .values(event)
        .execute(open))?;
    Ok(())
}
