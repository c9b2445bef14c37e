//! The `Forwarded` header of RFC 7239.
//!
//! ```text
//! forwarded-element = [ pair ] *( ";" [ pair ] )      elements are separated by ","
//! pair              = token "=" ( token / quoted-string )
//! ```
//!
//! A proxy appends its element to the header of the client, so the left part of a line may be
//! anything. Quotes have to be right in the whole line nonetheless. If a client could leave a quote
//! open, the proxy's element would become part of a quoted string, and text that the proxy had
//! quoted, such as the `Host` that the client chose, would become elements. The rules of
//! [`elements`] prevent that for a proxy that quotes properly. An open quote needs a partner among
//! the quotes of the proxy, which come in pairs. The last one stays open then, or its partner is
//! one that the proxy escaped, and a backslash outside of quotes is refused.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Splits one line of the header at commas that are not within quotes. `None` if the quotes are
/// wrong anywhere in it.
///
/// A quoted string begins right after a `=` and ends at an element, a pair or the line. There is no
/// backslash outside of quotes, and no control character within.
pub(crate) fn elements(line: &[u8]) -> Option<Vec<&[u8]>> {
    let mut elements = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(byte) = line.get(at) {
        match byte {
            b',' => {
                elements.push(&line[start..at]);
                start = at + 1;
            }
            b'"' => {
                if at == 0 || line[at - 1] != b'=' {
                    return None;
                }
                at += quoted_len(&line[at..])?;
                let rest = line[at..].trim_ascii_start();
                if !matches!(rest.first(), None | Some(b',' | b';')) {
                    return None;
                }
                continue;
            }
            b'\\' => return None,
            _ => {}
        }
        at += 1;
    }
    elements.push(&line[start..]);
    Some(elements)
}

/// Returns the length of the quoted string at the start of `text`, quotes included. `None` if it
/// does not end.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' if text.get(at + 1).copied().is_some_and(is_quotable) => at += 2,
            b'\\' => return None,
            byte if is_quotable(*byte) => at += 1,
            _ => return None,
        }
    }
}

/// RFC 9110, section 5.6.4: a tab, a blank, anything visible, and bytes beyond ASCII.
fn is_quotable(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// Returns the address in the `for` parameter of an element that [`elements`] returned.
///
/// `None` if there is no such parameter or there are two, if it has no address, or if any pair is
/// malformed.
pub(crate) fn client(element: &[u8]) -> Option<IpAddr> {
    let mut client = None;
    let mut rest = element;
    loop {
        rest = rest.trim_ascii_start();
        if !matches!(rest.first(), None | Some(b';')) {
            let (name, value, after) = pair(rest)?;
            if name.eq_ignore_ascii_case(b"for") {
                if client.is_some() {
                    return None;
                }
                client = Some(node(&value)?);
            }
            rest = after.trim_ascii_start();
        }
        match rest.split_first() {
            None => return client,
            Some((b';', after)) => rest = after,
            Some(_) => return None,
        }
    }
}

/// A name, its value, and the rest.
type Pair<'a> = (&'a [u8], Cow<'a, [u8]>, &'a [u8]);

/// Parses the pair at the start of `text`.
fn pair(text: &[u8]) -> Option<Pair<'_>> {
    let name_len = text.iter().position(|byte| !is_token(*byte))?;
    let (name, rest) = text.split_at(name_len);
    let value = rest.strip_prefix(b"=")?;
    if name.is_empty() {
        return None;
    }
    if value.first() == Some(&b'"') {
        let (quoted, after) = value.split_at(quoted_len(value)?);
        let inner = &quoted[1..quoted.len() - 1];
        return Some((name, unescape(inner), after));
    }
    // Proxies are known to write `for=192.0.2.1:80` and `host=example.com:80` without the quotes
    // that the colon needs.
    let is_value =
        |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b';' | b',');
    let value_len = value
        .iter()
        .position(|byte| !is_value(byte))
        .unwrap_or(value.len());
    let (value, after) = value.split_at(value_len);
    // RFC 7239, section 6: an IPv6 address must be quoted.
    if value.is_empty() || value.contains(&b'[') {
        return None;
    }
    Some((name, Cow::Borrowed(value), after))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Removes the backslashes of quoted pairs.
fn unescape(inner: &[u8]) -> Cow<'_, [u8]> {
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        out.push(if *byte == b'\\' {
            *bytes.next().unwrap_or(byte)
        } else {
            *byte
        });
    }
    Cow::Owned(out)
}

/// RFC 7239, section 6: an IPv4 address or an IPv6 address in brackets, and a port. Obfuscated
/// nodes and `unknown` have no address.
fn node(value: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(value).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return (port.is_empty() || is_port(port.strip_prefix(':')?))
            .then(|| IpAddr::V6(address).to_canonical());
    }
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => (address, Some(port)),
        None => (text, None),
    };
    let address: Ipv4Addr = address.parse().ok()?;
    port.is_none_or(is_port).then_some(IpAddr::V4(address))
}

/// A number, or an obfuscated port, such as `_http`.
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(is_name)
        }
        None => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    }
}
