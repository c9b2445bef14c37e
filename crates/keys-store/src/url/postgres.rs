//! The URL of a PostgreSQL database, read as libpq reads it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use super::InvalidUrl;

/// The default port.
const PORT: u16 = 5432;

/// Maximum number of hosts in one URL. Each new connection may try all of them.
const HOSTS_MAX: usize = 16;

/// Maximum time limit for connecting. Longer ones in the URL are reduced to it.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// Folders with the socket of a local server, for a URL without a host: that of Debian, and that of
/// PostgreSQL itself.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Parameters of libpq that are not supported. Their names cannot be part of a password.
const UNSUPPORTED: [&str; 22] = [
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "krbsrvname",
    "max_protocol_version",
    "min_protocol_version",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_issuer",
    "oauth_scope",
    "replication",
    "require_auth",
    "requirepeer",
    "scram_client_key",
    "scram_server_key",
    "service",
    "ssl_max_protocol_version",
    "sslcertmode",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslpassword",
];

/// The parameters that [`Parameters::set`] knows.
const SUPPORTED: [&str; 29] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "fallback_application_name",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "passfile",
    "password",
    "port",
    "ssl",
    "ssl_min_protocol_version",
    "sslcert",
    "sslcompression",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// A PostgreSQL database, and its connection parameters.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostgresLocation {
    /// At least one, in the order of the URL.
    pub(crate) hosts: Vec<PostgresHost>,
    /// Whether to try them in random order.
    pub(crate) random_order: bool,
    /// All other parameters of the driver. It has no hosts and no options.
    pub(crate) config: tokio_postgres::Config,
    /// Settings of the session, in the order of the URL.
    pub(crate) settings: Vec<(String, String)>,
    /// Password file if the URL has no password.
    pub(crate) passfile: Option<PathBuf>,
    pub(crate) tls: TlsFiles,
    /// Time limit of the URL for each host.
    pub(crate) connect_timeout: Option<Duration>,
}

/// One of the hosts of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PostgresHost {
    /// The name in its certificate, or the folder of its socket.
    pub(crate) host: Host,
    /// Its address, if the name should not be looked up.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

/// Files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) roots: TlsRoots,
    /// The certificate of this client, and its private key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// Whether TLS 1.2 is refused.
    pub(crate) is_1_3_only: bool,
}

/// The trusted authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum TlsRoots {
    /// The authorities of the system.
    #[default]
    System,
    /// The authorities in a PEM file.
    File(PathBuf),
}

/// Parses the part of a URL after the scheme.
pub(super) fn parse(text: &str) -> Result<PostgresLocation, InvalidUrl> {
    let (user_information, rest) = split_user_information(text);
    let mut parameters = Parameters::default();
    if let Some(text) = user_information {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        parameters.set("user", user)?;
        parameters.set("password", password)?;
    }
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before_query.split_once('/').unwrap_or((before_query, ""));
    parameters.set_authority(authority)?;
    if !database.is_empty() {
        parameters.set("dbname", database)?;
    }
    let mut query = query;
    while !query.is_empty() {
        let (parameter, after) = query.split_once('&').unwrap_or((query, ""));
        if !parameter.is_empty() {
            let (name, value) = parameter.split_once('=').ok_or(InvalidUrl::Postgres)?;
            let name = text_of(name)?;
            check_name(&name, query)?;
            parameters.set(&name, value)?;
        }
        query = after;
    }
    parameters.build()
}

/// Splits the user information from the rest. An `@` after the first `/` or `?` belongs to a value.
/// libpq reads a `?` before the `@` as part of the password, so the query begins there only if a
/// parameter follows it.
fn split_user_information(text: &str) -> (Option<&str>, &str) {
    let end = text.find('/').unwrap_or(text.len());
    let Some(at) = text[..end].find('@') else {
        return (None, text);
    };
    let begins_query = text[..at].match_indices('?').any(|(mark, _)| {
        let name = text[mark + 1..].split(['=', '&', '@']).next();
        name.is_some_and(|name| {
            text[mark + 1 + name.len()..].starts_with('=')
                && (SUPPORTED.contains(&name) || UNSUPPORTED.contains(&name))
        })
    });
    if begins_query {
        (None, text)
    } else {
        (Some(&text[..at]), &text[at + 1..])
    }
}

/// Refuses an unknown parameter by its name, unless the name could be a piece of a password that
/// was not percent-encoded: in that case an `@` follows.
fn check_name(name: &str, query: &str) -> Result<(), InvalidUrl> {
    if SUPPORTED.contains(&name) {
        return Ok(());
    }
    let is_word = name.len() <= 40
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if UNSUPPORTED.contains(&name) || (is_word && !query.contains('@')) {
        Err(InvalidUrl::UnknownParameter(name.to_owned()))
    } else {
        Err(InvalidUrl::Postgres)
    }
}

/// All parts of a URL, before they are combined. The last value of a parameter wins.
#[derive(Default)]
struct Parameters {
    user: Option<String>,
    password: Option<Vec<u8>>,
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
    database: Option<String>,
    application_name: Option<String>,
    fallback_application_name: Option<String>,
    options: Option<String>,
    passfile: Option<PathBuf>,
    ssl_mode: Option<SslMode>,
    ssl_negotiation: SslNegotiation,
    roots: TlsRoots,
    /// Whether `sslrootcert=system` was written, which requires a verified certificate.
    are_roots_of_system: bool,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    is_1_3_only: bool,
    random_order: bool,
    connect_timeout: Option<Duration>,
    keepalives_idle: Option<Duration>,
    keepalives_interval: Option<Duration>,
    keepalives_count: Option<u32>,
    tcp_user_timeout: Option<Duration>,
    /// Parameters that are passed on as they are.
    config: tokio_postgres::Config,
}

impl Parameters {
    /// Parses `host:port,[address]:port,..`.
    fn set_authority(&mut self, authority: &str) -> Result<(), InvalidUrl> {
        if authority.is_empty() {
            return Ok(());
        }
        for one in authority.split(',') {
            let (host, port) = if let Some(rest) = one.strip_prefix('[') {
                let (host, after) = rest.split_once(']').ok_or(InvalidUrl::Postgres)?;
                if host.is_empty() || !(after.is_empty() || after.starts_with(':')) {
                    return Err(InvalidUrl::Postgres);
                }
                (host, after.strip_prefix(':').unwrap_or(""))
            } else {
                one.split_once(':').unwrap_or((one, ""))
            };
            self.hosts.push(text_of(host)?.into_owned());
            self.ports.push(text_of(port)?.into_owned());
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "a list of the parameters")]
    fn set(&mut self, name: &str, encoded: &str) -> Result<(), InvalidUrl> {
        if name == "password" {
            let password: Cow<'_, [u8]> = percent_decode_str(encoded).into();
            if password.contains(&0) {
                return Err(InvalidUrl::Postgres);
            }
            // As in libpq an empty one counts as none, so that a password file is searched.
            self.password = (!password.is_empty()).then(|| password.into_owned());
            return Ok(());
        }
        let value = text_of(encoded)?;
        let wrong = |name, expected| Err(InvalidUrl::Parameter { name, expected });
        match name {
            "user" => self.user = some(&value),
            "host" => self.hosts = list(&value),
            "hostaddr" => self.addresses = list(&value),
            "port" => self.ports = list(&value),
            "dbname" => self.database = some(&value),
            "application_name" => self.application_name = some(&value),
            "fallback_application_name" => self.fallback_application_name = some(&value),
            "options" => self.options = some(&value),
            "passfile" => self.passfile = some(&value).map(PathBuf::from),
            "sslmode" => {
                self.ssl_mode = Some(match &*value {
                    "disable" => SslMode::Disable,
                    "prefer" | "allow" => SslMode::Prefer,
                    "require" | "verify-ca" | "verify-full" => SslMode::Require,
                    _ => return Err(InvalidUrl::SslMode),
                });
            }
            "ssl" => match &*value {
                "true" => self.ssl_mode = Some(SslMode::Require),
                _ => return wrong("ssl", "true; use sslmode instead"),
            },
            "sslnegotiation" => {
                self.ssl_negotiation = match &*value {
                    "postgres" => SslNegotiation::Postgres,
                    "direct" => SslNegotiation::Direct,
                    _ => return wrong("sslnegotiation", "postgres or direct"),
                };
            }
            "sslrootcert" => {
                self.are_roots_of_system = value == "system";
                self.roots = match &*value {
                    "" | "system" => TlsRoots::System,
                    path => TlsRoots::File(path.into()),
                };
            }
            "sslcert" => self.certificate = some(&value).map(PathBuf::from),
            "sslkey" => self.key = some(&value).map(PathBuf::from),
            "sslcompression" if value == "0" => {}
            "sslcompression" => return wrong("sslcompression", "0"),
            "ssl_min_protocol_version" => {
                self.is_1_3_only = match &*value {
                    "TLSv1" | "TLSv1.1" | "TLSv1.2" | "" => false,
                    "TLSv1.3" => true,
                    _ => return wrong("ssl_min_protocol_version", "TLSv1.2 or TLSv1.3"),
                };
            }
            "channel_binding" => {
                self.config.channel_binding(match &*value {
                    "disable" => ChannelBinding::Disable,
                    "prefer" => ChannelBinding::Prefer,
                    "require" => ChannelBinding::Require,
                    _ => return wrong("channel_binding", "disable, prefer or require"),
                });
            }
            "client_encoding" => {
                let value = value.to_ascii_lowercase();
                if !["utf8", "utf-8", "unicode", "auto"].contains(&&*value) {
                    return wrong("client_encoding", "UTF8");
                }
            }
            "target_session_attrs" => {
                if !["any", "read-write", "primary"].contains(&&*value) {
                    return wrong(
                        "target_session_attrs",
                        "any, read-write or primary; a standby cannot be used, because it may not know of a revocation yet",
                    );
                }
            }
            "load_balance_hosts" => {
                self.random_order = match &*value {
                    "disable" => false,
                    "random" => true,
                    _ => return wrong("load_balance_hosts", "disable or random"),
                };
            }
            "connect_timeout" => {
                self.connect_timeout = match value.trim().parse::<i64>() {
                    // As in libpq: no limit of its own, or a minimum instead of one that is too
                    // short.
                    Ok(..=0) => None,
                    Ok(seconds) => {
                        Some(Duration::from_secs(seconds.unsigned_abs()).min(CONNECT_TIMEOUT_MAX))
                    }
                    Err(_) => return wrong("connect_timeout", "a number of seconds"),
                };
            }
            "keepalives" => {
                self.config.keepalives(match &*value {
                    "0" => false,
                    "1" => true,
                    _ => return wrong("keepalives", "0 or 1"),
                });
            }
            "keepalives_idle" => {
                let seconds = number("keepalives_idle", &value, "a number of seconds")?;
                self.keepalives_idle = seconds.map(Duration::from_secs);
            }
            "keepalives_interval" => {
                let seconds = number("keepalives_interval", &value, "a number of seconds")?;
                self.keepalives_interval = seconds.map(Duration::from_secs);
            }
            "keepalives_count" | "keepalives_retries" => {
                self.keepalives_count = number("keepalives_count", &value, "a number")?;
            }
            "tcp_user_timeout" => {
                let millis = number("tcp_user_timeout", &value, "a number of milliseconds")?;
                self.tcp_user_timeout = millis.map(Duration::from_millis);
            }
            _ => return Err(InvalidUrl::UnknownParameter(name.to_owned())),
        }
        Ok(())
    }

    fn build(self) -> Result<PostgresLocation, InvalidUrl> {
        let hosts = hosts(&self.hosts, &self.addresses, &self.ports)?;
        let mut config = self.config;
        // As in libpq, and as the driver does. It must be known before, because a password file is
        // searched for it. If the system has no name for the user, the driver reports it.
        if let Some(user) = self.user.or_else(|| whoami::username().ok()) {
            config.user(user);
        }
        if let Some(password) = self.password {
            config.password(password);
        }
        if let Some(database) = self.database {
            config.dbname(database);
        }
        if let Some(name) = self.application_name.or(self.fallback_application_name) {
            config.application_name(name);
        }
        let mode = self.ssl_mode.unwrap_or(if self.are_roots_of_system {
            SslMode::Require
        } else {
            SslMode::Prefer
        });
        if self.are_roots_of_system && mode != SslMode::Require {
            return Err(InvalidUrl::Parameter {
                name: "sslmode",
                expected: "verify-full with sslrootcert=system",
            });
        }
        if self.ssl_negotiation == SslNegotiation::Direct && mode != SslMode::Require {
            return Err(InvalidUrl::Parameter {
                name: "sslnegotiation",
                expected: "postgres, unless sslmode=require",
            });
        }
        config.ssl_mode(mode);
        config.ssl_negotiation(self.ssl_negotiation);
        if let Some(idle) = self.keepalives_idle {
            config.keepalives_idle(idle);
        }
        if let Some(interval) = self.keepalives_interval {
            config.keepalives_interval(interval);
        }
        if let Some(count) = self.keepalives_count {
            config.keepalives_retries(count);
        }
        if let Some(timeout) = self.tcp_user_timeout {
            config.tcp_user_timeout(timeout);
        }
        let (settings, others) = options(self.options.as_deref().unwrap_or(""))?;
        if !others.is_empty() {
            config.options(others);
        }
        let client = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(InvalidUrl::ClientCertificate),
        };
        Ok(PostgresLocation {
            hosts,
            random_order: self.random_order,
            config,
            settings,
            passfile: self.passfile,
            tls: TlsFiles {
                roots: self.roots,
                client,
                is_1_3_only: self.is_1_3_only,
            },
            connect_timeout: self.connect_timeout,
        })
    }
}

fn hosts(
    hosts: &[String],
    addresses: &[String],
    ports: &[String],
) -> Result<Vec<PostgresHost>, InvalidUrl> {
    let count = hosts.len().max(addresses.len()).max(1);
    let fits = |list: &[String]| list.is_empty() || list.len() == count;
    // One port may apply to all hosts.
    if count > HOSTS_MAX || !fits(hosts) || !fits(addresses) || !(fits(ports) || ports.len() == 1) {
        return Err(InvalidUrl::Postgres);
    }
    (0..count)
        .map(|index| {
            let address: Option<IpAddr> = match addresses.get(index).map(String::as_str) {
                None | Some("") => None,
                Some(address) => Some(address.parse().map_err(|_| InvalidUrl::Parameter {
                    name: "hostaddr",
                    expected: "an IP address",
                })?),
            };
            let port = match ports.get(index).or_else(|| ports.first()) {
                None => PORT,
                Some(port) if port.is_empty() => PORT,
                Some(port) => match port.parse() {
                    Ok(0) | Err(_) => return Err(InvalidUrl::Postgres),
                    Ok(port) => port,
                },
            };
            let host = match (hosts.get(index).map(String::as_str), address) {
                (None | Some(""), None) => local_socket(),
                (Some(path), None) if path.starts_with('/') => Host::Unix(path.into()),
                // An address is always connected to by TCP. A certificate cannot be for a folder.
                (Some(name), Some(address)) if name.is_empty() || name.starts_with('/') => {
                    Host::Tcp(address.to_string())
                }
                (None, Some(address)) => Host::Tcp(address.to_string()),
                (Some(name), _) => Host::Tcp(name.to_owned()),
            };
            Ok(PostgresHost {
                host,
                address,
                port,
            })
        })
        .collect()
}

fn local_socket() -> Host {
    let [first, second] = SOCKET_FOLDERS.map(PathBuf::from);
    Host::Unix(if first.is_dir() { first } else { second })
}

/// Splits `options` into settings (`-c name=value`, `--name=value`) and the rest, which is sent to
/// the server unchanged, because some poolers find the database by it.
fn options(text: &str) -> Result<(Vec<(String, String)>, String), InvalidUrl> {
    const WRONG: InvalidUrl = InvalidUrl::Parameter {
        name: "options",
        expected: "settings like -c search_path=keys, special characters percent-encoded",
    };
    let mut settings = Vec::new();
    let mut others = Vec::new();
    let mut words = words(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or(WRONG)?
        } else if let Some(setting) = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            setting.to_owned()
        } else {
            others.push(word.replace('\\', "\\\\").replace(' ', "\\ "));
            continue;
        };
        let (name, value) = setting.split_once('=').ok_or(WRONG)?;
        let name = name.replace('-', "_");
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(WRONG);
        }
        settings.push((name, value.to_owned()));
    }
    Ok((settings, others.join(" ")))
}

/// Splits at blanks as the server does: a backslash keeps the character after it.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            blank if blank.is_ascii_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

fn text_of(encoded: &str) -> Result<Cow<'_, str>, InvalidUrl> {
    let text = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| InvalidUrl::Postgres)?;
    if text.contains('\0') {
        return Err(InvalidUrl::Postgres);
    }
    Ok(text)
}

/// Reads a number. `None` for 0, the default.
fn number<T: FromStr + PartialEq + From<u8>>(
    name: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<Option<T>, InvalidUrl> {
    let wrong = |_| InvalidUrl::Parameter { name, expected };
    let number: T = value.parse().map_err(wrong)?;
    Ok((number != T::from(0)).then_some(number))
}

fn some(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{DatabaseUrl, Location};
    use super::*;

    fn parse(text: &str) -> PostgresLocation {
        match text.parse::<DatabaseUrl>() {
            Ok(DatabaseUrl(Location::Postgres(location))) => *location,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn refusal(text: &str) -> InvalidUrl {
        text.parse::<DatabaseUrl>().unwrap_err()
    }

    fn tcp(name: &str, port: u16) -> PostgresHost {
        PostgresHost {
            host: Host::Tcp(name.to_owned()),
            address: None,
            port,
        }
    }

    #[test]
    fn an_at_sign_after_the_first_slash_or_question_mark_belongs_to_a_value() {
        for text in [
            "postgres://127.0.0.1:55471/keys?user=app@tenant&password=S@%40&application_name=x",
            "postgres://127.0.0.1:55471/keys?user=app%40tenant&password=S%40@&application_name=x",
            "postgres://127.0.0.1:55471?user=app@tenant&dbname=keys&password=S@@&application_name=x",
        ] {
            let location = parse(text);
            assert_eq!(location.hosts, [tcp("127.0.0.1", 55_471)], "{text}");
            assert_eq!(location.config.get_user(), Some("app@tenant"));
            assert_eq!(location.config.get_dbname(), Some("keys"));
            assert_eq!(location.config.get_password(), Some(b"S@@".as_slice()));
            assert_eq!(location.config.get_application_name(), Some("x"));
        }
        // The mode after such an `@` applies.
        let location = parse("postgres://h/d?user=a@b&sslmode=verify-full");
        assert_eq!(location.config.get_ssl_mode(), SslMode::Require);
        // A database may have such a name, too.
        assert_eq!(parse("postgres://h/a@b").config.get_dbname(), Some("a@b"));
    }

    #[test]
    fn user_information_is_read_as_libpq_reads_it() {
        let system = whoami::username().unwrap();
        let system = Some(&*system);
        for (text, user, password) in [
            ("u@h/d", Some("u"), None),
            ("u:@h/d", Some("u"), None),
            ("u:p@h/d", Some("u"), Some("p")),
            (":p@h/d", system, Some("p")),
            ("u:p:q@h/d", Some("u"), Some("p:q")),
            ("u:p?q@h/d", Some("u"), Some("p?q")),
            ("u:p%40%2f%3F%25@h/d", Some("u"), Some("p@/?%")),
            ("u%40tenant:p@h/d", Some("u@tenant"), Some("p")),
            ("u:p#q%zz@h/d", Some("u"), Some("p#q%zz")),
            ("h/d", system, None),
            ("h/d?user=", system, None),
            ("u:p@h/d?password=", Some("u"), None),
            // The last value wins.
            ("u:p@h/d?user=v&password=q", Some("v"), Some("q")),
        ] {
            let config = parse(&format!("postgres://{text}")).config;
            assert_eq!(config.get_user(), user, "{text}");
            assert_eq!(config.get_password(), password.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn hosts_are_read_as_libpq_reads_them() {
        let (a, b) = (tcp("a", 1), tcp("b", 2));
        for (text, expected) in [
            ("a:1,b:2/d", vec![a.clone(), b.clone()]),
            ("a:1,b/d", vec![a.clone(), tcp("b", PORT)]),
            (
                "u:p@a:1,b:2/d?target_session_attrs=read-write",
                vec![a.clone(), b.clone()],
            ),
            ("/d?host=a,b&port=1,2", vec![a.clone(), b.clone()]),
            ("/d?host=a,b&port=7", vec![tcp("a", 7), tcp("b", 7)]),
            ("x:9/d?host=a&port=1", vec![a.clone()]),
            ("[::1]:3/d", vec![tcp("::1", 3)]),
            ("[::1],a:1/d", vec![tcp("::1", PORT), a]),
        ] {
            assert_eq!(
                parse(&format!("postgresql://{text}")).hosts,
                expected,
                "{text}"
            );
        }
        let socket = |text: &str| {
            let hosts = parse(&format!("postgres://{text}")).hosts;
            (hosts[0].host.clone(), hosts[0].port)
        };
        let folder = Host::Unix("/run/x y".into());
        assert_eq!(socket("u@/d?host=/run/x%20y"), (folder.clone(), PORT));
        assert_eq!(socket("u@%2Frun%2Fx%20y:7/d"), (folder.clone(), 7));
        assert_eq!(socket("/d?host=/run/x%20y&port=7"), (folder, 7));
        assert!(matches!(socket("/d"), (Host::Unix(_), PORT)));
        let located = parse("postgres://db.example/d?hostaddr=192.0.2.7").hosts;
        assert_eq!(located[0].address, Some([192, 0, 2, 7].into()));
        assert_eq!(located[0].host, Host::Tcp("db.example".to_owned()));
        // As in libpq an address has priority over a socket. TLS is disabled for sockets only.
        for text in [
            "u:p@%2Frun%2Fpg/d?hostaddr=192.0.2.7&sslmode=verify-full",
            "/d?host=/run/pg&hostaddr=192.0.2.7",
            "/d?hostaddr=192.0.2.7",
        ] {
            let located = parse(&format!("postgres://{text}")).hosts;
            assert_eq!(located[0].address, Some([192, 0, 2, 7].into()), "{text}");
            assert_eq!(located[0].host, Host::Tcp("192.0.2.7".to_owned()), "{text}");
        }
        let mixed = parse("postgres://%2Frun%2Fpg,%2Frun%2Fpg/d?hostaddr=,192.0.2.7").hosts;
        assert_eq!(mixed[0].host, Host::Unix("/run/pg".into()));
        assert_eq!(mixed[1].host, Host::Tcp("192.0.2.7".to_owned()));

        for text in [
            "a:x/d",
            "a:0/d",
            "a:99999999/d",
            "[::1/d",
            "[]/d",
            "[::1]x/d",
            "a,b/d?port=1,2,3",
            "a/d?hostaddr=192.0.2.1,192.0.2.2",
            "a/d?x",
            "a%00/d",
            "u:%00@a/d",
        ] {
            assert_eq!(
                refusal(&format!("postgres://{text}")),
                InvalidUrl::Postgres,
                "{text}"
            );
        }
        let many = vec!["h"; HOSTS_MAX + 1].join(",");
        assert_eq!(
            refusal(&format!("postgres://{many}/d")),
            InvalidUrl::Postgres
        );
    }

    #[test]
    fn a_parameter_that_is_not_understood_is_refused_by_its_name() {
        for name in [
            "sslcrl",
            "service",
            "requirepeer",
            "gssencmode",
            "replication",
            "no_such_thing",
        ] {
            let said = refusal(&format!("postgres://u:secret@h/d?{name}=hunter2"));
            assert_eq!(said, InvalidUrl::UnknownParameter(name.to_owned()));
            assert!(said.to_string().contains(name) && !said.to_string().contains("hunter2"));
        }
        for (parameter, name) in [
            ("target_session_attrs=standby", "target_session_attrs"),
            (
                "target_session_attrs=prefer-standby",
                "target_session_attrs",
            ),
            ("target_session_attrs=read-only", "target_session_attrs"),
            ("load_balance_hosts=x", "load_balance_hosts"),
            ("connect_timeout=soon", "connect_timeout"),
            ("client_encoding=LATIN1", "client_encoding"),
            ("channel_binding=x", "channel_binding"),
            ("sslnegotiation=direct", "sslnegotiation"),
            ("ssl=1", "ssl"),
            ("options=-c", "options"),
            ("options=-c%20x", "options"),
            ("hostaddr=h", "hostaddr"),
            ("keepalives=x", "keepalives"),
            ("tcp_user_timeout=x", "tcp_user_timeout"),
        ] {
            let said = refusal(&format!("postgres://h/d?{parameter}"));
            assert!(
                matches!(said, InvalidUrl::Parameter { name: said, .. } if said == name),
                "{parameter}: {said:?}"
            );
        }
        for mode in ["disable", "allow", "prefer"] {
            for query in [
                format!("sslrootcert=system&sslmode={mode}"),
                format!("sslmode={mode}&sslrootcert=system"),
            ] {
                assert_eq!(
                    refusal(&format!("postgres://h/d?{query}")).to_string(),
                    "the parameter `sslmode` of the PostgreSQL URL must be verify-full with sslrootcert=system",
                    "{query}"
                );
            }
        }
        assert_eq!(refusal("postgres://h/d?sslmode=maybe"), InvalidUrl::SslMode);
        assert_eq!(
            refusal("postgres://h/d?sslcert=/c"),
            InvalidUrl::ClientCertificate
        );
    }

    #[test]
    fn no_error_repeats_a_piece_of_the_password() {
        for text in [
            "postgres://u:hunter2@h:x/d",
            "postgres://u:hunter2&x=y@h:x/d",
            "postgres://u:1/a?hunter2=x@h/d",
            "postgres://u:1?hunter2=x@h:y/d",
            "postgres://h:x/d?password=hunter2",
            "postgres://h/d?password=x&sslmode=hunter2",
            "postgres://h/d?password=a&hunter2",
        ] {
            let said = refusal(text);
            assert!(
                !format!("{said} {said:?}").contains("hunter2"),
                "{text}: {said}"
            );
        }
        let url: DatabaseUrl = "postgres://u:hunter2@h/d".parse().unwrap();
        assert!(!format!("{url:?}").contains("hunter2"));
    }

    #[test]
    fn sslmode_is_read_in_all_its_spellings() {
        for (parameters, mode) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Prefer),
            ("?sslmode=allow", SslMode::Prefer),
            ("?connect_timeout=3&sslmode=require", SslMode::Require),
            ("?sslmode=verify-ca", SslMode::Require),
            ("?sslmode=verify-full&application_name=x", SslMode::Require),
            ("?ssl=true", SslMode::Require),
            // As in libpq, which verifies certificates if the authorities of the system are
            // requested.
            ("?sslrootcert=system", SslMode::Require),
            (
                "?sslnegotiation=direct&sslrootcert=system",
                SslMode::Require,
            ),
            ("?sslmode=require&sslrootcert=system", SslMode::Require),
            ("?sslrootcert=/a.pem", SslMode::Prefer),
            ("?sslrootcert=", SslMode::Prefer),
            ("?sslrootcert=system&sslrootcert=/a.pem", SslMode::Prefer),
        ] {
            let location = parse(&format!("postgres://u:p@h/d{parameters}"));
            assert_eq!(location.config.get_ssl_mode(), mode, "{parameters}");
        }
    }

    #[test]
    fn files_are_read_from_the_url() {
        let location = parse(
            "postgresql://u:p?q@h/d?sslrootcert=%2Fetc%2Fa%20b.pem&sslcert=/c.pem&sslkey=/k.pem&passfile=/p%20f",
        );
        assert_eq!(location.tls.roots, TlsRoots::File("/etc/a b.pem".into()));
        assert_eq!(
            location.tls.client,
            Some(("/c.pem".into(), "/k.pem".into()))
        );
        assert_eq!(location.passfile, Some("/p f".into()));
        let location = parse("postgres://h/d?sslrootcert=system&sslmode=verify-full");
        assert_eq!(location.tls.roots, TlsRoots::System);
    }

    #[test]
    fn options_become_settings_of_the_session() {
        for (text, expected) in [
            ("-c%20search_path%3Dapart", vec![("search_path", "apart")]),
            ("-c search_path=apart", vec![("search_path", "apart")]),
            ("-csearch_path=a,%20b", vec![("search_path", "a,")]),
            (
                "-c search_path=a,\\ b --lock-timeout=5s",
                vec![("search_path", "a, b"), ("lock_timeout", "5s")],
            ),
            ("-c a.b=c%3Dd", vec![("a.b", "c=d")]),
        ] {
            let settings = parse(&format!("postgres://h/d?options={text}")).settings;
            let settings: Vec<_> = settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(settings, expected, "{text}");
        }
        let routed = parse("postgres://h/d?options=endpoint%3Dquiet-sun%20-c%20jit%3Doff");
        assert_eq!(routed.config.get_options(), Some("endpoint=quiet-sun"));
        assert_eq!(routed.settings, [("jit".to_owned(), "off".to_owned())]);
    }

    #[test]
    fn times_are_read_and_bounded() {
        let location =
            parse("postgres://h/d?connect_timeout=5&tcp_user_timeout=2500&keepalives_idle=7");
        assert_eq!(location.connect_timeout, Some(Duration::from_secs(5)));
        assert_eq!(
            location.config.get_tcp_user_timeout(),
            Some(&Duration::from_millis(2_500))
        );
        assert_eq!(
            location.config.get_keepalives_idle(),
            Duration::from_secs(7)
        );
        let never = parse("postgres://h/d?connect_timeout=0");
        assert_eq!(never.connect_timeout, None);
        let long = parse("postgres://h/d?connect_timeout=100000");
        assert_eq!(long.connect_timeout, Some(CONNECT_TIMEOUT_MAX));
    }
}
