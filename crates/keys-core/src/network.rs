//! Address lists of keys.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// An IPv4 or IPv6 network in canonical form: no host bits, and IPv4 for IPv4-mapped addresses.
///
/// A single address is written without its length, IPv6 as in RFC 5952.
///
/// ```
/// use keys_core::Network;
///
/// let network: Network = "10.1.2.3/8".parse()?;
/// assert_eq!(network.to_string(), "10.0.0.0/8");
/// assert!(network.contains("10.200.0.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpNet);

/// Error returned for a text that is neither an address nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IPv4 or IPv6 address or CIDR network")]
#[non_exhaustive]
pub struct InvalidNetwork;

impl Network {
    /// Returns whether `address` is in this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// The network as type of the crate `ipnet`, for databases that store it natively.
    #[must_use]
    pub const fn to_ipnet(self) -> IpNet {
        self.0
    }
}

impl From<IpNet> for Network {
    fn from(network: IpNet) -> Self {
        Self(canonical(network))
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// Reads an address or a network. Refuses host names, ports, zones, leading zeros and blanks.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        match text.split_once('/') {
            // The parser of lengths would accept `+8` and `08`.
            Some((_, length)) if !is_plain_number(length) => None,
            Some(_) => text.parse::<IpNet>().ok(),
            None => text.parse::<IpAddr>().ok().map(IpNet::from),
        }
        .map(Self::from)
        .ok_or(InvalidNetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

/// A list of networks. The empty list allows every address.
///
/// IPv4-mapped IPv6 (`::ffff:a.b.c.d`) counts as IPv4, in lists and in addresses.
///
/// ```
/// use keys_core::AllowedNetworks;
///
/// let list = AllowedNetworks::parse(["10.1.2.3/8", "2001:db8::1"])?;
/// assert!(list.allows(Some("10.200.0.1".parse()?)));
/// assert!(!list.allows(Some("192.0.2.1".parse()?)));
/// assert!(!list.allows(None), "an unknown address is in no list");
/// assert_eq!(list.to_strings(), ["10.0.0.0/8", "2001:db8::1"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedNetworks(Box<[Network]>);

/// Error returned when a list is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNetworks {
    /// The entry at this index, counted from 0, is neither an address nor a network.
    #[error("entry {0} is not an IPv4 or IPv6 address or CIDR network")]
    Entry(usize),
    /// More than [`AllowedNetworks::MAX_LEN`] entries.
    #[error("must have at most 128 entries")]
    TooMany,
}

impl AllowedNetworks {
    /// Maximum number of entries in a list.
    pub const MAX_LEN: usize = 128;

    /// Reads addresses and CIDR networks in any legal spelling. Host bits are dropped, repeated
    /// entries are removed, and the order is kept.
    ///
    /// # Errors
    /// If there are too many, or one is a host name, has a port, a zone, a leading zero, a blank.
    pub fn parse<I>(entries: I) -> Result<Self, InvalidNetworks>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut networks = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            if index == Self::MAX_LEN {
                return Err(InvalidNetworks::TooMany);
            }
            let network = entry.as_ref().parse();
            let network = network.map_err(|_| InvalidNetworks::Entry(index))?;
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        Ok(Self(networks.into()))
    }

    /// Restores a stored list.
    ///
    /// # Errors
    /// If it is longer than the maximum.
    pub fn from_networks(networks: Vec<IpNet>) -> Result<Self, InvalidNetworks> {
        if networks.len() > Self::MAX_LEN {
            return Err(InvalidNetworks::TooMany);
        }
        Ok(Self(networks.into_iter().map(Network::from).collect()))
    }

    /// Returns whether a request from `address` is allowed. `None` is an unknown address: it is in
    /// no list, so only the empty list allows it.
    #[must_use]
    pub fn allows(&self, address: Option<IpAddr>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let Some(address) = address else { return false };
        self.0.iter().any(|network| network.contains(address))
    }

    /// Returns the index of the first entry, counted from 0, that reaches outside `wider`. The
    /// empty list is every address, so nothing reaches outside it.
    #[must_use]
    pub fn first_outside(&self, wider: &Self) -> Option<usize> {
        if wider.0.is_empty() {
            return None;
        }
        // Two halves may cover one network, which joining them first shows.
        let wider: Vec<IpNet> = wider.0.iter().map(|network| network.0).collect();
        let joined = IpNet::aggregate(&wider);
        self.0
            .iter()
            .position(|network| !joined.iter().any(|whole| whole.contains(&network.0)))
    }

    /// The entries.
    #[must_use]
    pub fn as_slice(&self) -> &[Network] {
        &self.0
    }

    /// Returns whether every address is allowed.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the entries in canonical form (RFC 5952 for IPv6), single addresses without their
    /// length.
    #[must_use]
    pub fn to_strings(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

fn is_plain_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'))
}

/// Drops host bits, and turns a network of IPv4-mapped addresses into the IPv4 network.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_PREFIX_LEN: u8 = 96;
    if let IpNet::V6(mapped) = network
        && let Some(length) = mapped.prefix_len().checked_sub(MAPPED_PREFIX_LEN)
        && let Some(address) = mapped.addr().to_ipv4_mapped()
        && let Ok(network) = Ipv4Net::new(address, length)
    {
        return IpNet::V4(network.trunc());
    }
    network.trunc()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn list(entries: &[&str]) -> AllowedNetworks {
        AllowedNetworks::parse(entries).unwrap()
    }

    #[test]
    fn any_legal_spelling_is_shown_in_canonical_form() {
        let spellings = [
            ("192.168.1.1", "192.168.1.1"),
            ("192.168.1.1/32", "192.168.1.1"),
            ("192.168.1.77/24", "192.168.1.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:0DB8:0:0:0:0:0:1", "2001:db8::1"),
            ("2001:db8::1/64", "2001:db8::/64"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:c000:201", "192.0.2.1"),
            ("::ffff:192.0.2.1/120", "192.0.2.0/24"),
            ("::/0", "::/0"),
        ];
        for (given, shown) in spellings {
            assert_eq!(list(&[given]).to_strings(), [shown], "{given}");
        }
    }

    #[test]
    fn illegal_entries_are_named_by_index() {
        for entry in [
            "",
            " ",
            "localhost",
            "example.com",
            "10.0.0.1:80",
            "[::1]",
            "[::1]:80",
            "fe80::1%eth0",
            "010.0.0.1",
            "10.0.0.01",
            " 10.0.0.1",
            "10.0.0.1 ",
            "10.0.0",
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.1/08",
            "10.0.0.1/+8",
            "10.0.0.1/8/8",
            "::1/129",
            "10.0.0.1/255.0.0.0",
            "*",
            "10.0.0.0-10.0.0.9",
        ] {
            assert_eq!(
                AllowedNetworks::parse(["10.0.0.1", entry]),
                Err(InvalidNetworks::Entry(1)),
                "{entry:?}"
            );
        }
    }

    #[test]
    fn lists_have_at_most_128_entries() {
        let entries: Vec<_> = (0..129).map(|number| format!("10.0.0.{number}")).collect();
        assert!(AllowedNetworks::parse(&entries[..128]).is_ok());
        assert_eq!(
            AllowedNetworks::parse(&entries),
            Err(InvalidNetworks::TooMany)
        );
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert!(list(&["192.0.2.0/24"]).allows(Some("::ffff:192.0.2.7".parse().unwrap())));
        assert!(!list(&["::/0"]).allows(Some("192.0.2.7".parse().unwrap())));
    }

    #[test]
    fn a_child_is_never_wider_than_its_parent() {
        let any = AllowedNetworks::default();
        let private = list(&["10.0.0.0/8", "192.168.0.0/16"]);
        assert_eq!(private.first_outside(&any), None);
        assert_eq!(
            list(&["10.1.0.0/16", "192.168.0.1"]).first_outside(&private),
            None
        );
        assert_eq!(
            list(&["10.1.0.0/16", "172.16.0.1"]).first_outside(&private),
            Some(1)
        );
        assert_eq!(list(&["10.0.0.0/7"]).first_outside(&private), Some(0));
        let halves = list(&["10.0.0.0/25", "10.0.0.128/25"]);
        assert_eq!(list(&["10.0.0.0/24"]).first_outside(&halves), None);
    }

    /// The oracle: compares leading bits, one by one, without the library.
    fn covered(network: IpAddr, length: u8, address: IpAddr) -> bool {
        fn bits(address: IpAddr) -> (usize, u128) {
            match address.to_canonical() {
                IpAddr::V4(v4) => (32, u128::from(u32::from(v4))),
                IpAddr::V6(v6) => (128, u128::from(v6)),
            }
        }
        let (family, network) = bits(network);
        let (address_family, address) = bits(address);
        family == address_family
            && (0..usize::from(length)).all(|index| {
                let shift = family - 1 - index;
                (network >> shift) & 1 == (address >> shift) & 1
            })
    }

    proptest! {
        #[test]
        fn ipv4_agrees_with_the_oracle(network: u32, length in 0_u8..=32, flipped in 0_u32..=32, noise: u32) {
            // Addresses near the edge of the network: the same bits up to some point, then random
            // ones.
            let kept = u32::MAX.checked_shl(32 - flipped).unwrap_or(0);
            let address = IpAddr::from(Ipv4Addr::from((network & kept) | (noise & !kept)));
            let network = IpAddr::from(Ipv4Addr::from(network));
            let list = AllowedNetworks::parse([format!("{network}/{length}")]).unwrap();
            prop_assert_eq!(list.allows(Some(address)), covered(network, length, address));
        }

        #[test]
        fn ipv6_agrees_with_the_oracle(network: u128, length in 0_u8..=128, flipped in 0_u32..=128, noise: u128) {
            let kept = u128::MAX.checked_shl(128 - flipped).unwrap_or(0);
            let address = IpAddr::from(Ipv6Addr::from((network & kept) | (noise & !kept)));
            let network = IpAddr::from(Ipv6Addr::from(network));
            prop_assume!(network.to_canonical().is_ipv6() && address.to_canonical().is_ipv6());
            let list = AllowedNetworks::parse([format!("{network}/{length}")]).unwrap();
            prop_assert_eq!(list.allows(Some(address)), covered(network, length, address));
        }

        #[test]
        fn whatever_lies_within_is_allowed_by_both(
            parent in "10\\.[0-3]\\.0\\.0/(8|15|16)",
            child in "10\\.[0-3]\\.[0-3]\\.0/(8|16|24)",
            host: u32,
        ) {
            let (parent, child) = (list(&[&parent]), list(&[&child]));
            let address = Some(IpAddr::from(Ipv4Addr::from(0x0a00_0000 | (host & 0x0003_ffff))));
            prop_assert!(child.first_outside(&parent).is_some() || !child.allows(address) || parent.allows(address));
        }

        #[test]
        fn shown_lists_are_read_back(entries in proptest::collection::vec("[0-9a-f:.]{2,20}(/[0-9]{1,3})?", 0..4)) {
            if let Ok(list) = AllowedNetworks::parse(&entries) {
                prop_assert_eq!(AllowedNetworks::parse(list.to_strings()).unwrap(), list);
            }
        }
    }
}
