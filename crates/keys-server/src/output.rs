//! Results on standard output: for people, or as JSON.

use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use keys_core::{Account, ApiKey};
use serde_json::{Value, json};

/// Writes one line. A reader that went away, as `head` does, is no failure.
pub(crate) fn line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// An account with all there is to say.
pub(crate) fn account(account: &Account) -> Value {
    json!({
        "id": account.id.to_string(),
        "external_id": account.external_id.as_ref().map(ToString::to_string),
        "plan": account.plan.as_str(),
        "disabled": account.disabled,
        "created_at": account.created_at.to_string(),
    })
}

/// A key with all there is to say of it but its secret.
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

/// Accounts in aligned columns.
pub(crate) fn account_table(accounts: &[Account]) -> String {
    let rows = accounts.iter().map(|account| {
        [
            account.id.to_string(),
            account
                .external_id
                .as_ref()
                .map_or_else(dash, ToString::to_string),
            account.plan.to_string(),
            if account.disabled { "yes" } else { "no" }.to_owned(),
            account.created_at.to_string(),
        ]
    });
    table(["ID", "EXTERNAL ID", "PLAN", "DISABLED", "CREATED"], rows)
}

/// Keys in aligned columns.
pub(crate) fn key_table(keys: &[ApiKey]) -> String {
    let rows = keys.iter().map(|key| {
        let restricted = key.allowed_networks.to_strings().join(" ");
        [
            key.id.to_string(),
            key.name.as_ref().map_or_else(dash, ToString::to_string),
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
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}
