//! nginx.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;

use keys_testkit::gateway::{Gateway, Version};
use keys_testkit::nginx::{self, Nginx};
use keys_testkit::server::Server;
use serde_json::json;

use crate::world::{CLIENT, World};
use crate::{Addresses, Kind, replace_addresses, scenarios};

const CONFIG: &str = include_str!("../../../../docs/gateways/nginx.conf");

const NGINX: Kind = Kind {
    start: |addresses| start(CONFIG, addresses),
    unreachable: (503, Some("1")),
    passes_empty_headers: false,
    // Some systems still have older versions.
    shows_every_api_key: || {
        let found = nginx::find_installed().unwrap();
        Version::parse(&found.version).unwrap() >= Version(1, 23, 0)
    },
};

fn start(config: &str, addresses: Addresses) -> Gateway {
    Nginx::start(|port| {
        let real = [
            ("127.0.0.1:8080", addresses.keys.to_string()),
            ("127.0.0.1:3000", addresses.application.to_string()),
            ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
        ];
        replace_addresses(config, real)
    })
}

scenarios::hold_to_all!(super::NGINX);

#[tokio::test(flavor = "multi_thread")]
async fn question_is_not_for_clients_to_ask() {
    let world = World::open(NGINX).await;
    world.expect(world.get("/_auth"), 404).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_does_not_answer_lets_nobody_through() {
    scenarios::server_that_does_not_answer_lets_nobody_through(NGINX).await;
}

/// Either of two defences is enough. This one is left if a path is not refused although it should
/// be.
#[tokio::test(flavor = "multi_thread")]
async fn application_sees_the_path_that_was_judged_even_if_none_is_refused() {
    let lenient = Kind {
        start: |addresses| {
            assert!(CONFIG.contains("return 400;"));
            start(&CONFIG.replace("return 400;", ""), addresses)
        },
        ..NGINX
    };
    scenarios::application_sees_the_path_that_was_judged(lenient).await;
    scenarios::path_without_a_trick_passes_as_it_is(lenient).await;
}

/// The client chooses its `Host`, and this nginx puts it into `Forwarded` unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn host_within_quotes_cannot_choose_the_address() {
    let quoting = Kind {
        start: |addresses| {
            Nginx::start(|port| {
                format!(
                    r#"server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_set_header X-Forwarded-For "";
        proxy_set_header Forwarded "for=$remote_addr;host=\"$http_host\";proto=$scheme";
        proxy_pass http://{};
    }}
}}"#,
                    addresses.keys
                )
            })
        },
        ..NGINX
    };
    let world = World::open(quoting).await;
    let account = world.account(None).await;
    let bound = |ip: &str| json!({ "allowed_ips": [ip] });
    let (_, elsewhere) = world.key(&account, &bound("203.0.113.9")).await;
    let (_, here) = world.key(&account, &bound(&CLIENT.to_string())).await;
    for host in [
        "keys.example",
        "a,for=203.0.113.9;x=",
        "a;for=203.0.113.9;x=",
    ] {
        for (key, status) in [(&elsewhere, 403), (&here, 200)] {
            let request = format!(
                "GET /v1/auth HTTP/1.1\nHost: {host}\nAuthorization: Bearer {key}\nConnection: close\n\n"
            );
            let answer = world.raw(&request).await;
            assert_eq!(answer.status, status, "{host}: {answer:?}");
        }
    }
}

/// The variant that the configuration has in a comment.
#[tokio::test(flavor = "multi_thread")]
async fn unix_socket_serves_as_an_address_does() {
    const TCP: &str = "    server 127.0.0.1:8080;";
    const UNIX: &str = "# server unix:/run/keys/keys.sock;";
    let folder = tempfile::tempdir().unwrap();
    // nginx runs as another user here.
    set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("keys.sock").display().to_string();
    let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
        .env("KEYS_HTTP__LISTEN", format!("127.0.0.1:0,unix:{path}"))
        .env("KEYS_HTTP__UNIX_MODE", "0666")
        .env("KEYS_HTTP__TRUSTED_PROXIES", "unix");
    assert!(CONFIG.contains(TCP) && CONFIG.contains(UNIX));
    let config = CONFIG
        .replace(TCP, "    #")
        .replace(UNIX, &format!("server unix:{path};"));
    let start = |addresses: Addresses| {
        Nginx::start(|port| {
            let real = [
                ("127.0.0.1:3000", addresses.application.to_string()),
                ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
            ];
            replace_addresses(&config, real)
        })
    };
    let mut world = World::open_with(server, start).await;
    let account = world.account(None).await;
    let bound = |ip: &str| json!({ "allowed_ips": [ip], "scopes": ["orders:read"] });
    let (id, here) = world.key(&account, &bound(&CLIENT.to_string())).await;
    let (_, elsewhere) = world.key(&account, &bound("203.0.113.9")).await;
    world.expect(world.get("/"), 401).await;
    for path in ["/", "/orders"] {
        let claims = |key: &str| {
            let request = world.get(path).bearer_auth(key);
            request.header("X-Forwarded-For", "203.0.113.9")
        };
        let answer = world.expect(claims(&here), 200).await;
        assert_eq!(answer.seen("x-key-id"), [&*id]);
        world.expect(claims(&elsewhere), 403).await;
    }
    assert!(world.server.stop().success());
    let before = world.application.reached();
    let away = world.expect(world.get("/").bearer_auth(&here), 503).await;
    assert_eq!(away.header("retry-after"), Some("1"));
    assert_eq!(world.application.reached(), before);
}
