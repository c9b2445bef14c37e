//! Views of keys in the flat contract.

use keys_core::{ApiKey, KeyName, Timestamp};
use keys_service::Issued;
use keys_service::ports::KeyPage;
use serde::Serialize;

use crate::surface::UNREADABLE;

/// View of a new key with its secret, the only place where this contract shows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedView<'a> {
    id: String,
    name: &'a str,
    key: &'a str,
    key_prefix: &'a str,
    created_at: String,
}

impl<'a> From<&'a Issued> for CreatedView<'a> {
    fn from(Issued { key, secret, .. }: &'a Issued) -> Self {
        Self {
            id: key.id.to_string(),
            name: name(key),
            key: secret.expose(),
            key_prefix: key.shown_prefix.as_str(),
            created_at: key.created_at.to_string(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView<'a> {
    id: String,
    name: &'a str,
    key_prefix: &'a str,
    last_used_at: Option<String>,
    created_at: String,
}

impl<'a> From<&'a ApiKey> for KeyView<'a> {
    fn from(key: &'a ApiKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: name(key),
            key_prefix: key.shown_prefix.as_str(),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
        }
    }
}

impl<'a> KeyView<'a> {
    /// Returns the view of a key on a list. If its row cannot be read, the name says so, because
    /// the contract has no other field for it.
    pub(super) fn listed(key: &'a ApiKey, page: &KeyPage) -> Self {
        let mut view = Self::from(key);
        if page.is_unreadable(key.id) {
            view.name = UNREADABLE;
        }
        view
    }
}

/// Returns the name. A key created without a memo through the other contract has an empty one.
fn name(key: &ApiKey) -> &str {
    key.name.as_ref().map_or("", KeyName::as_str)
}
