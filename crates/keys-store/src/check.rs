//! Search for stored rows that break a rule of this program.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{AccountId, AuditActor, KeyDetails, PepperId};
use keys_service::ports::StoreError;
use uuid::Uuid;

use crate::connection::{Pools, query};
use crate::rows::{AccountRow, CorruptRow, Fault, KeyDetailsRow};
use crate::schema::{account, api_key, audit_event};
use crate::types::{DbId, Tolerant};

/// Rows of one read: few enough for a statement to end well within its time limit.
const PAGE: i64 = 1_000;

/// A column of a stored row that breaks a rule of this program. The row is not changed, and the key
/// or account of the row is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowFault {
    /// The table.
    pub table: &'static str,
    /// The identifier in the form of the API. `None` if it cannot be read.
    pub id: Option<String>,
    /// The identifier in the form of SQL.
    pub uuid: Option<Uuid>,
    /// The column.
    pub column: &'static str,
    /// The rule that its value breaks. Never repeats the value.
    pub why: String,
}

/// Start of the next page of a table: after `last`, and after a number of rows whose identifiers
/// cannot be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    last: DbId,
    skipped: i64,
}

impl Position {
    pub(crate) const START: Self = Self {
        last: DbId(Uuid::nil()),
        skipped: 0,
    };

    fn pass(&mut self, id: Option<Uuid>) {
        match id {
            Some(id) => {
                self.last = DbId(id);
                self.skipped = 0;
            }
            None => self.skipped += 1,
        }
    }
}

/// A table whose columns have a grammar.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Table {
    Account,
    ApiKey,
    AuditEvent,
}

impl Table {
    /// All tables, in the order of their names.
    pub(crate) const ALL: [Self; 3] = [Self::Account, Self::ApiKey, Self::AuditEvent];
}

/// Returns the faults of one page, in the order of identifiers, and the start of the next one, if
/// there may be one.
pub(crate) async fn page(
    pools: Pools,
    table: Table,
    from: Position,
) -> Result<(Vec<RowFault>, Option<Position>), StoreError> {
    let rows = match table {
        Table::Account => accounts(pools, from).await,
        Table::ApiKey => keys(pools, from).await,
        Table::AuditEvent => events(pools, from).await,
    }?;
    let mut next = from;
    for (id, _) in &rows {
        next.pass(*id);
    }
    let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= PAGE);
    let faults = rows.into_iter().filter_map(|(_, corrupt)| corrupt);
    Ok((faults.flat_map(told).collect(), is_full.then_some(next)))
}

type Row = (Option<Uuid>, Option<CorruptRow>);

async fn accounts(pools: Pools, from: Position) -> Result<Vec<Row>, StoreError> {
    let rows: Vec<AccountRow> = query!(&mut pools.read().await?, |open| account::table
        .filter(account::id.gt(from.last))
        .order(account::id)
        .offset(from.skipped)
        .limit(PAGE)
        .select(AccountRow::as_select())
        .load(open))?;
    let read = |row: AccountRow| match row.read() {
        Ok(account) => (Some(account.id.as_uuid()), None),
        Err(corrupt) => (corrupt.row.id, Some(corrupt.row)),
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn keys(pools: Pools, from: Position) -> Result<Vec<Row>, StoreError> {
    type FullRow = (KeyDetailsRow, Tolerant<Vec<u8>>, Tolerant<String>);
    let rows: Vec<FullRow> = query!(&mut pools.read().await?, |open| api_key::table
        .filter(api_key::id.gt(from.last))
        .order(api_key::id)
        .offset(from.skipped)
        .limit(PAGE)
        .select((
            KeyDetailsRow::as_select(),
            api_key::digest,
            api_key::pepper_id
        ))
        .load(open))?;
    let read = |(row, digest, pepper_id): FullRow| {
        let (id, mut faults) = match row.read() {
            Ok(KeyDetails { key, .. }) => {
                let is_visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
                let legal = key.shown_prefix.as_str().bytes().all(is_visible);
                let fault = (!legal).then(|| Fault {
                    column: "shown_prefix",
                    why: "has control characters".to_owned(),
                });
                (Some(key.id.as_uuid()), Vec::from_iter(fault))
            }
            Err(corrupt) => (corrupt.row.id, corrupt.row.faults),
        };
        if let Err(error) = digest.0 {
            faults.push(fault("digest", &*error));
        }
        match pepper_id.0 {
            Ok(text) => {
                if let Err(error) = text.parse::<PepperId>() {
                    faults.push(fault("pepper_id", &error));
                }
            }
            Err(error) => faults.push(fault("pepper_id", &*error)),
        }
        (id, corrupt("api_key", id, faults))
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Identifier, kind of the actor, the actor, action, subject.
type EventRow = (
    Tolerant<DbId>,
    Tolerant<String>,
    Option<Tolerant<DbId>>,
    Tolerant<String>,
    Tolerant<DbId>,
);

async fn events(pools: Pools, from: Position) -> Result<Vec<Row>, StoreError> {
    let rows: Vec<EventRow> = query!(&mut pools.read().await?, |open| audit_event::table
        .filter(audit_event::id.gt(from.last))
        .order(audit_event::id)
        .offset(from.skipped)
        .limit(PAGE)
        .select((
            audit_event::id,
            audit_event::actor_kind,
            audit_event::actor_id,
            audit_event::action,
            audit_event::subject_id,
        ))
        .load(open))?;
    Ok(rows.into_iter().map(read_event).collect())
}

fn read_event((id, actor_kind, actor_id, action, subject_id): EventRow) -> Row {
    let mut faults = Vec::new();
    let mut readable = |column, value: Result<(), BoxedError>| {
        faults.extend(value.err().map(|error| fault(column, &*error)));
    };
    let is_system = actor_kind
        .0
        .as_ref()
        .is_ok_and(|kind| kind == AuditActor::System.kind());
    let has_actor = actor_id.is_some();
    let id = id.0.map(|id| id.0);
    let known_id = id.as_ref().ok().copied();
    readable("id", id.map(|_| ()));
    let actor_kind = actor_kind.0.and_then(|kind| {
        let known = AuditActor::KINDS.contains(&kind.as_str());
        must(known, "is not the kind of an actor")
    });
    readable("actor_kind", actor_kind);
    let actor_id = actor_id.map_or(Ok(()), |actor| actor.0.map(|_| ()));
    let actor_id = actor_id.and_then(|()| {
        let agrees = is_system != has_actor;
        must(agrees, "is present exactly if the actor is not the system")
    });
    readable("actor_id", actor_id);
    let action = action.0.and_then(|action| {
        const RULE: &str = "is not two words of lower-case letters with a dot between them";
        must(is_action(&action), RULE)
    });
    readable("action", action);
    readable("subject_id", subject_id.0.map(|_| ()));
    (known_id, corrupt("audit_event", known_id, faults))
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

fn must(holds: bool, otherwise: &'static str) -> Result<(), BoxedError> {
    holds.then_some(()).ok_or(otherwise.into())
}

fn is_action(action: &str) -> bool {
    const MAX_LEN: usize = 64;
    let is_word = |word: &str| {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        !word.is_empty() && word.bytes().all(legal)
    };
    let words = action.split_once('.');
    action.len() <= MAX_LEN && words.is_some_and(|(one, other)| is_word(one) && is_word(other))
}

fn fault(column: &'static str, error: &(dyn std::error::Error + Send + Sync)) -> Fault {
    Fault {
        column,
        why: error.to_string(),
    }
}

fn corrupt(table: &'static str, id: Option<Uuid>, faults: Vec<Fault>) -> Option<CorruptRow> {
    (!faults.is_empty()).then_some(CorruptRow { table, id, faults })
}

fn told(row: CorruptRow) -> impl Iterator<Item = RowFault> {
    let CorruptRow { table, id, faults } = row;
    faults
        .into_iter()
        .map(move |Fault { column, why }| RowFault {
            table,
            // Identifiers of all kinds have the same form.
            id: id.map(|id| AccountId::from_uuid(id).to_string()),
            uuid: id,
            column,
            why,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_two_words() {
        for action in ["key.created", "account.updated", "a_b.c"] {
            assert!(is_action(action), "{action}");
        }
        for action in [
            "",
            ".",
            "key",
            "key.",
            ".created",
            "a.b.c",
            "Key.created",
            "a b.c",
        ] {
            assert!(!is_action(action), "{action}");
        }
    }
}
