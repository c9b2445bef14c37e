//! The address of the client behind a request.

use std::net::IpAddr;

use actix_web::dev::RequestHead;
use actix_web::http::header::{FORWARDED, HeaderName, HeaderValue, X_FORWARDED_FOR};
use keys_core::address::TrustedProxies;

/// Returns the client's address according to trusted `proxies`; `None` if it is unknown.
pub(crate) fn client_address(request: &RequestHead, proxies: &TrustedProxies) -> Option<IpAddr> {
    // Read only if the peer is a proxy.
    let values = |name: HeaderName| {
        let headers = std::iter::once(name).flat_map(|name| request.headers().get_all(name));
        headers.map(HeaderValue::as_bytes)
    };
    let peer = request.peer_addr.map(|peer| peer.ip());
    proxies.client(peer, values(FORWARDED), values(X_FORWARDED_FOR))
}
