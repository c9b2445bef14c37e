//! The values of [`types`](crate::types) as SQLite stores them.

use diesel::deserialize::{self, FromSql};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Binary, Text};
use diesel::sqlite::{Sqlite, SqliteValue};
use ipnet::IpNet;
use uuid::Uuid;

use crate::types::{
    Address, DbAddress, DbId, DbNetworks, DbTexts, DbTimestamp, Id, Moment, NetworkList, TextList,
};

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

impl ToSql<Address, Sqlite> for DbAddress {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.to_string());
        Ok(IsNull::No)
    }
}

impl FromSql<Address, Sqlite> for DbAddress {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        let text = <String as FromSql<Text, Sqlite>>::from_sql(value)?;
        Ok(Self(text.parse()?))
    }
}

fn from_json(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Vec<String>> {
    let text = <String as FromSql<Text, Sqlite>>::from_sql(value)?;
    Ok(serde_json::from_str(&text)?)
}
