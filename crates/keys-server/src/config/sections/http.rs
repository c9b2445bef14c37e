use std::fmt;
use std::time::Duration;

use anyhow::bail;
use keys_core::address::TrustedProxies;
use keys_core::{KeyPrefix, Network, Quota};
use keys_http::{InvalidMountPath, MountPath};
use keys_service::KeyManagement;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::listen::{Endpoint, UnixMode};

use super::single;

/// The HTTP server and its surfaces.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Http {
    /// Never empty.
    #[serde(deserialize_with = "endpoints")]
    pub listen: Vec<Endpoint>,
    /// Threads that answer requests. 0 starts one for each processor.
    pub workers: usize,
    /// How long new connections are still served after the signal to stop.
    #[serde(rename = "drain_seconds", deserialize_with = "drain")]
    pub drain: Duration,
    /// Permissions of the files of Unix sockets.
    #[serde(deserialize_with = "unix_mode")]
    pub unix_mode: UnixMode,
    /// Defaults to a number derived from the limit on open files if `None`.
    #[serde(deserialize_with = "connections")]
    pub connections_max: Option<usize>,
    /// `None` if one address may use all connections.
    #[serde(deserialize_with = "connections")]
    pub connections_per_address_max: Option<usize>,
    #[serde(deserialize_with = "proxies")]
    pub trusted_proxies: TrustedProxies,
    #[serde(deserialize_with = "key_management")]
    pub key_management: KeyManagement,
    pub unauthenticated: Quota,
    pub flat: Mount,
    pub account: Mount,
    pub management: Surface,
    pub verification: Surface,
    pub metrics: Surface,
}

/// One of the two contracts, and its path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mount {
    pub enabled: bool,
    /// Without a slash at the end.
    #[serde(deserialize_with = "path")]
    pub path: MountPath,
    pub key_prefix: KeyPrefix,
    pub plan_gate: bool,
    pub cap: bool,
}

/// A surface with fixed paths.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Surface {
    pub enabled: bool,
}

impl Http {
    /// Checks that no path is inside another, because the one that is found first would hide the
    /// other.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
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
                if mount.enabled && overlap(mount.path.as_str(), path) {
                    bail!(
                        "setting `{setting}.path`: {:?} overlaps {path}, {whose}",
                        mount.path.as_str()
                    );
                }
            }
        }
        let (flat, account) = (self.flat.path.as_str(), self.account.path.as_str());
        if self.flat.enabled && self.account.enabled && overlap(flat, account) {
            bail!(
                "settings `http.flat.path` and `http.account.path` overlap: {flat:?} and {account:?}"
            );
        }
        Ok(())
    }
}

fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let mut endpoints = Vec::new();
    for text in list(deserializer)? {
        let endpoint: Endpoint = text.parse().map_err(D::Error::custom)?;
        // Port 0 is a different port each time.
        let is_chosen = endpoint.tcp().is_some_and(|address| address.port() == 0);
        if endpoints.contains(&endpoint) && !is_chosen {
            return Err(D::Error::custom(format_args!("has {text:?} twice")));
        }
        endpoints.push(endpoint);
    }
    if endpoints.is_empty() {
        return Err(D::Error::custom(
            "is empty: name at least one ADDRESS:PORT or unix:/PATH",
        ));
    }
    Ok(endpoints)
}

/// Reads a list. A list with one element may be written without brackets. Returns the elements that
/// are not blank.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Elements;
    impl<'de> Visitor<'de> for Elements {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E: Error>(self, element: &str) -> Result<Self::Value, E> {
            Ok(vec![element.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    // Requested as a list, because a variable is then parsed as a list.
    let elements = deserializer.deserialize_seq(Elements)?;
    let trimmed = elements.iter().map(|element| element.trim().to_owned());
    Ok(trimmed.filter(|element| !element.is_empty()).collect())
}

fn drain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    /// Longer than any load balancer needs to notice.
    const SECONDS_MAX: u64 = 300;
    single::at_most(deserializer, SECONDS_MAX).map(Duration::from_secs)
}

fn unix_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UnixMode, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// Reads a maximum of connections. Returns `None` for 0.
fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    /// That many idle connections take 18 GB of memory.
    const CONNECTIONS_MAX: usize = 1_000_000;
    let max = single::at_most(deserializer, CONNECTIONS_MAX)?;
    Ok((max > 0).then_some(max))
}

fn proxies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustedProxies, D::Error> {
    /// Used in place of a network: every peer of a Unix socket.
    const UNIX: &str = "unix";
    let mut networks = Vec::new();
    let mut trusts_unix_peers = false;
    for text in Vec::<String>::deserialize(deserializer)? {
        match text.trim() {
            "" => {}
            UNIX => trusts_unix_peers = true,
            network => networks.push(
                network
                    .parse::<Network>()
                    .map_err(|error| D::Error::custom(format_args!(": {network:?}: {error}")))?,
            ),
        }
    }
    Ok(TrustedProxies::new(networks).trusting_unix_peers(trusts_unix_peers))
}

fn key_management<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyManagement, D::Error> {
    let choices = [
        ("any", KeyManagement::Any),
        ("session_only", KeyManagement::SessionOnly),
    ];
    single::chosen(deserializer, choices)
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MountPath, D::Error> {
    let path = String::deserialize(deserializer)?;
    path.trim_end_matches('/')
        .parse()
        .map_err(|error: InvalidMountPath| D::Error::custom(format_args!(": {path:?}: {error}")))
}
