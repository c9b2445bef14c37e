//! Rows as the databases hold them, and their way to and from the domain.

use std::error::Error;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use keys_core::pepper::PepperedDigest;
use keys_core::{
    Account, AccountId, AllowedNetworks, ApiKey, KeyId, KeyKind, KeyName, ScopeSet, ShownPrefix,
};
use keys_service::store::{StoreError, StoredKey};

use crate::schema::{account, api_key};
use crate::types::{DbId, DbNetworks, DbTexts, DbTimestamp};

/// A row that no version of this program could have written.
#[derive(Debug, thiserror::Error)]
#[error("a stored {what} cannot be read")]
pub(crate) struct CorruptRow {
    what: &'static str,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl CorruptRow {
    fn because(what: &'static str) -> impl Fn(Box<dyn Error + Send + Sync>) -> Self {
        move |source| Self {
            what,
            source: Some(source),
        }
    }
}

impl From<CorruptRow> for StoreError {
    fn from(row: CorruptRow) -> Self {
        Self::Unexpected(Box::new(row))
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = account, check_for_backend(Pg, Sqlite), treat_none_as_default_value = false)]
pub(crate) struct AccountRow {
    id: DbId,
    external_id: Option<String>,
    plan: String,
    disabled: bool,
    created_at: DbTimestamp,
}

impl From<&Account> for AccountRow {
    fn from(account: &Account) -> Self {
        Self {
            id: DbId(account.id.as_uuid()),
            external_id: account.external_id.as_ref().map(ToString::to_string),
            plan: account.plan.to_string(),
            disabled: account.disabled,
            created_at: DbTimestamp(account.created_at),
        }
    }
}

impl TryFrom<AccountRow> for Account {
    type Error = CorruptRow;

    fn try_from(row: AccountRow) -> Result<Self, CorruptRow> {
        fn read(row: AccountRow) -> Result<Account, Box<dyn Error + Send + Sync>> {
            Ok(Account {
                id: AccountId::from_uuid(row.id.0),
                external_id: row.external_id.map(|text| text.parse()).transpose()?,
                plan: row.plan.parse()?,
                disabled: row.disabled,
                created_at: row.created_at.0,
            })
        }
        read(row).map_err(CorruptRow::because("account"))
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = api_key, check_for_backend(Pg, Sqlite), treat_none_as_default_value = false)]
pub(crate) struct KeyRow {
    id: DbId,
    account_id: Option<DbId>,
    kind: i16,
    shown_prefix: String,
    name: Option<String>,
    allowed_networks: DbNetworks,
    scopes: DbTexts,
    expires_at: Option<DbTimestamp>,
    revoked_at: Option<DbTimestamp>,
    last_used_at: Option<DbTimestamp>,
    created_at: DbTimestamp,
}

impl From<&ApiKey> for KeyRow {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: DbId(key.id.as_uuid()),
            account_id: key.account_id.map(|id| DbId(id.as_uuid())),
            kind: kind_code(key.kind),
            shown_prefix: key.shown_prefix.to_string(),
            name: key.name.as_ref().map(ToString::to_string),
            allowed_networks: DbNetworks(key.allowed_networks.as_slice().to_vec()),
            scopes: DbTexts(key.scopes.iter().map(ToString::to_string).collect()),
            expires_at: key.expires_at.map(DbTimestamp),
            revoked_at: key.revoked_at.map(DbTimestamp),
            last_used_at: key.last_used_at.map(DbTimestamp),
            created_at: DbTimestamp(key.created_at),
        }
    }
}

impl TryFrom<KeyRow> for ApiKey {
    type Error = CorruptRow;

    fn try_from(row: KeyRow) -> Result<Self, CorruptRow> {
        fn read(row: KeyRow) -> Result<ApiKey, Box<dyn Error + Send + Sync>> {
            Ok(ApiKey {
                id: KeyId::from_uuid(row.id.0),
                kind: kind_from_code(row.kind).ok_or("its kind is unknown")?,
                account_id: row.account_id.map(|id| AccountId::from_uuid(id.0)),
                shown_prefix: ShownPrefix::from_stored(row.shown_prefix)?,
                name: match row.name {
                    Some(name) => KeyName::from_memo(&name)?,
                    None => None,
                },
                allowed_networks: AllowedNetworks::from_networks(row.allowed_networks.0)?,
                scopes: ScopeSet::parse(row.scopes.0)?,
                expires_at: row.expires_at.map(|at| at.0),
                revoked_at: row.revoked_at.map(|at| at.0),
                last_used_at: row.last_used_at.map(|at| at.0),
                created_at: row.created_at.0,
            })
        }
        read(row).map_err(CorruptRow::because("key"))
    }
}

/// Digest, pepper, key, account: what a look-up reads.
pub(crate) type FoundRow = (Vec<u8>, String, KeyRow, Option<AccountRow>);

/// A key with what it is found by.
#[derive(Insertable)]
#[diesel(table_name = api_key, treat_none_as_default_value = false)]
pub(crate) struct NewKeyRow {
    #[diesel(embed)]
    key: KeyRow,
    digest: Vec<u8>,
    pepper_id: String,
}

impl NewKeyRow {
    pub(crate) fn new(key: &ApiKey, digest: &PepperedDigest) -> Self {
        Self {
            key: key.into(),
            digest: digest.digest.as_bytes().to_vec(),
            pepper_id: digest.pepper.to_string(),
        }
    }
}

pub(crate) fn stored_key(
    key: KeyRow,
    account: Option<AccountRow>,
) -> Result<StoredKey, CorruptRow> {
    Ok(StoredKey {
        key: key.try_into()?,
        account: account.map(Account::try_from).transpose()?,
    })
}

/// What stands in the column `kind`.
pub(crate) const fn kind_code(kind: KeyKind) -> i16 {
    match kind {
        KeyKind::Operator => 1,
        KeyKind::Account => 2,
        KeyKind::Session => 3,
    }
}

const fn kind_from_code(code: i16) -> Option<KeyKind> {
    match code {
        1 => Some(KeyKind::Operator),
        2 => Some(KeyKind::Account),
        3 => Some(KeyKind::Session),
        _ => None,
    }
}
