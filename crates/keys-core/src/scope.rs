//! Scopes of a key: a set of names whose meaning belongs to the host system.

use std::str::FromStr;

use crate::texts::display_as_str;

/// A permission, such as `orders:read`: 1 to 64 characters, lower-case letters and digits, then
/// also `:._-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Box<str>);

impl Scope {
    /// Maximum length of a scope.
    pub const MAX_LEN: usize = 64;

    /// Returns the scope as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let legal = |byte: &u8| alphanumeric(byte) || matches!(byte, b':' | b'.' | b'_' | b'-');
        let bytes = text.as_bytes();
        if bytes.len() <= Self::MAX_LEN
            && bytes.first().is_some_and(alphanumeric)
            && bytes.iter().all(legal)
        {
            Ok(Self(text.into()))
        } else {
            Err(InvalidScope::Name)
        }
    }
}

impl AsRef<str> for Scope {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

display_as_str!(Scope);

/// Error returned when scopes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidScope {
    /// One of them is not a legal name.
    #[error(
        "a scope is 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit"
    )]
    Name,
    /// There are more than [`ScopeSet::MAX_LEN`].
    #[error("a key has at most 64 scopes")]
    TooMany,
}

/// A set of scopes, sorted and without repetitions. An empty set permits nothing that requires a
/// scope.
///
/// ```
/// use keys_core::ScopeSet;
///
/// let held: ScopeSet = ScopeSet::parse(["orders:write", "orders:read"])?;
/// assert!(held.covers(&ScopeSet::parse(["orders:read"])?));
/// assert!(!held.covers(&ScopeSet::parse(["refunds:write"])?));
/// # Ok::<(), keys_core::InvalidScope>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScopeSet(Box<[Scope]>);

impl ScopeSet {
    /// Maximum number of scopes in a set.
    pub const MAX_LEN: usize = 64;

    /// Reads a list of names.
    ///
    /// # Errors
    /// If there are too many, or one is not legal.
    pub fn parse<I>(names: I) -> Result<Self, InvalidScope>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut scopes = Vec::new();
        for name in names {
            if scopes.len() == Self::MAX_LEN {
                return Err(InvalidScope::TooMany);
            }
            scopes.push(name.as_ref().parse()?);
        }
        scopes.sort_unstable();
        scopes.dedup();
        Ok(Self(scopes.into()))
    }

    /// Returns whether every scope of `wanted` is in this set.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|scope| self.contains(scope))
    }

    /// Returns the scopes of both sets. The result may have more than
    /// [`MAX_LEN`](Self::MAX_LEN), so it is to be compared with and not to be stored.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut scopes: Vec<Scope> = self.0.iter().chain(&other.0).cloned().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes.into())
    }

    /// Returns whether `scope` is in this set.
    #[must_use]
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.binary_search(scope).is_ok()
    }

    /// Returns the scopes, sorted.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Scope> {
        self.0.iter()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for text in ["", ":a", "A", "a b", "a,b", "é", &"a".repeat(65)] {
            assert_eq!(text.parse::<Scope>(), Err(InvalidScope::Name), "{text:?}");
        }
    }

    #[test]
    fn sets_are_sorted_and_bounded() {
        let set = ScopeSet::parse(["b", "a", "b"]).unwrap();
        assert_eq!(
            set.iter().map(Scope::as_str).collect::<Vec<_>>(),
            ["a", "b"]
        );
        let names: Vec<_> = (0..65).map(|number| format!("s{number}")).collect();
        assert_eq!(ScopeSet::parse(&names), Err(InvalidScope::TooMany));
        assert!(ScopeSet::parse(&names[1..]).is_ok());
    }

    #[test]
    fn empty_set_covers_only_the_empty_set() {
        let none = ScopeSet::default();
        assert!(none.covers(&none));
        assert!(!none.covers(&ScopeSet::parse(["a"]).unwrap()));
    }
}
