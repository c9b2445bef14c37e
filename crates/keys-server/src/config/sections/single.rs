//! Readers of single values. The error of each function is the rest of a sentence that begins with
//! the name of the setting.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error};

/// Reads a text as a `T`.
pub(super) fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Into<anyhow::Error>,
{
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|error: T::Err| D::Error::custom(format_args!(": {text:?}: {:#}", error.into())))
}

/// Reads a text that is one of `choices`.
pub(super) fn chosen<'de, D, T>(deserializer: D, choices: [(&str, T); 2]) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let [one, other] = choices.each_ref().map(|(name, _)| *name);
    let mut choices = choices.into_iter();
    let (_, choice) = choices.find(|(name, _)| *name == text).ok_or_else(|| {
        D::Error::custom(format_args!("must be {one:?} or {other:?}, not {text:?}"))
    })?;
    Ok(choice)
}

/// Reads a whole number of at most `max`.
pub(super) fn at_most<'de, D, T>(deserializer: D, max: T) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Copy + PartialOrd + fmt::Display,
{
    let number = T::deserialize(deserializer)?;
    if number > max {
        return Err(D::Error::custom(format_args!(
            "must be at most {max}, not {number}"
        )));
    }
    Ok(number)
}
