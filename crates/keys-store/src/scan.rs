//! Statements that read keys through one index, in its order. Written by hand, because their
//! conditions and their order vary, and every value is a bound parameter.

use diesel::backend::Backend;
use diesel::expression::Expression;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Integer, SmallInt, Text};

use crate::types::{DbId, DbTimestamp, Id, Moment};

/// A value of a condition.
#[derive(Debug, Clone)]
pub(crate) enum Bind {
    /// The condition is complete without one.
    None,
    Id(DbId),
    Moment(DbTimestamp),
    Text(String),
    Kind(i16),
    Day(i32),
}

/// The column that rows are sorted by, before the identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// The identifier alone.
    Id,
    CreatedAt,
    ExpiresAt,
    LastUsedDay,
}

/// Rows of `api_key` that an index has, in its order.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    index: &'static str,
    conditions: Vec<(&'static str, Bind)>,
    pub(crate) key: Key,
    /// The ascending and the descending order.
    order: [&'static str; 2],
    pub(crate) is_descending: bool,
    /// The last row that was read: its value and its identifier.
    pub(crate) after: Option<(Bind, DbId)>,
    pub(crate) limit: i64,
    /// Whether the statement names the index.
    pub(crate) names_index: bool,
}

impl Scan {
    pub(crate) const fn new(index: &'static str) -> Self {
        Self {
            index,
            conditions: Vec::new(),
            key: Key::Id,
            order: ["id", "id desc"],
            is_descending: true,
            after: None,
            limit: 0,
            names_index: false,
        }
    }

    /// Adds a condition: SQL, and the value after it.
    pub(crate) fn with(mut self, condition: &'static str, value: Bind) -> Self {
        self.bound(condition, value);
        self
    }

    /// Adds a condition: SQL, and the value after it.
    pub(crate) fn bound(&mut self, condition: &'static str, value: Bind) {
        self.conditions.push((condition, value));
    }

    pub(crate) fn ordered(mut self, key: Key, order: [&'static str; 2]) -> Self {
        self.key = key;
        self.order = order;
        self
    }

    fn order(&self) -> &'static str {
        let [ascending, descending] = self.order;
        if self.is_descending {
            descending
        } else {
            ascending
        }
    }
}

/// Everything after `select .. from`.
impl<DB> QueryFragment<DB> for Scan
where
    DB: Backend + HasSqlType<Id> + HasSqlType<Moment>,
    DbId: ToSql<Id, DB>,
    DbTimestamp: ToSql<Moment, DB>,
    String: ToSql<Text, DB>,
    i16: ToSql<SmallInt, DB>,
    i32: ToSql<Integer, DB>,
    i64: ToSql<BigInt, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("api_key ");
        if self.names_index {
            out.push_sql("indexed by ");
            out.push_sql(self.index);
            out.push_sql(" ");
        }
        let mut joint = "where ";
        for (condition, value) in &self.conditions {
            out.push_sql(joint);
            out.push_sql(condition);
            push(value, &mut out)?;
            joint = " and ";
        }
        if let Some((place, id)) = &self.after {
            out.push_sql(joint);
            out.push_sql(match self.key {
                Key::Id => "(id)",
                Key::CreatedAt => "(created_at, id)",
                Key::ExpiresAt => "(expires_at, id)",
                Key::LastUsedDay => "(last_used_day, id)",
            });
            out.push_sql(if self.is_descending { " < (" } else { " > (" });
            if self.key != Key::Id {
                push(place, &mut out)?;
                out.push_sql(", ");
            }
            out.push_bind_param::<Id, _>(id)?;
            out.push_sql(")");
        }
        out.push_sql(" order by ");
        out.push_sql(self.order());
        out.push_sql(" limit ");
        out.push_bind_param::<BigInt, _>(&self.limit)
    }
}

fn push<'b, DB>(value: &'b Bind, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
where
    DB: Backend + HasSqlType<Id> + HasSqlType<Moment>,
    DbId: ToSql<Id, DB>,
    DbTimestamp: ToSql<Moment, DB>,
    String: ToSql<Text, DB>,
    i16: ToSql<SmallInt, DB>,
    i32: ToSql<Integer, DB>,
{
    match value {
        Bind::None => Ok(()),
        Bind::Id(id) => out.push_bind_param::<Id, _>(id),
        Bind::Moment(time) => out.push_bind_param::<Moment, _>(time),
        Bind::Text(text) => out.push_bind_param::<Text, _>(text),
        Bind::Kind(kind) => out.push_bind_param::<SmallInt, _>(kind),
        Bind::Day(day) => out.push_bind_param::<Integer, _>(day),
    }
}

/// Reads columns of the rows of a scan.
pub(crate) struct Listing<'a, S> {
    pub(crate) selection: S,
    pub(crate) scan: &'a Scan,
}

impl<S> QueryId for Listing<'_, S> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<S: Expression> Query for Listing<'_, S> {
    type SqlType = S::SqlType;
}

impl<DB, S> QueryFragment<DB> for Listing<'_, S>
where
    DB: Backend,
    S: QueryFragment<DB>,
    Scan: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql("select ");
        self.selection.walk_ast(out.reborrow())?;
        out.push_sql(" from ");
        self.scan.walk_ast(out.reborrow())
    }
}

/// Counts the rows of a scan, and those of them that are revoked or expired.
#[derive(Clone)]
pub(crate) struct Count {
    pub(crate) scan: Scan,
    pub(crate) now: DbTimestamp,
}

impl QueryId for Count {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Count {
    type SqlType = (BigInt, BigInt);
}

impl<DB> QueryFragment<DB> for Count
where
    DB: Backend + HasSqlType<Moment>,
    DbTimestamp: ToSql<Moment, DB>,
    Scan: QueryFragment<DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql(
            "select count(*), coalesce(sum(case when revoked_at is not null or expires_at <= ",
        );
        out.push_bind_param::<Moment, _>(&self.now)?;
        out.push_sql(" then 1 else 0 end), 0) from (select revoked_at, expires_at from ");
        self.scan.walk_ast(out.reborrow())?;
        out.push_sql(") as examined");
        Ok(())
    }
}
