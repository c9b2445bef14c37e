//! Parameters of a query. None of them is ever a credential.

use actix_web::web;

use crate::field_error::FieldError;

/// The decoded pairs of a query.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(query);
        Self(pairs.map(web::Query::into_inner).unwrap_or_default())
    }

    /// Returns every value of `name`.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Returns each pair.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns the name of each pair.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the value of `name`. Two values are refused, because they are ambiguous.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, FieldError> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            Some(_) => Err(FieldError::new(name, "must be given once")),
            None => Ok(first),
        }
    }

    /// Returns the whole number `name`, at least 1 and at most `max`.
    pub(crate) fn number(&self, name: &str, default: u64, max: u64) -> Result<u64, FieldError> {
        let Some(text) = self.one(name)? else {
            return Ok(default);
        };
        // The parser of integers would accept a plus sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number
            .filter(|number| (1..=max).contains(number))
            .ok_or_else(|| FieldError::new(name, expectation(max)))
    }
}

fn expectation(max: u64) -> String {
    if max == u64::MAX {
        "must be a whole number of at least 1".to_owned()
    } else {
        format!("must be a whole number from 1 to {max}")
    }
}
