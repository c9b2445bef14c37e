//! The client's address of a request, behind proxies.
//!
//! Only the socket's peer is certain. The peer of a Unix socket has no address. If the peer is a
//! trusted proxy, the address that it reports is trusted, and so on from the right to the left:
//! each entry was written by the hop to its right. The first address that is not a trusted proxy is
//! the client's. All entries further left were written by the client and prove nothing.

use std::net::{IpAddr, SocketAddr};

use crate::forwarded;
use crate::network::Network;

/// Maximum number of entries that are examined. No chain of proxies is that long.
pub const HOPS_MAX: usize = 64;

/// Networks of proxies whose forwarding headers are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Box<[Network]>,
    trusts_unix_peers: bool,
}

impl TrustedProxies {
    /// Trusts the given networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = Network>) -> Self {
        Self {
            networks: networks.into_iter().collect(),
            trusts_unix_peers: false,
        }
    }

    /// Trusts peers without an address, which are those of Unix sockets. Defaults to `false`.
    ///
    /// ```
    /// use keys_core::address::TrustedProxies;
    ///
    /// let claimed = [b"203.0.113.9".as_slice()];
    /// assert_eq!(TrustedProxies::default().client(None, [], claimed), None);
    /// let proxies = TrustedProxies::default().trusting_unix_peers(true);
    /// assert_eq!(proxies.client(None, [], claimed), Some("203.0.113.9".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn trusting_unix_peers(mut self, trusts: bool) -> Self {
        self.trusts_unix_peers = trusts;
        self
    }

    /// Returns whether the address is one of a trusted proxy.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.contains(address))
    }

    /// Returns the client's address, or `None` if it is unknown.
    ///
    /// `peer` is `None` if the peer has no address, because the connection came over a Unix socket.
    /// `forwarded` (RFC 7239) and `x_forwarded_for` are all values of those headers, in the order
    /// received. If a request has both, both are read and must agree, because a proxy that writes
    /// one usually passes the other through as the client sent it.
    ///
    /// ```
    /// use keys_core::address::TrustedProxies;
    ///
    /// let proxies = TrustedProxies::new(["10.0.0.0/8".parse()?]);
    /// let claimed = [b"203.0.113.9, 10.0.0.2".as_slice()];
    /// let (proxy, client) = ("10.0.0.1".parse()?, "192.0.2.1".parse()?);
    /// assert_eq!(proxies.client(Some(proxy), [], claimed), Some("203.0.113.9".parse()?));
    /// assert_eq!(proxies.client(Some(client), [], claimed), Some(client));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client<'a>(
        &self,
        peer: Option<IpAddr>,
        forwarded: impl IntoIterator<Item = &'a [u8]>,
        x_forwarded_for: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let peer = peer.map(|peer| peer.to_canonical());
        let is_trusted = peer.map_or(self.trusts_unix_peers, |peer| self.contains(peer));
        if !is_trusted {
            return peer;
        }
        let forwarded = hops(forwarded, forwarded::elements);
        let forwarded = self.walk(peer, forwarded, forwarded::client);
        // `X-Forwarded-For` has no quotes, so every line can be split.
        let x_forwarded_for = hops(x_forwarded_for, |line| {
            let entries = line.split(|byte| *byte == b',');
            Some(entries.take(HOPS_MAX + 1).collect())
        });
        let x_forwarded_for = self.walk(peer, x_forwarded_for, parse_address);
        match (forwarded, x_forwarded_for) {
            (Claim::None, Claim::None) => peer,
            (Claim::None, Claim::Of(client)) | (Claim::Of(client), Claim::None) => client,
            // A proxy writes one of them and passes the other through as the client wrote it. Which
            // one is not known here, so a client that sends the other one must not be able to
            // choose its address.
            (Claim::Of(one), Claim::Of(other)) => one.filter(|_| one == other),
        }
    }

    fn walk(
        &self,
        peer: Option<IpAddr>,
        hops: Vec<Option<&[u8]>>,
        parse: fn(&[u8]) -> Option<IpAddr>,
    ) -> Claim {
        if hops.is_empty() {
            return Claim::None;
        }
        let mut nearest = peer;
        for entry in hops.into_iter().rev() {
            let Some(address) = entry.and_then(parse) else {
                return Claim::Of(None);
            };
            nearest = Some(address);
            if !self.contains(address) {
                break;
            }
        }
        // If every hop is one of our proxies, the request began at the leftmost.
        Claim::Of(nearest)
    }
}

/// Result of reading one of the headers.
enum Claim {
    /// The request has no such header.
    None,
    /// The address of the client, or `None` if it is unknown.
    Of(Option<IpAddr>),
}

/// Returns an entry for each hop, from left to right. An entry that cannot be parsed is `None`, and
/// so are too many hops. Empty only if there is no header.
///
/// Parses each line of a header separately, so that the contents of one line do not affect the
/// next. A line that cannot be parsed is one entry.
fn hops<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    split: fn(&'a [u8]) -> Option<Vec<&'a [u8]>>,
) -> Vec<Option<&'a [u8]>> {
    let mut entries = Vec::new();
    for line in lines {
        match split(line) {
            Some(of_line) => entries.extend(of_line.into_iter().map(Some)),
            None => entries.push(None),
        }
        if entries.len() > HOPS_MAX {
            return vec![None];
        }
    }
    entries
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = if let Some(bare) = bare {
        IpAddr::V6(bare.parse().ok()?)
    } else if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else {
        text.parse::<SocketAddr>().ok()?.ip()
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "10.0.0.1";

    fn client(peer: &str, forwarded: &[&str], x_forwarded_for: &[&str]) -> Option<String> {
        TrustedProxies::new([
            "10.0.0.0/8".parse().unwrap(),
            "2001:db8:f::/48".parse().unwrap(),
        ])
        .client(
            Some(peer.parse().unwrap()),
            forwarded.iter().map(|value| value.as_bytes()),
            x_forwarded_for.iter().map(|value| value.as_bytes()),
        )
        .map(|address| address.to_string())
    }

    macro_rules! some {
        ($address:expr) => {
            Some(String::from($address))
        };
    }

    #[test]
    fn untrusted_peer_cannot_claim_another_address() {
        assert_eq!(
            client("192.0.2.9", &["for=10.1.1.1"], &["10.1.1.1"]),
            some!("192.0.2.9")
        );
    }

    #[test]
    fn walks_from_the_right_past_trusted_hops() {
        assert_eq!(
            client(PEER, &[], &["1.1.1.1, 203.0.113.9, 10.0.0.7"]),
            some!("203.0.113.9")
        );
        assert_eq!(
            client(PEER, &[], &["1.1.1.1", "203.0.113.9", "10.0.0.7,10.0.0.8"]),
            some!("203.0.113.9")
        );
        assert_eq!(
            client(PEER, &[], &["10.0.0.7, 10.0.0.8"]),
            some!("10.0.0.7")
        );
        assert_eq!(client(PEER, &[], &[]), some!(PEER));
    }

    #[test]
    fn mapped_addresses_are_ipv4_everywhere() {
        assert_eq!(
            client("::ffff:10.0.0.1", &[], &["::ffff:203.0.113.9"]),
            some!("203.0.113.9")
        );
    }

    #[test]
    fn forwarded_is_read_too() {
        let forwarded = r#"for=1.1.1.1, for="[2001:db8::9]:443";proto=https, For=10.0.0.3"#;
        assert_eq!(client(PEER, &[forwarded], &[]), some!("2001:db8::9"));
        assert_eq!(
            client(PEER, &["for=203.0.113.9:80"], &[]),
            some!("203.0.113.9")
        );
    }

    #[test]
    fn a_header_that_the_proxy_does_not_write_cannot_choose_the_address() {
        assert_eq!(client(PEER, &["for=198.51.100.1"], &["203.0.113.9"]), None);
        assert_eq!(client(PEER, &["for=unknown"], &["203.0.113.9"]), None);
        assert_eq!(
            client(PEER, &["for=203.0.113.9"], &["1.1.1.1, 203.0.113.9"]),
            some!("203.0.113.9")
        );
    }

    #[test]
    fn anything_unreadable_is_unknown() {
        for value in [
            "unknown",
            "",
            "203.0.113.9,",
            "_hidden",
            "203.0.113",
            "fe80::1%eth0",
            "a b",
        ] {
            assert_eq!(client(PEER, &[], &[value]), None, "{value:?}");
        }
        for value in [
            "",
            "proto=https",
            "for=unknown",
            "for=_x",
            r#"for="1.1.1.1"#,
            "for=[::1]",
            "for=1.1.1.1;for=2.2.2.2",
        ] {
            assert_eq!(client(PEER, &[value], &["203.0.113.9"]), None, "{value:?}");
        }
        let many = vec!["10.0.0.2"; HOPS_MAX + 1].join(",");
        assert_eq!(client(PEER, &[], &[&many]), None);
        assert_eq!(TrustedProxies::default().client(None, [], []), None);
    }

    #[test]
    fn unix_peer_is_believed_only_where_unix_peers_are_trusted() {
        let networks = || TrustedProxies::new(["10.0.0.0/8".parse().unwrap()]);
        let trusting = networks().trusting_unix_peers(true);
        let client = |proxies: &TrustedProxies, forwarded: &[&str], x_forwarded_for: &[&str]| {
            let forwarded: Vec<_> = forwarded.iter().map(|value| value.as_bytes()).collect();
            let claimed: Vec<_> = x_forwarded_for
                .iter()
                .map(|value| value.as_bytes())
                .collect();
            let found = proxies.client(None, forwarded, claimed);
            found.map(|address| address.to_string())
        };
        for (forwarded, x_forwarded_for, expected) in [
            (&[][..], &[][..], None),
            (&[], &["203.0.113.9"], some!("203.0.113.9")),
            (
                &[],
                &["1.1.1.1, 203.0.113.9, 10.0.0.7"],
                some!("203.0.113.9"),
            ),
            (&[r#"for="[2001:db8::9]:443""#], &[], some!("2001:db8::9")),
            (&["for=198.51.100.1"], &["203.0.113.9"], None),
            // A gateway whose own client came over a Unix socket.
            (&[], &["unix:"], None),
            (&["for=unknown"], &[], None),
        ] {
            assert_eq!(client(&trusting, forwarded, x_forwarded_for), expected);
            assert_eq!(client(&networks(), forwarded, x_forwarded_for), None);
        }
        // An address that is not trusted is returned unchanged.
        let peer = "192.0.2.9".parse().unwrap();
        let claimed = [b"203.0.113.9".as_slice()];
        assert_eq!(trusting.client(Some(peer), [], claimed), Some(peer));
    }

    /// Input of a client that knows the grammar well.
    fn hostile() -> impl Strategy<Value = String> {
        let pieces = [
            "for=203.0.113.9",
            "FOR=\"203.0.113.9\"",
            ",",
            ";",
            "=",
            "\"",
            "\\",
            "\\\"",
            " ",
            "x=",
            "y",
            "y=\"",
            "\";",
            "\",",
            "\t",
            "for=10.0.0.2",
        ];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..9)
            .prop_map(|pieces| pieces.concat())
    }

    /// Quotes as a proxy does that follows the grammar.
    fn quoted(text: &str) -> String {
        let escaped = text.replace('\\', r"\\").replace('"', r#"\""#);
        format!("\"{escaped}\"")
    }

    #[test]
    fn commas_and_semicolons_within_quotes_separate_nothing() {
        for (line, expected) in [
            (
                r#"for=198.51.100.7;host="x,for=203.0.113.9;y=";proto=https"#,
                "198.51.100.7",
            ),
            (
                r#"for=198.51.100.7;host="a.example,for=203.0.113.9;x=""#,
                "198.51.100.7",
            ),
            (r#"for=203.0.113.9;host="a,b""#, "203.0.113.9"),
            (r#"for=203.0.113.9;host="ex\"a,mple""#, "203.0.113.9"),
            (r#"for=203.0.113.9;user="a;for=b""#, "203.0.113.9"),
            (r#"user="a;for=b" ; for=203.0.113.9"#, "203.0.113.9"),
            (r#";;host="a\\";for=203.0.113.9;"#, "203.0.113.9"),
            (r#"by="", for=203.0.113.9"#, "203.0.113.9"),
        ] {
            assert_eq!(client(PEER, &[line], &[]), some!(expected), "{line}");
        }
    }

    #[test]
    fn quotes_that_are_not_closed_make_the_address_unknown() {
        for line in [
            r#"for=203.0.113.9;by=", for=198.51.100.7"#,
            r#"for=203.0.113.9;by=", for=198.51.100.7;host="x";proto=https"#,
            r#"for=203.0.113.9;by="\, for=198.51.100.7;host="x""#,
            r#"for=203.0.113.9;by=", for="[2001:db8::7]""#,
            r#"for=203.0.113.9;by="a"b"#,
            r#"for=203.0.113.9;by=a"b""#,
            r"for=203.0.113.9;by=a\,b",
            "for=203.0.113.9;by=\"a\u{1}\"",
        ] {
            assert_eq!(client(PEER, &[line], &[]), None, "{line}");
        }
        // An open quote in one line does not continue in the next.
        let lines = [r#"for=203.0.113.9;by=""#, "for=198.51.100.7"];
        assert_eq!(client(PEER, &lines, &[]), some!("198.51.100.7"));
        let lines = [r#"for=203.0.113.9;by=""#, r#"for=198.51.100.7;host="x""#];
        assert_eq!(client(PEER, &lines, &[]), some!("198.51.100.7"));
        let lines = ["for=198.51.100.7", r#"for=10.0.0.9;by=""#];
        assert_eq!(client(PEER, &lines, &[]), None);
    }

    #[test]
    fn ports_may_be_obfuscated_and_characters_escaped() {
        for (line, expected) in [
            (r#"for="203.0.113.9:_http""#, "203.0.113.9"),
            (r#"for="203.0.113.9:_a.b-c_d""#, "203.0.113.9"),
            (r#"for="[2001:db8:cafe::17]:_obf""#, "2001:db8:cafe::17"),
            (r#"for="[2001:db8:cafe::17]:47011""#, "2001:db8:cafe::17"),
            (r#"for="[::ffff:203.0.113.9]""#, "203.0.113.9"),
            (r#"for="\2\0\3.0.113.9""#, "203.0.113.9"),
            ("fOr=203.0.113.9:65535", "203.0.113.9"),
        ] {
            assert_eq!(client(PEER, &[line], &[]), some!(expected), "{line}");
        }
        for line in [
            r#"for="203.0.113.9:_""#,
            r#"for="203.0.113.9:""#,
            r#"for="203.0.113.9:-1""#,
            r#"for="203.0.113.9:65536""#,
            r#"for="203.0.113.9:_a b""#,
            r#"for="203.0.113.9 ""#,
            r#"for="[2001:db8::1]x""#,
            r#"for="[203.0.113.9]""#,
            r#"for="2001:db8::1""#,
            "for=2001:db8::1",
            "for =203.0.113.9",
            "for= 203.0.113.9",
            "for=203.0.113.9 x",
            "for=203.0.113.9;x",
            "for=203.0.113.9;=x",
            "for=203.0.113.9;x=",
            "for=203.0.113.9;a b=c",
            r#"for=203.0.113.9;host="a" b"#,
        ] {
            assert_eq!(client(PEER, &[line], &[]), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(forwarded: Vec<Vec<u8>>, x_forwarded_for: Vec<Vec<u8>>) {
            let proxies = TrustedProxies::new(["0.0.0.0/0".parse().unwrap()]);
            let _ = proxies.client(
                Some(IpAddr::from([10, 0, 0, 1])),
                forwarded.iter().map(Vec::as_slice),
                x_forwarded_for.iter().map(Vec::as_slice),
            );
        }

        #[test]
        fn no_text_panics(text in "[\\x20-\\x7e]{0,60}") {
            let _ = forwarded::elements(text.as_bytes());
            let _ = forwarded::client(text.as_bytes());
            let _ = parse_address(text.as_bytes());
        }

        /// A client writes the left part of a line, a line of its own, and the text that the proxy
        /// quotes. The proxy appends its element, in each form of the grammar.
        #[test]
        fn client_behind_a_proxy_cannot_choose_its_address(
            earlier in proptest::option::of(hostile()),
            left in hostile(),
            first in hostile(),
            second in hostile(),
            order in 0..4,
        ) {
            let real = r#"for="[2001:db8::7]:_p""#;
            let (first, second) = (quoted(&first), quoted(&second));
            let element = match order {
                0 => format!("{real};host={first};user={second}"),
                1 => format!("host={first};{real};user={second}"),
                2 => format!("host={first};user={second};for=198.51.100.7"),
                _ => format!("for=198.51.100.7;proto=https;host={first}"),
            };
            let line = format!("{left}, {element}");
            let lines: Vec<_> = earlier.as_deref().into_iter().chain([line.as_str()]).collect();
            let found = client(PEER, &lines, &[]);
            let written = if order < 2 { "2001:db8::7" } else { "198.51.100.7" };
            prop_assert!(found.is_none() || found.as_deref() == Some(written), "{lines:?}: {found:?}");
            // On a line of its own the proxy's element applies, whatever the client wrote before
            // it.
            let found = client(PEER, &[&left, &element], &[]);
            prop_assert_eq!(found.as_deref(), Some(written), "{} {}", left, element);
        }

        #[test]
        fn quoted_values_are_read_as_they_were_meant(value in "[\\t -~]{0,20}", address: [u8; 4]) {
            let address = IpAddr::from(address).to_string();
            prop_assume!(!address.starts_with("10."));
            let escaped: String = address.chars().flat_map(|c| ['\\', c]).collect();
            for node in [address.clone(), format!("\"{address}\""), format!("\"{escaped}\"")] {
                let line = format!("x={};FOR={node} ; y={0}", quoted(&value));
                prop_assert_eq!(client(PEER, &[&line], &[]), Some(address.clone()), "{}", line);
            }
        }
    }
}
