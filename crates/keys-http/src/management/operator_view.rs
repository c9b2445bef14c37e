//! Views of operator keys.

use keys_core::{
    ApiKey, KeyDetails, KeyName, KeyStatus, RevocationNote, RevocationReason, Scope, Timestamp,
};
use serde::Serialize;

use super::key_view::CreatorView;

/// An operator key without its secret.
#[derive(Serialize)]
pub(super) struct OperatorKeyView<'a> {
    id: String,
    name: Option<&'a str>,
    key_prefix: &'a str,
    allowed_ips: Vec<String>,
    scopes: Vec<&'a str>,
    status: &'static str,
    expires_at: Option<String>,
    last_used_at: Option<String>,
    created_at: String,
    /// Absent for a key that can be read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unreadable: bool,
    /// Absent in lists.
    #[serde(flatten)]
    details: Option<DetailsView<'a>>,
}

#[derive(Serialize)]
struct DetailsView<'a> {
    created_by: Option<CreatorView<'a>>,
    last_used_ip: Option<String>,
    use_count: u64,
    revoked_at: Option<String>,
    revoked_reason: Option<&'static str>,
    revoked_note: Option<&'a str>,
}

impl<'a> OperatorKeyView<'a> {
    /// Returns the view of a key in a list.
    pub(super) fn listed(key: &'a ApiKey, unreadable: bool, status: KeyStatus) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name.as_ref().map(KeyName::as_str),
            key_prefix: key.shown_prefix.as_str(),
            allowed_ips: key.allowed_networks.to_strings(),
            scopes: key.scopes.iter().map(Scope::as_str).collect(),
            status: status.as_str(),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
            unreadable,
            details: None,
        }
    }

    /// Returns the view of a key with everything that is stored about it.
    pub(super) fn details(details: &'a KeyDetails, status: KeyStatus) -> Self {
        let mut view = Self::listed(&details.key, false, status);
        view.details = Some(DetailsView {
            created_by: CreatorView::of(details),
            last_used_ip: details.last_used_ip.map(|address| address.to_string()),
            use_count: details.use_count,
            revoked_at: details.key.revoked_at.as_ref().map(Timestamp::to_string),
            revoked_reason: details.revocation.reason.map(RevocationReason::as_str),
            revoked_note: details.revocation.note.as_ref().map(RevocationNote::as_str),
        });
        view
    }
}

#[derive(Serialize)]
pub(super) struct OperatorKeyPageView<'a> {
    pub(super) data: Vec<OperatorKeyView<'a>>,
    pub(super) next_cursor: Option<String>,
}
