//! Views for operators.

use keys_core::{Account, AccountId, ExternalId, KeyId, KeyName, LimitPer, Scope, Timestamp};
use keys_service::ports::AccountEntry;
use keys_service::{AccountPage, Identity, Issued, LimitSource, LimitState, Rotated};
use serde::Serialize;

use super::key_view::{self, LimitsView, MetadataView};
use crate::limits::whole_seconds;

#[derive(Serialize)]
pub(super) struct AccountView<'a> {
    id: String,
    external_id: Option<&'a str>,
    plan: &'a str,
    disabled: bool,
    created_at: String,
    /// The columns that cannot be read and are shown as stored. Absent for an account that can be
    /// read.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unreadable: &'a [&'static str],
}

impl<'a> From<&'a AccountEntry> for AccountView<'a> {
    fn from(entry: &'a AccountEntry) -> Self {
        let row = match entry {
            Ok(account) => return Self::from(account),
            Err(row) => row,
        };
        Self {
            id: row.id.to_string(),
            external_id: row.external_id.as_deref(),
            plan: row.plan.as_deref().unwrap_or_default(),
            disabled: row.disabled,
            created_at: row.created_at.unwrap_or(Timestamp::MIN).to_string(),
            unreadable: &row.columns,
        }
    }
}

impl<'a> From<&'a Account> for AccountView<'a> {
    fn from(account: &'a Account) -> Self {
        Self {
            id: account.id.to_string(),
            external_id: account.external_id.as_ref().map(ExternalId::as_str),
            plan: account.plan.as_str(),
            disabled: account.disabled,
            created_at: account.created_at.to_string(),
            unreadable: &[],
        }
    }
}

/// An account that was changed.
#[derive(Serialize)]
pub(super) struct UpdatedView<'a> {
    #[serde(flatten)]
    account: AccountView<'a>,
    effective_everywhere_by: String,
}

impl<'a> UpdatedView<'a> {
    pub(super) fn new(account: &'a Account, by: Timestamp) -> Self {
        Self {
            account: AccountView::from(account),
            effective_everywhere_by: by.to_string(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct AccountPageView<'a> {
    data: Vec<AccountView<'a>>,
    next_cursor: Option<String>,
}

impl<'a> From<&'a AccountPage> for AccountPageView<'a> {
    fn from(page: &'a AccountPage) -> Self {
        Self {
            data: page.accounts.iter().map(AccountView::from).collect(),
            next_cursor: page.next.as_ref().map(AccountId::to_string),
        }
    }
}

/// View of a new key with its secret, the only place where this surface shows it.
#[derive(Serialize)]
pub(super) struct IssuedView<'a> {
    id: String,
    account_id: Option<String>,
    name: Option<&'a str>,
    key: &'a str,
    key_prefix: &'a str,
    allowed_ips: Vec<String>,
    scopes: Vec<&'a str>,
    expires_at: Option<String>,
    limits: LimitsView<'a>,
    metadata: MetadataView<'a>,
    last_used_at: Option<String>,
    created_at: String,
}

impl<'a> From<&'a Issued> for IssuedView<'a> {
    fn from(issued: &'a Issued) -> Self {
        let Issued { key, secret, .. } = issued;
        Self {
            id: key.id.to_string(),
            account_id: key.account_id.as_ref().map(AccountId::to_string),
            name: key.name.as_ref().map(KeyName::as_str),
            key: secret.expose(),
            key_prefix: key.shown_prefix.as_str(),
            allowed_ips: key.allowed_networks.to_strings(),
            scopes: key.scopes.iter().map(keys_core::Scope::as_str).collect(),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            limits: key_view::limits(&key.limits),
            metadata: key_view::metadata(&issued.metadata),
            last_used_at: key.last_used_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
        }
    }
}

/// View of a new session with its token, the only place where it is shown.
#[derive(Serialize)]
pub(super) struct SessionView<'a> {
    id: String,
    token: &'a str,
    expires_at: Option<String>,
}

impl<'a> From<&'a Issued> for SessionView<'a> {
    fn from(Issued { key, secret, .. }: &'a Issued) -> Self {
        Self {
            id: key.id.to_string(),
            token: secret.expose(),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
        }
    }
}

/// View of a key that was rotated: the new key with its secret, and the end of the old one.
#[derive(Serialize)]
pub(super) struct RotatedView<'a> {
    #[serde(flatten)]
    issued: IssuedView<'a>,
    predecessor: String,
    predecessor_ends_at: String,
}

impl<'a> From<&'a Rotated> for RotatedView<'a> {
    fn from(rotated: &'a Rotated) -> Self {
        Self {
            issued: IssuedView::from(&rotated.issued),
            predecessor: rotated.predecessor.to_string(),
            predecessor_ends_at: rotated.predecessor_ends_at.to_string(),
        }
    }
}

/// View of a credential by its holder.
#[derive(Serialize)]
pub(super) struct WhoamiView<'a> {
    id: String,
    kind: &'static str,
    account_id: Option<String>,
    external_id: Option<&'a str>,
    plan: Option<&'a str>,
    name: Option<&'a str>,
    key_prefix: &'a str,
    allowed_ips: Vec<String>,
    scopes: Vec<&'a str>,
    expires_at: Option<String>,
    created_at: String,
    limits: Vec<LimitView<'a>>,
}

impl<'a> WhoamiView<'a> {
    pub(super) fn new(identity: &'a Identity, limits: &'a [LimitState]) -> Self {
        let (key, account) = (&identity.key, identity.account.as_ref());
        Self {
            id: key.id.to_string(),
            kind: key.kind.as_str(),
            account_id: key.account_id.as_ref().map(AccountId::to_string),
            external_id: account.and_then(|account| Some(account.external_id.as_ref()?.as_str())),
            plan: account.map(|account| account.plan.as_str()),
            name: key.name.as_ref().map(KeyName::as_str),
            key_prefix: key.shown_prefix.as_str(),
            allowed_ips: key.allowed_networks.to_strings(),
            scopes: key.scopes.iter().map(Scope::as_str).collect(),
            expires_at: key.expires_at.as_ref().map(Timestamp::to_string),
            created_at: key.created_at.to_string(),
            limits: limits.iter().map(LimitView::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct LimitView<'a> {
    name: &'a str,
    /// The plan or the key that has the limit.
    source: &'static str,
    /// The account or the key that the limit is counted for.
    per: &'static str,
    requests: u32,
    period_seconds: u32,
    remaining: Option<u32>,
    reset_seconds: Option<u64>,
}

impl<'a> From<&'a LimitState> for LimitView<'a> {
    fn from(state: &'a LimitState) -> Self {
        let decision = state.decision.as_ref();
        Self {
            name: state.name.as_str(),
            source: state.source.as_str(),
            per: match state.source {
                LimitSource::Plan(LimitPer::Account) => "account",
                LimitSource::Plan(LimitPer::Key) | LimitSource::Key => "key",
            },
            requests: state.quota.requests.get(),
            period_seconds: state.quota.period_seconds.get(),
            remaining: decision.map(|decision| decision.remaining),
            reset_seconds: decision.map(|decision| whole_seconds(decision.reset)),
        }
    }
}

/// View of a key that was revoked.
#[derive(Serialize)]
pub(super) struct RevokedView {
    id: String,
    revoked: bool,
    effective_everywhere_by: String,
}

impl RevokedView {
    pub(super) fn new(id: KeyId, by: Timestamp) -> Self {
        Self {
            id: id.to_string(),
            revoked: true,
            effective_everywhere_by: by.to_string(),
        }
    }
}
