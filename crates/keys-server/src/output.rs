//! Results on standard output: for people, or as JSON.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use keys_core::{
    Account, ApiKey, KeyDetails, RevocationNote, RevocationReason, Timestamp, escaped,
};
use keys_service::ports::AccountEntry;
use keys_service::{FoundKeys, Issued, Rotated};
use keys_store::RowFault;
use serde_json::{Value, json};

/// Writes one line. If the reader has closed the pipe, as `head` does, that is not an error.
pub(crate) fn line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Returns one invalid row: as JSON, or as columns separated by tabs.
pub(crate) fn row_fault(fault: &RowFault, json: bool) -> String {
    let uuid = fault.uuid.map(|uuid| uuid.to_string());
    if json {
        let value = json!({
            "table": fault.table,
            "id": fault.id,
            "uuid": uuid,
            "column": fault.column,
            "why": fault.why,
        });
        return value.to_string();
    }
    [
        fault.table,
        fault.id.as_deref().unwrap_or("-"),
        uuid.as_deref().unwrap_or("-"),
        fault.column,
        // Messages of parsers may contain control characters, which a terminal would obey.
        &fault.why.escape_debug().to_string(),
    ]
    .join("\t")
}

/// Returns an account with all its fields.
pub(crate) fn account(account: &Account) -> Value {
    json!({
        "id": account.id.to_string(),
        "external_id": account.external_id.as_ref().map(ToString::to_string),
        "plan": account.plan.as_str(),
        "disabled": account.disabled,
        "created_at": account.created_at.to_string(),
    })
}

/// Returns an account as listed. One that cannot be read has its columns as they are stored, and a
/// list of the invalid ones.
pub(crate) fn account_entry(entry: &AccountEntry) -> Value {
    match entry {
        Ok(readable) => account(readable),
        Err(row) => json!({
            "id": row.id.to_string(),
            "external_id": row.external_id,
            "plan": row.plan,
            "disabled": row.disabled,
            "created_at": row.created_at.map(|at| at.to_string()),
            "unreadable": row.columns,
        }),
    }
}

/// Returns a key as listed. One that cannot be read is marked, and lacks the fields that cannot be
/// read.
pub(crate) fn key_entry(listed: &KeyDetails, page: &FoundKeys, now: Timestamp) -> Value {
    let mut value = key_details(listed, now);
    if page.is_unreadable(listed.key.id) {
        value["unreadable"] = true.into();
    }
    value
}

/// Returns a key with all its fields except its secret.
pub(crate) fn key(key: &ApiKey) -> Value {
    json!({
        "id": key.id.to_string(),
        "kind": key.kind.as_str(),
        "account_id": key.account_id.map(|id| id.to_string()),
        "name": key.name.as_ref().map(ToString::to_string),
        "key_prefix": key.shown_prefix.as_str(),
        "allowed_ips": key.allowed_networks.to_strings(),
        "scopes": key.scopes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "expires_at": key.expires_at.map(|at| at.to_string()),
        "last_used_at": key.last_used_at.map(|at| at.to_string()),
        "created_at": key.created_at.to_string(),
    })
}

/// Returns a key with everything that is stored about it except its secret.
pub(crate) fn key_details(details: &KeyDetails, now: Timestamp) -> Value {
    let ApiKey {
        disabled_at,
        revoked_at,
        subject,
        limits,
        ..
    } = &details.key;
    let time = |time: &Option<Timestamp>| time.map(|time| time.to_string());
    let creator = details.created_by.map(|by| (by.kind(), by.credential_id()));
    let subject = subject.as_ref().map(ToString::to_string);
    let created_by = (creator.is_some() || subject.is_some()).then(|| {
        json!({
            "type": creator.map(|(kind, _)| kind),
            "id": creator.and_then(|(_, id)| id).map(|id| id.to_string()),
            "subject": subject,
        })
    });
    let revocation = &details.revocation;
    let more = json!({
        "status": details.status(now).as_str(),
        "limits": limits,
        "metadata": details.metadata,
        "created_by": created_by,
        "last_used_ip": details.last_used_ip.map(|address| address.to_string()),
        "use_count": details.use_count,
        "disabled_at": time(disabled_at),
        "revoked_at": time(revoked_at),
        "revoked_reason": revocation.reason.map(RevocationReason::as_str),
        "revoked_note": revocation.note.as_ref().map(RevocationNote::as_str),
        "predecessor": details.predecessor.map(|id| id.to_string()),
        "successor": details.successor.map(|id| id.to_string()),
    });
    let mut value = key(&details.key);
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

/// Formats a key for people: one line for each field that has a value.
pub(crate) fn key_sheet(details: &KeyDetails, now: Timestamp) -> String {
    let value = key_details(details, now);
    let fields = value.as_object().into_iter().flatten();
    let lines = fields.filter_map(|(name, value)| {
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            Value::Array(entries) => {
                let texts = entries.iter().filter_map(Value::as_str);
                texts.collect::<Vec<_>>().join(" ")
            }
            Value::Object(members) if members.is_empty() => return None,
            value => value.to_string(),
        };
        // Names may be older than the rules for them, and a terminal would obey hidden characters.
        (!text.is_empty()).then(|| format!("{name:<14}  {}", escaped(&text)))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns a key that was just made, with its secret.
pub(crate) fn issued(issued: &Issued) -> Value {
    let mut value = key(&issued.key);
    value["key"] = issued.secret.expose().into();
    value["limits"] = json!(issued.key.limits);
    value["metadata"] = json!(issued.metadata);
    value
}

/// Returns a key that was rotated: the new key with its secret, and the end of the old one.
pub(crate) fn rotated(rotated: &Rotated) -> Value {
    let mut value = issued(&rotated.issued);
    value["predecessor"] = rotated.predecessor.to_string().into();
    value["predecessor_ends_at"] = rotated.predecessor_ends_at.to_string().into();
    value
}

/// Text in place of a value that cannot be read.
const UNREADABLE: &str = "(unreadable)";

/// Formats accounts in aligned columns.
pub(crate) fn account_table(accounts: &[AccountEntry]) -> String {
    let rows = accounts.iter().map(|entry| match entry {
        Ok(account) => [
            account.id.to_string(),
            account
                .external_id
                .as_ref()
                .map_or_else(dash, ToString::to_string),
            account.plan.to_string(),
            yes_or_no(account.disabled),
            account.created_at.to_string(),
        ],
        Err(row) => {
            // Stored values may contain control characters, which a terminal would obey.
            let shown = |column, text: Option<&String>| match text {
                Some(_) if row.columns.contains(&column) => UNREADABLE.to_owned(),
                Some(text) => text.escape_debug().to_string(),
                None => dash(),
            };
            [
                row.id.to_string(),
                shown("external_id", row.external_id.as_ref()),
                shown("plan", row.plan.as_ref()),
                yes_or_no(row.disabled),
                row.created_at
                    .map_or_else(|| UNREADABLE.to_owned(), |at| at.to_string()),
            ]
        }
    });
    table(["ID", "EXTERNAL ID", "PLAN", "DISABLED", "CREATED"], rows)
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// Formats keys in aligned columns.
pub(crate) fn key_table(page: &FoundKeys, now: Timestamp) -> String {
    let rows = page.keys.iter().map(|details| {
        let key = &details.key;
        let restricted = key.allowed_networks.to_strings().join(" ");
        [
            key.id.to_string(),
            if page.is_unreadable(key.id) {
                UNREADABLE.to_owned()
            } else {
                key.name.as_ref().map_or_else(dash, ToString::to_string)
            },
            format!("{}..", key.shown_prefix),
            if restricted.is_empty() {
                "any".to_owned()
            } else {
                restricted
            },
            key.expires_at
                .map_or_else(|| "never".to_owned(), |at| at.to_string()),
            key.last_used_at
                .map_or_else(|| "never".to_owned(), |at| at.to_string()),
            key.created_at.to_string(),
            details.status(now).to_string(),
        ]
    });
    table(
        [
            "ID",
            "NAME",
            "PREFIX",
            "ADDRESSES",
            "EXPIRES",
            "LAST USED",
            "CREATED",
            "STATUS",
        ],
        rows,
    )
}

fn dash() -> String {
    "-".to_owned()
}

fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        // Names may be older than the rules for them, and a terminal would obey hidden characters.
        table.add_row(row.map(|cell| escaped(&cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
