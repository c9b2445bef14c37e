//! The reasons to refuse a credential.

use crate::texts::table;

table! {
    /// Reason to refuse a credential. A refusal by rule, not a fault.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
    #[non_exhaustive]
    pub enum Denial;

    /// All reasons, in the order in which they are checked. Complete, because the list and the enum
    /// are made from one table.
    ALL;

    /// Returns the stable name of this reason in answers, metrics and logs.
    code;

    /// The text has the wrong shape or the wrong checksum. No database was asked.
    #[error("the key is malformed")]
    Malformed = "malformed",
    /// No key with this digest is stored.
    #[error("the key is not known")]
    NotFound = "not_found",
    /// The stored row of the key, or of its account, cannot be read.
    #[error("the stored record of the key cannot be read")]
    Unreadable = "unreadable",
    /// The key was revoked, which is final.
    #[error("the key was revoked")]
    Revoked = "revoked",
    /// The expiry of the key is not in the future.
    #[error("the key has expired")]
    Expired = "expired",
    /// The key is disabled, which can be undone.
    #[error("the key is disabled")]
    Disabled = "disabled",
    /// The kind of the credential is not accepted here, for example an account's key where an
    /// operator's key is required.
    #[error("this kind of credential may not be used here")]
    KindNotAllowed = "kind_not_allowed",
    /// The account of the key is disabled.
    #[error("the account is disabled")]
    AccountDisabled = "account_disabled",
    /// The plan of the account has no keys, or is no longer configured.
    #[error("the account's plan has no API keys")]
    PlanForbidden = "plan_forbidden",
    /// The request came from an address outside the key's list, or from an unknown address.
    #[error("the key may not be used from this address")]
    IpNotAllowed = "ip_not_allowed",
    /// The key lacks a scope that the request needs.
    #[error("the key lacks a required scope")]
    InsufficientScope = "insufficient_scope",
}

impl Denial {
    /// Returns whether this denial maps to HTTP 401 (not authenticated) rather than 403
    /// (authenticated and forbidden).
    #[must_use]
    pub const fn is_unauthenticated(self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::NotFound | Self::Revoked | Self::Expired | Self::Disabled
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_denial_is_listed_once_under_a_code_of_its_own() {
        let codes: BTreeSet<_> = Denial::ALL.iter().map(|denial| denial.code()).collect();
        assert_eq!(codes.len(), Denial::ALL.len());
        for (position, denial) in Denial::ALL.into_iter().enumerate() {
            assert_eq!(denial as usize, position, "{denial:?}");
        }
    }

    #[test]
    fn codes_are_the_published_ones() {
        assert_eq!(Denial::AccountDisabled.code(), "account_disabled");
        assert_eq!(Denial::Malformed.code(), "malformed");
        assert!(Denial::Revoked.is_unauthenticated());
        assert!(!Denial::PlanForbidden.is_unauthenticated());
    }
}
