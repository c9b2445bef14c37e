//! Results on standard output: for people, or as JSON.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use keys_core::{Account, ApiKey, escaped};
use keys_service::ports::{AccountEntry, KeyPage};
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
pub(crate) fn key_entry(listed: &ApiKey, page: &KeyPage) -> Value {
    let mut value = key(listed);
    if page.is_unreadable(listed.id) {
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
pub(crate) fn key_table(page: &KeyPage) -> String {
    let rows = page.keys.iter().map(|key| {
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
