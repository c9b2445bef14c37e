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
use std::io::Write as _;
use std::net::IpAddr;

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::QueryId;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{Array, BigInt, Binary, Cidr, Inet, SqlType, Text};
use diesel::sqlite::{Sqlite, SqliteValue};
use ipnet::IpNet;
use uuid::Uuid;

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, AsExpression, FromSqlRow)]
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

#[derive(Debug, Clone, Copy, AsExpression)]
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

impl ToSql<Id, Pg> for DbId {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(self.0.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<Id, Pg> for DbId {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(Uuid::from_slice(value.as_bytes())?))
    }
}

impl ToSql<Id, Sqlite> for DbId {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_bytes().as_slice());
        Ok(IsNull::No)
    }
}

impl FromSql<Id, Sqlite> for DbId {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        let bytes = <Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value)?;
        Ok(Self(Uuid::from_slice(&bytes)?))
    }
}

impl ToSql<Moment, Pg> for DbTimestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let micros = match self.0.unix_micros() {
            // As it is read: `infinity`.
            i64::MAX => i64::MAX,
            micros => micros - POSTGRES_EPOCH_MICROS,
        };
        out.write_all(&micros.to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<Moment, Pg> for DbTimestamp {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Pg>>::from_sql(value)?;
        // PostgreSQL's `infinity` is the largest number. It becomes the last possible time.
        let micros = micros.saturating_add(POSTGRES_EPOCH_MICROS);
        Ok(Self(keys_core::Timestamp::from_unix_micros(micros)))
    }
}

impl ToSql<Moment, Sqlite> for DbTimestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.unix_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<Moment, Sqlite> for DbTimestamp {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?;
        Ok(Self(keys_core::Timestamp::from_unix_micros(micros)))
    }
}

impl ToSql<NetworkList, Pg> for DbNetworks {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<Array<Cidr>, Pg>::to_sql(&self.0, &mut out.reborrow())
    }
}

impl FromSql<NetworkList, Pg> for DbNetworks {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        FromSql::<Array<Cidr>, Pg>::from_sql(value).map(Self)
    }
}

impl ToSql<NetworkList, Sqlite> for DbNetworks {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        let texts: Vec<String> = self.0.iter().map(IpNet::to_string).collect();
        out.set_value(serde_json::to_string(&texts)?);
        Ok(IsNull::No)
    }
}

impl FromSql<NetworkList, Sqlite> for DbNetworks {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        let texts: Vec<String> = from_json(value)?;
        let networks = texts.iter().map(|text| text.parse());
        Ok(Self(networks.collect::<Result<_, _>>()?))
    }
}

impl ToSql<TextList, Pg> for DbTexts {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<Array<Text>, Pg>::to_sql(&self.0, &mut out.reborrow())
    }
}

impl FromSql<TextList, Pg> for DbTexts {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        FromSql::<Array<Text>, Pg>::from_sql(value).map(Self)
    }
}

impl ToSql<TextList, Sqlite> for DbTexts {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(serde_json::to_string(&self.0)?);
        Ok(IsNull::No)
    }
}

impl FromSql<TextList, Sqlite> for DbTexts {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        from_json(value).map(Self)
    }
}

impl ToSql<Address, Pg> for DbAddress {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let network = IpNet::from(self.0);
        ToSql::<Inet, Pg>::to_sql(&network, &mut out.reborrow())
    }
}

impl ToSql<Address, Sqlite> for DbAddress {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.to_string());
        Ok(IsNull::No)
    }
}

fn from_json(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Vec<String>> {
    let text = <String as FromSql<Text, Sqlite>>::from_sql(value)?;
    Ok(serde_json::from_str(&text)?)
}
