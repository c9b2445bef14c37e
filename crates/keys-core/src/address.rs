//! Whose address a request has, behind proxies.
//!
//! Only the socket's peer is certain. When that peer is a trusted proxy, what it reports is believed, and so on from
//! the right to the left: each entry was written by the hop to its right. The first address that is no trusted
//! proxy is the client's. Whatever stands further left was written by the client and is worth nothing.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Entries that are looked at before giving up; no chain of proxies is that long.
pub const HOPS_MAX: usize = 64;

/// The networks of proxies whose word on the client's address is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Box<[IpNet]>);

impl TrustedProxies {
    /// Trusts the given networks.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client's address, or `None` where it cannot be found out.
    ///
    /// `forwarded` (RFC 7239) and `x_forwarded_for` are all values of those headers, in the order received. Where a
    /// request has both, both are walked and must agree: a proxy that writes one usually passes the other through as the
    /// client sent it.
    ///
    /// ```
    /// use keys_core::address::TrustedProxies;
    ///
    /// let proxies = TrustedProxies::new(["10.0.0.0/8".parse()?]);
    /// let claimed = [b"203.0.113.9, 10.0.0.2".as_slice()];
    /// assert_eq!(proxies.client(Some("10.0.0.1".parse()?), [], claimed), Some("203.0.113.9".parse()?));
    /// assert_eq!(proxies.client(Some("192.0.2.1".parse()?), [], claimed), Some("192.0.2.1".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client<'a>(
        &self,
        peer: Option<IpAddr>,
        forwarded: impl IntoIterator<Item = &'a [u8]>,
        x_forwarded_for: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let peer = peer?.to_canonical();
        if !self.contains(peer) {
            return Some(peer);
        }
        let forwarded = self.walk(peer, hops(forwarded), parse_forwarded_element);
        let x_forwarded_for = self.walk(peer, hops(x_forwarded_for), parse_address);
        match (forwarded, x_forwarded_for) {
            (Claim::None, Claim::None) => Some(peer),
            (Claim::None, Claim::Of(client)) | (Claim::Of(client), Claim::None) => client,
            // A proxy writes one of them and passes the other through as the client wrote it. Which it is cannot be
            // seen from here, so a client that sends the other one must not be able to choose its address.
            (Claim::Of(one), Claim::Of(other)) => one.filter(|_| one == other),
        }
    }

    fn walk(&self, peer: IpAddr, hops: Hops<'_>, parse: fn(&str) -> Option<IpAddr>) -> Claim {
        let entries = match hops {
            Hops::None => return Claim::None,
            Hops::Unreadable => return Claim::Of(None),
            Hops::Entries(entries) => entries,
        };
        let mut nearest = peer;
        for entry in entries.iter().rev() {
            let Some(address) = parse(entry.trim()) else {
                return Claim::Of(None);
            };
            nearest = address;
            if !self.contains(address) {
                break;
            }
        }
        // Where every hop is a proxy of ours, the request began at the leftmost.
        Claim::Of(Some(nearest))
    }
}

/// What one of the headers says.
enum Claim {
    /// The request has no such header.
    None,
    /// The client is this one, or cannot be found out.
    Of(Option<IpAddr>),
}

enum Hops<'a> {
    None,
    Unreadable,
    Entries(Vec<&'a str>),
}

fn hops<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Hops<'a> {
    let mut entries = Vec::new();
    let mut any = false;
    for value in values {
        any = true;
        let Ok(text) = std::str::from_utf8(value) else {
            return Hops::Unreadable;
        };
        entries.extend(text.split(',').take(HOPS_MAX + 1));
        if entries.len() > HOPS_MAX {
            return Hops::Unreadable;
        }
    }
    if any {
        Hops::Entries(entries)
    } else {
        Hops::None
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
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

/// The `for` parameter of one element of `Forwarded`: `for=192.0.2.1`, `proto=https; For="[2001:db8::1]:80"`.
fn parse_forwarded_element(element: &str) -> Option<IpAddr> {
    let mut fors = element.split(';').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("for")
            .then_some(value.trim())
    });
    let value = fors.next()?;
    if fors.next().is_some() {
        return None;
    }
    match value.strip_prefix('"') {
        Some(rest) => parse_address(rest.strip_suffix('"')?),
        // RFC 7239, section 4: an IPv6 address must be quoted and in brackets.
        None if value.contains('[') => None,
        None => parse_address(value),
    }
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
        fn no_text_panics(element in "[\\x20-\\x7e]{0,60}") {
            let _ = parse_forwarded_element(&element);
            let _ = parse_address(&element);
        }
    }
}
