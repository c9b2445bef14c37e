//! Views of keys in the account contract.

use keys_core::{ApiKey, KeyName, Timestamp};
use keys_service::Issued;
use keys_service::ports::KeyPage;
use serde::Serialize;

use crate::surface::UNREADABLE;

#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    identifier: String,
    description: Option<&'a str>,
    allowed_ips: Vec<String>,
    last_used_at: Option<String>,
    created_at: String,
}

impl<'a> From<&'a ApiKey> for KeyView<'a> {
    fn from(key: &'a ApiKey) -> Self {
        Self {
            identifier: key.id.to_string(),
            description: key.name.as_ref().map(KeyName::as_str),
            allowed_ips: key.allowed_networks.to_strings(),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
        }
    }
}

impl<'a> KeyView<'a> {
    /// Returns the view of a key on a list. If its row cannot be read, the description says so,
    /// because the contract has no other field for it.
    fn listed(key: &'a ApiKey, page: &KeyPage) -> Self {
        let mut view = Self::from(key);
        if page.is_unreadable(key.id) {
            view.description = Some(UNREADABLE);
        }
        view
    }
}

/// View of a new key with its secret, the only place where this contract shows it.
#[derive(Serialize)]
pub(super) struct CreatedView<'a> {
    data: KeyView<'a>,
    meta: Meta<'a>,
}

#[derive(Serialize)]
struct Meta<'a> {
    secret_token: &'a str,
}

impl<'a> From<&'a Issued> for CreatedView<'a> {
    fn from(Issued { key, secret, .. }: &'a Issued) -> Self {
        Self {
            data: KeyView::from(key),
            meta: Meta {
                secret_token: secret.expose(),
            },
        }
    }
}

#[derive(Serialize)]
pub(super) struct PageView<'a> {
    data: Vec<KeyView<'a>>,
    pagination: Pagination,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    page: u64,
    per_page: u32,
    total: u64,
    total_pages: u64,
}

impl<'a> PageView<'a> {
    pub(super) fn new(found: &'a KeyPage, page: u64, per_page: u32) -> Self {
        Self {
            data: found
                .keys
                .iter()
                .map(|key| KeyView::listed(key, found))
                .collect(),
            pagination: Pagination {
                page,
                per_page,
                total: found.total,
                total_pages: found.total.div_ceil(per_page.max(1).into()),
            },
        }
    }
}
