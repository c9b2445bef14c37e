//! Scenarios that every gateway must pass.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::json;

use crate::answers::Answer;
use crate::application::{Application, digest, serve};
use crate::world::{CLIENT, World, client, send};
use crate::{Addresses, Kind};

/// Creates a test of each scenario for one gateway.
macro_rules! hold_to_all {
    ($kind:expr) => {
        $crate::scenarios::hold_to_all! {
            $kind;
            strangers_do_not_reach_the_application
            application_sees_who_it_is_and_nothing_forged
            nobody_passes_for_somebody_where_no_key_is_needed
            nobody_takes_away_what_says_who_it_is
            nobody_chooses_an_address
            nobody_chooses_what_is_asked
            no_spelling_of_a_path_gets_round_a_scope
            application_sees_the_path_that_was_judged
            path_without_a_trick_passes_as_it_is
            two_different_keys_are_none
            every_method_passes_with_its_body
            refusals_come_out_as_what_they_are
            revoked_key_is_refused_at_once
            without_the_server_nobody_passes_and_nobody_is_blamed
            whatever_is_not_a_yes_is_a_no
            address_that_failed_too_often_is_told_to_wait
        }
    };
    ($kind:expr; $($scenario:ident)+) => {
        mod held_to {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $scenario() {
                    $crate::scenarios::$scenario($kind).await;
                }
            )+
        }
    };
}
pub(crate) use hold_to_all;

/// A well-formed key that does not exist.
const NOBODYS_KEY: &str = "sk_live_000000000000000000000000003vSKjy";

/// An address that clients claim, and that is not theirs.
const CLAIMED: &str = "203.0.113.9";

/// Identity headers, and the aliases that some applications read as the same header.
const IDENTITY: [&str; 17] = [
    "X-Key-Id",
    "X-Account-Id",
    "X-Account-External-Id",
    "X-Key-Scopes",
    "X-Plan",
    "x-key-id",
    "X-ACCOUNT-ID",
    "X_Key_Id",
    "X_KEY-ID",
    "x-account_external-id",
    "X_Account_External_Id",
    "X.Key.Id",
    "X.Account-Id",
    "X~Key~Id",
    "X!Key|Scopes",
    "X_Plan",
    "X^Plan",
];

/// Adds each of these headers twice.
fn forge(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    let names = IDENTITY.iter().chain(&IDENTITY);
    names.fold(request, |request, name| request.header(*name, "forged"))
}

fn has_nothing_forged(answer: &Answer) {
    assert!(!answer.body.contains("forged"), "{answer:?}");
}

pub(crate) async fn strangers_do_not_reach_the_application(kind: Kind) {
    let world = World::open(kind).await;
    let before = world.application.reached();
    let missing = world.expect(world.get("/"), 401).await;
    let challenge = missing.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
    assert_eq!(missing.header("x-denial"), None);
    for path in ["/", "/orders", "/anything?mode=x"] {
        for stranger in [
            world.get(path).bearer_auth(NOBODYS_KEY),
            world.get(path).header("X-API-Key", "nonsense"),
            world.get(path).header("Authorization", "Basic YTpi"),
            forge(world.get(path).header("X-API-Key", NOBODYS_KEY)),
            world.call("POST", path).bearer_auth(NOBODYS_KEY).body("x"),
            world.call("OPTIONS", path).bearer_auth(NOBODYS_KEY),
        ] {
            let answer = world.expect(stranger, 401).await;
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="keys", error="invalid_token""#)
            );
            assert_eq!(answer.header("x-denial"), None);
        }
    }
    assert_eq!(world.application.reached(), before);
}

pub(crate) async fn application_sees_who_it_is_and_nothing_forged(kind: Kind) {
    let world = World::open(kind).await;
    let account = world.account(Some("J\u{f6}rg, 17")).await;
    let draft = json!({ "scopes": ["orders:read", "a"] });
    let (id, key) = world.key(&account, &draft).await;
    for request in [
        world.get("/").bearer_auth(&key),
        world.get("/").header("X-API-Key", &key),
        world.get("/").bearer_auth(&key).header("X-API-Key", &key),
        world.call("POST", "/x?y=z").bearer_auth(&key).body("body"),
        world.get("/orders/1").bearer_auth(&key),
    ] {
        let answer = world.expect(forge(request), 200).await;
        assert_eq!(answer.seen("x-key-id"), [&*id]);
        assert_eq!(answer.seen("x-account-id"), [&*account]);
        assert_eq!(answer.seen("x-account-external-id"), ["J%C3%B6rg%2C%2017"]);
        assert_eq!(answer.seen("x-key-scopes"), ["a orders:read"]);
        assert_eq!(answer.seen("x-plan"), ["pro"]);
        assert_eq!(answer.seen("authorization"), [""; 0]);
        assert_eq!(answer.seen("x-api-key"), [""; 0]);
        assert!(!answer.body.contains(&key), "{answer:?}");
        has_nothing_forged(&answer);
    }
    // An account and a key with fewer properties.
    let (id, key) = world.key(&world.account(None).await, &json!({})).await;
    let answer = forge(world.get("/").bearer_auth(&key));
    let answer = world.expect(answer, 200).await;
    assert_eq!(answer.seen("x-key-id"), [&*id]);
    assert_eq!(answer.seen("x-account-external-id"), [""; 0]);
    let none: &[&str] = if kind.passes_empty_headers {
        &[""]
    } else {
        &[]
    };
    assert_eq!(answer.seen("x-key-scopes"), none);
    has_nothing_forged(&answer);
}

pub(crate) async fn nobody_passes_for_somebody_where_no_key_is_needed(kind: Kind) {
    let world = World::open(kind).await;
    let key = world.key_with(&[]).await;
    for request in [
        world.get("/health"),
        world.get("/health").bearer_auth(NOBODYS_KEY),
        world.get("/health").bearer_auth(&key),
        world.get("/health").header("X-API-Key", &key),
    ] {
        let answer = world.expect(forge(request), 200).await;
        for name in &IDENTITY[..5] {
            assert_eq!(answer.seen(name), [""; 0]);
        }
        assert!(!answer.body.contains(&key), "{answer:?}");
        has_nothing_forged(&answer);
    }
}

pub(crate) async fn nobody_takes_away_what_says_who_it_is(kind: Kind) {
    let world = World::open(kind).await;
    let account = world.account(Some("17")).await;
    let (id, key) = world.key(&account, &json!({})).await;
    // `Connection` names headers for the next hop only. A proxy that removes them late removes its
    // own.
    let answer = world
        .raw(&format!(
            "GET / HTTP/1.1\nHost: localhost\nAuthorization: Bearer {key}\nX-Key-Id: forged\n\
             Connection: close, X-Key-Id, X-Account-Id, X-Account-External-Id, X-Plan\n\n"
        ))
        .await
        .expect(200);
    assert_eq!(answer.seen("x-key-id"), [&*id]);
    assert_eq!(answer.seen("x-account-id"), [&*account]);
    assert_eq!(answer.seen("x-account-external-id"), ["17"]);
    assert_eq!(answer.seen("x-plan"), ["pro"]);
    has_nothing_forged(&answer);
    // They cannot be added later either.
    let answer = world
        .raw(&format!(
            "POST / HTTP/1.1\nHost: localhost\nAuthorization: Bearer {key}\nTE: trailers\nTrailer: X-Key-Id, X_Plan\n\
             Connection: close\nTransfer-Encoding: chunked\n\n4\nbody\n0\nX-Key-Id: forged\nX_Plan: forged\n\n"
        ))
        .await
        .expect(200);
    assert_eq!(answer.seen("x-key-id"), [&*id]);
    has_nothing_forged(&answer);
}

pub(crate) async fn nobody_chooses_an_address(kind: Kind) {
    let world = World::open(kind).await;
    let account = world.account(None).await;
    let here = json!({ "allowed_ips": [CLIENT.to_string()] });
    let (_, here) = world.key(&account, &here).await;
    let (_, elsewhere) = world
        .key(&account, &json!({ "allowed_ips": [CLAIMED] }))
        .await;
    let chain = format!("{CLAIMED}, 127.0.0.1");
    let forwarded = format!("for={CLAIMED}");
    for (name, value) in [
        ("X-Forwarded-For", CLAIMED),
        ("X-Forwarded-For", &chain),
        ("x_forwarded_for", CLAIMED),
        ("X.Forwarded.For", CLAIMED),
        ("Forwarded", &forwarded),
        ("X-Real-IP", CLAIMED),
        ("X_Real_IP", CLAIMED),
    ] {
        let claim = |key: &str| {
            let request = world.get("/").bearer_auth(key);
            // Twice, because one of several is easily missed.
            request.header(name, value).header(name, value)
        };
        let answer = world.expect(claim(&elsewhere), 403).await;
        assert_eq!(answer.header("retry-after"), None);
        let answer = world.expect(claim(&here), 200).await;
        assert_eq!(answer.seen("x-forwarded-for"), [&*CLIENT.to_string()]);
        assert!(!answer.body.contains(CLAIMED), "{answer:?}");
    }
    let nominated = world
        .raw(&format!(
            "GET / HTTP/1.1\nHost: localhost\nAuthorization: Bearer {elsewhere}\nX-Forwarded-For: {CLAIMED}\n\
             Connection: close, X-Forwarded-For\n\n"
        ))
        .await;
    assert!(matches!(nominated.status, 400 | 403), "{nominated:?}");
}

pub(crate) async fn nobody_chooses_what_is_asked(kind: Kind) {
    let world = World::open(kind).await;
    let key = world.key_with(&["orders:read"]).await;
    let plain = world.key_with(&[]).await;
    // The query belongs to the application, also if it looks like a query to keys-server.
    for query in [
        "scope=nope",
        "scope=",
        "limit=requests&cost=99",
        "limit=nope",
        "mode=nginx",
        "nonsense",
        "%00&&=",
    ] {
        let path = format!("/x?{query}");
        let answer = world.expect(world.get(&path).bearer_auth(&key), 200).await;
        assert_eq!(answer.seen_path(), path);
        let path = format!("/orders?{query}");
        world
            .expect(world.get(&path).bearer_auth(&plain), 403)
            .await;
    }
    for (name, value) in [
        ("X-Forwarded-Uri", "/health"),
        ("X-Original-URI", "/health"),
        ("X-Original-URL", "/health"),
        ("X-Rewrite-URL", "/health"),
        ("X-Envoy-Original-Path", "/health"),
        ("X-Forwarded-Prefix", "/health"),
        ("X-HTTP-Method-Override", "OPTIONS"),
    ] {
        let request = world.get("/orders").header(name, value);
        world.expect(request.bearer_auth(&plain), 403).await;
        let request = world.get("/orders").header(name, value);
        world.expect(request, 401).await;
    }
    // The cost is 1 each, whatever the client wrote.
    for _ in 0..3 {
        let request = world.get("/orders?cost=99").bearer_auth(&key);
        world.expect(request, 200).await;
    }
    let request = world.get("/orders?mode=nginx").bearer_auth(&key);
    world.expect(request, 429).await;
}

pub(crate) async fn no_spelling_of_a_path_gets_round_a_scope(kind: Kind) {
    let world = World::open(kind).await;
    let plain = world.key_with(&[]).await;
    let before = world.application.reached();
    for path in [
        "/orders",
        "/orders/",
        "/orders/1",
        "/orders?x",
        "/orders;x=y",
        "/%6frders",
        "/%6Frders",
        "/o%72ders/1",
        "//orders",
        "///orders",
        "/./orders",
        "/x/../orders",
        "/x/%2e%2e/orders",
        "/x/.%2E/orders",
        "/x/..%2forders",
        "/x/..%2Forders",
        "/x%2f..%2forders",
        "/%2forders",
        "/health/../orders",
        "/health/%2e%2e/orders",
        "/health/..%2forders",
        "/health%2f..%2forders",
        "/health?/../orders",
        "/health/x",
        "http://localhost/orders",
        "http://localhost/health/../orders",
        // For applications that ignore case.
        "/ORDERS",
        "/Orders/1",
        "/%4frders",
        // For applications that read a semicolon as the start of a parameter, before or after they
        // decode.
        "/x/..;/orders",
        "/x/..;y=z/orders",
        "/;/orders",
        "/x/..%3b/orders",
        "/x/..%3B/orders",
        // For applications that read a backslash as a slash.
        "/x/..%5corders",
        "/x/..%5Corders",
        "/x/..\\orders",
        "/\\orders",
        // For applications that decode twice.
        "/%256frders",
        "/x/%252e%252e/orders",
        "/x/..%252forders",
        "/x/..%255Corders",
    ] {
        let request = |line: &str| {
            format!("GET {path} HTTP/1.1\nHost: localhost\nConnection: close\n{line}\n")
        };
        // The only path that is not ambiguous.
        if path.starts_with("/health?") {
            let answer = world.raw(&request("")).await.expect(200);
            assert_eq!(answer.seen_path(), path);
            continue;
        }
        let answer = world.raw(&request("")).await;
        assert!(matches!(answer.status, 400 | 401), "{path}: {answer:?}");
        if path.starts_with("/health/x") {
            continue;
        }
        let line = format!("Authorization: Bearer {plain}\n");
        let answer = world.raw(&request(&line)).await;
        assert!(matches!(answer.status, 400 | 403), "{path}: {answer:?}");
    }
    assert_eq!(world.application.reached(), before + 1);
}

pub(crate) async fn application_sees_the_path_that_was_judged(kind: Kind) {
    let world = World::open(kind).await;
    let plain = world.key_with(&[]).await;
    for (path, judged) in [
        ("/orders/../health", "/health"),
        ("/orders/%2e%2e/health", "/health"),
        ("/orders/.%2E/health", "/health"),
        ("/orders/42/../../health", "/health"),
        ("/orders/42/..%2f..%2fhealth", "/health"),
        ("/orders/42/..%5c..%5chealth", "/health"),
        ("/orders/42/..\\..\\health", "/health"),
        ("/orders%3f/../health", "/health"),
        ("/orders%23/../health", "/health"),
        ("/orders%0a/../health", "/health"),
        ("/health#/../orders", "/health"),
        ("/health#/orders", "/health"),
        ("//health", "/health"),
        ("/./health", "/health"),
        ("/%68ealth", "/health"),
        ("http://localhost/orders/../health", "/health"),
        ("/orders/42/../../x", "/x"),
        ("/orders/42/..%2f..%2fx", "/x"),
        ("/orders/%2e%2e/x", "/x"),
        ("/orders%3f/../x", "/x"),
        ("/orders/../%0A", "/%0A"),
    ] {
        for method in ["GET", "DELETE"] {
            for (line, open) in [
                (String::new(), judged == "/health"),
                (format!("Authorization: Bearer {plain}\n"), true),
            ] {
                let request = format!(
                    "{method} {path} HTTP/1.1\nHost: localhost\nConnection: close\n{line}\n"
                );
                let answer = world.raw(&request).await;
                match answer.status {
                    200 if open => assert_eq!(answer.seen_path(), judged, "{path}"),
                    status => assert!((400..500).contains(&status), "{path}: {answer:?}"),
                }
            }
        }
    }
}

pub(crate) async fn path_without_a_trick_passes_as_it_is(kind: Kind) {
    let world = World::open(kind).await;
    let key = world.key_with(&["orders:read"]).await;
    // A query may contain anything.
    let query = "x=%2e%2e%2F/../orders//%25%5c+%C3%B6&y=%3b";
    for path in [
        "/",
        "/x",
        "/x/",
        "/a%20b/J%C3%B6rg",
        "/a+b,c:d@e/~f",
        "/a..b/...",
        "/.well-known/x.y",
        "/health",
        "/orders/a%20J%C3%B6rg",
        "/ORDERS/1/",
    ] {
        for path in [path.to_owned(), format!("{path}?{query}")] {
            // Has a limit, and stays below it.
            if path.starts_with("/ORDERS/1/?") {
                continue;
            }
            let request = format!(
                "GET {path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {key}\nConnection: close\n\n"
            );
            let answer = world.raw(&request).await.expect(200);
            assert_eq!(answer.seen_path(), path);
        }
    }
}

pub(crate) async fn two_different_keys_are_none(kind: Kind) {
    let world = World::open(kind).await;
    let (one, other) = (world.key_with(&[]).await, world.key_with(&[]).await);
    let request = world.get("/").bearer_auth(&one);
    world.expect(request.header("X-API-Key", &other), 401).await;
    let request = world.get("/").header("X-API-Key", &one);
    // A known quirk: only the first of them is used.
    let status = if (kind.shows_every_api_key)() {
        401
    } else {
        200
    };
    let request = request.header("X-API-Key", &other);
    world.expect(request, status).await;
    // Some gateways refuse it themselves, as invalid HTTP.
    for (one, other) in [(&one, &other), (&other, &one)] {
        let request = format!(
            "GET / HTTP/1.1\nHost: localhost\nAuthorization: Bearer {one}\nAuthorization: Bearer {other}\n\
             Connection: close\n\n"
        );
        let answer = world.raw(&request).await;
        assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    }
}

pub(crate) async fn every_method_passes_with_its_body(kind: Kind) {
    let world = World::open(kind).await;
    let key = world.key_with(&["orders:read"]).await;
    // More than any gateway holds in memory for heads, and different everywhere.
    let long = (0..60_000).fold(String::new(), |text, n| text + &format!("{n:05x}"));
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"] {
        for body in ["", "a body", &long] {
            let request = world.call(method, "/x").bearer_auth(&key);
            let request = match body {
                "" => request,
                body => request.body(body.to_owned()),
            };
            let answer = world.expect(request, 200).await;
            assert!(
                answer.body.starts_with(&format!("{method} /x HTTP/1.")),
                "{answer:?}"
            );
            let (_, seen) = answer.body.split_once("\r\n\r\n").unwrap();
            let sent = match body.len() {
                0..=1_000 => body.to_owned(),
                _ => digest(body.as_bytes()),
            };
            assert_eq!(seen, sent, "{method}");
        }
        world.expect(world.call(method, "/x"), 401).await;
    }
    let head = world.call("HEAD", "/orders").bearer_auth(&key);
    let head = world.expect(head, 200).await;
    assert_eq!(head.body, "");
    world.expect(world.call("HEAD", "/orders"), 401).await;
    let answer = world
        .raw(&format!(
            "POST /x HTTP/1.1\nHost: localhost\nAuthorization: Bearer {key}\nConnection: close\n\
             Transfer-Encoding: chunked\n\n5\nin tw\n7\no parts\n0\n\n"
        ))
        .await
        .expect(200);
    assert!(answer.body.contains("\r\n\r\nin two parts"), "{answer:?}");
}

pub(crate) async fn refusals_come_out_as_what_they_are(kind: Kind) {
    let world = World::open(kind).await;
    let account = world.account(None).await;
    let (_, plain) = world.key(&account, &json!({})).await;
    let scopes = json!({ "scopes": ["orders:read"] });
    let (_, key) = world.key(&account, &scopes).await;
    let orders = |key: &str| world.get("/orders").bearer_auth(key);
    let denied = world.expect(orders(&plain), 403).await;
    assert_eq!(denied.header("x-denial"), None);
    assert_eq!(denied.header("retry-after"), None);
    for _ in 0..3 {
        world.expect(orders(&key), 200).await;
    }
    let limited = world.expect(orders(&key), 429).await;
    let seconds: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1_000..=1_200).contains(&seconds), "{seconds}");
    let policy = limited.header("ratelimit-policy");
    assert_eq!(policy, Some(r#""requests";q=3;w=3600"#));
    let state = limited.header("ratelimit").unwrap();
    assert!(state.starts_with(r#""requests";r=0;t="#), "{state}");
    assert_eq!(limited.header("x-denial"), None);
    // On other routes nothing is counted.
    world.expect(world.get("/").bearer_auth(&key), 200).await;

    let path = format!("/v1/accounts/{account}");
    let free = json!({ "plan": "free" });
    world.manage("PATCH", &path, &free).await;
    let answer = world.get("/").bearer_auth(&plain);
    let answer = world.expect(answer, 403).await;
    assert_eq!(answer.header("www-authenticate"), None);
}

pub(crate) async fn revoked_key_is_refused_at_once(kind: Kind) {
    let world = World::open(kind).await;
    let account = world.account(None).await;
    let (id, key) = world.key(&account, &json!({})).await;
    let session = format!("/v1/accounts/{account}/sessions");
    let draft = json!({ "ttl_seconds": 60 });
    let session = world.manage("POST", &session, &draft).await;
    let session = session["token"].as_str().unwrap();
    for _ in 0..3 {
        world.expect(world.get("/").bearer_auth(&key), 200).await;
    }
    let revoke = format!("/api/api-keys/{id}");
    let revoked = world.server.delete(&revoke).bearer(session).send().await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let answer = world.expect(world.get("/").bearer_auth(&key), 401).await;
    // The answer is the same as for a key that never existed.
    let stranger = world.get("/").bearer_auth(NOBODYS_KEY);
    let stranger = world.expect(stranger, 401).await;
    assert_eq!(answer.body, stranger.body);
    assert_eq!(answer.header("x-denial"), None);
}

pub(crate) async fn without_the_server_nobody_passes_and_nobody_is_blamed(kind: Kind) {
    let mut world = World::open(kind).await;
    let key = world.key_with(&["orders:read"]).await;
    world.expect(world.get("/").bearer_auth(&key), 200).await;
    world
        .expect(world.get("/orders").bearer_auth(&key), 200)
        .await;
    assert!(world.server.stop().success());
    let before = world.application.reached();
    let (status, retry_after) = kind.unreachable;
    for path in ["/", "/orders"] {
        let answer = world.get(path).bearer_auth(&key);
        let answer = world.expect(answer, status).await;
        assert_eq!(answer.header("retry-after"), retry_after);
        world.expect(world.get(path), status).await;
    }
    assert_eq!(world.application.reached(), before);
    world.expect(world.get("/health"), 200).await;
}

/// For gateways that give up on the server after a few seconds. The others wait much longer than a
/// test should.
pub(crate) async fn server_that_does_not_answer_lets_nobody_through(kind: Kind) {
    let application = Application::start();
    let gateway = (kind.start)(Addresses {
        keys: serve(1, |_| {
            std::thread::sleep(Duration::from_mins(5));
            Vec::new()
        }),
        application: application.address,
    });
    let client = client(CLIENT);
    let get = |path| send(client.get(gateway.url(path)).bearer_auth(NOBODYS_KEY));
    let (answer, other) = tokio::join!(get("/"), get("/orders"));
    answer.expect(503);
    other.expect(503);
    assert_eq!(application.reached(), 0);
}

pub(crate) async fn whatever_is_not_a_yes_is_a_no(kind: Kind) {
    // In place of keys-server, a program with configurable answers.
    let keys = serve(1, |request| {
        let head = String::from_utf8_lossy(&request.head).to_ascii_lowercase();
        let told = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: bearer "));
        let line = match told {
            None | Some("nothing") => return Vec::new(),
            Some("nonsense") => return b"yes\r\n\r\n".to_vec(),
            Some("half") => return b"HTTP/1.1 200 OK\r\nX-Key-Id: half".to_vec(),
            Some("302") => "302 Found\r\nLocation: /health".to_owned(),
            Some(status) => format!("{status} Whatever\r\nX-Key-Id: nobody"),
        };
        format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    });
    let application = Application::start();
    let gateway = (kind.start)(Addresses {
        keys,
        application: application.address,
    });
    let client = client(CLIENT);
    let before = application.reached();
    let told = [
        "302", "400", "401", "402", "403", "404", "429", "500", "502", "503", "504", "599",
        "nothing", "nonsense", "half",
    ];
    for told in told {
        for path in ["/", "/orders"] {
            let answer = send(client.get(gateway.url(path)).bearer_auth(told)).await;
            assert!(answer.status >= 300, "{told}: {answer:?}");
        }
    }
    assert_eq!(application.reached(), before);
    let answer = client.get(gateway.url("/")).bearer_auth("200");
    let answer = send(answer).await.expect(200);
    assert_eq!(answer.seen("x-key-id"), ["nobody"]);
}

pub(crate) async fn address_that_failed_too_often_is_told_to_wait(kind: Kind) {
    let world = World::open(kind).await;
    for _ in 0..60 {
        world.expect(world.get("/"), 401).await;
    }
    // Used requests come back one a second, so this may take more than one.
    let mut answer = send(world.get("/")).await;
    for _ in 0..30 {
        if answer.status == 429 {
            break;
        }
        answer = send(world.get("/")).await;
    }
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    // Other clients are not affected, because they have other addresses.
    let neighbour = client(Ipv4Addr::new(127, 0, 0, 3));
    send(neighbour.get(world.url("/"))).await.expect(401);
}
