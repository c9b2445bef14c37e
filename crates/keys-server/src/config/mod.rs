//! Settings: embedded defaults, then a file, then the environment.

mod environment;
mod explain;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use keys_core::{
    KeyPrefix, Limit, LimitName, LimitPer, Operation, PepperId, Plan, PlanName, Plans, Quota,
};
use keys_redis::{KeyPrefix as RedisKeyPrefix, OnUnavailable, RedisUrl};
use keys_service::service::GRACE_MAX;
use keys_service::{CacheOptions, KeyManagement};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use zeroize::Zeroizing;

use crate::listen::{Endpoint, UnixMode};
use crate::secret;
use environment::Variables;
use value::Value;

/// The settings that are compiled into the program.
const DEFAULTS: &str = include_str!("../../../../config/default.toml");

const SECTIONS: [&str; 8] = [
    "database",
    "http",
    "cache",
    "verification",
    "limits",
    "peppers",
    "log",
    "plans",
];

/// All settings, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub database: Database,
    pub http: Http,
    pub cache: CacheOptions,
    /// How long verification goes on without the database.
    pub grace: Duration,
    pub limits: Limits,
    pub peppers: Peppers,
    pub log: Log,
    pub plans: Plans,
    /// What was probably meant otherwise. To be logged once the log has started.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Database {
    /// May hold a password.
    pub url: Zeroizing<String>,
    /// The way past a pooler; empty if there is none. May hold a password.
    pub direct_url: Zeroizing<String>,
    pub connections_max: NonZeroU32,
    pub auto_migrate: bool,
    /// Whether a first start creates an embedded database.
    pub create: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database(<redacted>)")
    }
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting that stands for itself"
)]
pub(crate) struct Http {
    /// Never empty.
    pub listen: Vec<Endpoint>,
    /// 0 is one for each processor.
    pub workers: usize,
    /// How long new connections are still served after the signal to stop.
    pub drain: Duration,
    /// Permissions of the files of Unix sockets.
    pub unix_mode: UnixMode,
    /// `None` follows from the limit on open files.
    pub connections_max: Option<usize>,
    /// `None` if one address may have all.
    pub connections_per_address_max: Option<usize>,
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `unix` is among the trusted proxies.
    pub trusts_unix_peers: bool,
    pub key_management: KeyManagement,
    pub unauthenticated: Quota,
    pub flat: Mount,
    pub account: Mount,
    pub management: bool,
    pub verification: bool,
    pub metrics: bool,
}

#[derive(Debug)]
pub(crate) struct Mount {
    pub enabled: bool,
    pub path: String,
    pub key_prefix: KeyPrefix,
    pub plan_gate: bool,
    pub cap: bool,
}

/// Where limits are counted.
#[derive(Debug)]
pub(crate) struct Limits {
    /// `None` is inside the process.
    pub redis_url: Option<RedisUrl>,
    pub on_unavailable: OnUnavailable,
    pub key_prefix: RedisKeyPrefix,
}

/// Configured peppers: base64, or `file:PATH`.
pub(crate) struct Peppers {
    pub current: Option<PepperId>,
    pub keys: BTreeMap<PepperId, Zeroizing<String>>,
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl Settings {
    /// Reads all settings: the defaults, then `file`, then the environment.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let variables = Variables::of_the_process()?;
        environment::check_case(&variables.foreign, &SECTIONS)?;
        let mut settings = Self::layered(file, variables.ours)?;
        let warning = environment::ignored_database_url(&variables.foreign, &settings.database.url);
        settings.warnings.extend(warning);
        Ok(settings)
    }

    fn layered(file: Option<&Path>, variables: Vec<(String, String)>) -> anyhow::Result<Self> {
        let mut settings = defaults()?;
        let variables = environment::read(variables, &settings)?;
        if let Some(path) = file {
            settings.merge(read(path)?);
        }
        settings.merge(variables);
        Raw::deserialize(settings)
            .map_err(|fault| fault.explain(file))?
            .check()
    }
}

fn defaults() -> anyhow::Result<Value> {
    let defaults: toml::Table = toml::from_str(DEFAULTS).context("the embedded defaults")?;
    Ok(defaults.into())
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("settings file {} (--config or KEYS_CONFIG)", path.display()))?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        // The first line says where. The others quote the text, which may be that of a pepper.
        let error = error.to_string();
        let place = error.lines().next().unwrap_or_default();
        anyhow::anyhow!("{}: {place}", path.display())
    })?;
    Ok(table.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    database: Database,
    http: RawHttp,
    cache: RawCache,
    verification: RawVerification,
    limits: RawLimits,
    peppers: RawPeppers,
    log: Log,
    plans: BTreeMap<String, RawPlan>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    listen: OneOrMore,
    workers: usize,
    drain_seconds: u64,
    unix_mode: String,
    connections_max: usize,
    connections_per_address_max: usize,
    trusted_proxies: Vec<String>,
    key_management: String,
    unauthenticated: RawQuota,
    flat: RawMount,
    account: RawMount,
    management: RawSurface,
    verification: RawSurface,
    metrics: RawSurface,
}

/// A list, which may be written without brackets where it has one element.
struct OneOrMore(Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = OneOrMore;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: de::Error>(self, element: &str) -> Result<Self::Value, E> {
                Ok(OneOrMore(vec![element.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMore)
            }
        }
        // A variable is a list, whose elements are separated by commas.
        deserializer.deserialize_seq(Elements)
    }
}

impl OneOrMore {
    /// The elements that are not blank.
    fn into_elements(self) -> Vec<String> {
        let trimmed = self.0.iter().map(|element| element.trim().to_owned());
        trimmed.filter(|element| !element.is_empty()).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMount {
    enabled: bool,
    path: String,
    key_prefix: String,
    plan_gate: bool,
    cap: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSurface {
    enabled: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCache {
    entries_max: usize,
    bytes_max: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVerification {
    grace_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    redis_url: Zeroizing<String>,
    on_unavailable: String,
    key_prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeppers {
    current: Option<String>,
    #[serde(default)]
    keys: BTreeMap<String, Zeroizing<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    keys: bool,
    keys_max: u32,
    limits: BTreeMap<String, RawLimit>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct RawLimit {
    requests: NonZeroU32,
    period_seconds: NonZeroU32,
    #[serde(default)]
    per: RawPer,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum RawPer {
    #[default]
    Account,
    Key,
}

impl From<RawLimit> for Limit {
    fn from(raw: RawLimit) -> Self {
        Self {
            quota: Quota {
                requests: raw.requests,
                period_seconds: raw.period_seconds,
            },
            per: match raw.per {
                RawPer::Account => LimitPer::Account,
                RawPer::Key => LimitPer::Key,
            },
        }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    requests: NonZeroU32,
    period_seconds: NonZeroU32,
}

impl From<RawQuota> for Quota {
    fn from(raw: RawQuota) -> Self {
        Self {
            requests: raw.requests,
            period_seconds: raw.period_seconds,
        }
    }
}

impl Raw {
    fn check(mut self) -> anyhow::Result<Settings> {
        let mut warnings = Vec::new();
        for (setting, value) in [
            ("database.url", &mut self.database.url),
            ("database.direct_url", &mut self.database.direct_url),
            ("limits.redis_url", &mut self.limits.redis_url),
        ] {
            let resolved = secret::resolve(setting, value)?;
            *value = resolved.value;
            warnings.extend(resolved.warning);
        }
        Ok(Settings {
            database: self.database,
            http: self.http.check()?,
            cache: self.cache.into(),
            grace: self.verification.check()?,
            limits: self.limits.check()?,
            peppers: self.peppers.check()?,
            log: self.log,
            plans: self
                .plans
                .into_iter()
                .map(|(name, plan)| plan.check(&name))
                .collect::<anyhow::Result<Vec<_>>>()
                .map(Plans::new)?,
            warnings,
        })
    }
}

impl RawHttp {
    fn check(self) -> anyhow::Result<Http> {
        /// In place of a network: every peer of a Unix socket.
        const UNIX: &str = "unix";
        let proxies = || self.trusted_proxies.iter().map(|text| text.trim());
        let trusts_unix_peers = proxies().any(|text| text == UNIX);
        let trusted_proxies = proxies()
            .filter(|text| !text.is_empty() && *text != UNIX)
            .map(|text| {
                keys_core::AllowedNetworks::parse([text])
                    .map(|networks| networks.as_slice()[0])
                    .with_context(|| format!("setting `http.trusted_proxies`: {text:?}"))
            })
            .collect::<anyhow::Result<_>>()?;
        let key_management = match self.key_management.as_str() {
            "any" => KeyManagement::Any,
            "session_only" => KeyManagement::SessionOnly,
            other => bail!(
                "setting `http.key_management` must be \"any\" or \"session_only\", not {other:?}"
            ),
        };
        let http = Http {
            listen: endpoints(self.listen)?,
            workers: self.workers,
            drain: drain(self.drain_seconds)?,
            unix_mode: self
                .unix_mode
                .parse()
                .map_err(|error| anyhow::anyhow!("setting `http.unix_mode` {error}"))?,
            connections_max: connections("http.connections_max", self.connections_max)?,
            connections_per_address_max: connections(
                "http.connections_per_address_max",
                self.connections_per_address_max,
            )?,
            trusted_proxies,
            trusts_unix_peers,
            key_management,
            unauthenticated: self.unauthenticated.into(),
            flat: self.flat.check("http.flat")?,
            account: self.account.check("http.account")?,
            management: self.management.enabled,
            verification: self.verification.enabled,
            metrics: self.metrics.enabled,
        };
        http.check_paths()?;
        Ok(http)
    }
}

fn endpoints(listen: OneOrMore) -> anyhow::Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    for text in listen.into_elements() {
        let endpoint: Endpoint = text
            .parse()
            .map_err(|error| anyhow::anyhow!("setting `http.listen` {error}"))?;
        // Port 0 is another one each time.
        let is_chosen = endpoint.tcp().is_some_and(|address| address.port() == 0);
        if endpoints.contains(&endpoint) && !is_chosen {
            bail!("setting `http.listen` has {text:?} twice");
        }
        endpoints.push(endpoint);
    }
    if endpoints.is_empty() {
        bail!("setting `http.listen` is empty: name at least one ADDRESS:PORT or unix:/PATH");
    }
    Ok(endpoints)
}

/// A maximum of connections; `None` for 0.
fn connections(setting: &str, max: usize) -> anyhow::Result<Option<usize>> {
    /// 18 GB of memory while they are idle.
    const CONNECTIONS_MAX: usize = 1_000_000;
    if max > CONNECTIONS_MAX {
        bail!("setting `{setting}` must be at most {CONNECTIONS_MAX}, not {max}");
    }
    Ok((max > 0).then_some(max))
}

fn drain(seconds: u64) -> anyhow::Result<Duration> {
    /// Longer than any load balancer needs to notice.
    const SECONDS_MAX: u64 = 300;
    if seconds > SECONDS_MAX {
        bail!("setting `http.drain_seconds` must be at most {SECONDS_MAX}, not {seconds}");
    }
    Ok(Duration::from_secs(seconds))
}

impl Http {
    /// Of two paths one must not be within the other: whatever is found first would hide the other.
    fn check_paths(&self) -> anyhow::Result<()> {
        const FIXED: [(&str, &str); 4] = [
            ("/v1", "that of management and verification"),
            ("/livez", "that of health"),
            ("/readyz", "that of health"),
            ("/metrics", "that of metrics"),
        ];
        let is_within = |path: &str, outer: &str| {
            path.strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let overlap = |one: &str, other: &str| is_within(one, other) || is_within(other, one);
        for (setting, mount) in [("http.flat", &self.flat), ("http.account", &self.account)] {
            for (path, whose) in FIXED {
                if mount.enabled && overlap(&mount.path, path) {
                    bail!(
                        "setting `{setting}.path`: {:?} overlaps {path}, {whose}",
                        mount.path
                    );
                }
            }
        }
        if self.flat.enabled && self.account.enabled && overlap(&self.flat.path, &self.account.path)
        {
            bail!(
                "settings `http.flat.path` and `http.account.path` overlap: {:?} and {:?}",
                self.flat.path,
                self.account.path
            );
        }
        Ok(())
    }
}

impl RawMount {
    /// Whether the path can be served is checked by the surface that is served there.
    fn check(self, setting: &str) -> anyhow::Result<Mount> {
        Ok(Mount {
            enabled: self.enabled,
            path: self.path.trim_end_matches('/').to_owned(),
            key_prefix: self.key_prefix.parse().with_context(|| {
                format!("setting `{setting}.key_prefix`: {:?}", self.key_prefix)
            })?,
            plan_gate: self.plan_gate,
            cap: self.cap,
        })
    }
}

impl From<RawCache> for CacheOptions {
    fn from(raw: RawCache) -> Self {
        Self {
            entries_max: raw.entries_max,
            bytes_max: raw.bytes_max,
        }
    }
}

impl RawVerification {
    fn check(self) -> anyhow::Result<Duration> {
        let grace = Duration::from_secs(self.grace_seconds);
        if grace > GRACE_MAX {
            bail!(
                "setting `verification.grace_seconds` must be at most {}, not {}",
                GRACE_MAX.as_secs(),
                grace.as_secs()
            );
        }
        Ok(grace)
    }
}

impl RawLimits {
    fn check(self) -> anyhow::Result<Limits> {
        let redis_url = match self.redis_url.trim() {
            "" => None,
            url => Some(url.parse().context("setting `limits.redis_url`")?),
        };
        let on_unavailable = match self.on_unavailable.as_str() {
            "local" => OnUnavailable::Local,
            "deny" => OnUnavailable::Deny,
            other => {
                bail!(
                    "setting `limits.on_unavailable` must be \"local\" or \"deny\", not {other:?}"
                )
            }
        };
        Ok(Limits {
            redis_url,
            on_unavailable,
            key_prefix: self
                .key_prefix
                .parse()
                .with_context(|| format!("setting `limits.key_prefix`: {:?}", self.key_prefix))?,
        })
    }
}

impl RawPeppers {
    fn check(self) -> anyhow::Result<Peppers> {
        let parse = |id: &str| {
            id.parse::<PepperId>()
                .with_context(|| format!("setting `peppers.keys.{id}`"))
        };
        let keys = self
            .keys
            .into_iter()
            .map(|(id, value)| Ok((parse(&id)?, value)))
            .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        let current = match self.current {
            Some(id) if !keys.keys().any(|known| known.as_str() == id) => {
                bail!("setting `peppers.current` names {id:?}, but there is no `peppers.keys.{id}`")
            }
            Some(id) => Some(parse(&id)?),
            None if keys.len() > 1 => bail!(
                "setting `peppers.current` must say which of the {} peppers new keys are made under",
                keys.len()
            ),
            None => None,
        };
        Ok(Peppers { current, keys })
    }
}

impl RawPlan {
    fn check(self, name: &str) -> anyhow::Result<(PlanName, Plan)> {
        let plan_name = name
            .parse()
            .with_context(|| format!("setting `plans.{name}`"))?;
        for operation in Operation::ALL.map(Operation::as_str) {
            if !self.limits.contains_key(operation) {
                bail!(
                    "setting `plans.{name}.limits.{operation}` is missing: \
                     set it to {{ requests = .., period_seconds = .. }}"
                );
            }
        }
        let limits = self
            .limits
            .iter()
            .map(|(limit_name, limit)| {
                let limit_name: LimitName = limit_name
                    .parse()
                    .with_context(|| format!("setting `plans.{name}.limits.{limit_name}`"))?;
                let is_operation = Operation::ALL
                    .iter()
                    .any(|operation| operation.as_str() == limit_name.as_str());
                if is_operation && matches!(limit.per, RawPer::Key) {
                    bail!("setting `plans.{name}.limits.{limit_name}.per`: managing keys is counted per account");
                }
                Ok((limit_name, Limit::from(*limit)))
            })
            .collect::<anyhow::Result<_>>()?;
        let plan = Plan {
            keys: self.keys,
            keys_max: self.keys_max,
            limits,
        };
        Ok((plan_name, plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
        load_file(None, environment)
    }

    fn load_file(file: Option<&Path>, environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
        Settings::layered(
            file,
            environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    fn refusal(environment: &[(&str, &str)]) -> String {
        format!("{:#}", load(environment).expect_err("must be refused"))
    }

    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn one_server_listens_on_several_addresses() {
        let both = endpoints(&["127.0.0.1:2", "[::1]:3"]);
        let settings = load(&[("KEYS_HTTP__LISTEN", "127.0.0.1:2, [::1]:3,")]).unwrap();
        assert_eq!(settings.http.listen, both);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, "[http]\nlisten = [\"127.0.0.1:2\", \"[::1]:3\"]\n").unwrap();
        assert_eq!(load_file(Some(&path), &[]).unwrap().http.listen, both);
        let long = format!("unix:/{}", "x".repeat(107));
        for listen in [
            "127.0.0.1:2,127.0.0.1:2",
            ",",
            "127.0.0.1:2,8080",
            "unix:/a,unix:/a",
            "unix:/a,unix://a",
            "unix:",
            "unix:/",
            "unix:/a/",
            "unix:/a/..",
            "unix:keys.sock",
            "unix:@keys",
            "/run/keys.sock",
            &long,
        ] {
            let message = refusal(&[("KEYS_HTTP__LISTEN", listen)]);
            assert!(message.contains("http.listen"), "{listen}: {message}");
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.plans, Plans::documented());
        assert_eq!(settings.http.listen, endpoints(&["127.0.0.1:8080"]));
        assert_eq!(settings.http.drain, Duration::from_secs(3));
        assert_eq!(settings.http.connections_max, None);
        assert_eq!(settings.http.connections_per_address_max, Some(1024));
        assert_eq!(settings.database.url.as_str(), "sqlite://data/keys.db");
        assert_eq!(settings.http.unauthenticated.requests.get(), 60);
        assert!(settings.http.trusted_proxies.is_empty());
        assert!(settings.peppers.keys.is_empty());
        assert_eq!(settings.cache, CacheOptions::default());
        assert_eq!(settings.grace, Duration::ZERO);
        assert!(settings.limits.redis_url.is_none());
        assert_eq!(settings.limits.on_unavailable, OnUnavailable::Local);
        assert_eq!(settings.limits.key_prefix, RedisKeyPrefix::default());
    }

    #[test]
    fn environment_overrides_the_file_which_overrides_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(
            &path,
            "[http]\nlisten = \"0.0.0.0:1\"\nworkers = 3\n[plans.big]\nkeys = true\nkeys_max = 99\nlimits = { create = { requests = 1, period_seconds = 1 }, list = { requests = 1, period_seconds = 1 }, delete = { requests = 1, period_seconds = 1 } }\n",
        )
        .unwrap();
        let settings = load_file(
            Some(&path),
            &[
                ("KEYS_HTTP__LISTEN", "127.0.0.1:2"),
                ("KEYS_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
                ("KEYS_PLANS__PRO__KEYS_MAX", "12"),
            ],
        )
        .unwrap();
        assert_eq!(settings.http.listen, endpoints(&["127.0.0.1:2"]));
        assert_eq!(settings.http.workers, 3);
        assert_eq!(settings.http.trusted_proxies.len(), 2);
        let plan = |name: &str| {
            settings
                .plans
                .find(&name.parse().unwrap())
                .unwrap()
                .keys_max
        };
        assert_eq!((plan("big"), plan("pro"), plan("business")), (99, 12, 10));
    }

    #[test]
    fn unix_sockets_have_a_mode_and_may_be_trusted() {
        let settings = load(&[]).unwrap().http;
        assert_eq!(settings.unix_mode, "0660".parse().unwrap());
        assert!(!settings.trusts_unix_peers);
        let settings = load(&[
            ("KEYS_HTTP__LISTEN", "unix:/run/keys/keys.sock,127.0.0.1:2"),
            ("KEYS_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, unix"),
            ("KEYS_HTTP__UNIX_MODE", "0600"),
        ]);
        let http = settings.unwrap().http;
        let both = endpoints(&["unix:/run/keys/keys.sock", "127.0.0.1:2"]);
        assert_eq!(http.listen, both);
        assert_eq!(http.unix_mode, "0600".parse().unwrap());
        assert!(http.trusts_unix_peers);
        assert_eq!(http.trusted_proxies.len(), 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        // A number of TOML is not what it looks like: 0o660 is 432.
        for (mode, is_right) in [("\"0666\"", true), ("\"660\"", true), ("0o660", false)] {
            std::fs::write(&path, format!("[http]\nunix_mode = {mode}\n")).unwrap();
            assert_eq!(load_file(Some(&path), &[]).is_ok(), is_right, "{mode}");
        }
        for mode in ["0440", "1660", "rw-rw----", "0668", "", "06600"] {
            let message = refusal(&[("KEYS_HTTP__UNIX_MODE", mode)]);
            assert!(message.contains("http.unix_mode"), "{mode}: {message}");
        }
    }

    #[test]
    fn one_trusted_proxy_is_a_list_of_one() {
        let settings = load(&[("KEYS_HTTP__TRUSTED_PROXIES", "10.0.0.0/8")]).unwrap();
        assert_eq!(settings.http.trusted_proxies.len(), 1);
    }

    #[test]
    fn cache_and_grace_are_settings() {
        let settings = load(&[
            ("KEYS_CACHE__ENTRIES_MAX", "1000"),
            ("KEYS_CACHE__BYTES_MAX", "4096"),
            ("KEYS_VERIFICATION__GRACE_SECONDS", "300"),
        ])
        .unwrap();
        let CacheOptions {
            entries_max,
            bytes_max,
        } = settings.cache;
        assert_eq!((entries_max, bytes_max), (1_000, 4_096));
        assert_eq!(settings.grace, GRACE_MAX);
        assert_eq!(
            refusal(&[("KEYS_VERIFICATION__GRACE_SECONDS", "301")]),
            "setting `verification.grace_seconds` must be at most 300, not 301"
        );
    }

    #[test]
    fn variables_of_others_are_left_alone() {
        assert!(
            load(&[
                ("KEYS_PORT", "tcp://10.0.0.1:80"),
                ("KEYS_SERVICE_HOST", "x")
            ])
            .is_ok()
        );
    }

    #[test]
    fn setting_with_too_few_underscores_is_refused_with_the_right_name() {
        let message = refusal(&[("KEYS_DATABASE_URL", "postgres://h/d")]);
        assert!(message.contains("write KEYS_DATABASE__URL"), "{message}");
        let message = refusal(&[("KEYS_PEPPERS_KEYS_P1", "x")]);
        assert!(
            message.contains("write KEYS_PEPPERS__KEYS__P1"),
            "{message}"
        );
    }

    #[test]
    fn every_fault_names_its_setting() {
        for (name, value, setting) in [
            ("KEYS_HTTP__LISTEN", "8080", "http.listen"),
            ("KEYS_HTTP__LISTENS", "127.0.0.1:1", "listens"),
            ("KEYS_HTTP__WORKERS", "many", "http.workers"),
            ("KEYS_HTTP__DRAIN_SECONDS", "-1", "http.drain_seconds"),
            ("KEYS_HTTP__DRAIN_SECONDS", "301", "http.drain_seconds"),
            ("KEYS_HTTP__CONNECTIONS_MAX", "-1", "http.connections_max"),
            (
                "KEYS_HTTP__CONNECTIONS_MAX",
                "1000001",
                "http.connections_max",
            ),
            (
                "KEYS_HTTP__CONNECTIONS_PER_ADDRESS_MAX",
                "many",
                "http.connections_per_address_max",
            ),
            (
                "KEYS_HTTP__TRUSTED_PROXIES",
                "localhost",
                "http.trusted_proxies",
            ),
            ("KEYS_HTTP__KEY_MANAGEMENT", "nobody", "http.key_management"),
            ("KEYS_HTTP__FLAT__KEY_PREFIX", "SK", "http.flat.key_prefix"),
            (
                "KEYS_HTTP__FLAT__PATH",
                "/api/account/api-keys",
                "http.account.path",
            ),
            ("KEYS_HTTP__FLAT__PATH", "/v1/keys", "http.flat.path"),
            ("KEYS_HTTP__ACCOUNT__PATH", "/api", "http.account.path"),
            ("KEYS_PLANS__PRO__LIMITS__CREATE__PER", "key", "create.per"),
            ("KEYS_PLANS__PRO__KEYS_MAX", "-1", "keys_max"),
            ("KEYS_PLANS__NEW__KEYS", "true", "keys_max"),
            ("KEYS_PLANS__PRO__LIMITS__LIST__REQUESTS", "0", "requests"),
            ("KEYS_PEPPERS__CURRENT", "p1", "peppers.current"),
            ("KEYS_CACHE__ENTRIES_MAX", "-1", "cache.entries_max"),
            ("KEYS_CACHE__BYTES_MAX", "256MB", "cache.bytes_max"),
            (
                "KEYS_VERIFICATION__GRACE_SECONDS",
                "301",
                "verification.grace_seconds",
            ),
            (
                "KEYS_VERIFICATION__GRACE_SECONDS",
                "-1",
                "verification.grace_seconds",
            ),
            ("KEYS_LIMITS__REDIS_URL", "127.0.0.1", "limits.redis_url"),
            (
                "KEYS_LIMITS__ON_UNAVAILABLE",
                "allow",
                "limits.on_unavailable",
            ),
            ("KEYS_LIMITS__KEY_PREFIX", "a:b", "limits.key_prefix"),
            ("KEYS_LOG__FORMAT", "xml", "log.format"),
        ] {
            let message = refusal(&[(name, value)]);
            assert!(message.contains(setting), "{name}={value}: {message}");
        }
    }

    #[test]
    fn values_of_another_kind_are_refused_by_name_in_the_environment() {
        for (name, value, told) in [
            (
                "KEYS_PLANS__PRO__KEYS_MAX",
                "0.4",
                "setting `plans.pro.keys_max` must be a whole number from 0 to 4294967295, not \"0.4\"",
            ),
            ("KEYS_PLANS__PRO__KEYS_MAX", "10.5", "plans.pro.keys_max"),
            ("KEYS_PLANS__PRO__KEYS_MAX", "true", "plans.pro.keys_max"),
            (
                "KEYS_PLANS__PRO__LIMITS__CREATE__REQUESTS",
                "0.6",
                "setting `plans.pro.limits.create.requests` must be a whole number from 1 to 4294967295, not \"0.6\"",
            ),
            (
                "KEYS_PLANS__PRO__LIMITS__CREATE__REQUESTS",
                "1e9",
                "plans.pro.limits.create.requests",
            ),
            (
                "KEYS_VERIFICATION__GRACE_SECONDS",
                "yes",
                "setting `verification.grace_seconds` must be a whole number of at least 0, not \"yes\"",
            ),
            (
                "KEYS_VERIFICATION__GRACE_SECONDS",
                "300.4",
                "verification.grace_seconds",
            ),
            (
                "KEYS_PLANS__PRO__KEYS",
                "2",
                "setting `plans.pro.keys` must be true or false, not \"2\"",
            ),
            ("KEYS_HTTP__METRICS__ENABLED", "yes", "http.metrics.enabled"),
            ("KEYS_DATABASE__CREATE", "0", "database.create"),
            (
                "KEYS_DATABASE__CONNECTIONS_MAX",
                "",
                "database.connections_max",
            ),
            ("KEYS_HTTP__WORKERS__MAX", "1", "http.workers"),
        ] {
            let message = refusal(&[(name, value)]);
            assert!(message.contains(told), "{name}={value}: {message}");
        }
    }

    #[test]
    fn values_of_another_kind_are_refused_by_name_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        for (text, told) in [
            (
                "[plans.pro]\nkeys_max = 10.5",
                "setting `plans.pro.keys_max` must be a whole number from 0 to 4294967295, not 10.5",
            ),
            ("[plans.pro]\nkeys_max = 10.0", "not 10.0"),
            ("[plans.pro]\nkeys_max = true", "not true"),
            ("[plans.pro]\nkeys_max = \"10\"", "plans.pro.keys_max"),
            (
                "[plans.pro]\nkeys = 1",
                "setting `plans.pro.keys` must be true or false, not 1",
            ),
            ("[plans.pro]\nkeys = \"true\"", "plans.pro.keys"),
            (
                "[peppers]\ncurrent = 1",
                "setting `peppers.current` must be a text, not 1",
            ),
            ("[limits]\nkey_prefix = 1979-05-27", "limits.key_prefix"),
            (
                "[http]\nlisten = 8080",
                "setting `http.listen` must be a text or a list of texts",
            ),
            (
                "[http]\nlisten = [8080]",
                "setting `http.listen` must be a text, not 8080",
            ),
            (
                "[http]\ntrusted_proxies = \"::1\"",
                "setting `http.trusted_proxies` must be a list",
            ),
            (
                "[log]\nformat = 1",
                "setting `log.format` must be a text, not 1",
            ),
            ("database = 1", "setting `database` must be a table"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = format!("{:#}", load_file(Some(&path), &[]).unwrap_err());
            assert!(message.contains(told), "{text}: {message}");
            assert!(message.contains("keys.toml"), "{text}: {message}");
        }
    }

    #[test]
    fn text_that_looks_like_a_number_stays_a_text() {
        let settings = load(&[
            ("KEYS_LIMITS__KEY_PREFIX", "007"),
            ("KEYS_PEPPERS__KEYS__1", "a"),
            ("KEYS_PEPPERS__CURRENT", "1"),
            ("KEYS_LOG__FILTER", "true"),
        ])
        .unwrap();
        assert_eq!(settings.limits.key_prefix, "007".parse().unwrap());
        assert_eq!(settings.peppers.current.unwrap().as_str(), "1");
        assert_eq!(settings.log.filter, "true");
    }

    #[test]
    fn unknown_setting_is_told_with_the_nearest_known_one() {
        for (name, told) in [
            (
                "KEYS_HTTP__LISTENS",
                "unknown setting `http.listens`; did you mean `http.listen`?",
            ),
            (
                "KEYS_DATABSE__URL",
                "unknown setting `databse`; did you mean `database`?",
            ),
            (
                "KEYS_PLANS__PRO__KEY_MAX",
                "unknown setting `plans.pro.key_max`; did you mean `plans.pro.keys_max`?",
            ),
            (
                "KEYS_LOG__COLOUR",
                "unknown setting `log.colour`; known are filter, format",
            ),
        ] {
            let message = refusal(&[(name, "1")]);
            assert!(message.starts_with(told), "{message}");
        }
        let both = [
            ("KEYS_PEPPERS__KEYS", "hunter2"),
            ("KEYS_PEPPERS__KEYS__P1", "x"),
        ];
        let message = refusal(&both);
        assert!(message.contains("KEYS_PEPPERS__KEYS__P1"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn secrets_are_read_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let configured = format!("file:{}", path.display());
        std::fs::write(&path, "postgres://u:hunter2@h/d\n").unwrap();
        let settings = load(&[("KEYS_DATABASE__URL", &configured)]).unwrap();
        assert_eq!(settings.database.url.as_str(), "postgres://u:hunter2@h/d");
        let settings = load(&[("KEYS_DATABASE__DIRECT_URL", &configured)]).unwrap();
        assert_eq!(
            settings.database.direct_url.as_str(),
            "postgres://u:hunter2@h/d"
        );
        std::fs::write(&path, "redis://u:hunter2@h\r\n").unwrap();
        let settings = load(&[("KEYS_LIMITS__REDIS_URL", &configured)]).unwrap();
        assert!(settings.limits.redis_url.is_some());
        for (name, setting) in [
            ("KEYS_DATABASE__URL", "database.url"),
            ("KEYS_DATABASE__DIRECT_URL", "database.direct_url"),
            ("KEYS_LIMITS__REDIS_URL", "limits.redis_url"),
        ] {
            let missing = refusal(&[(name, "file:/nowhere/url")]);
            assert!(
                missing.contains(setting) && missing.contains("/nowhere/url"),
                "{missing}"
            );
        }
    }

    #[test]
    fn blanks_and_line_ends_around_values_are_dropped_and_refused_within() {
        for url in [
            "sqlite://data/x.db\r",
            "sqlite://data/x.db\n",
            " sqlite://data/x.db \r\n",
        ] {
            let settings = load(&[("KEYS_DATABASE__URL", url)]).unwrap();
            assert_eq!(settings.database.url.as_str(), "sqlite://data/x.db");
        }
        let settings = load(&[
            ("KEYS_PLANS__PRO__KEYS_MAX", "12\r"),
            ("KEYS_LOG__FORMAT", "json\r"),
        ]);
        assert_eq!(settings.unwrap().log.format, LogFormat::Json);
        for value in ["sqlite://data/a\rb.db", "sqlite://data/a\u{7}.db", "a\nb"] {
            let message = refusal(&[("KEYS_DATABASE__URL", value)]);
            assert!(message.contains("KEYS_DATABASE__URL"), "{message}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, "[database]\nurl = \"sqlite://data/a\\rb.db\"\n").unwrap();
        let message = format!("{:#}", load_file(Some(&path), &[]).unwrap_err());
        assert!(message.contains("database.url"), "{message}");
    }

    #[test]
    fn near_misses_are_refused_with_what_to_write() {
        for (name, meant) in [
            ("KEYS_DATABASE__URL_FILE", "KEYS_DATABASE__URL=file:PATH"),
            ("KEYS_DATABASE__URL__FILE", "KEYS_DATABASE__URL=file:PATH"),
            ("KEYS_DATABASE_URL_FILE", "KEYS_DATABASE__URL=file:PATH"),
            (
                "KEYS_DATABASE__DIRECT_URL_FILE",
                "KEYS_DATABASE__DIRECT_URL=file:PATH",
            ),
            (
                "KEYS_LIMITS__REDIS_URL_FILE",
                "KEYS_LIMITS__REDIS_URL=file:PATH",
            ),
            (
                "KEYS_PEPPERS__KEYS__P1_FILE",
                "KEYS_PEPPERS__KEYS__P1=file:PATH",
            ),
        ] {
            let message = refusal(&[(name, "/run/secrets/x")]);
            assert!(message.contains(meant), "{name}: {message}");
        }
        // A setting that is no secret takes no file.
        for (name, meant) in [
            ("KEYS_LOG__FORMAT_FILE", "write KEYS_LOG__FORMAT"),
            ("KEYS_HTTP__LISTEN_FILE", "write KEYS_HTTP__LISTEN"),
            ("KEYS_PEPPERS__CURRENT_FILE", "write KEYS_PEPPERS__CURRENT"),
        ] {
            let message = refusal(&[(name, "/run/secrets/x")]);
            assert!(message.ends_with(meant), "{name}: {message}");
        }
        let foreign = |name: &str| [name.to_owned()];
        for name in ["keys_database__url", "Keys_Http__Listen"] {
            let message = format!(
                "{:#}",
                environment::check_case(&foreign(name), &SECTIONS).unwrap_err()
            );
            assert!(message.contains(&name.to_uppercase()), "{message}");
        }
        assert!(environment::check_case(&foreign("keys_port"), &SECTIONS).is_ok());
        assert!(environment::check_case(&foreign("monkeys_database__url"), &SECTIONS).is_ok());
    }

    #[test]
    fn database_url_that_is_not_read_is_warned_of() {
        let default = load(&[]).unwrap().database.url;
        for name in ["DATABASE_URL", "DATABASE_URL_FILE"] {
            let foreign = [name.to_owned()];
            let warning = environment::ignored_database_url(&foreign, &default).unwrap();
            assert!(
                warning.contains(name) && warning.contains("database.url"),
                "{warning}"
            );
            assert_eq!(
                environment::ignored_database_url(&foreign, "postgres://h/d"),
                None
            );
        }
        assert_eq!(
            environment::ignored_database_url(&["PATH".to_owned()], &default),
            None
        );
    }

    #[test]
    fn missing_file_is_named() {
        let message = format!(
            "{:#}",
            load_file(Some(Path::new("/nowhere/keys.toml")), &[]).unwrap_err()
        );
        assert!(message.contains("/nowhere/keys.toml"), "{message}");
    }

    #[test]
    fn secrets_show_in_no_error_and_no_debug_output() {
        const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==";
        let message = refusal(&[("KEYS_PEPPERS__KEYS", SECRET)]);
        assert!(!message.contains(SECRET), "{message}");
        assert!(message.contains("peppers.keys"), "{message}");
        let settings = load(&[
            ("KEYS_PEPPERS__KEYS__P1", SECRET),
            ("KEYS_DATABASE__URL", "postgres://u:hunter2@h/d"),
            ("KEYS_LIMITS__REDIS_URL", "redis://u:hunter2@h"),
        ])
        .unwrap();
        let shown = format!("{settings:?}");
        assert!(
            !shown.contains(SECRET) && !shown.contains("hunter2"),
            "{shown}"
        );
        let message = refusal(&[("KEYS_LIMITS__REDIS_URL", "http://u:hunter2@h")]);
        assert!(!message.contains("hunter2"), "{message}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        std::fs::write(&path, format!("[peppers.keys]\np1 = \"{SECRET}\n")).unwrap();
        let message = format!("{:#}", load_file(Some(&path), &[]).unwrap_err());
        assert!(!message.contains(SECRET), "{message}");
    }

    #[test]
    fn several_peppers_need_a_current_one() {
        let two = [
            ("KEYS_PEPPERS__KEYS__P1", "a"),
            ("KEYS_PEPPERS__KEYS__P2", "b"),
        ];
        assert!(refusal(&two).contains("peppers.current"));
        let settings = load(&[two[0], two[1], ("KEYS_PEPPERS__CURRENT", "p2")]).unwrap();
        assert_eq!(settings.peppers.current.unwrap().as_str(), "p2");
    }
}
