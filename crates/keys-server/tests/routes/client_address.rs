//! The client's address, behind trusted proxies and others.

use serde_json::{Value, json};

use crate::dialect::{Dialect, FLAT, NOBODYS_KEY};
use crate::world::{Place, World};

on_both_databases!(
    claims_of_clients_that_are_no_trusted_proxies_are_ignored,
    key_is_refused_from_anywhere_but_its_addresses,
    address_is_the_first_from_the_right_that_is_no_trusted_proxy,
    unreadable_address_is_in_no_list,
    failures_are_counted_for_the_address_behind_the_proxy,
    operators_key_is_held_to_its_addresses_too,
);

async fn bound(world: &World, account: &str, allowed_ips: &[&str]) -> String {
    let draft = json!({ "allowed_ips": allowed_ips });
    world.issue(account, &draft).await.text("/key")
}

async fn claims_of_clients_that_are_no_trusted_proxies_are_ignored(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    let here = bound(&world, &account, &["127.0.0.1"]).await;
    let there = bound(&world, &account, &["203.0.113.7"]).await;
    for (name, value) in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-For", "nonsense"),
        ("Forwarded", "for=203.0.113.7"),
        ("Forwarded", ";;;"),
        ("X-Real-IP", "203.0.113.7"),
        ("CF-Connecting-IP", "203.0.113.7"),
        ("True-Client-IP", "203.0.113.7"),
        ("X-Client-IP", "203.0.113.7"),
    ] {
        for dialect in Dialect::BOTH {
            let list = || world.get(dialect.path()).header(name, value);
            let refused = list().bearer(&there);
            refused.expect(403, &dialect.wrong_address()).await;
            let accepted = list().bearer(&here).send().await;
            assert_eq!(accepted.status, 200, "{accepted:?}");
        }
    }
}

async fn key_is_refused_from_anywhere_but_its_addresses(place: Place) {
    let world = place.shared().await;
    let account = world.account("roomy").await;
    for (list, allowed) in [
        (vec!["128.0.0.1"], false),
        (vec!["127.0.0.2"], false),
        (vec!["127.0.0.2/31"], false),
        (vec!["192.168.1.1", "10.0.0.1"], false),
        (vec!["::1"], false),
        // Every IPv6 address, and the client has an IPv4 one.
        (vec!["::/0"], false),
        (vec!["127.0.0.1"], true),
        (vec!["::ffff:127.0.0.1"], true),
        (vec!["127.0.0.0/31"], true),
        (vec!["127.255.255.255/8"], true),
        (vec!["0.0.0.0/0"], true),
        (vec!["192.168.1.1", "10.0.0.1", "127.0.0.1"], true),
    ] {
        let key = bound(&world, &account, &list).await;
        for dialect in Dialect::BOTH {
            for request in [
                world.get(dialect.path()),
                world.post(dialect.path()).text("{"),
                world.delete(&dialect.path_of("x")),
            ] {
                let answer = request.bearer(&key).send().await;
                if allowed {
                    assert!([200, 400, 404].contains(&answer.status), "{answer:?}");
                } else {
                    let answer = answer.is(403, &dialect.wrong_address());
                    answer.has("www-authenticate", None);
                }
            }
        }
    }
}

/// Returns a server behind this machine and `10.0.0.0/8`.
async fn behind_proxies(place: Place) -> World {
    place
        .with(|server| {
            server
                .env(
                    "KEYS_HTTP__TRUSTED_PROXIES",
                    "127.0.0.1, 10.0.0.0/8,2001:db8:f::/48",
                )
                .config(
                    "[plans.pro.limits]\ncreate = { requests = 1000, period_seconds = 60 }\n\
                     list = { requests = 1000, period_seconds = 60 }\n\
                     delete = { requests = 1000, period_seconds = 60 }\n",
                )
        })
        .await
}

const X: &str = "X-Forwarded-For";
const F: &str = "Forwarded";

async fn address_is_the_first_from_the_right_that_is_no_trusted_proxy(place: Place) {
    let world = behind_proxies(place).await;
    let account = world.account("pro").await;
    let key = bound(&world, &account, &["203.0.113.7", "2001:db8::1"]).await;
    let proxy = bound(&world, &account, &["127.0.0.1"]).await;
    let spoofed = bound(&world, &account, &["198.51.100.1"]).await;
    let rows: [(&[(&str, &str)], &str); 30] = [
        (&[], &proxy),
        (&[(X, "203.0.113.7")], &key),
        (&[(X, " 203.0.113.7 ")], &key),
        (&[(X, "198.51.100.1, 203.0.113.7")], &key),
        (&[(X, "198.51.100.1,203.0.113.7,10.1.2.3, 10.9.9.9")], &key),
        (
            &[(X, "198.51.100.1"), (X, "203.0.113.7"), (X, "10.0.0.1")],
            &key,
        ),
        (&[(X, "nonsense, 203.0.113.7, 10.0.0.1")], &key),
        (&[(X, "203.0.113.7:4711")], &key),
        (&[(X, "::ffff:203.0.113.7")], &key),
        (&[(X, "2001:DB8:0::1")], &key),
        (&[(X, "[2001:db8::1]:443, 2001:db8:f::5")], &key),
        (&[(X, "203.0.113.7, 198.51.100.1")], &spoofed),
        (&[(X, "198.51.100.1, ::ffff:10.0.0.1")], &spoofed),
        (&[(F, "for=203.0.113.7")], &key),
        (&[(F, "For=203.0.113.7;proto=https;by=10.0.0.1")], &key),
        (
            &[(F, "for=198.51.100.1, for=203.0.113.7, for=10.0.0.1")],
            &key,
        ),
        (&[(F, "for=\"[2001:db8::1]:4711\"")], &key),
        (&[(F, "for=\"203.0.113.7:80\"")], &key),
        (
            &[(F, "for=_hidden, for=203.0.113.7"), (F, "for=10.0.0.1")],
            &key,
        ),
        (&[(F, "for=203.0.113.7"), (X, "203.0.113.7")], &key),
        // Commas and semicolons within quotes are not separators.
        (
            &[(F, "for=198.51.100.1;host=\"x,for=203.0.113.7;y=\"")],
            &spoofed,
        ),
        (
            &[(F, "for=203.0.113.7;host=\"a,b;\\\"c\";proto=https")],
            &key,
        ),
        (&[(F, "for=\"203.0.113.7:_http\"")], &key),
        (&[(F, "for=\"[2001:db8::1]:_obf\"")], &key),
        (&[(F, "for=\"\\2\\0\\3.0.113.7\"")], &key),
        // An open quote of the client hides neither the part that the proxy appends nor a further
        // line.
        (&[(F, "for=203.0.113.7;by=\", for=198.51.100.1")], "nobody"),
        (
            &[(F, "for=203.0.113.7;by=\", for=198.51.100.1;host=\"x\"")],
            "nobody",
        ),
        (
            &[(F, "for=198.51.100.1;by=\""), (F, "for=203.0.113.7")],
            &key,
        ),
        // A proxy that writes one passes the other through as the client sent it, so neither
        // decides.
        (&[(F, "for=203.0.113.7"), (X, "198.51.100.1")], "nobody"),
        (&[(X, "203.0.113.7"), (F, "for=198.51.100.1")], "nobody"),
    ];
    for (headers, allowed) in rows {
        for key in [&key, &proxy, &spoofed] {
            let list = world.get(FLAT).bearer(key);
            let list = headers
                .iter()
                .fold(list, |list, (name, value)| list.header(name, value));
            let status = list.send().await.status;
            let expected = if key == allowed { 200 } else { 403 };
            assert_eq!(status, expected, "{headers:?}");
        }
    }
}

async fn unreadable_address_is_in_no_list(place: Place) {
    let world = behind_proxies(place).await;
    let account = world.account("pro").await;
    let every = ["0.0.0.0/0", "::/0"];
    let every = bound(&world, &account, &every).await;
    let unbound = world.key(&account).await;
    for (name, value) in [
        (X, b"unknown".as_slice()),
        (X, b""),
        (X, b"203.0.113.7,"),
        (X, b"203.0.113.7, unknown"),
        (X, b"nonsense, 10.0.0.1"),
        (X, b"203.0.113.007"),
        (X, b"203.0.113.7/32"),
        (X, b"fe80::1%eth0"),
        (X, b"\xff"),
        (F, b"for=unknown"),
        (F, b"for=_hidden"),
        (F, b"for="),
        (F, b"for=\"203.0.113.7"),
        (F, b"for=[2001:db8::1]"),
        (F, b"proto=https"),
        (F, b"for=203.0.113.7;for=203.0.113.8"),
        (F, b"\xff"),
    ] {
        for dialect in Dialect::BOTH {
            let list = || world.get(dialect.path()).header(name, value);
            let refused = list().bearer(&every);
            refused.expect(403, &dialect.wrong_address()).await;
            let accepted = list().bearer(&unbound).send().await;
            assert_eq!(accepted.status, 200, "{accepted:?}");
        }
    }
}

async fn failures_are_counted_for_the_address_behind_the_proxy(place: Place) {
    let world = place
        .with(|server| {
            server
                .env("KEYS_HTTP__TRUSTED_PROXIES", "127.0.0.1")
                .env("KEYS_HTTP__UNAUTHENTICATED__REQUESTS", "1")
                .env("KEYS_HTTP__UNAUTHENTICATED__PERIOD_SECONDS", "3600")
        })
        .await;
    let fail = async |address: &str| {
        let list = world.get(FLAT).bearer(NOBODYS_KEY);
        list.header("X-Forwarded-For", address).send().await.status
    };
    for (address, status) in [
        ("203.0.113.7", 401),
        ("203.0.113.7", 429),
        ("::ffff:203.0.113.7", 429),
        ("203.0.113.8", 401),
        // One client can choose any address in a /64.
        ("2001:db8:1:1::1", 401),
        ("2001:db8:1:1:ffff::2", 429),
        ("2001:db8:1:2::1", 401),
        // All unknown addresses share one bucket.
        ("unknown", 401),
        ("nonsense", 429),
    ] {
        assert_eq!(fail(address).await, status, "{address}");
    }
}

async fn operators_key_is_held_to_its_addresses_too(place: Place) {
    let world = place.shared().await;
    let create = |ip| {
        let arguments = ["operator-key", "create", "--name", "bound", "--ip", ip];
        world.command(&arguments)
    };
    let list = |key: &str| world.get("/v1/accounts?limit=1").bearer(key);
    let elsewhere = create("192.0.2.0/24");
    let body: Value = crate::dialect::problem(
        403,
        "ip_not_allowed",
        "This API key cannot be used from this address",
    );
    list(&elsewhere).expect(403, &body).await;
    let here = list(&create("127.0.0.0/8")).send().await;
    assert_eq!(here.status, 200, "{here:?}");
}
