//! Every route, with a key; and every wrong place for a key.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys_testkit::server::{Call, Server};
use serde_json::{Value, json};

/// Networks that the server trusts as proxies. All requests of the tests come from there.
pub(crate) const PROXIES: &str = "127.0.0.1/32";

/// An id that does not exist.
const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A request and its name.
pub(crate) type Named = (String, Call);

/// Returns an address that was not used before, so that no failure uses up the limit of another.
pub(crate) fn new_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, b, c, d] = NEXT.fetch_add(1, Relaxed).to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

pub(crate) fn call(server: &Server, method: &str, path: &str) -> Call {
    server
        .call(method, path)
        .header("X-Forwarded-For", &new_address())
}

/// Returns one request to every route. None of them changes anything, with any credential.
pub(crate) fn every_route(server: &Server) -> Vec<Named> {
    let with_body = |body: &'static str| {
        move |call: Call| {
            if body.is_empty() {
                call
            } else {
                call.body("application/json", body)
            }
        }
    };
    [
        ("GET", "/api/api-keys".to_owned(), ""),
        ("POST", "/api/api-keys".to_owned(), r#"{"name":""}"#),
        ("DELETE", format!("/api/api-keys/{UNKNOWN}"), ""),
        ("PUT", "/api/api-keys".to_owned(), "{}"),
        ("GET", format!("/api/api-keys/{UNKNOWN}"), ""),
        ("GET", "/api/account/api-keys?page=1&limit=5".to_owned(), ""),
        (
            "POST",
            "/api/account/api-keys".to_owned(),
            r#"{"allowedIps":["nowhere"],"expiresAt":"never"}"#,
        ),
        ("DELETE", format!("/api/account/api-keys/{UNKNOWN}"), ""),
        ("GET", "/v1/accounts?limit=3".to_owned(), ""),
        ("POST", "/v1/accounts".to_owned(), r#"{"plan":"platinum"}"#),
        ("GET", format!("/v1/accounts/{UNKNOWN}"), ""),
        (
            "PATCH",
            format!("/v1/accounts/{UNKNOWN}"),
            r#"{"disabled":true}"#,
        ),
        (
            "POST",
            format!("/v1/accounts/{UNKNOWN}/sessions"),
            r#"{"ttl_seconds":60}"#,
        ),
        ("POST", format!("/v1/accounts/{UNKNOWN}/keys"), "{}"),
        ("POST", "/v1/keys/verify".to_owned(), r#"{"key":"x"}"#),
        (
            "POST",
            "/v1/keys/verify-batch".to_owned(),
            r#"{"requests":[{"key":"x"}]}"#,
        ),
        ("GET", "/v1/auth".to_owned(), ""),
        (
            "PUT",
            "/v1/auth?scope=orders:read&mode=nginx".to_owned(),
            "",
        ),
        ("GET", "/livez".to_owned(), ""),
        ("GET", "/readyz".to_owned(), ""),
        ("DELETE", "/livez".to_owned(), ""),
        ("GET", "/nowhere".to_owned(), ""),
    ]
    .into_iter()
    .map(|(method, path, body)| {
        let request = with_body(body)(call(server, method, &path));
        (format!("{method} {path}"), request)
    })
    .collect()
}

/// Returns one request to each surface.
pub(crate) fn every_surface(server: &Server) -> Vec<Named> {
    [
        "/api/api-keys",
        "/api/account/api-keys",
        "/v1/accounts",
        "/v1/auth",
    ]
    .map(|path| (format!("GET {path}"), call(server, "GET", path)))
    .into()
}

/// Number of verifications of a key that are answered. The others are refused.
pub(crate) const ANSWERED: usize = 4;

/// Returns verifications of the key, from memory and from the database. No answer contains the key.
pub(crate) fn asked_about(server: &Server, key: &str, operator: &str) -> Vec<Named> {
    let ask = |path: &str, body: Value| {
        let request = call(server, "POST", path).bearer(operator).json(&body);
        (format!("POST {path}"), request)
    };
    let one = |body| ask("/v1/keys/verify", body);
    let many = |body| ask("/v1/keys/verify-batch", json!({ "requests": body }));
    let (label, fresh) = one(json!({ "key": key }));
    vec![
        one(json!({ "key": key, "client_ip": "192.0.2.7", "scopes": ["orders:read"] })),
        (label, fresh.header("Cache-Control", "no-cache")),
        many(json!([{ "key": key }, { "key": mistyped(key, 7) }, { "key": key.repeat(3) }])),
        one(json!({ "key": format!(" Bearer {key}\u{0}") })),
        one(json!({ "key": key, "client_ip": key })),
        one(json!({ "key": key, "limit": key })),
        one(json!({ "key": key, "scopes": [key, ""], "cost": key })),
        one(json!({ "key": { "key": key } })),
        one(json!({ "kee": key })),
        many(json!([{ "key": key, "client_ip": key }])),
        many(json!([key])),
        many(json!({ "key": key })),
    ]
}

/// Returns a key with one mistyped character.
pub(crate) fn mistyped(key: &str, position: usize) -> String {
    let position = key.len() - 32 + position % 32;
    let other = if key.as_bytes()[position] == b'x' {
        "y"
    } else {
        "x"
    };
    format!("{}{other}{}", &key[..position], &key[position + 1..])
}

/// Returns requests with the key in wrong headers, or in a wrong form.
pub(crate) fn in_headers(server: &Server, key: &str, holder: &str) -> Vec<Named> {
    let get = || call(server, "GET", "/api/account/api-keys?limit=1");
    let with = |name: &str, value: &str| {
        let request = get().header(name, value);
        (format!("{name}: {}", value.replace(key, "KEY")), request)
    };
    let beside = |name: &str, value: &str| {
        let request = get().bearer(holder).header(name, value);
        (format!("{name}: {}", value.replace(key, "KEY")), request)
    };
    let basic = STANDARD.encode(format!("{key}:"));
    vec![
        with("Authorization", &format!("Basic {key}")),
        with("Authorization", &format!("Basic {basic}")),
        with("Authorization", key),
        with("Authorization", &format!("Token {key}")),
        with("Authorization", &format!("Bearer {key} {key}")),
        with("Authorization", &format!("Bearer  \"{key}\"")),
        with("Authorization", &format!("Bearer {key}{}", key.repeat(9))),
        with("X-API-Key", &format!("{key},{key}")),
        with("X-API-Key", &mistyped(key, 3)),
        beside("X-API-Key", key),
        beside("Proxy-Authorization", &format!("Bearer {key}")),
        beside("Cookie", &format!("key={key}; session={key}")),
        beside("User-Agent", key),
        beside("Referer", &format!("https://example.com/?key={key}")),
        beside("Origin", &format!("https://{key}.example.com")),
        beside("Forwarded", &format!("for={key};by={key}")),
        beside("X-Forwarded-For", key),
        beside("Accept", &format!("application/{key}")),
        beside("Expect", key),
        beside("Range", key),
        beside("If-None-Match", &format!("\"{key}\"")),
    ]
}

/// Returns requests with the key in the path or in the query.
pub(crate) fn in_addresses(server: &Server, key: &str, operator: &str, holder: &str) -> Vec<Named> {
    let mut requests = Vec::new();
    let mut add = |method: &str, path: String, credential: Option<&str>| {
        let request = call(server, method, &path);
        let name = format!("{method} {}", path.replace(key, "KEY"));
        requests.push(match credential {
            Some(credential) => (name, request.bearer(credential)),
            None => (name, request),
        });
    };
    for credential in [None, Some(holder)] {
        for path in ["/api/api-keys", "/api/account/api-keys"] {
            add("GET", format!("{path}?api_key={key}&key={key}"), credential);
            add("DELETE", format!("{path}/{key}"), credential);
        }
        add("GET", format!("/api/api-keys/{key}/x"), credential);
        add("GET", format!("/api/api-keys/{key}"), credential);
    }
    for query in ["page", "limit", "perPage"] {
        let path = format!("/api/account/api-keys?{query}={key}");
        add("GET", path, Some(holder));
    }
    for query in ["cursor", "limit"] {
        add("GET", format!("/v1/accounts?{query}={key}"), Some(operator));
        let twice = format!("/v1/accounts?{query}={key}&{query}={key}");
        add("GET", twice, Some(operator));
    }
    // Any text may be an external id, but not one with a line break.
    let line_break = format!("/v1/accounts?external_id={key}%0A");
    add("GET", line_break, Some(operator));
    for method in ["GET", "DELETE"] {
        add(method, format!("/v1/accounts/{key}"), Some(operator));
    }
    for query in ["scope", "limit", "cost", "mode", "key"] {
        add("GET", format!("/v1/auth?{query}={key}"), Some(key));
    }
    for path in [
        format!("/{key}"),
        format!("/v1/{key}"),
        format!("/v1/accounts?{key}"),
        format!("/livez?key={key}"),
        format!("/readyz?{key}={key}"),
        format!("/readyz/{key}"),
        format!("/api/%2e%2e/{key}"),
        format!("/api/{key}%ff%zz"),
    ] {
        add("GET", path, None);
    }
    requests
}

/// Returns requests with the key in bodies that are refused. Names and memos are left out, because
/// any text is legal there.
pub(crate) fn in_bodies(server: &Server, key: &str, operator: &str, holder: &str) -> Vec<Named> {
    const JSON: &str = "application/json";
    let id = UNKNOWN;
    let mut requests = Vec::new();
    let mut add = |method: &str, path: &str, media_type: &str, body: String| {
        let credential = if path.starts_with("/v1") {
            operator
        } else {
            holder
        };
        let name = format!("{method} {path} {}", body.replace(key, "KEY"));
        let name = name.chars().take(200).collect();
        let request = call(server, method, path).bearer(credential);
        requests.push((name, request.body(media_type, body)));
    };
    let (flat, account) = ("/api/api-keys", "/api/account/api-keys");
    for (path, bodies) in [
        (
            flat,
            vec![
                key.to_owned(),
                format!("\"{key}\""),
                format!("[\"{key}\"]"),
                format!(r#"{{"name":"{key}""#),
                format!(r#"{{"name":"{key}","name":"{key}"}}"#),
                format!(r#"{{"name":"{key}\u0000"}}"#),
                format!(r#"{{"name":["{key}"]}}"#),
                format!(r#"{{"{key}":1}}"#),
                format!(r#"{{"name":"{}"}}"#, key.repeat(9)),
                format!(r#"{{"name":"{}"}}"#, key.repeat(2_000)),
            ],
        ),
        (
            account,
            vec![
                format!(r#"{{"allowedIps":["{key}","10.0.0.1/{key}"]}}"#),
                format!(r#"{{"allowedIps":"{key}"}}"#),
                format!(r#"{{"expiresAt":"{key}"}}"#),
                format!(r#"{{"expiresAt":{{"{key}":"{key}"}}}}"#),
                format!(r#"{{"memo":{{"{key}":1}}}}"#),
                format!(r#"{{"memo":"{}"}}"#, key.repeat(20)),
            ],
        ),
        (
            "/v1/accounts",
            vec![
                format!(r#"{{"plan":"{key}"}}"#),
                format!(r#"{{"plan":["{key}"]}}"#),
                format!(r#"{{"plan":"pro","external_id":"{key}\n"}}"#),
                format!(r#"{{"plan":"pro","external_id":"{}"}}"#, key.repeat(10)),
            ],
        ),
        (
            &format!("/v1/accounts/{id}/sessions"),
            vec![format!(r#"{{"ttl_seconds":"{key}"}}"#)],
        ),
        (
            &format!("/v1/accounts/{id}/keys"),
            vec![format!(
                r#"{{"prefix":"{key}","scopes":["{key}"],"allowed_ips":["{key}"],"expires_at":"{key}"}}"#
            )],
        ),
        (
            &format!("/v1/accounts/{key}/keys"),
            vec!["{}".to_owned(), key.to_owned()],
        ),
    ] {
        for body in bodies {
            add("POST", path, JSON, body);
        }
    }
    let patch = format!(r#"{{"plan":"{key}","disabled":"{key}","external_id":"{key}\t"}}"#);
    add("PATCH", &format!("/v1/accounts/{id}"), JSON, patch);
    add("POST", flat, &format!("application/{key}"), "{}".to_owned());
    add("POST", flat, key, "{}".to_owned());
    add("POST", flat, "text/plain", key.to_owned());
    requests
}

/// Returns requests with the key in places where no client library puts it. Some are not HTTP.
pub(crate) fn on_the_wire(key: &str, holder: &str) -> Vec<Vec<u8>> {
    let address = new_address();
    let rest = format!(
        "Host: x\r\nX-Forwarded-For: {address}\r\nAuthorization: Bearer {holder}\r\nConnection: close\r\n"
    );
    let with_body = format!("{rest}Content-Type: application/json\r\n");
    let long = key.repeat(500);
    [
        format!("{key} /api/api-keys HTTP/1.1\r\n{rest}\r\n"),
        format!("GET /api/api-keys HTTP/1.1\r\n{key}: {key}\r\n{rest}\r\n"),
        format!("GET /api/api-keys HTTP/1.1\r\n{key}\r\n{rest}\r\n"),
        format!("GET /api/api-keys HTTP/1.1\r\nAuthorization: Bearer {key}\x01\r\n{rest}\r\n"),
        format!("GET /api/api-keys HTTP/1.1\r\nX-API-Key: {key}\r\nX-API-Key: other\r\nHost: x\r\nConnection: close\r\n\r\n"),
        format!("GET /api/api-keys HTTP/1.1\r\nHost: {key}.example.com\r\nConnection: close\r\n\r\n"),
        format!("GET http://{key}:{key}@x/api/api-keys HTTP/1.1\r\n{rest}\r\n"),
        format!("CONNECT {key}:443 HTTP/1.1\r\n{rest}\r\n"),
        format!("GET /api/api-keys#{key} HTTP/1.1\r\n{rest}\r\n"),
        format!("GET /api/api-keys HTTP/{key}\r\n{rest}\r\n"),
        format!("GET /{long} HTTP/1.1\r\n{rest}\r\n"),
        format!("GET /livez HTTP/1.1\r\nX-Long: {long}{long}{long}{long}{long}{long}{long}\r\n{rest}\r\n"),
        format!("{key}\r\n\r\n"),
        format!("POST /api/api-keys HTTP/1.1\r\nContent-Length: {key}\r\n{with_body}\r\n{{}}"),
        format!("POST /api/api-keys HTTP/1.1\r\nTransfer-Encoding: {key}\r\n{with_body}\r\n{{}}"),
        format!("POST /api/api-keys HTTP/1.1\r\nTransfer-Encoding: chunked\r\n{with_body}\r\n{key}\r\n{key}\r\n"),
        format!("POST /api/api-keys HTTP/1.1\r\nContent-Encoding: {key}\r\nContent-Length: 2\r\n{with_body}\r\n{{}}"),
        format!("POST /api/api-keys HTTP/1.1\r\nIdempotency-Key: {key} {key}\r\nContent-Length: 2\r\n{with_body}\r\n{{}}"),
        format!("POST /api/api-keys HTTP/1.1\r\nIdempotency-Key: {key}\r\nIdempotency-Key: x\r\nContent-Length: 2\r\n{with_body}\r\n{{}}"),
        format!("POST /api/api-keys HTTP/1.1\r\nIdempotency-Key: {key}\r\nContent-Length: 11\r\n{with_body}\r\n{{\"name\":\"\"}}"),
        format!("GET /livez HTTP/1.1\r\nUpgrade: {key}\r\nConnection: upgrade, close\r\nHost: x\r\n\r\n"),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect()
}
