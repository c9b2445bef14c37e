//! Rows of the databases, and their conversion to and from the domain.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use keys_core::{
    Account, AccountId, AllowedNetworks, ApiKey, AuditActor, AuditEvent, ExternalId, KeyDetails,
    KeyId, KeyKind, KeyLimits, KeyName, Metadata, PlanName, Revocation, RevocationNote,
    RevocationReason, ScopeSet, ShownPrefix, StoredKey, Timestamp,
};
use keys_service::ports::{
    AccountPatch, Change, NewKey, StoreError, UnreadableAccount, UnreadableKey,
};
use serde::Serialize;
use uuid::Uuid;

use crate::schema::{account, api_key, audit_event, idempotency};
use crate::types::{DbAddress, DbId, DbNetworks, DbTexts, DbTimestamp, Tolerant};

/// A row that cannot be read, with the columns at fault and the reasons.
#[derive(Debug, thiserror::Error)]
#[error("row {} of table {table} cannot be read: {}", id_text(*id), reasons(faults))]
pub(crate) struct CorruptRow {
    pub(crate) table: &'static str,
    /// `None` if even the identifier cannot be read.
    pub(crate) id: Option<Uuid>,
    pub(crate) faults: Vec<Fault>,
}

/// A column that cannot be read.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) column: &'static str,
    pub(crate) why: String,
}

fn id_text(id: Option<Uuid>) -> String {
    id.map_or_else(|| "without an id".to_owned(), |id| id.to_string())
}

fn reasons(faults: &[Fault]) -> String {
    let reasons = faults
        .iter()
        .map(|Fault { column, why }| format!("{column}: {why}"));
    reasons.collect::<Vec<_>>().join("; ")
}

impl From<CorruptRow> for StoreError {
    fn from(row: CorruptRow) -> Self {
        Self::Unexpected(Box::new(row))
    }
}

/// Collects the faults of a row while its columns are read.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn read<T, U, E>(
        &mut self,
        column: &'static str,
        value: Tolerant<T>,
        parse: impl FnOnce(T) -> Result<U, E>,
    ) -> Option<U>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        match value.0.and_then(|value| parse(value).map_err(Into::into)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(column, error.to_string());
                None
            }
        }
    }

    /// Reads a column that may be null.
    fn read_option<T, U, E>(
        &mut self,
        column: &'static str,
        value: Option<Tolerant<T>>,
        parse: impl FnOnce(T) -> Result<U, E>,
    ) -> Option<U>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.read(column, value?, parse)
    }

    fn note(&mut self, column: &'static str, why: String) {
        self.0.push(Fault { column, why });
    }
}

/// Never fails. For columns without a grammar beyond their type.
#[expect(clippy::unnecessary_wraps, reason = "stands for a parser")]
fn as_it_is<T>(value: T) -> Result<T, Infallible> {
    Ok(value)
}

/// An account to be written.
#[derive(Insertable)]
#[diesel(table_name = account, treat_none_as_default_value = false)]
pub(crate) struct NewAccountRow {
    pub(crate) id: DbId,
    pub(crate) external_id: Option<String>,
    pub(crate) plan: String,
    pub(crate) disabled: bool,
    created_at: DbTimestamp,
}

impl From<&Account> for NewAccountRow {
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

/// An account as stored.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = account)]
pub(crate) struct AccountRow {
    id: Tolerant<DbId>,
    external_id: Option<Tolerant<String>>,
    plan: Tolerant<String>,
    disabled: Tolerant<bool>,
    created_at: Tolerant<DbTimestamp>,
}

/// An account that cannot be read.
pub(crate) struct CorruptAccount {
    pub(crate) row: CorruptRow,
    /// The entry in lists. `None` without a readable identifier.
    pub(crate) shown: Option<UnreadableAccount>,
}

impl AccountRow {
    /// Returns the account after `patch`. Columns that `patch` sets need not be readable.
    pub(crate) fn patched(mut self, patch: AccountPatch) -> Result<Account, CorruptRow> {
        if let Some(plan) = patch.plan {
            self.plan = Tolerant(Ok(plan.to_string()));
        }
        if let Some(disabled) = patch.disabled {
            self.disabled = Tolerant(Ok(disabled));
        }
        if let Some(external_id) = patch.external_id {
            self.external_id = external_id.map(|text| Tolerant(Ok(text.to_string())));
        }
        self.try_into()
    }

    pub(crate) fn read(self) -> Result<Account, Box<CorruptAccount>> {
        let mut faults = Faults::default();
        let shown_external_id = self.external_id.as_ref().and_then(shown);
        let shown_plan = shown(&self.plan);
        let id = faults.read("id", self.id, as_it_is);
        let external_id = faults.read_option("external_id", self.external_id, |text| {
            ExternalId::from_stored(&text)
        });
        let plan = faults.read("plan", self.plan, |text| text.parse::<PlanName>());
        let disabled = faults.read("disabled", self.disabled, as_it_is);
        let created_at = faults.read("created_at", self.created_at, as_it_is);
        if faults.0.is_empty()
            && let (Some(id), Some(plan), Some(disabled), Some(created_at)) =
                (id, plan, disabled, created_at)
        {
            let mut account = Account::new(AccountId::from_uuid(id.0), plan, created_at.0);
            account.external_id = external_id;
            account.disabled = disabled;
            return Ok(account);
        }
        let columns = faults.0.iter().map(|fault| fault.column).collect();
        Err(Box::new(CorruptAccount {
            shown: id.map(|id| {
                let mut account = UnreadableAccount::new(AccountId::from_uuid(id.0), columns);
                account.external_id = shown_external_id;
                account.plan = shown_plan;
                account.disabled = disabled.unwrap_or(true);
                account.created_at = created_at.map(|at| at.0);
                account
            }),
            row: CorruptRow {
                table: "account",
                id: id.map(|id| id.0),
                faults: faults.0,
            },
        }))
    }
}

/// Returns a text as it is stored, legal or not.
fn shown(text: &Tolerant<String>) -> Option<String> {
    text.0.as_ref().ok().cloned()
}

impl TryFrom<AccountRow> for Account {
    type Error = CorruptRow;

    fn try_from(row: AccountRow) -> Result<Self, CorruptRow> {
        row.read().map_err(|corrupt| corrupt.row)
    }
}

/// A key to be written.
#[derive(Insertable)]
#[diesel(table_name = api_key, treat_none_as_default_value = false)]
pub(crate) struct WrittenKeyRow {
    pub(crate) id: DbId,
    account_id: Option<DbId>,
    pub(crate) kind: i16,
    pub(crate) shown_prefix: String,
    pub(crate) name: Option<String>,
    pub(crate) allowed_networks: DbNetworks,
    pub(crate) scopes: DbTexts,
    pub(crate) expires_at: Option<DbTimestamp>,
    pub(crate) revoked_at: Option<DbTimestamp>,
    last_used_at: Option<DbTimestamp>,
    created_at: DbTimestamp,
    pub(crate) disabled_at: Option<DbTimestamp>,
    subject: Option<String>,
    pub(crate) limits: String,
}

impl From<&ApiKey> for WrittenKeyRow {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: DbId(key.id.as_uuid()),
            account_id: key.account_id.map(|id| DbId(id.as_uuid())),
            kind: kind_code(key.kind),
            shown_prefix: key.shown_prefix.to_string(),
            name: key.name.as_ref().map(ToString::to_string),
            allowed_networks: DbNetworks(
                key.allowed_networks
                    .as_slice()
                    .iter()
                    .map(|network| network.to_ipnet())
                    .collect(),
            ),
            scopes: DbTexts(key.scopes.iter().map(ToString::to_string).collect()),
            expires_at: key.expires_at.map(DbTimestamp),
            revoked_at: key.revoked_at.map(DbTimestamp),
            last_used_at: key.last_used_at.map(DbTimestamp),
            created_at: DbTimestamp(key.created_at),
            disabled_at: key.disabled_at.map(DbTimestamp),
            subject: key.subject.as_ref().map(ToString::to_string),
            limits: json(&key.limits),
        }
    }
}

/// A key as stored.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = api_key)]
pub(crate) struct KeyRow {
    id: Tolerant<DbId>,
    account_id: Option<Tolerant<DbId>>,
    kind: Tolerant<i16>,
    shown_prefix: Tolerant<String>,
    name: Option<Tolerant<String>>,
    allowed_networks: Tolerant<DbNetworks>,
    scopes: Tolerant<DbTexts>,
    expires_at: Option<Tolerant<DbTimestamp>>,
    revoked_at: Option<Tolerant<DbTimestamp>>,
    last_used_at: Option<Tolerant<DbTimestamp>>,
    created_at: Tolerant<DbTimestamp>,
    disabled_at: Option<Tolerant<DbTimestamp>>,
    subject: Option<Tolerant<String>>,
    limits: Tolerant<String>,
}

/// A key that cannot be read.
pub(crate) struct CorruptKey {
    pub(crate) row: CorruptRow,
    /// The entry in lists: the columns that can be read, and a harmless value in place of each
    /// other one. `None` without a readable identifier.
    pub(crate) shown: Option<ApiKey>,
    is_revoked: bool,
}

impl CorruptKey {
    fn refused(&self) -> UnreadableKey {
        UnreadableKey::new(self.row.id.map(KeyId::from_uuid), self.is_revoked)
    }
}

impl KeyRow {
    pub(crate) fn read(self) -> Result<ApiKey, Box<CorruptKey>> {
        let mut faults = Faults::default();
        // A time that cannot be read also means that the key is revoked.
        let is_revoked = self.revoked_at.is_some();
        let id = faults.read("id", self.id, as_it_is);
        let account_id = faults.read_option("account_id", self.account_id, as_it_is);
        let kind = faults.read("kind", self.kind, |code| {
            kind_from_code(code).ok_or("is not the number of a kind")
        });
        let shown_prefix = faults.read("shown_prefix", self.shown_prefix, ShownPrefix::from_stored);
        let name = faults.read_option("name", self.name, |name| KeyName::from_stored(&name));
        let networks = faults.read("allowed_networks", self.allowed_networks, |networks| {
            AllowedNetworks::from_networks(networks.0)
        });
        let scopes = faults.read("scopes", self.scopes, |scopes| ScopeSet::parse(scopes.0));
        let expires_at = faults.read_option("expires_at", self.expires_at, as_it_is);
        let revoked_at = faults.read_option("revoked_at", self.revoked_at, as_it_is);
        let last_used_at = faults.read_option("last_used_at", self.last_used_at, as_it_is);
        let created_at = faults.read("created_at", self.created_at, as_it_is);
        let disabled_at = faults.read_option("disabled_at", self.disabled_at, as_it_is);
        let subject = faults.read_option("subject", self.subject, |text| {
            ExternalId::from_stored(&text)
        });
        let limits = faults.read("limits", self.limits, |text| {
            serde_json::from_str::<KeyLimits>(&text)
        });
        // Only operator keys have no account, but a table whose checks were disabled may contain
        // others.
        if let Some(kind) = kind
            && (kind == KeyKind::Operator) != account_id.is_none()
            && !faults.0.iter().any(|fault| fault.column == "account_id")
        {
            faults.note(
                "account_id",
                format!("does not belong to a key of kind {kind}"),
            );
        }
        let is_readable = faults.0.is_empty();
        let key = id.map(|id| {
            let mut key = ApiKey::new(
                KeyId::from_uuid(id.0),
                kind.unwrap_or(KeyKind::Account),
                shown_prefix.unwrap_or_default(),
                created_at.map_or(Timestamp::MIN, |at| at.0),
            );
            key.account_id = account_id.map(|id| AccountId::from_uuid(id.0));
            key.name = name.flatten();
            key.allowed_networks = networks.unwrap_or_default();
            key.scopes = scopes.unwrap_or_default();
            key.expires_at = expires_at.map(|at| at.0);
            key.revoked_at = revoked_at.map(|at| at.0);
            key.last_used_at = last_used_at.map(|at| at.0);
            key.disabled_at = disabled_at.map(|at| at.0);
            key.subject = subject;
            key.limits = limits.unwrap_or_default();
            key
        });
        match key {
            Some(key) if is_readable => Ok(key),
            shown => Err(Box::new(CorruptKey {
                shown,
                is_revoked,
                row: CorruptRow {
                    table: "api_key",
                    id: id.map(|id| id.0),
                    faults: faults.0,
                },
            })),
        }
    }
}

/// A key with everything that is stored about it.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = api_key)]
pub(crate) struct KeyDetailsRow {
    #[diesel(embed)]
    key: KeyRow,
    created_by_kind: Option<Tolerant<String>>,
    created_by_id: Option<Tolerant<DbId>>,
    metadata: Tolerant<String>,
    predecessor_id: Option<Tolerant<DbId>>,
    successor_id: Option<Tolerant<DbId>>,
    revoked_reason: Option<Tolerant<String>>,
    revoked_note: Option<Tolerant<String>>,
    last_used_ip: Option<Tolerant<DbAddress>>,
    use_count: Tolerant<i64>,
}

impl KeyDetailsRow {
    pub(crate) fn read(self) -> Result<KeyDetails, Box<CorruptKey>> {
        let mut faults = Faults::default();
        let key_id = |id: Tolerant<DbId>| id.0.map(|id| KeyId::from_uuid(id.0));
        let created_by_id = self.created_by_id.map(key_id).transpose();
        let created_by = faults.read_option("created_by_kind", self.created_by_kind, |kind| {
            AuditActor::from_stored(&kind, created_by_id?).ok_or_else(|| "is not a creator".into())
                as Result<_, Box<dyn Error + Send + Sync>>
        });
        let metadata = faults.read("metadata", self.metadata, |text| {
            serde_json::from_str::<Metadata>(&text)
        });
        let predecessor = faults.read_option("predecessor_id", self.predecessor_id, as_it_is);
        let successor = faults.read_option("successor_id", self.successor_id, as_it_is);
        let reason = faults.read_option("revoked_reason", self.revoked_reason, |text| {
            text.parse::<RevocationReason>()
        });
        let note = faults.read_option("revoked_note", self.revoked_note, |text| {
            RevocationNote::from_stored(&text)
        });
        let last_used_ip = faults.read_option("last_used_ip", self.last_used_ip, as_it_is);
        let use_count = faults.read("use_count", self.use_count, u64::try_from);
        let is_revoked = self.key.revoked_at.is_some();
        let key = match self.key.read() {
            Ok(key) if faults.0.is_empty() => key,
            Ok(key) => {
                return Err(Box::new(CorruptKey {
                    is_revoked,
                    row: CorruptRow {
                        table: "api_key",
                        id: Some(key.id.as_uuid()),
                        faults: faults.0,
                    },
                    shown: Some(key),
                }));
            }
            Err(mut corrupt) => {
                corrupt.row.faults.append(&mut faults.0);
                return Err(corrupt);
            }
        };
        let mut details = KeyDetails::new(key);
        details.created_by = created_by;
        details.metadata = metadata.unwrap_or_default();
        details.predecessor = predecessor.map(|id| KeyId::from_uuid(id.0));
        details.successor = successor.map(|id| KeyId::from_uuid(id.0));
        details.revocation = Revocation::new(reason).note(note);
        details.last_used_ip = last_used_ip.map(|address| address.0);
        details.use_count = use_count.unwrap_or(0);
        Ok(details)
    }

    /// Reads the key. A row that cannot be read is logged.
    pub(crate) fn read_or_log(self) -> Result<KeyDetails, UnreadableKey> {
        self.read().map_err(|corrupt| {
            log(&corrupt.row);
            corrupt.refused()
        })
    }
}

/// Returns a value of the domain as JSON.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("maps of texts and numbers are JSON")
}

/// Digest, pepper, key, account: the row of a look-up. A digest or pepper that cannot be read
/// matches no requested key.
pub(crate) type FoundRow = (
    Tolerant<Vec<u8>>,
    Tolerant<String>,
    KeyRow,
    Option<AccountRow>,
);

/// A key with the columns of its look-up.
#[derive(Insertable)]
#[diesel(table_name = api_key, treat_none_as_default_value = false)]
pub(crate) struct NewKeyRow {
    #[diesel(embed)]
    key: WrittenKeyRow,
    digest: Vec<u8>,
    pepper_id: String,
    created_by_kind: &'static str,
    created_by_id: Option<DbId>,
    metadata: String,
    predecessor_id: Option<DbId>,
}

impl NewKeyRow {
    pub(crate) fn new(new: &NewKey, change: &Change) -> Self {
        let creator = change.actor();
        Self {
            key: (&new.key).into(),
            digest: new.digest.digest.as_bytes().to_vec(),
            pepper_id: new.digest.pepper.to_string(),
            created_by_kind: creator.kind(),
            created_by_id: creator.credential_id().map(|id| DbId(id.as_uuid())),
            metadata: json(&new.metadata),
            predecessor_id: new.predecessor.map(|id| DbId(id.as_uuid())),
        }
    }
}

/// The columns of a key that callers can change.
#[derive(AsChangeset)]
#[diesel(table_name = api_key, treat_none_as_null = true)]
pub(crate) struct ChangedKeyRow {
    name: Option<String>,
    allowed_networks: DbNetworks,
    scopes: DbTexts,
    expires_at: Option<DbTimestamp>,
    disabled_at: Option<DbTimestamp>,
    limits: String,
    metadata: String,
}

impl From<&KeyDetails> for ChangedKeyRow {
    fn from(details: &KeyDetails) -> Self {
        let key = WrittenKeyRow::from(&details.key);
        Self {
            name: key.name,
            allowed_networks: key.allowed_networks,
            scopes: key.scopes,
            expires_at: key.expires_at,
            disabled_at: key.disabled_at,
            limits: key.limits,
            metadata: json(&details.metadata),
        }
    }
}

/// An entry of the audit log.
#[derive(Insertable)]
#[diesel(table_name = audit_event, treat_none_as_default_value = false)]
pub(crate) struct EventRow {
    pub(crate) id: DbId,
    pub(crate) at: DbTimestamp,
    pub(crate) actor_kind: &'static str,
    pub(crate) actor_id: Option<DbId>,
    pub(crate) action: &'static str,
    pub(crate) subject_id: DbId,
    pub(crate) address: Option<DbAddress>,
    pub(crate) reason: Option<String>,
}

impl From<AuditEvent> for EventRow {
    fn from(event: AuditEvent) -> Self {
        Self {
            id: DbId(event.id.as_uuid()),
            at: DbTimestamp(event.at),
            actor_kind: event.actor.kind(),
            actor_id: event.actor.credential_id().map(|id| DbId(id.as_uuid())),
            action: event.action.as_str(),
            subject_id: DbId(event.subject.as_uuid()),
            address: event.address.map(DbAddress),
            reason: event.reason,
        }
    }
}

/// The columns that a revocation writes beside its time.
#[derive(Debug, Clone)]
pub(crate) struct RevocationRow {
    pub(crate) reason: Option<&'static str>,
    pub(crate) note: Option<String>,
}

impl From<&Revocation> for RevocationRow {
    fn from(revocation: &Revocation) -> Self {
        Self {
            reason: revocation.reason.map(RevocationReason::as_str),
            note: revocation
                .note
                .as_ref()
                .map(|note| note.as_str().to_owned()),
        }
    }
}

/// A reservation of an idempotent answer.
#[derive(Insertable)]
#[diesel(table_name = idempotency)]
pub(crate) struct ReservationRow {
    pub(crate) lookup: Vec<u8>,
    pub(crate) body_digest: Vec<u8>,
    pub(crate) token: DbId,
    pub(crate) expires_at: DbTimestamp,
    pub(crate) holder: Option<String>,
}

/// Returns the key with its account, or the reason why it is refused. A row that cannot be read is
/// logged.
pub(crate) fn stored_key(
    key: KeyRow,
    account: Option<AccountRow>,
) -> Result<StoredKey, UnreadableKey> {
    let key = key.read().map_err(|corrupt| {
        log(&corrupt.row);
        corrupt.refused()
    })?;
    let account = account.map(AccountRow::read).transpose();
    match account {
        Ok(account) => Ok(StoredKey::new(key, account)),
        Err(corrupt) => {
            log(&corrupt.row);
            Err(UnreadableKey::new(Some(key.id), key.revoked_at.is_some()))
        }
    }
}

/// Logs a row that cannot be read: each once in ten minutes, and at most a thousand in that time,
/// because the same row may be requested thousands of times a second.
pub(crate) fn log(row: &CorruptRow) {
    const PAUSE: Duration = Duration::from_mins(10);
    const ROWS_MAX: usize = 1_000;
    static LOGGED: Mutex<BTreeMap<(&str, Option<Uuid>), Instant>> = Mutex::new(BTreeMap::new());
    let now = Instant::now();
    {
        let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.duration_since(*at) < PAUSE;
        let name = (row.table, row.id);
        if logged.get(&name).is_some_and(is_recent) {
            return;
        }
        if logged.len() >= ROWS_MAX {
            logged.retain(|_, at| is_recent(at));
        }
        if logged.len() >= ROWS_MAX {
            return;
        }
        logged.insert(name, now);
    }
    // In the form of the API and the other lines of the log, and in that of SQL.
    let id = row.id.map(|id| AccountId::from_uuid(id).to_string());
    let id = id.as_deref().unwrap_or("without an id");
    let (table, uuid) = (row.table, id_text(row.id));
    tracing::error!(
        row.table = table,
        row.id = %id,
        row.uuid = %uuid,
        "row {id} of table {table} cannot be read ({}): its keys are refused; `keys-server migrate --check` lists all such rows",
        reasons(&row.faults)
    );
}

/// Returns the value of the column `kind`.
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
