//! Settings: embedded defaults, then a file, then the environment.

mod environment;
mod explain;
mod secrets;
mod sections;
mod value;

use std::path::Path;

use anyhow::Context as _;
use config::{File, FileFormat, Source as _};
use keys_core::Plans;
use serde::Deserialize;

use self::environment::Variables;
use self::secrets::SECRETS;
use self::sections::{Cache, Database, Limits, Verification, plans};
pub(crate) use self::sections::{Http, Log, LogFormat, Mount, Peppers};
use self::value::Value;
use crate::secret;

/// The settings that are compiled into the program.
const DEFAULTS: &str = include_str!("../../../../config/default.toml");

/// All settings, checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub database: Database,
    pub http: Http,
    pub cache: Cache,
    pub verification: Verification,
    pub limits: Limits,
    pub peppers: Peppers,
    pub log: Log,
    pub plans: Plans,
    /// Warnings about settings that are probably mistakes. They are logged once the log has
    /// started.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads all settings: the defaults, then `file`, then the environment.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let variables = Variables::of_the_process()?;
        environment::check_case(&variables.foreign, &defaults()?)?;
        let mut settings = Self::layered(file, variables.ours)?;
        let warning = environment::ignored_database_url(&variables.foreign, &settings.database.url);
        settings.warnings.extend(warning);
        Ok(settings)
    }

    fn layered(file: Option<&Path>, variables: Vec<(String, String)>) -> anyhow::Result<Self> {
        let mut values = defaults()?;
        let variables = environment::read(variables, &values)?;
        if let Some(path) = file {
            values.merge(read(path)?);
        }
        values.merge(variables);
        let warnings = resolve_secrets(&mut values)?;
        let mut settings = Self::deserialize(values).map_err(|fault| fault.explain(file))?;
        settings.warnings = warnings;
        settings.http.check()?;
        settings.peppers.check()?;
        plans::check(&settings.plans)?;
        Ok(settings)
    }
}

fn defaults() -> anyhow::Result<Value> {
    let defaults = File::from_str(DEFAULTS, FileFormat::Toml).collect();
    Ok(defaults.context("the embedded defaults")?.into())
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("settings file {} (--config or KEYS_CONFIG)", path.display()))?;
    let table = File::from_str(&text, FileFormat::Toml).collect();
    let table = table.map_err(|error| {
        // The first line has the position. The others quote the text, which may contain a pepper.
        let error = error.to_string();
        let place = error.lines().next().unwrap_or_default();
        anyhow::anyhow!("{}: {place}", path.display())
    })?;
    Ok(table.into())
}

/// Replaces `file:PATH` in secret settings by the content of the file. Returns warnings.
fn resolve_secrets(values: &mut Value) -> anyhow::Result<Vec<String>> {
    let mut warnings = Vec::new();
    for path in SECRETS {
        let Some(text) = values.text_mut(&path) else {
            continue;
        };
        let mut resolved = secret::resolve(&path.join("."), text)?;
        *text = std::mem::take(&mut *resolved.value);
        warnings.extend(resolved.warning);
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use keys_core::address::TrustedProxies;
    use keys_redis::KeyPrefix as RedisKeyPrefix;
    use keys_service::OnUnavailable;
    use keys_service::{CacheOptions, GRACE_MAX};

    use super::*;
    use crate::listen::Endpoint;

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

    fn proxies(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(networks.iter().map(|text| text.parse().unwrap()))
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
        assert_eq!(settings.http.trusted_proxies, TrustedProxies::default());
        assert!(settings.peppers.keys.is_empty());
        assert_eq!(CacheOptions::from(settings.cache), CacheOptions::default());
        assert_eq!(settings.verification.grace, Duration::ZERO);
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
        assert_eq!(
            settings.http.trusted_proxies,
            proxies(&["10.0.0.0/8", "::1/128"])
        );
        let plans = &settings.plans;
        let plan = |name: &str| plans.find(&name.parse().unwrap()).unwrap().keys_max;
        assert_eq!((plan("big"), plan("pro"), plan("business")), (99, 12, 10));
    }

    #[test]
    fn unix_sockets_have_a_mode_and_may_be_trusted() {
        let settings = load(&[]).unwrap().http;
        assert_eq!(settings.unix_mode, "0660".parse().unwrap());
        assert_eq!(settings.trusted_proxies, proxies(&[]));
        let settings = load(&[
            ("KEYS_HTTP__LISTEN", "unix:/run/keys/keys.sock,127.0.0.1:2"),
            ("KEYS_HTTP__TRUSTED_PROXIES", "10.0.0.0/8, unix"),
            ("KEYS_HTTP__UNIX_MODE", "0600"),
        ]);
        let http = settings.unwrap().http;
        let both = endpoints(&["unix:/run/keys/keys.sock", "127.0.0.1:2"]);
        assert_eq!(http.listen, both);
        assert_eq!(http.unix_mode, "0600".parse().unwrap());
        let trusted = proxies(&["10.0.0.0/8"]).trusting_unix_peers(true);
        assert_eq!(http.trusted_proxies, trusted);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        // TOML reads an octal number as its value: 0o660 is 432.
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
        assert_eq!(settings.http.trusted_proxies, proxies(&["10.0.0.0/8"]));
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
            ..
        } = settings.cache.into();
        assert_eq!((entries_max, bytes_max), (1_000, 4_096));
        assert_eq!(settings.verification.grace, GRACE_MAX);
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
            ("KEYS_HTTP__KEY_MANAGEMENT", "people", "http.key_management"),
            ("KEYS_HTTP__FLAT__KEY_PREFIX", "SK", "http.flat.key_prefix"),
            (
                "KEYS_HTTP__FLAT__PATH",
                "/api/account/api-keys",
                "http.account.path",
            ),
            ("KEYS_HTTP__FLAT__PATH", "/v1/keys", "http.flat.path"),
            ("KEYS_HTTP__FLAT__PATH", "/{id}", "http.flat.path"),
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
        // A setting that is not a secret accepts no file.
        for (name, meant) in [
            ("KEYS_LOG__FORMAT_FILE", "write KEYS_LOG__FORMAT"),
            ("KEYS_HTTP__LISTEN_FILE", "write KEYS_HTTP__LISTEN"),
            ("KEYS_PEPPERS__CURRENT_FILE", "write KEYS_PEPPERS__CURRENT"),
        ] {
            let message = refusal(&[(name, "/run/secrets/x")]);
            assert!(message.ends_with(meant), "{name}: {message}");
        }
        let foreign = |name: &str| [name.to_owned()];
        let defaults = defaults().unwrap();
        for name in ["keys_database__url", "Keys_Http__Listen"] {
            let message = format!(
                "{:#}",
                environment::check_case(&foreign(name), &defaults).unwrap_err()
            );
            assert!(message.contains(&name.to_uppercase()), "{message}");
        }
        assert!(environment::check_case(&foreign("keys_port"), &defaults).is_ok());
        assert!(environment::check_case(&foreign("monkeys_database__url"), &defaults).is_ok());
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

    /// Returns the cells of the table of settings in the documentation.
    fn documented() -> Vec<[&'static str; 3]> {
        const OPERATIONS: &str = include_str!("../../../../docs/operations.md");
        let (_, table) = OPERATIONS
            .split_once("| setting | environment | default |\n|---|---|---|\n")
            .unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let row = row.trim_matches('|').splitn(3, '|').map(str::trim);
            row.collect::<Vec<_>>().try_into().unwrap()
        })
        .collect()
    }

    /// Returns the words in backticks.
    fn quoted(cell: &str) -> impl Iterator<Item = &str> {
        cell.split('`').skip(1).step_by(2)
    }

    /// Returns whether a name in the table, such as `plans.<name>.*`, describes a setting.
    fn stands_for(name: &str, path: &[&str]) -> bool {
        let names: Vec<_> = name.split('.').filter(|name| *name != "*").collect();
        let mut pairs = names.iter().zip(path);
        names.len() <= path.len() && pairs.all(|(name, part)| name == part || name.starts_with('<'))
    }

    fn is_default(cell: &str, value: &Value) -> bool {
        match value {
            Value::Bool(value) => cell.starts_with(&value.to_string()),
            Value::Integer(value) => {
                let cell = cell.replace(',', "");
                let digits = cell.split(|c: char| !c.is_ascii_digit()).next();
                digits == Some(value.to_string().as_str())
            }
            Value::Text(text) if text.is_empty() => cell.starts_with("empty"),
            Value::Text(text) => quoted(cell).any(|word| word == text),
            Value::List(elements) => elements.is_empty() && cell.starts_with("none"),
            _ => false,
        }
    }

    #[test]
    fn table_in_the_documentation_has_every_setting_its_variable_and_its_default() {
        let (table, mut defaults) = (documented(), defaults().unwrap());
        let pepper = Value::Text("..".to_owned());
        assert!(defaults.set(&["peppers", "keys", "p1"].map(str::to_owned), pepper));
        let current = Value::Text("p1".to_owned());
        assert!(defaults.set(&["peppers", "current"].map(str::to_owned), current));
        let mut is_used = BTreeSet::new();
        for path in defaults.paths() {
            let setting = path.join(".");
            let rows = table.iter().filter_map(|row| {
                let mut names = quoted(row[0]);
                names
                    .find(|name| stands_for(name, &path))
                    .map(|name| (name, row))
            });
            let rows: Vec<_> = rows.collect();
            let [(name, [_, variables, default])] = rows[..] else {
                panic!("{setting} must be in one row of the table: {rows:?}");
            };
            is_used.insert(name);
            let known: Vec<_> = name
                .split('.')
                .take_while(|name| *name != "*" && !name.starts_with('<'))
                .collect();
            let variable = environment::variable(&known);
            assert!(
                quoted(variables).any(|word| word.starts_with(&variable)),
                "{setting}: {variables}"
            );
            if name == setting && path[0] != "peppers" {
                let value = defaults.get(&path).unwrap();
                assert!(is_default(default, value), "{setting}: {default}");
            }
        }
        for name in table.iter().flat_map(|row| quoted(row[0])) {
            assert!(is_used.contains(name), "{name} is no setting");
        }
    }
}
