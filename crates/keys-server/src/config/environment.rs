//! Settings in environment variables: `KEYS_HTTP__LISTEN` is `http.listen`.

use anyhow::bail;

use super::secrets::SECRETS;
use super::value::Value;

/// Prefix of every setting in the environment.
const PREFIX: &str = "KEYS_";

/// Separator between the levels of a setting in the environment.
const SEPARATOR: &str = "__";

/// The variables of the process.
#[derive(Default)]
pub(super) struct Variables {
    /// Variables that start with `KEYS_`.
    pub(super) ours: Vec<(String, String)>,
    /// Names of variables of other programs that are not empty.
    pub(super) foreign: Vec<String>,
}

impl Variables {
    pub(super) fn of_the_process() -> anyhow::Result<Self> {
        let mut variables = Self::default();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str() else {
                continue;
            };
            if !name.starts_with(PREFIX) {
                if !value.is_empty() {
                    variables.foreign.push(name.to_owned());
                }
                continue;
            }
            let Ok(value) = value.into_string() else {
                bail!("environment variable {name} is not UTF-8");
            };
            variables.ours.push((name.to_owned(), value));
        }
        Ok(variables)
    }
}

/// Reads the settings among `variables`, and refuses misspelt ones. `defaults` has all known
/// settings.
pub(super) fn read(
    mut variables: Vec<(String, String)>,
    defaults: &Value,
) -> anyhow::Result<Value> {
    check_spelling(&variables, defaults)?;
    // The name of a table sorts before the names inside it.
    variables.sort();
    let mut settings = Value::empty();
    for (name, value) in variables {
        let Some(setting) = name.strip_prefix(PREFIX) else {
            continue;
        };
        // Every setting has a level above it. Other variables belong to other programs: Kubernetes,
        // for example, sets KEYS_PORT for a service that is called "keys".
        if !setting.contains(SEPARATOR) {
            continue;
        }
        // Files of variables have Windows line ends, and secrets end in a line feed.
        let value = value.trim();
        if value.chars().any(char::is_control) {
            bail!("environment variable {name} contains a line end or another control character");
        }
        let setting = setting.to_lowercase();
        let path: Vec<_> = setting.split(SEPARATOR).map(str::to_owned).collect();
        if !settings.set(&path, Value::Variable(value.to_owned())) {
            bail!("environment variable {name} is within another one that is set to a value");
        }
    }
    Ok(settings)
}

/// Refuses variables that differ from a setting only in their underscores. If it were ignored,
/// `KEYS_DATABASE_URL` would start a production server on a fresh embedded database.
fn check_spelling(variables: &[(String, String)], defaults: &Value) -> anyhow::Result<()> {
    const PEPPERS: &str = "KEYS_PEPPERS__KEYS__";
    let mut settings = vec!["KEYS_PEPPERS__CURRENT".to_owned(), format!("{PEPPERS}P1")];
    settings.extend(defaults.paths().iter().map(|path| variable(path)));
    for (name, _) in variables {
        let meant = settings
            .iter()
            .find(|setting| name != *setting && *name == setting.replace(SEPARATOR, "_"));
        if let Some(meant) = meant {
            bail!("environment variable {name} is not read: write {meant}");
        }
        let Some(plain) = name.strip_suffix("_FILE") else {
            continue;
        };
        let plain = plain.replace(SEPARATOR, "_");
        let plain = plain.trim_end_matches('_');
        let meant = settings
            .iter()
            .find(|setting| plain == setting.replace(SEPARATOR, "_"));
        if let Some(meant) = meant {
            let is_secret =
                SECRETS.iter().any(|path| variable(path) == *meant) || meant.starts_with(PEPPERS);
            let value = if is_secret { "=file:PATH" } else { "" };
            bail!("environment variable {name} is not read: write {meant}{value}");
        }
    }
    Ok(())
}

/// The environment variable of a setting.
pub(super) fn variable(path: &[&str]) -> String {
    format!("{PREFIX}{}", path.join(SEPARATOR).to_uppercase())
}

/// Refuses names of settings that are not in upper case, which would be ignored.
pub(super) fn check_case(foreign: &[String], defaults: &Value) -> anyhow::Result<()> {
    for name in foreign {
        let upper = name.to_uppercase();
        let section = upper
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once(SEPARATOR));
        if section.is_some_and(|(section, _)| defaults.has(&section.to_lowercase())) {
            bail!("environment variable {name} is not read: write {upper}");
        }
    }
    Ok(())
}

/// Warns of a variable that many platforms set for the database and that is ignored, if none is
/// configured.
pub(super) fn ignored_database_url(foreign: &[String], url: &str) -> Option<String> {
    const NAMES: [&str; 2] = ["DATABASE_URL", "DATABASE_URL_FILE"];
    const DEFAULT: &str = "sqlite://data/keys.db";
    let name = foreign.iter().find(|name| NAMES.contains(&name.as_str()))?;
    let meant = match name.as_str() {
        "DATABASE_URL" => "KEYS_DATABASE__URL to the same value",
        _ => "KEYS_DATABASE__URL to file:PATH",
    };
    (url == DEFAULT).then(|| {
        format!(
            "environment variable {name} is set and not read, and setting `database.url` has its default {DEFAULT}: \
             set {meant}, or unset {name}"
        )
    })
}
