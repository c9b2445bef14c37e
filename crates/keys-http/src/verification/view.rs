//! Views of a verdict.

use std::fmt::Display;

use keys_core::{
    AccountId, Denial, ExternalId, KeyId, KeyKind, PlanName, Scope, ScopeSet, Timestamp,
};
use keys_service::ports::Decision;
use keys_service::{Verdict, VerdictCode, VerifiedKey};
use serde::{Serialize, Serializer};

use crate::limits::whole_seconds;

#[derive(Serialize)]
pub(super) struct BatchView<'a> {
    pub(super) results: Vec<VerdictView<'a>>,
}

#[derive(Serialize)]
pub(super) struct VerdictView<'a> {
    valid: bool,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<LimitView>,
    freshness: &'static str,
}

impl<'a> From<&'a Verdict> for VerdictView<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        let (code, key) = disclosed(verdict);
        Self {
            valid: code == VerdictCode::Valid,
            code: code.as_str(),
            key: key.map(KeyView::from),
            rate_limit: verdict.rate_limit.as_ref().map(LimitView::from),
            freshness: verdict.freshness.as_str(),
        }
    }
}

#[derive(Serialize)]
struct KeyView<'a> {
    #[serde(serialize_with = "text")]
    id: KeyId,
    account_id: Option<Text<AccountId>>,
    external_id: Option<&'a str>,
    name: Option<&'a str>,
    plan: Option<&'a str>,
    #[serde(serialize_with = "texts")]
    scopes: &'a ScopeSet,
    expires_at: Option<Text<Timestamp>>,
}

impl<'a> From<&'a VerifiedKey> for KeyView<'a> {
    fn from(key: &'a VerifiedKey) -> Self {
        let account = key.account();
        let external_id = account.and_then(|account| account.external_id);
        Self {
            id: key.id(),
            account_id: account.map(|account| Text(account.id)),
            external_id: external_id.map(ExternalId::as_str),
            name: key.name(),
            plan: account.map(|account| PlanName::as_str(account.plan)),
            scopes: key.scopes(),
            expires_at: key.expires_at().map(Text),
        }
    }
}

#[derive(Serialize)]
struct LimitView {
    limit: u32,
    remaining: u32,
    reset_seconds: u64,
}

impl From<&Decision> for LimitView {
    fn from(decision: &Decision) -> Self {
        Self {
            limit: decision.quota.requests.get(),
            remaining: decision.remaining,
            reset_seconds: whole_seconds(decision.reset),
        }
    }
}

/// A value that is written by its `Display`.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn texts<S: Serializer>(scopes: &ScopeSet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(scopes.iter().map(Scope::as_str))
}

/// The code and the key that are disclosed to the caller. Keys of other kinds than account keys are
/// shown as unknown keys.
pub(super) fn disclosed(verdict: &Verdict) -> (VerdictCode, Option<&VerifiedKey>) {
    const NOT_FOUND: VerdictCode = VerdictCode::Denied(Denial::NotFound);
    match (verdict.code, &verdict.key) {
        (VerdictCode::Denied(Denial::KindNotAllowed), _) => (NOT_FOUND, None),
        // Of another kind and refused before that was checked, such as an expired session.
        (_, Some(key)) if key.kind() != KeyKind::Account => (NOT_FOUND, None),
        (code, key) => (code, key.as_ref()),
    }
}
