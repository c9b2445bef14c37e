//! Keys as management sees them.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use keys_core::{KeyDetails, KeyId};
use keys_service::ports::{StoreError, UnreadableKey};

use crate::connection::{Pools, query};
use crate::error::optional;
use crate::rows::KeyDetailsRow;
use crate::schema::api_key;
use crate::types::DbId;

pub(crate) async fn find(
    pools: Pools,
    id: KeyId,
) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError> {
    let row = query!(&mut pools.read().await?, |open| api_key::table
        .find(DbId(id.as_uuid()))
        .select(KeyDetailsRow::as_select())
        .first(open));
    Ok(optional(row)?.map(KeyDetailsRow::read_or_log))
}
