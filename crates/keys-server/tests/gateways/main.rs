//! `docs/gateways/nginx.conf` in a real nginx, in front of a real server.

#![expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use keys_testkit::nginx::Nginx;
use keys_testkit::server::Server;
use serde_json::{Value, json};

const CONFIG: &str = include_str!("../../../../docs/gateways/nginx.conf");

/// Well-formed, and nobody's.
const NOBODYS_KEY: &str = "sk_live_000000000000000000000000003vSKjy";

/// An application that answers with the head of the request as it arrived.
fn application() -> SocketAddr {
    fn answer(stream: TcpStream) -> std::io::Result<()> {
        let mut head = String::new();
        let mut reader = BufReader::new(stream);
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let length = head.len();
        let mut stream = reader.into_inner();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{head}"
        )
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that goes away is none of its business.
            let _ = stream.and_then(answer);
        }
    });
    address
}

struct Gateway {
    server: Server,
    operator: String,
    nginx: keys_testkit::gateway::Gateway,
    client: reqwest::Client,
}

impl Gateway {
    async fn open() -> Self {
        let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
            .env("KEYS_HTTP__TRUSTED_PROXIES", "127.0.0.1")
            .config("[plans.pro.limits]\nrequests = { requests = 3, period_seconds = 3600 }\n")
            .start()
            .await;
        let (operator, keys) = (server.operator_key("test"), server.url(""));
        let keys = keys.strip_prefix("http://").unwrap().to_owned();
        let application = application();
        let nginx = Nginx::start(|port| {
            let mut config = CONFIG.to_owned();
            for (documented, real) in [
                ("127.0.0.1:8080", keys.clone()),
                ("127.0.0.1:3000", application.to_string()),
                ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
            ] {
                assert_eq!(config.matches(documented).count(), 1, "{documented}");
                config = config.replace(documented, &real);
            }
            config
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            server,
            operator,
            nginx,
            client,
        }
    }

    async fn manage(&self, method: &str, path: &str, body: &Value) -> Value {
        let call = self.server.call(method, path).bearer(&self.operator);
        let answer = call.json(body).send().await;
        assert!(answer.status < 300, "{answer:?}");
        answer.json()
    }

    async fn account(&self, external_id: Option<&str>) -> String {
        let draft = json!({ "plan": "pro", "external_id": external_id });
        let account = self.manage("POST", "/v1/accounts", &draft).await;
        account["id"].as_str().unwrap().to_owned()
    }

    async fn key(&self, account: &str, draft: &Value) -> (String, String) {
        let path = format!("/v1/accounts/{account}/keys");
        let issued = self.manage("POST", &path, draft).await;
        let text = |name: &str| issued[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.nginx.url(path))
    }

    /// Sends it, and insists on the status. Returns headers, and what the application saw if it came to that.
    async fn expect(&self, request: reqwest::RequestBuilder, status: u16) -> Answer {
        let response = request.send().await.unwrap();
        let (found, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.unwrap();
        assert_eq!(found, status, "{headers:?} {body}\n{}", self.nginx.said());
        Answer { headers, body }
    }
}

struct Answer {
    headers: reqwest::header::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    /// All values of a header that the application saw.
    fn seen(&self, name: &str) -> Vec<&str> {
        let pairs = self.body.lines().filter_map(|line| line.split_once(": "));
        pairs
            .filter(|(known, _)| known.replace('_', "-").eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_reach_the_application() {
    let gateway = Gateway::open().await;
    let account = gateway.account(None).await;
    let (_, elsewhere) = gateway
        .key(&account, &json!({ "allowed_ips": ["203.0.113.9"] }))
        .await;
    let missing = gateway.expect(gateway.get("/"), 401).await;
    let challenge = missing.header("www-authenticate");
    assert_eq!(challenge, Some(r#"Bearer realm="keys""#));
    for path in ["/", "/orders", "/anything?mode=x"] {
        for stranger in [
            gateway.get(path).bearer_auth(NOBODYS_KEY),
            gateway.get(path).header("X-API-Key", "nonsense"),
            gateway.get(path).header("Authorization", "Basic YTpi"),
            // Two different ones.
            gateway
                .get(path)
                .bearer_auth(NOBODYS_KEY)
                .header("X-API-Key", "x"),
        ] {
            let answer = gateway.expect(stranger, 401).await;
            assert_eq!(
                answer.header("www-authenticate"),
                Some(r#"Bearer realm="keys", error="invalid_token""#)
            );
        }
    }
    // What is asked there is not for clients to ask.
    gateway.expect(gateway.get("/_auth"), 404).await;
    // Nobody chooses an address.
    for name in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        let value = match name {
            "Forwarded" => "for=203.0.113.9",
            _ => "203.0.113.9",
        };
        let claimed = gateway.get("/").bearer_auth(&elsewhere);
        let answer = gateway.expect(claimed.header(name, value), 403).await;
        assert_eq!(answer.header("retry-after"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn application_sees_who_it_is_and_nothing_forged() {
    let gateway = Gateway::open().await;
    let account = gateway.account(Some("J\u{f6}rg, 17")).await;
    let draft = json!({ "scopes": ["orders:read", "a"], "allowed_ips": ["127.0.0.1"] });
    let (id, key) = gateway.key(&account, &draft).await;
    let (plain_id, plain) = gateway.key(&gateway.account(None).await, &json!({})).await;
    let forged = |request: reqwest::RequestBuilder| {
        [
            "X-Key-Id",
            "X-Account-Id",
            "X-Account-External-Id",
            "X-Key-Scopes",
            "X-Plan",
            "X_Key_Id",
            "x_account_external_id",
        ]
        .into_iter()
        .fold(request, |request, name| request.header(name, "forged"))
    };
    for request in [
        gateway.get("/").bearer_auth(&key),
        gateway.get("/").header("X-API-Key", &key),
        gateway
            .client
            .post(gateway.nginx.url("/x?scope=y"))
            .bearer_auth(&key)
            .body("a body"),
        gateway.get("/orders/1").bearer_auth(&key),
    ] {
        let answer = gateway.expect(forged(request), 200).await;
        assert_eq!(answer.seen("x-key-id"), [&*id]);
        assert_eq!(answer.seen("x-account-id"), [&*account]);
        assert_eq!(answer.seen("x-account-external-id"), ["J%C3%B6rg%2C%2017"]);
        assert_eq!(answer.seen("x-key-scopes"), ["a orders:read"]);
        assert_eq!(answer.seen("x-plan"), ["pro"]);
        assert_eq!(answer.seen("authorization"), [""; 0]);
        assert_eq!(answer.seen("x-api-key"), [""; 0]);
        assert!(!answer.body.contains("forged"), "{}", answer.body);
        assert!(!answer.body.contains(&key), "{}", answer.body);
    }
    let answer = gateway.expect(forged(gateway.get("/").bearer_auth(&plain)), 200);
    let answer = answer.await;
    assert_eq!(answer.seen("x-key-id"), [&*plain_id]);
    assert_eq!(answer.seen("x-account-external-id"), [""; 0]);
    assert_eq!(answer.seen("x-key-scopes"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_out_as_what_they_are() {
    let gateway = Gateway::open().await;
    let account = gateway.account(None).await;
    let (_, plain) = gateway.key(&account, &json!({})).await;
    let (id, key) = gateway
        .key(&account, &json!({ "scopes": ["orders:read"] }))
        .await;
    let orders = |key: &str| gateway.get("/orders").bearer_auth(key);
    gateway.expect(orders(&plain), 403).await;
    for _ in 0..3 {
        gateway.expect(orders(&key), 200).await;
    }
    let limited = gateway.expect(orders(&key), 429).await;
    let seconds: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1_000..=1_200).contains(&seconds), "{seconds}");
    let policy = limited.header("ratelimit-policy");
    assert_eq!(policy, Some(r#""requests";q=3;w=3600"#));
    let state = limited.header("ratelimit").unwrap();
    assert!(state.starts_with(r#""requests";r=0;t="#), "{state}");
    // Elsewhere nothing is counted.
    gateway
        .expect(gateway.get("/").bearer_auth(&key), 200)
        .await;

    let session = format!("/v1/accounts/{account}/sessions");
    let draft = json!({ "ttl_seconds": 60 });
    let session = gateway.manage("POST", &session, &draft).await;
    let session = session["token"].as_str().unwrap().to_owned();
    let revoke = format!("/api/api-keys/{id}?wait=global");
    let revoked = gateway.server.delete(&revoke).bearer(&session).send().await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    gateway
        .expect(gateway.get("/").bearer_auth(&key), 401)
        .await;

    let path = format!("/v1/accounts/{account}");
    gateway
        .manage("PATCH", &path, &json!({ "plan": "free" }))
        .await;
    let answer = gateway
        .expect(gateway.get("/").bearer_auth(&plain), 403)
        .await;
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_server_nobody_passes_and_nobody_is_blamed() {
    let mut gateway = Gateway::open().await;
    let account = gateway.account(None).await;
    let (_, key) = gateway.key(&account, &json!({})).await;
    gateway
        .expect(gateway.get("/").bearer_auth(&key), 200)
        .await;
    assert!(gateway.server.stop().success());
    let answer = gateway
        .expect(gateway.get("/").bearer_auth(&key), 503)
        .await;
    assert_eq!(answer.header("retry-after"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn address_that_failed_too_often_is_told_to_wait() {
    let gateway = Gateway::open().await;
    for _ in 0..60 {
        gateway.expect(gateway.get("/"), 401).await;
    }
    // Used requests come back one a second, so this may take more than one.
    let mut status = 401;
    let mut retry_after = None;
    for _ in 0..30 {
        let response = gateway.get("/").send().await.unwrap();
        status = response.status().as_u16();
        retry_after = response.headers().get("retry-after").cloned();
        if status == 429 {
            break;
        }
    }
    assert_eq!(status, 429);
    assert_eq!(retry_after.unwrap(), "1");
}
