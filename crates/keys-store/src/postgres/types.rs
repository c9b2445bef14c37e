//! The values of [`types`](crate::types) as PostgreSQL stores them.

use std::io::Write as _;

use diesel::deserialize::{self, FromSql};
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{Array, BigInt, Cidr, Inet, Text};
use ipnet::IpNet;
use uuid::Uuid;

use crate::types::{
    Address, DbAddress, DbId, DbNetworks, DbTexts, DbTimestamp, Id, Moment, NetworkList, TextList,
};

/// Microseconds from 1970 to 2000, the epoch of PostgreSQL.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

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

impl ToSql<Address, Pg> for DbAddress {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let network = IpNet::from(self.0);
        ToSql::<Inet, Pg>::to_sql(&network, &mut out.reborrow())
    }
}

impl FromSql<Address, Pg> for DbAddress {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let network = <IpNet as FromSql<Inet, Pg>>::from_sql(value)?;
        Ok(Self(network.addr()))
    }
}
