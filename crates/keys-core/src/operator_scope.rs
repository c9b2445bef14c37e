//! The scopes of operator keys: what the service's own management asks for.

use std::str::FromStr;

use crate::scope::{Scope, ScopeSet};
use crate::texts::{display_as_str, table};

table! {
    /// A scope that an operator key may have.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum OperatorScope;

    /// All scopes of operators. Complete, because the list and the enum are made from one table.
    ALL;

    /// The scope as text.
    as_str;

    /// Find and list accounts.
    AccountsRead = "accounts:read",
    /// Create and change accounts.
    AccountsWrite = "accounts:write",
    /// Read, list and explain keys of accounts. With [`KeysWrite`](Self::KeysWrite), open sessions,
    /// which list, create and delete keys.
    KeysRead = "keys:read",
    /// Create, change, rotate and revoke keys of accounts.
    KeysWrite = "keys:write",
    /// Verify keys.
    KeysVerify = "keys:verify",
    /// List sessions.
    SessionsRead = "sessions:read",
    /// End sessions.
    SessionsWrite = "sessions:write",
    /// Read and list operator keys.
    OperatorsRead = "operators:read",
    /// Create, rotate and revoke operator keys, and grant scopes to them.
    OperatorsWrite = "operators:write",
    /// Read the audit trail.
    EventsRead = "events:read",
}

display_as_str!(OperatorScope);

impl FromStr for OperatorScope {
    type Err = UnknownOperatorScope;

    fn from_str(text: &str) -> Result<Self, UnknownOperatorScope> {
        let mut all = Self::ALL.into_iter();
        all.find(|scope| scope.as_str() == text)
            .ok_or(UnknownOperatorScope)
    }
}

impl From<OperatorScope> for Scope {
    fn from(scope: OperatorScope) -> Self {
        let scope = scope.as_str().parse();
        scope.expect("the scopes of operators are legal")
    }
}

impl FromIterator<OperatorScope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = OperatorScope>>(scopes: I) -> Self {
        let given: Vec<_> = scopes.into_iter().collect();
        let once = OperatorScope::ALL
            .iter()
            .filter(|scope| given.contains(scope));
        let set = Self::parse(once.map(|scope| scope.as_str()));
        set.expect("the scopes of operators are legal, and few")
    }
}

/// Error returned when a text is not a scope of operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an operator's scopes are {}", OperatorScope::ALL.map(OperatorScope::as_str).join(", "))]
#[non_exhaustive]
pub struct UnknownOperatorScope;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_operators_are_scopes_and_are_read_back() {
        for scope in OperatorScope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(Scope::from(scope).as_str(), scope.as_str());
        }
        assert_eq!(
            "keys:own".parse::<OperatorScope>(),
            Err(UnknownOperatorScope)
        );
        let all: ScopeSet = OperatorScope::ALL.into_iter().collect();
        assert_eq!(all.iter().len(), OperatorScope::ALL.len());
    }
}
