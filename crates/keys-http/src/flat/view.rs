//! What the flat dialect shows of keys.

use keys_core::{ApiKey, KeyName, Timestamp};
use keys_service::{Issued, KeyPage};
use serde::Serialize;

use crate::surface::UNREADABLE;

/// A new key with its secret: the one place where this dialect shows it.
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
    fn from(Issued { key, secret }: &'a Issued) -> Self {
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
    /// A key on a list. One whose row cannot be read is marked by its name, because the contract has no other place.
    pub(super) fn listed(key: &'a ApiKey, page: &KeyPage) -> Self {
        let mut view = Self::from(key);
        if page.is_unreadable(key.id) {
            view.name = UNREADABLE;
        }
        view
    }
}

/// A key made without a memo through the other dialect has the empty name in this one.
fn name(key: &ApiKey) -> &str {
    key.name.as_ref().map_or("", KeyName::as_str)
}

#[derive(Serialize)]
pub(super) struct Success {
    success: bool,
    /// Not part of the contract, so it is there for those only who ask for something that is not either.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_everywhere_by: Option<String>,
}

impl Success {
    pub(super) fn new(effective_everywhere_by: Option<String>) -> Self {
        Self {
            success: true,
            effective_everywhere_by,
        }
    }
}
