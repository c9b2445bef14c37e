//! SQL types that name a meaning, stored natively by each database, and their values.
//!
//! | Type | PostgreSQL | SQLite |
//! |---|---|---|
//! | [`Id`] | `uuid` | `blob`, its 16 bytes |
//! | [`Moment`] | `timestamptz` | `integer`, microseconds since 1970 |
//! | [`NetworkList`] | `cidr[]` | `text`, JSON |
//! | [`TextList`] | `text[]` | `text`, JSON |
//! | [`Address`] | `inet` | `text` |

use std::error::Error;
use std::net::IpAddr;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::query_builder::QueryId;
use diesel::sql_types::SqlType;
use ipnet::IpNet;
use uuid::Uuid;

#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 2950, array_oid = 2951))]
#[diesel(sqlite_type(name = "Binary"))]
pub struct Id;

// Not called `Timestamp`, because the macro for tables gives columns of that name arithmetic that
// this type lacks.
#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 1184, array_oid = 1185))]
#[diesel(sqlite_type(name = "Long"))]
pub struct Moment;

#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 651, array_oid = 0))]
#[diesel(sqlite_type(name = "Text"))]
pub struct NetworkList;

#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 1009, array_oid = 0))]
#[diesel(sqlite_type(name = "Text"))]
pub struct TextList;

#[derive(QueryId, SqlType)]
#[diesel(postgres_type(oid = 869, array_oid = 1041))]
#[diesel(sqlite_type(name = "Text"))]
pub struct Address;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, AsExpression, FromSqlRow)]
#[diesel(sql_type = Id)]
pub struct DbId(pub Uuid);

#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Moment)]
pub struct DbTimestamp(pub keys_core::Timestamp);

#[derive(Debug, Clone, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = NetworkList)]
pub struct DbNetworks(pub Vec<IpNet>);

#[derive(Debug, Clone, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = TextList)]
pub struct DbTexts(pub Vec<String>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Address)]
pub struct DbAddress(pub IpAddr);

/// A column that is read on its own: a value that cannot be decoded fails this column, not the
/// statement. Every row that is read together with others has only such columns.
#[derive(Debug, FromSqlRow)]
pub(crate) struct Tolerant<T>(pub(crate) Result<T, Box<dyn Error + Send + Sync>>);

impl<T, ST, DB> FromSql<ST, DB> for Tolerant<T>
where
    DB: Backend,
    T: FromSql<ST, DB>,
{
    fn from_sql(value: DB::RawValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(T::from_sql(value)))
    }
}
