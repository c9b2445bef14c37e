//! Fields of a body, each parsed once. Each error names the field.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;

use keys_core::{
    AllowedNetworks, ExternalId, InvalidMetadata, InvalidName, KeyName, KeyPrefix, LimitName,
    Metadata, Network, Scope, ScopeSet, Timestamp,
};
use keys_service::ports::QuotaPatch;
use keys_service::{IssueError, IssueField};
use serde_json::Value;

use crate::field_error::FieldError;
use crate::rejection::Rejection;
use crate::unknown;

/// Collects the errors of a body, so that a client gets all of them at once.
#[derive(Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    /// Returns the value, or its default after an error: [`finish`](Self::finish) will not let it
    /// through.
    pub(crate) fn note<T: Default>(&mut self, read: Result<T, FieldError>) -> T {
        read.unwrap_or_else(|fault| {
            self.0.push(fault);
            T::default()
        })
    }

    pub(crate) fn note_all<T: Default>(&mut self, read: Result<T, Vec<FieldError>>) -> T {
        read.unwrap_or_else(|faults| {
            self.0.extend(faults);
            T::default()
        })
    }

    pub(crate) fn finish(self) -> Result<(), Rejection> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Invalid(self.0))
        }
    }
}

impl Rejection {
    /// Returns the rejection of one field of a body or parameter of a query.
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, message)])
    }

    /// Converts the error of a key or session that was not issued. `name` returns the field of the
    /// request's body that a value was read from, or `None` if the contract has no such field.
    pub(crate) fn not_issued(
        error: IssueError,
        name: impl FnOnce(IssueField) -> Option<String>,
    ) -> Self {
        if let IssueError::UnknownLimit(limit) = &error {
            return match name(IssueField::Limits) {
                Some(field) => Self::field(format!("{field}.{limit}"), UNKNOWN_LIMIT),
                None => error.into(),
            };
        }
        let message = match error {
            IssueError::ExpiryNotInFuture => "must be in the future",
            IssueError::SessionTtl => "must be a whole number from 1 to 86400",
            IssueError::ReservedPrefix => "is reserved for another kind of credential",
            IssueError::ExceedsCreator(IssueField::ExpiresAt) => {
                "must not be later than the expiry of the key that creates it"
            }
            IssueError::ExceedsCreator(IssueField::AllowedNetworks(_)) => {
                "must be within the addresses of the key that creates it"
            }
            IssueError::ExceedsCreator(IssueField::Limits) => {
                "must not be higher than the limits of the key that creates it"
            }
            IssueError::ExceedsCreator(_) => "must be held by the key that creates it",
            error => return error.into(),
        };
        match error.field().and_then(name) {
            Some(field) => Self::field(field, message),
            None => error.into(),
        }
    }
}

/// Reads a string. `null` means the same as a missing field.
pub(crate) fn text(field: &str, value: Option<Value>) -> Result<Option<String>, FieldError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(FieldError::new(field, "must be a string")),
    }
}

/// A name of at least one character.
pub(crate) fn name(field: &str, text: &str) -> Result<KeyName, FieldError> {
    KeyName::from_name(text).map_err(|error| invalid_name(field, error))
}

/// Reads a memo. `None` for the empty one.
pub(crate) fn memo(field: &str, value: Option<Value>) -> Result<Option<KeyName>, FieldError> {
    let text = text(field, value)?.unwrap_or_default();
    KeyName::from_memo(&text).map_err(|error| invalid_name(field, error))
}

fn invalid_name(field: &str, error: InvalidName) -> FieldError {
    FieldError::new(field, error.to_string())
}

/// Reads a time in RFC 3339.
pub(crate) fn moment(field: &str, value: Option<Value>) -> Result<Option<Timestamp>, FieldError> {
    text(field, value)?
        .map(|text| Timestamp::parse_rfc3339(&text))
        .transpose()
        .map_err(|_| FieldError::new(field, TIME))
}

/// Reads a list of strings, each by `parse`, which gets its name. `None` if the field is missing or
/// `null`.
fn list<T>(
    field: &str,
    value: Option<Value>,
    len_max: usize,
    parse: impl Fn(&str, &str) -> Result<T, FieldError>,
) -> Result<Option<Vec<T>>, Vec<FieldError>> {
    let entries = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(vec![FieldError::new(field, "must be a list of strings")]),
    };
    if entries.len() > len_max {
        let message = format!("must have at most {len_max} entries");
        return Err(vec![FieldError::new(field, message)]);
    }
    let mut faults = Vec::new();
    let mut parsed = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let field = format!("{field}.{index}");
        match entry.as_str().map(|text| parse(&field, text)) {
            Some(Ok(entry)) => parsed.push(entry),
            Some(Err(fault)) => faults.push(fault),
            None => faults.push(FieldError::new(field, "must be a string")),
        }
    }
    if faults.is_empty() {
        Ok(Some(parsed))
    } else {
        Err(faults)
    }
}

/// An address list, and the entries of the request in their order.
#[derive(Default)]
pub(crate) struct Networks {
    pub(crate) list: AllowedNetworks,
    entries: Vec<Network>,
}

impl Networks {
    /// Returns the first position in the request of the entry at `index` of the list, which has no
    /// repeated entries.
    pub(crate) fn position(&self, index: usize) -> usize {
        let position = |wanted| self.entries.iter().position(|entry| entry == wanted);
        let wanted = self.list.as_slice().get(index);
        wanted.and_then(position).unwrap_or(index)
    }
}

/// Reads a list of addresses and networks. `null` and `[]` mean the same as a missing field.
pub(crate) fn networks(field: &str, value: Option<Value>) -> Result<Networks, Vec<FieldError>> {
    let parse = |field: &str, text: &str| parse(field, text, NETWORK);
    let entries = list(field, value, AllowedNetworks::MAX_LEN, parse)?.unwrap_or_default();
    match AllowedNetworks::parse(entries.iter().map(Network::to_string)) {
        Ok(list) => Ok(Networks { list, entries }),
        Err(error) => Err(vec![FieldError::new(field, error.to_string())]),
    }
}

/// Reads the host system's identifier of an account.
pub(crate) fn external_id(
    field: &str,
    value: Option<Value>,
) -> Result<Option<ExternalId>, FieldError> {
    let Some(text) = text(field, value)? else {
        return Ok(None);
    };
    let known = known_external_id(field, &text)?;
    match text.parse::<ExternalId>() {
        Ok(new) => Ok(Some(new)),
        // An identifier that an account has already is accepted, and not changed.
        Err(_) => Err(FieldError::new(field, invisible(&known))),
    }
}

fn invisible(known: &ExternalId) -> &'static str {
    match KeyName::from_memo(known.as_str()) {
        Err(InvalidName::BidirectionalOverride) => "must not contain bidirectional overrides",
        _ => "must contain a visible character",
    }
}

/// Reads the host system's identifier of an account, for a search.
pub(crate) fn known_external_id(field: &str, text: &str) -> Result<ExternalId, FieldError> {
    ExternalId::from_stored(text).map_err(|_| FieldError::new(field, EXTERNAL_ID))
}

/// Reads the prefix of a key.
pub(crate) fn prefix(field: &str, value: Option<Value>) -> Result<Option<KeyPrefix>, FieldError> {
    let text = text(field, value)?;
    text.map(|text| parse(field, &text, PREFIX)).transpose()
}

pub(crate) const TIME: &str =
    "must be an RFC 3339 time with an offset, such as 2030-12-31T23:59:59Z";
const EXTERNAL_ID: &str = "must be 1 to 255 characters, none of them a control character";
const NETWORK: &str = "must be an IPv4 or IPv6 address or CIDR network";
const PREFIX: &str = "must be 2 to 20 lower-case letters and digits in groups joined by single underscores, starting with a letter";
pub(crate) const SCOPE: &str =
    "must be 1 to 64 lower-case letters, digits and `:._-`, starting with a letter or digit";

/// Text about the name of a limit.
pub(crate) const UNKNOWN_LIMIT: &str = "is not the name of a limit of any plan";

/// Text about a limit that lacks a number.
pub(crate) const INCOMPLETE_LIMIT: &str = "must have requests and period_seconds";

/// Reads `true` or `false`.
pub(crate) fn boolean(field: &str, value: &Value) -> Result<bool, FieldError> {
    let value = value.as_bool();
    value.ok_or_else(|| FieldError::new(field, "must be true or false"))
}

/// Reads names and values of the host system. `None` is the value of a name that is `null`.
pub(crate) fn metadata(field: &str, value: Value) -> Result<Entries, Vec<FieldError>> {
    let Value::Object(members) = value else {
        return Err(vec![FieldError::new(field, "must be an object of strings")]);
    };
    let mut faults = Vec::new();
    let mut entries = Entries::new();
    for (name, value) in members {
        let mut fault = |message| {
            let field = format!("{field}.{}", unknown::shown(&name));
            faults.push(FieldError::new(field, message));
        };
        if !Metadata::is_name(&name) {
            fault("must be named by 1 to 40 lower-case letters, digits and `_`");
            continue;
        }
        let value = match value {
            Value::Null => None,
            Value::String(text) if text.contains('\0') => {
                fault("must not contain a NUL character");
                continue;
            }
            Value::String(text) => Some(text.into()),
            _ => {
                fault("must be a string");
                continue;
            }
        };
        entries.insert(name.into(), value);
    }
    at_most(FAULTS_MAX, entries, faults)
}

/// Names and values of metadata. `None` is the value of a name that is `null`.
pub(crate) type Entries = BTreeMap<Box<str>, Option<Box<str>>>;

/// Returns the message about metadata that is refused.
pub(crate) fn invalid_metadata(error: InvalidMetadata) -> String {
    match error {
        InvalidMetadata::TooLong => format!("must be at most {} bytes", Metadata::MAX_LEN),
        error => error.to_string(),
    }
}

/// Reads limits by name. `None` is the value of a name that is `null`. Each limit may lack a
/// number.
pub(crate) fn limits(field: &str, value: Value) -> Result<Limits, Vec<FieldError>> {
    let Value::Object(members) = value else {
        return Err(vec![FieldError::new(field, "must be an object of limits")]);
    };
    let mut faults = Vec::new();
    let mut limits = Limits::new();
    for (name, value) in members {
        let field = format!("{field}.{}", unknown::shown(&name));
        let Ok(name) = name.parse() else {
            faults.push(FieldError::new(field, UNKNOWN_LIMIT));
            continue;
        };
        match value {
            Value::Null => {
                limits.insert(name, None);
            }
            value => match quota(&field, value) {
                Ok(quota) => {
                    limits.insert(name, Some(quota));
                }
                Err(fault) => faults.extend(fault),
            },
        }
    }
    at_most(FAULTS_MAX, limits, faults)
}

/// Limits by name. `None` is the value of a name that is `null`.
pub(crate) type Limits = BTreeMap<LimitName, Option<QuotaPatch>>;

/// Maximum number of faults in one object.
const FAULTS_MAX: usize = 10;

fn at_most<T>(max: usize, read: T, mut faults: Vec<FieldError>) -> Result<T, Vec<FieldError>> {
    faults.truncate(max);
    if faults.is_empty() {
        Ok(read)
    } else {
        Err(faults)
    }
}

fn quota(field: &str, value: Value) -> Result<QuotaPatch, Vec<FieldError>> {
    const REQUESTS: &str = "requests";
    const PERIOD_SECONDS: &str = "period_seconds";
    let Value::Object(mut members) = value else {
        return Err(vec![FieldError::new(field, INCOMPLETE_LIMIT)]);
    };
    let mut faults = Vec::new();
    let mut number = |name| {
        let value = members.remove(name)?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.and_then(NonZeroU32::new);
        if number.is_none() {
            let message = format!("must be a whole number from 1 to {}", u32::MAX);
            faults.push(FieldError::new(format!("{field}.{name}"), message));
        }
        number
    };
    let mut quota = QuotaPatch::default();
    quota.requests = number(REQUESTS);
    quota.period_seconds = number(PERIOD_SECONDS);
    let path = format!("{field}.");
    let names = members.keys().map(String::as_str);
    faults.extend(unknown::faults(&path, names, &[REQUESTS, PERIOD_SECONDS]).unwrap_or_default());
    at_most(FAULTS_MAX, quota, faults)
}

/// Reads a value with a single rule.
pub(crate) fn parse<T: FromStr>(
    field: &str,
    text: &str,
    expectation: &str,
) -> Result<T, FieldError> {
    text.parse()
        .map_err(|_| FieldError::new(field, expectation))
}

/// A list of scopes.
pub(crate) fn scopes(
    field: &str,
    value: Option<Value>,
) -> Result<Option<ScopeSet>, Vec<FieldError>> {
    let parse = |field: &str, text: &str| parse::<Scope>(field, text, SCOPE);
    let Some(scopes) = list(field, value, ScopeSet::MAX_LEN, parse)? else {
        return Ok(None);
    };
    ScopeSet::parse(scopes)
        .map(Some)
        .map_err(|error| vec![FieldError::new(field, error.to_string())])
}
