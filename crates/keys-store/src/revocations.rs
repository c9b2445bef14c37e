//! Revocations of several keys in one transaction, and the operator keys that must be left.
//!
//! On PostgreSQL the accounts of all keys are locked first and then the keys, each in the order of
//! their identifiers, together with the key of the caller. So this never waits for a change that
//! waits for it.

use std::collections::{BTreeSet, HashSet};

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text};
use diesel_async::RunQueryDsl;
use keys_core::{
    AuditAction, AuditSubject, CreatedBy, KeyId, KeyKind, OperatorScope, Revocation,
    RevocationReason, Scope, ScopeSet,
};
use keys_service::ports::{
    Authority, CHAIN_MAX, Change, ChangeError, Commit, KeySelection, REMAINING_MAX, REVOKED_MAX,
    RevokedKeys, Selected, StoreError,
};

use crate::connection::{Connection, Pools, query};
use crate::error::QueryError;
#[cfg(feature = "postgres")]
use crate::postgres;
use crate::rows::{AccountRow, EventRow, KeyRow, RevocationRow, kind_code};
use crate::schema::api_key;
#[cfg(feature = "sqlite")]
use crate::sqlite;
use crate::types::{DbId, DbTexts, DbTimestamp, Id, Moment, Tolerant};
use crate::{audit, authority, changes, idempotency, load};

const OPERATOR: i16 = kind_code(KeyKind::Operator);

/// Identifiers in one statement. SQLite limits its parameters.
const IDS_PER_STATEMENT: usize = 500;

pub(crate) async fn revoke(
    pools: Pools,
    selection: KeySelection,
    revocation: Revocation,
    change: Change,
) -> Result<RevokedKeys, ChangeError> {
    let mut connection = pools.begin().await?;
    let outcome = revoke_in(&mut connection, &selection, &revocation, &change).await;
    connection.finish(outcome).await
}

async fn revoke_in(
    connection: &mut Connection,
    selection: &KeySelection,
    revocation: &Revocation,
    change: &Change,
) -> Result<RevokedKeys, ChangeError> {
    // No other selection, and no chain of another kind of keys, has an operator key.
    let concerns_operators =
        selection.keeps_an_operator && selection.kind.is_none_or(|kind| kind == KeyKind::Operator);
    if concerns_operators {
        lock_operators(connection).await?;
    }
    let mut is_account_missing = false;
    if let Some(account) = selection.account {
        is_account_missing = load::locked_account(connection, account).await?.is_none();
    }
    let is_leaked = revocation.reason == Some(RevocationReason::Leaked);
    let now = DbTimestamp(change.at);
    let mut found = find(connection, selection, is_leaked, now).await?;
    let caller = lock(connection, &found.living, change).await?;
    judge(connection, caller, change).await?;
    if is_account_missing {
        return Err(ChangeError::AccountNotFound);
    }
    if is_leaked {
        // No key of the chain makes another one any more. Those that it made until it was locked
        // are found now.
        found = find(connection, selection, is_leaked, now).await?;
    }
    let Found {
        mut living,
        more,
        is_cut,
    } = found;
    let in_chain = living.len().saturating_sub(REVOKED_MAX);
    living.truncate(REVOKED_MAX);
    let ids: Vec<DbId> = living.iter().map(|target| target.id).collect();
    if concerns_operators {
        check_operators(connection, &ids, change).await?;
    }
    let revoked = write(connection, &ids, revocation, change).await?;
    let remaining = if more {
        count(connection, selection, now).await?
    } else {
        // Keys that were not visited may be among those that remain.
        let unknown = usize::from(is_cut);
        u64::try_from(in_chain.max(unknown)).unwrap_or(REMAINING_MAX)
    };
    let commit = if revoked.is_empty() {
        None
    } else {
        idempotency::complete(connection, change).await?;
        Some(changes::commit(connection).await?)
    };
    Ok(RevokedKeys::new(
        revoked,
        remaining.min(REMAINING_MAX),
        commit,
    ))
}

pub(crate) async fn set_operator_scopes(
    pools: Pools,
    id: KeyId,
    scopes: ScopeSet,
    keeps_an_operator: bool,
    change: Change,
) -> Result<Option<Commit>, ChangeError> {
    let mut connection = pools.begin().await?;
    let outcome = set_scopes_in(&mut connection, id, &scopes, keeps_an_operator, &change).await;
    connection.finish(outcome).await
}

async fn set_scopes_in(
    connection: &mut Connection,
    id: KeyId,
    scopes: &ScopeSet,
    keeps_an_operator: bool,
    change: &Change,
) -> Result<Option<Commit>, ChangeError> {
    let id_of_row = DbId(id.as_uuid());
    let may_go = keeps_an_operator && !scopes.contains(&Scope::from(OperatorScope::OperatorsWrite));
    if may_go {
        lock_operators(connection).await?;
    }
    let target = Target {
        id: id_of_row,
        account: None,
        is_revoked: false,
    };
    let caller = lock(connection, &[target], change).await?;
    judge(connection, caller, change).await?;
    if may_go {
        check_operators(connection, &[id_of_row], change).await?;
    }
    let scopes = DbTexts(scopes.iter().map(ToString::to_string).collect());
    let changed = query!(&mut *connection, |open| diesel::update(
        api_key::table.find(id_of_row)
    )
    .filter(api_key::kind.eq(OPERATOR))
    .filter(api_key::revoked_at.is_null())
    .set(api_key::scopes.eq(scopes))
    .execute(open))?;
    if changed == 0 {
        return Ok(None);
    }
    let subject = AuditSubject::Key(id);
    let event = audit::event(change, AuditAction::KeyUpdated, subject);
    audit::write(connection, event).await?;
    idempotency::complete(connection, change).await?;
    Ok(Some(changes::commit(connection).await?))
}

/// A key that was found.
#[derive(Debug, Clone, Copy)]
struct Target {
    id: DbId,
    account: Option<DbId>,
    is_revoked: bool,
}

/// Identifier, account, and time of its revocation.
type TargetRow = (
    Tolerant<DbId>,
    Option<Tolerant<DbId>>,
    Option<Tolerant<DbTimestamp>>,
);

/// The columns of a [`TargetRow`].
const TARGET: (api_key::id, api_key::account_id, api_key::revoked_at) =
    (api_key::id, api_key::account_id, api_key::revoked_at);

impl Target {
    /// `None` if the identifier cannot be read.
    fn read((id, account, revoked_at): TargetRow) -> Option<Self> {
        Some(Self {
            id: id.0.ok()?,
            account: account.and_then(|account| account.0.ok()),
            is_revoked: revoked_at.is_some(),
        })
    }
}

/// The keys to revoke.
struct Found {
    /// Those that are not revoked. At most one more than [`REVOKED_MAX`], unless all are known.
    living: Vec<Target>,
    /// Whether the selection has more of them.
    more: bool,
    /// Whether a chain was not followed to its end.
    is_cut: bool,
}

async fn find(
    connection: &mut Connection,
    selection: &KeySelection,
    is_leaked: bool,
    now: DbTimestamp,
) -> Result<Found, QueryError> {
    let limit = REVOKED_MAX + 1;
    let named = match &selection.of {
        Selected::Ids(ids) => Some(by_ids(connection, selection, ids).await?),
        Selected::AllOf(..) | Selected::CreatedBy(..) => None,
    };
    let (living, more) = if let Some(named) = &named {
        let living = named.iter().filter(|target| !target.is_revoked);
        (living.copied().collect(), false)
    } else {
        let living = selected(connection, selection, false, now, limit).await?;
        let more = living.len() > REVOKED_MAX;
        (living, more)
    };
    let mut found = Found {
        living,
        more,
        is_cut: false,
    };
    if is_leaked && found.living.len() <= REVOKED_MAX {
        let roots = if let Some(named) = named {
            named
        } else {
            let mut roots = found.living.clone();
            roots.extend(selected(connection, selection, true, now, CHAIN_MAX).await?);
            roots
        };
        found.is_cut = follow(connection, roots, &mut found.living).await?;
    }
    Ok(found)
}

/// Returns the keys with these identifiers that pass the filters, the newest first.
async fn by_ids(
    connection: &mut Connection,
    selection: &KeySelection,
    ids: &[KeyId],
) -> Result<Vec<Target>, QueryError> {
    let distinct: BTreeSet<KeyId> = ids.iter().copied().collect();
    let ids: Vec<DbId> = distinct.iter().rev().map(|id| DbId(id.as_uuid())).collect();
    let account = selection.account.map(|id| DbId(id.as_uuid()));
    let kind = selection.kind.map(kind_code);
    let mut found = Vec::new();
    for ids in ids.chunks(IDS_PER_STATEMENT) {
        let rows: Vec<(TargetRow, Tolerant<i16>)> =
            query!(&mut *connection, |open| api_key::table
                .filter(api_key::id.eq_any(ids.to_vec()))
                .order(api_key::id.desc())
                .select((TARGET, api_key::kind))
                .load(open))?;
        let passing = rows.into_iter().filter_map(|(target, of_kind)| {
            let target = Target::read(target)?;
            let of_kind = of_kind.0.ok();
            (kind.is_none_or(|kind| of_kind == Some(kind))
                && account.is_none_or(|account| target.account == Some(account)))
            .then_some(target)
        });
        found.extend(passing);
    }
    Ok(found)
}

/// A selection in SQL of both databases. All texts have the same parameters, and they first appear
/// in the order of their numbers, as SQLite requires.
struct Statement {
    conditions: &'static str,
    /// The order, newest first, that an index of these conditions has.
    order: &'static str,
    account: Option<DbId>,
    kind: i16,
    maker: Option<DbId>,
    subject: Option<String>,
}

impl Statement {
    const ALL_OF: &str = "account_id = $1 and kind = $2 and $3 is null and $4 is null";
    const OPERATOR: &str = "($1 is null or account_id = $1) and kind = $2 \
         and created_by_id = $3 and created_by_kind = 'operator' and $4 is null";
    const SUBJECT: &str = "($1 is null or account_id = $1) and kind = $2 \
         and $3 is null and subject = $4";
    const LIVING: &str = "revoked_at is null and (kind <> 3 or expires_at > $5)";
    const REVOKED: &str = "revoked_at is not null and $5 is not null";

    /// `None` for a list of identifiers.
    fn of(selection: &KeySelection) -> Option<Self> {
        let account = selection.account.map(|id| DbId(id.as_uuid()));
        Some(match &selection.of {
            Selected::Ids(_) => return None,
            Selected::AllOf(account, kind) => Self {
                conditions: Self::ALL_OF,
                order: "created_at desc, id desc",
                account: Some(DbId(account.as_uuid())),
                kind: kind_code(*kind),
                maker: None,
                subject: None,
            },
            Selected::CreatedBy(CreatedBy::Operator(id), kind) => Self {
                conditions: Self::OPERATOR,
                order: "id desc",
                account,
                kind: kind_code(*kind),
                maker: Some(DbId(id.as_uuid())),
                subject: None,
            },
            Selected::CreatedBy(CreatedBy::Subject(subject), kind) => Self {
                conditions: Self::SUBJECT,
                order: "id desc",
                account,
                kind: kind_code(*kind),
                maker: None,
                subject: Some(subject.to_string()),
            },
        })
    }
}

/// Loads the rows of a text with the parameters of a [`Statement`].
macro_rules! load_selected {
    ($connection:expr, $statement:expr, $now:expr, $limit:expr, $text:expr) => {
        query!(&mut *$connection, |open| sql_query($text)
            .bind::<Nullable<Id>, _>($statement.account)
            .bind::<SmallInt, _>($statement.kind)
            .bind::<Nullable<Id>, _>($statement.maker)
            .bind::<Nullable<Text>, _>($statement.subject)
            .bind::<Moment, _>($now)
            .bind::<BigInt, _>($limit)
            .load(open))
    };
}

/// Returns at most `limit` selected keys, the newest first: those that are revoked, or the others
/// without sessions that have expired.
async fn selected(
    connection: &mut Connection,
    selection: &KeySelection,
    are_revoked: bool,
    now: DbTimestamp,
    limit: usize,
) -> Result<Vec<Target>, QueryError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Id)]
        id: Tolerant<DbId>,
        #[diesel(sql_type = Nullable<Id>)]
        account_id: Option<Tolerant<DbId>>,
        #[diesel(sql_type = Nullable<Moment>)]
        revoked_at: Option<Tolerant<DbTimestamp>>,
    }
    let Some(statement) = Statement::of(selection) else {
        return Ok(Vec::new());
    };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let state = if are_revoked {
        Statement::REVOKED
    } else {
        Statement::LIVING
    };
    let text = format!(
        "select id, account_id, revoked_at from api_key where {} and {state} order by {} limit $6",
        statement.conditions, statement.order
    );
    let rows: Vec<Row> = load_selected!(connection, statement, now, limit, text)?;
    let targets = rows
        .into_iter()
        .filter_map(|row| Target::read((row.id, row.account_id, row.revoked_at)));
    Ok(targets.collect())
}

/// Counts the selected keys that are not revoked, up to [`REMAINING_MAX`].
async fn count(
    connection: &mut Connection,
    selection: &KeySelection,
    now: DbTimestamp,
) -> Result<u64, QueryError> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let Some(statement) = Statement::of(selection) else {
        return Ok(0);
    };
    let limit = i64::try_from(REMAINING_MAX).unwrap_or(i64::MAX);
    let text = format!(
        "select count(*) as count from (select 1 from api_key where {} and {} limit $6) as one",
        statement.conditions,
        Statement::LIVING
    );
    let rows: Vec<Row> = load_selected!(connection, statement, now, limit, text)?;
    let count = rows.into_iter().map(|row| row.count).sum::<i64>();
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Adds the successors of `roots` and the keys that they made, transitively and the nearest first,
/// to `living`, as far as they are not revoked. Visits at most [`CHAIN_MAX`] keys, which bounds
/// the number of statements as well, because each step visits at least one more. Returns whether
/// there may be more.
async fn follow(
    connection: &mut Connection,
    roots: Vec<Target>,
    living: &mut Vec<Target>,
) -> Result<bool, QueryError> {
    let mut edge: Vec<DbId> = roots.iter().take(CHAIN_MAX).map(|root| root.id).collect();
    let mut visited: HashSet<DbId> = edge.iter().copied().collect();
    while !edge.is_empty() {
        let mut next = Vec::new();
        for makers in edge.chunks(IDS_PER_STATEMENT) {
            let left = CHAIN_MAX.saturating_sub(visited.len());
            if left == 0 {
                break;
            }
            let limit = i64::try_from(left).unwrap_or(i64::MAX);
            // First those that are to be revoked, so that each call goes on with others.
            let mut made: Vec<TargetRow> = query!(&mut *connection, |open| api_key::table
                .filter(api_key::created_by_id.eq_any(makers.to_vec()))
                .filter(api_key::revoked_at.is_null())
                .limit(limit)
                .select(TARGET)
                .load(open))?;
            let revoked: Vec<TargetRow> = query!(&mut *connection, |open| api_key::table
                .filter(api_key::created_by_id.eq_any(makers.to_vec()))
                .filter(api_key::revoked_at.is_not_null())
                .limit(limit)
                .select(TARGET)
                .load(open))?;
            made.extend(revoked);
            let successors: Vec<Option<Tolerant<DbId>>> =
                query!(&mut *connection, |open| api_key::table
                    .filter(api_key::id.eq_any(makers.to_vec()))
                    .filter(api_key::successor_id.is_not_null())
                    .select(api_key::successor_id)
                    .load(open))?;
            let successors: Vec<DbId> = successors
                .into_iter()
                .filter_map(|id| id?.0.ok())
                .filter(|id| !visited.contains(id))
                .collect();
            let replacing: Vec<TargetRow> = query!(&mut *connection, |open| api_key::table
                .filter(api_key::id.eq_any(successors))
                .select(TARGET)
                .load(open))?;
            let found = replacing.into_iter().chain(made).filter_map(Target::read);
            for target in found {
                if visited.len() < CHAIN_MAX && visited.insert(target.id) {
                    next.push(target);
                }
            }
        }
        living.extend(next.iter().filter(|target| !target.is_revoked));
        edge = next.into_iter().map(|target| target.id).collect();
    }
    Ok(visited.len() >= CHAIN_MAX)
}

/// Locks the accounts of keys and the keys, together with that of the caller, which it returns.
async fn lock(
    connection: &mut Connection,
    targets: &[Target],
    change: &Change,
) -> Result<Option<KeyRow>, StoreError> {
    let caller = match &change.authority {
        Authority::Trusted => None,
        Authority::Caller(caller) => Some(DbId(caller.key_id.as_uuid())),
    };
    match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let accounts: HashSet<DbId> =
                targets.iter().filter_map(|target| target.account).collect();
            let keys: HashSet<DbId> = targets
                .iter()
                .take(REVOKED_MAX)
                .map(|target| target.id)
                .chain(caller)
                .collect();
            let open = lease.enter();
            let outcome = async {
                postgres::lock_accounts(open, accounts.into_iter().collect()).await?;
                postgres::lock_keys(open, keys.into_iter().collect()).await
            };
            let outcome = outcome.await;
            let locked = lease.leave(outcome)?;
            let mut locked = locked.into_iter();
            Ok(locked.find_map(|(id, row)| (Some(id) == caller).then_some(row)))
        }
        // An immediate transaction has locked everything.
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => match caller {
            Some(caller) => load::locked_key(connection, caller).await,
            None => Ok(None),
        },
    }
}

/// Checks the caller with the row of its key.
async fn judge(
    connection: &mut Connection,
    key: Option<KeyRow>,
    change: &Change,
) -> Result<(), ChangeError> {
    let account = match &change.authority {
        Authority::Caller(caller) => caller.account_id,
        Authority::Trusted => None,
    };
    let account = match account {
        Some(id) => load::account(connection, DbId(id.as_uuid())).await?,
        None => None,
    };
    authority::judge(change, key, account.map(AccountRow::read).as_ref()).map(drop)
}

/// Revokes those of the keys that are not revoked, and writes their events. Returns which.
async fn write(
    connection: &mut Connection,
    ids: &[DbId],
    revocation: &Revocation,
    change: &Change,
) -> Result<Vec<KeyId>, QueryError> {
    let why = RevocationRow::from(revocation);
    let events: Vec<EventRow> = ids
        .iter()
        .enumerate()
        .map(|(index, id)| {
            let subject = AuditSubject::Key(KeyId::from_uuid(id.0));
            audit::event_number(index, change, AuditAction::KeyRevoked, subject)
        })
        .collect();
    let revoked = match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::revoke_keys(lease.enter(), why, &events).await;
            lease.leave(outcome)
        }
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(lease) => {
            let outcome = sqlite::revoke_keys(lease.enter(), why, events).await;
            lease.leave(outcome)
        }
    }?;
    Ok(revoked
        .into_iter()
        .map(|id| KeyId::from_uuid(id.0))
        .collect())
}

/// Has only one transaction at a time take operator keys or their scopes away.
async fn lock_operators(connection: &mut Connection) -> Result<(), QueryError> {
    match connection {
        #[cfg(feature = "postgres")]
        Connection::Postgres(lease) => {
            let outcome = postgres::lock_operators(lease.enter()).await;
            lease.leave(outcome)
        }
        // An immediate transaction has locked everything.
        #[cfg(feature = "sqlite")]
        Connection::Sqlite(_) => Ok(()),
    }
}

/// Checks that a usable operator key with `operators:write` is left without `gone`, unless none of
/// these is one.
async fn check_operators(
    connection: &mut Connection,
    gone: &[DbId],
    change: &Change,
) -> Result<(), ChangeError> {
    let wanted = Scope::from(OperatorScope::OperatorsWrite);
    // Operators have few keys.
    let operators: Vec<KeyRow> = query!(connection, |open| api_key::table
        .filter(api_key::account_id.is_null())
        .filter(api_key::kind.eq(OPERATOR))
        .filter(api_key::revoked_at.is_null())
        .select(KeyRow::as_select())
        .load(open))?;
    let (going, left): (Vec<_>, Vec<_>) = operators
        .into_iter()
        // A key that cannot be read is refused.
        .filter_map(|row| row.read().ok())
        .filter(|key| {
            key.is_usable(change.at) && key.disabled_at.is_none() && key.scopes.contains(&wanted)
        })
        .partition(|key| gone.contains(&DbId(key.id.as_uuid())));
    if left.is_empty() && !going.is_empty() {
        Err(ChangeError::LastOperator)
    } else {
        Ok(())
    }
}
