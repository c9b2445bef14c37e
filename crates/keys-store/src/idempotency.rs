//! Answers that are stored for repeated requests.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{EventId, Timestamp};
use keys_service::ports::{Change, ChangeError, Reservation, Reserved, StoreError};

use crate::connection::{Connection, Pools, query};
use crate::error::QueryError;
use crate::life::Life;
#[cfg(feature = "postgres")]
use crate::postgres;
use crate::rows::ReservationRow;
use crate::schema::idempotency;
#[cfg(feature = "sqlite")]
use crate::sqlite::LifeFile;
use crate::types::{DbId, DbTimestamp};

/// Look-up digest, digest of the body, sealed answer, expiry, and the holder of the reservation.
type KeptRow = (
    Vec<u8>,
    Vec<u8>,
    Option<Vec<u8>>,
    DbTimestamp,
    Option<String>,
);

pub(crate) async fn reserve(
    pools: Pools,
    reservation: Reservation,
    life: &Life,
) -> Result<Reserved, StoreError> {
    let mut connection = pools.begin().await?;
    let outcome = reserve_in(&mut connection, &reservation, life).await;
    connection.finish(outcome).await
}

async fn reserve_in(
    connection: &mut Connection,
    reservation: &Reservation,
    life: &Life,
) -> Result<Reserved, StoreError> {
    #[cfg(feature = "postgres")]
    if let Connection::Postgres(lease) = connection {
        // A row that does not exist yet cannot be locked. Two attempts may also share only one of
        // their digests.
        let outcome = postgres::lock_lookups(lease.enter(), &reservation.lookups).await;
        lease.leave(outcome)?;
    }
    let lookups: Vec<&[u8]> = reservation
        .lookups
        .iter()
        .map(<[u8; 32]>::as_slice)
        .collect();
    let now = DbTimestamp(reservation.at);
    query!(connection, |open| diesel::delete(idempotency::table)
        .filter(idempotency::lookup.eq_any(lookups.clone()))
        .filter(idempotency::expires_at.le(now))
        .execute(open))?;
    let kept: Vec<KeptRow> = query!(connection, |open| idempotency::table
        .filter(idempotency::lookup.eq_any(lookups))
        .select((
            idempotency::lookup,
            idempotency::body_digest,
            idempotency::sealed,
            idempotency::expires_at,
            idempotency::holder
        ))
        .load(open))?;
    let mut pending_until = None;
    let mut dead = Vec::new();
    for (lookup, body_digest, sealed, expires_at, holder) in kept {
        if let Some(sealed) = sealed {
            return Ok(Reserved::Done {
                body_digest: digest(body_digest)?,
                lookup: digest(lookup)?,
                sealed,
            });
        }
        let has_ended = match holder {
            Some(holder) => life.has_ended(connection, &holder).await?,
            None => false,
        };
        if has_ended {
            dead.push(lookup);
        } else {
            pending_until = pending_until.max(Some(expires_at.0));
        }
    }
    if let Some(until) = pending_until {
        return Ok(Reserved::Pending { until });
    }
    if !dead.is_empty() {
        query!(&mut *connection, |open| diesel::delete(idempotency::table)
            .filter(idempotency::lookup.eq_any(&dead))
            .filter(idempotency::sealed.is_null())
            .execute(open))?;
    }
    let Some(current) = reservation.lookups.as_slice().first() else {
        return Err(StoreError::Unexpected(
            "a reservation without a digest".into(),
        ));
    };
    let row = ReservationRow {
        lookup: current.to_vec(),
        body_digest: reservation.body_digest.to_vec(),
        token: DbId(reservation.token.as_uuid()),
        expires_at: DbTimestamp(reservation.pending_until),
        holder: match life {
            #[cfg(feature = "postgres")]
            Life::Postgres(_) | Life::Unknown => None,
            #[cfg(feature = "sqlite")]
            Life::Sqlite(file) => file.holder(),
        },
    };
    match (connection, life) {
        #[cfg(feature = "postgres")]
        (Connection::Postgres(lease), Life::Postgres(number)) => {
            let outcome = postgres::insert_reservation(lease.enter(), row, *number).await;
            lease.leave(outcome)?;
        }
        (connection, _) => {
            query!(connection, |open| diesel::insert_into(idempotency::table)
                .values(row)
                .execute(open))?;
        }
    }
    Ok(Reserved::New)
}

pub(crate) async fn release(
    pools: Pools,
    lookup: [u8; 32],
    token: EventId,
) -> Result<(), StoreError> {
    let mut connection = pools.begin().await?;
    let outcome = query!(&mut connection, |open| diesel::delete(idempotency::table)
        .filter(idempotency::lookup.eq(lookup.as_slice()))
        .filter(idempotency::token.eq(DbId(token.as_uuid())))
        .filter(idempotency::sealed.is_null())
        .execute(open))
    .map(|_| ())
    .map_err(StoreError::from);
    connection.finish(outcome).await
}

/// Stores the answer of a change, if one was reserved, in the transaction of the change.
pub(crate) async fn complete(
    connection: &mut Connection,
    change: &Change,
) -> Result<(), ChangeError> {
    let Some(completion) = &change.completion else {
        return Ok(());
    };
    let completed = query!(connection, |open| diesel::update(idempotency::table)
        .filter(idempotency::lookup.eq(completion.lookup.as_slice()))
        .filter(idempotency::token.eq(DbId(completion.token.as_uuid())))
        .filter(idempotency::sealed.is_null())
        .set((
            idempotency::sealed.eq(completion.sealed.as_slice()),
            idempotency::expires_at.eq(DbTimestamp(completion.expires_at)),
        ))
        .execute(open))?;
    if completed == 1 {
        Ok(())
    } else {
        Err(ChangeError::Superseded)
    }
}

/// Deletes at most `limit` expired answers, in the order of their expiry. Returns how many.
pub(crate) async fn delete_expired(
    connection: &mut Connection,
    now: Timestamp,
    limit: i64,
) -> Result<usize, QueryError> {
    let expired: Vec<Vec<u8>> = query!(&mut *connection, |open| idempotency::table
        .filter(idempotency::expires_at.le(DbTimestamp(now)))
        .order(idempotency::expires_at)
        .select(idempotency::lookup)
        .limit(limit)
        .load(open))?;
    let mut count = 0;
    for lookups in expired.chunks(500) {
        // One that was taken over meanwhile has a new time.
        count += query!(&mut *connection, |open| diesel::delete(idempotency::table)
            .filter(idempotency::lookup.eq_any(lookups.to_vec()))
            .filter(idempotency::expires_at.le(DbTimestamp(now)))
            .execute(open))?;
    }
    Ok(count)
}

/// Removes the lock files of processes that have ended and have no reservations left.
#[cfg(feature = "sqlite")]
pub(crate) async fn sweep_files(
    connection: &mut Connection,
    files: &LifeFile,
) -> Result<(), QueryError> {
    for holder in files.left_over() {
        let left: i64 = query!(&mut *connection, |open| idempotency::table
            .filter(idempotency::holder.eq(&holder))
            .filter(idempotency::sealed.is_null())
            .count()
            .get_result(open))?;
        if left == 0 {
            files.remove(&holder);
        }
    }
    Ok(())
}

fn digest(bytes: Vec<u8>) -> Result<[u8; 32], StoreError> {
    bytes
        .try_into()
        .map_err(|_| StoreError::Unexpected("a stored digest is not 32 bytes long".into()))
}
