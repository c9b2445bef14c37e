//! Answers that are kept for whoever asks again.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{EventId, Timestamp};
use keys_service::store::{Change, ChangeError, Reservation, Reserved, StoreError};

use crate::connection::{Connection, Pools, query};
use crate::error::QueryError;
use crate::schema::idempotency;
use crate::types::{DbId, DbTimestamp};
use crate::{postgres, sweep};

/// Look-up digest, digest of the body, sealed answer.
type KeptRow = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

#[derive(Insertable)]
#[diesel(table_name = idempotency)]
struct ReservationRow {
    lookup: Vec<u8>,
    body_digest: Vec<u8>,
    token: DbId,
    expires_at: DbTimestamp,
}

pub(crate) async fn reserve(
    pools: Pools,
    reservation: Reservation,
) -> Result<Reserved, StoreError> {
    let mut connection = pools.begin().await?;
    let outcome = reserve_in(&mut connection, &reservation).await;
    connection.finish(outcome).await
}

async fn reserve_in(
    connection: &mut Connection,
    reservation: &Reservation,
) -> Result<Reserved, StoreError> {
    if let Connection::Postgres(lease) = connection {
        // A row that does not exist yet cannot be locked; two attempts may also share only one of their digests.
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
            idempotency::sealed
        ))
        .load(open))?;
    let mut pending = false;
    for (lookup, body_digest, sealed) in kept {
        match sealed {
            Some(sealed) => {
                return Ok(Reserved::Done {
                    body_digest: digest(body_digest)?,
                    lookup: digest(lookup)?,
                    sealed,
                });
            }
            None => pending = true,
        }
    }
    if pending {
        return Ok(Reserved::Pending);
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
    };
    query!(connection, |open| diesel::insert_into(idempotency::table)
        .values(row)
        .execute(open))?;
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

/// Keeps the answer of a change, if one was reserved, in the transaction of the change.
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

/// Deletes some answers that have expired, those first that expired first. Returns how many.
pub(crate) async fn delete_expired(
    connection: &mut Connection,
    now: Timestamp,
) -> Result<usize, QueryError> {
    let expired: Vec<Vec<u8>> = query!(&mut *connection, |open| idempotency::table
        .filter(idempotency::expires_at.le(DbTimestamp(now)))
        .order(idempotency::expires_at)
        .select(idempotency::lookup)
        .limit(sweep::BATCH)
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

fn digest(bytes: Vec<u8>) -> Result<[u8; 32], StoreError> {
    bytes
        .try_into()
        .map_err(|_| StoreError::Unexpected("a stored digest is not 32 bytes long".into()))
}
