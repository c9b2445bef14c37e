//! Errors of settings, in messages that name the setting and say what to write.

use std::fmt;
use std::path::Path;

use keys_core::suggestion::nearest;
use serde::de::{Error, Expected, Unexpected};

use super::secrets::SECRETS;

/// Error returned when a setting is unknown, missing or not valid.
#[derive(Debug)]
pub(super) struct Fault {
    /// The names of the tables around it and its own, innermost first.
    names: Vec<String>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Unknown {
        name: String,
        known: &'static [&'static str],
    },
    Missing(&'static str),
    /// The value is of another kind, or a number that is out of range.
    Wrong {
        expected: String,
        found: String,
    },
    /// Rest of the sentence after the name of the setting.
    Other(String),
}

impl Fault {
    /// Returns the same error in the table `name`.
    pub(super) fn within(mut self, name: String) -> Self {
        self.names.push(name);
        self
    }

    /// Returns the same error for `name` itself.
    pub(super) fn of_name(self, name: &str) -> Self {
        match self.kind {
            Kind::Other(_) => self.within(name.to_owned()),
            _ => self,
        }
    }

    /// Returns the error message. The value of a setting that may hold a secret is left out.
    pub(super) fn explain(&self, file: Option<&Path>) -> anyhow::Error {
        let whence = file.map_or_else(
            || "the environment".to_owned(),
            |path| format!("{} or the environment", path.display()),
        );
        if let Kind::Other(_) = self.kind {
            return anyhow::anyhow!("{self}");
        }
        anyhow::anyhow!("{self} (in {whence})")
    }

    fn setting(&self, name: Option<&str>) -> String {
        let names = self.names.iter().rev().map(String::as_str);
        names.chain(name).collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = self.setting(None);
        match &self.kind {
            Kind::Unknown { name, known } => {
                write!(f, "unknown setting `{}`", self.setting(Some(name)))?;
                match nearest(name, known) {
                    Some(meant) => write!(f, "; did you mean `{}`?", self.setting(Some(meant))),
                    None => write!(f, "; known are {}", known.join(", ")),
                }
            }
            Kind::Missing(name) => write!(f, "setting `{}` is missing", self.setting(Some(name))),
            Kind::Wrong { expected, .. } if may_be_secret(&setting) => {
                write!(f, "setting `{setting}` must be {expected}")
            }
            Kind::Wrong { expected, found } => {
                write!(f, "setting `{setting}` must be {expected}, not {found}")
            }
            Kind::Other(rest) if rest.starts_with(':') => write!(f, "setting `{setting}`{rest}"),
            // Values of keys-core: the text in quotes, then the reason.
            Kind::Other(rest) if rest.starts_with('"') => write!(f, "setting `{setting}`: {rest}"),
            Kind::Other(rest) => write!(f, "setting `{setting}` {rest}"),
        }
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Kind::Other(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let (expected, found) = (wanted(&expected.to_string()), shown(&found));
        Kind::Wrong { expected, found }.into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        let quoted: Vec<_> = expected.iter().map(|name| format!("{name:?}")).collect();
        let (expected, found) = (quoted.join(" or "), format!("{found:?}"));
        Kind::Wrong { expected, found }.into()
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let name = name.to_owned();
        Kind::Unknown { name, known }.into()
    }

    fn missing_field(name: &'static str) -> Self {
        Kind::Missing(name).into()
    }
}

impl From<Kind> for Fault {
    fn from(kind: Kind) -> Self {
        Self {
            names: Vec::new(),
            kind,
        }
    }
}

/// Returns the expected kind of value, in the words of an operator instead of those of serde.
fn wanted(expected: &str) -> String {
    match expected {
        "u8" | "u16" | "u64" | "usize" => "a whole number of at least 0".to_owned(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "a nonzero u32" => format!("a whole number from 1 to {}", u32::MAX),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        expected if expected.starts_with("struct ") => "a table".to_owned(),
        expected if expected.starts_with("enum ") => "a text".to_owned(),
        expected => expected.to_owned(),
    }
}

fn shown(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        // With its point: 10.0 is not a whole number either.
        Unexpected::Float(value) => format!("{value:?}"),
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Other(text) => (*text).to_owned(),
        Unexpected::Map => "a table".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        found => found.to_string(),
    }
}

/// Returns whether a setting holds a secret, or is a table inside or around one, because a secret
/// may be written there by mistake.
fn may_be_secret(setting: &str) -> bool {
    let is_within = |inner: &str, outer: &str| {
        let rest = inner.strip_prefix(outer);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut secrets = SECRETS.iter().chain([&["peppers", "keys"]]);
    secrets.any(|secret| {
        let secret = secret.join(".");
        is_within(setting, &secret) || is_within(&secret, setting)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_may_be_within_or_around_a_setting() {
        for setting in ["peppers", "peppers.keys.p1", "database", "database.url"] {
            assert!(may_be_secret(setting), "{setting}");
        }
        for setting in ["database.connections_max", "database.urls", "http.listen"] {
            assert!(!may_be_secret(setting), "{setting}");
        }
    }
}
