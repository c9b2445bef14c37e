//! Views of keys with everything that is stored about them but the secret.

use std::collections::BTreeMap;

use keys_core::{
    AuditActor, ExternalId, KeyDetails, KeyId, KeyLimits, KeyName, KeyStatus, Metadata,
    RevocationNote, RevocationReason, Scope, Timestamp,
};
use keys_service::FoundKeys;
use keys_service::ports::Others;
use serde::Serialize;

use crate::surface::UNREADABLE;

/// A key of any kind. Only fields that are named here are ever shown.
#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    id: String,
    account_id: Option<String>,
    kind: &'static str,
    status: &'static str,
    name: Option<&'a str>,
    key_prefix: &'a str,
    allowed_ips: Vec<String>,
    scopes: Vec<&'a str>,
    limits: LimitsView<'a>,
    metadata: MetadataView<'a>,
    expires_at: Option<String>,
    created_at: String,
    created_by: Option<CreatorView<'a>>,
    last_used_at: Option<String>,
    last_used_ip: Option<String>,
    use_count: u64,
    disabled: bool,
    disabled_at: Option<String>,
    revoked_at: Option<String>,
    revoked_reason: Option<&'static str>,
    revoked_note: Option<&'a str>,
    predecessor: Option<String>,
    successor: Option<String>,
    /// Present for a key on a list whose row cannot be read. The other fields have what can be
    /// read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unreadable: bool,
}

/// The own limits of a key by name.
pub(super) type LimitsView<'a> = BTreeMap<&'a str, LimitView>;

#[derive(Serialize)]
pub(super) struct LimitView {
    requests: u32,
    period_seconds: u32,
}

/// Names and values of the host system.
pub(super) type MetadataView<'a> = BTreeMap<&'a str, &'a str>;

pub(super) fn limits(limits: &KeyLimits) -> LimitsView<'_> {
    let limits = limits.iter().map(|(name, quota)| {
        let limit = LimitView {
            requests: quota.requests.get(),
            period_seconds: quota.period_seconds.get(),
        };
        (name.as_str(), limit)
    });
    limits.collect()
}

pub(super) fn metadata(metadata: &Metadata) -> MetadataView<'_> {
    metadata.iter().collect()
}

/// The party that made a key.
#[derive(Serialize)]
pub(super) struct CreatorView<'a> {
    /// `null` for a key that is older than this field.
    r#type: Option<&'static str>,
    id: Option<String>,
    subject: Option<&'a str>,
}

impl<'a> CreatorView<'a> {
    pub(super) fn of(details: &'a KeyDetails) -> Option<Self> {
        let subject = details.key.subject.as_ref().map(ExternalId::as_str);
        let credential = details.created_by.and_then(AuditActor::credential_id);
        let view = Self {
            r#type: details.created_by.map(AuditActor::kind),
            id: credential.as_ref().map(KeyId::to_string),
            subject,
        };
        (view.r#type.is_some() || view.subject.is_some()).then_some(view)
    }
}

impl<'a> KeyView<'a> {
    pub(super) fn new(details: &'a KeyDetails, now: Timestamp) -> Self {
        let key = &details.key;
        let revocation = &details.revocation;
        Self {
            id: key.id.to_string(),
            account_id: key.account_id.map(|id| id.to_string()),
            kind: key.kind.as_str(),
            status: details.status(now).as_str(),
            name: key.name.as_ref().map(KeyName::as_str),
            key_prefix: key.shown_prefix.as_str(),
            allowed_ips: key.allowed_networks.to_strings(),
            scopes: key.scopes.iter().map(Scope::as_str).collect(),
            limits: limits(&key.limits),
            metadata: metadata(&details.metadata),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
            created_by: CreatorView::of(details),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            last_used_ip: details.last_used_ip.map(|address| address.to_string()),
            use_count: details.use_count,
            disabled: key.disabled_at.is_some(),
            disabled_at: key.disabled_at.as_ref().map(Timestamp::to_string),
            revoked_at: key.revoked_at.as_ref().map(Timestamp::to_string),
            revoked_reason: revocation.reason.map(RevocationReason::as_str),
            revoked_note: revocation.note.as_ref().map(RevocationNote::as_str),
            predecessor: details.predecessor.as_ref().map(KeyId::to_string),
            successor: details.successor.as_ref().map(KeyId::to_string),
            unreadable: false,
        }
    }

    fn listed(details: &'a KeyDetails, page: &FoundKeys, now: Timestamp) -> Self {
        let mut view = Self::new(details, now);
        if page.is_unreadable(details.key.id) {
            view.unreadable = true;
            view.name = Some(UNREADABLE);
        }
        view
    }
}

/// A key that was changed.
#[derive(Serialize)]
pub(super) struct UpdatedKeyView<'a> {
    #[serde(flatten)]
    pub(super) key: KeyView<'a>,
    pub(super) effective_everywhere_by: String,
}

/// A session on a list.
#[derive(Serialize)]
pub(super) struct ListedSessionView<'a> {
    id: String,
    account_id: Option<String>,
    status: &'static str,
    subject: Option<&'a str>,
    scopes: Vec<&'a str>,
    expires_at: Option<String>,
    created_at: String,
    created_by: Option<CreatorView<'a>>,
    last_used_at: Option<String>,
    last_used_ip: Option<String>,
    use_count: u64,
}

impl<'a> ListedSessionView<'a> {
    fn new(details: &'a KeyDetails, now: Timestamp) -> Self {
        let key = &details.key;
        Self {
            id: key.id.to_string(),
            account_id: key.account_id.map(|id| id.to_string()),
            status: details.status(now).as_str(),
            subject: key.subject.as_ref().map(ExternalId::as_str),
            scopes: key.scopes.iter().map(Scope::as_str).collect(),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
            created_by: CreatorView::of(details),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            last_used_ip: details.last_used_ip.map(|address| address.to_string()),
            use_count: details.use_count,
        }
    }
}

/// One page of a list of keys or sessions.
#[derive(Serialize)]
pub(super) struct PageView<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
    /// Present on the first page of a list without a filter by status.
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<OthersView>,
}

#[derive(Serialize)]
struct OthersView {
    statuses: Vec<&'static str>,
    count: u32,
    more: bool,
}

impl From<Others> for OthersView {
    fn from(others: Others) -> Self {
        let ended = KeyStatus::ALL.into_iter().filter(|one| one.is_ended());
        Self {
            statuses: ended.map(KeyStatus::as_str).collect(),
            count: others.count,
            more: others.more,
        }
    }
}

impl<'a> PageView<KeyView<'a>> {
    pub(super) fn of_keys(page: &'a FoundKeys, now: Timestamp) -> Self {
        Self::new(page, |details| KeyView::listed(details, page, now))
    }
}

impl<'a> PageView<ListedSessionView<'a>> {
    pub(super) fn of_sessions(page: &'a FoundKeys, now: Timestamp) -> Self {
        Self::new(page, |details| ListedSessionView::new(details, now))
    }
}

impl<T> PageView<T> {
    fn new<'a>(page: &'a FoundKeys, view: impl FnMut(&'a KeyDetails) -> T) -> Self {
        Self {
            data: page.keys.iter().map(view).collect(),
            next_cursor: page.next.map(|cursor| cursor.to_string()),
            others: page.others.map(Into::into),
        }
    }
}
