//! Verification before an application: the same as within it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use actix_web::dev::{AppConfig, ServerHandle, Service as _, ServiceFactory as _};
use actix_web::rt::{net::TcpStream, time};
use actix_web::test::TestRequest;
use actix_web::{App, HttpResponse, HttpServer, web};
use keys_core::ScopeSet;
use keys_core::address::TrustedProxies;
use keys_service::{Actor, KeyDraft, MemoryStore, NewAccount};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::exchange::{Answer, Exchange as _, Request, get, post};
use crate::log;
use crate::rows::{FLAT, NOBODYS_KEY};
use crate::support::{Way, World, draft, limited_plans};

const AUTH: &str = "/v1/auth";
const VERIFY: &str = "/v1/keys/verify";
const BATCH: &str = "/v1/keys/verify-batch";
const WAYS: [Way; 2] = [Way::BeforeTheApplication, Way::WithinIt];

#[actix_web::test]
async fn verification_is_answered_before_an_application_that_has_none() {
    let stage = Stage::set(Way::WithinIt).await;
    let teapot = || async { HttpResponse::ImATeapot().finish() };
    let app = App::new().default_service(web::to(teapot));
    let front = stage.world.api.front(app);
    let front = front.new_service(AppConfig::default()).await.unwrap();
    let status = async |request: TestRequest| {
        let answer = front.call(request.to_request()).await.unwrap();
        answer.status().as_u16()
    };
    let bearer = |request: TestRequest, secret: &str| {
        request.insert_header(("authorization", format!("Bearer {secret}")))
    };
    let auth = TestRequest::get().uri(AUTH);
    assert_eq!(status(bearer(auth, &stage.key)).await, 200);
    let one = json!({ "key": stage.key });
    for (path, question) in [(VERIFY, one.clone()), (BATCH, json!({ "requests": [one] }))] {
        assert_eq!(status(TestRequest::get().uri(path)).await, 405);
        let asked = TestRequest::post().uri(path).set_json(&question);
        assert_eq!(status(bearer(asked, &stage.operator)).await, 200);
    }
    for path in ["/v1/%61uth", "/v1/auth/", "/livez"] {
        assert_eq!(status(TestRequest::get().uri(path)).await, 418, "{path}");
    }
}

/// A world with its callers and keys. Both instances are identical, without randomness.
struct Stage {
    world: World,
    operator: String,
    key: String,
    session: String,
}

impl Stage {
    async fn set(way: Way) -> Self {
        let proxy = "198.51.100.0/24".parse().unwrap();
        let world = World::with(
            MemoryStore::new(),
            |service| service.plans(limited_plans()),
            |api| api.trusted_proxies(TrustedProxies::new([proxy])),
        );
        let world = world.by(way).followed().await;
        let new = NewAccount {
            external_id: Some("an org/ü".parse().unwrap()),
            plan: "pro".parse().unwrap(),
        };
        let account = world
            .service
            .create_account(&Actor::system(), new, None)
            .await;
        let account = account.unwrap();
        let scopes = ScopeSet::parse(["orders:read", "orders:write"]).unwrap();
        let draft = KeyDraft {
            scopes: Some(scopes),
            ..draft(account.id)
        };
        let key = world.issue(draft).await.secret.expose().to_owned();
        Self {
            operator: world.operator(&["keys:verify"]).await,
            session: world.session(&account).await,
            key,
            world,
        }
    }

    /// Returns all kinds of requests, usual and unusual ones.
    fn requests(&self) -> Vec<Request> {
        let Self {
            operator,
            key,
            session,
            ..
        } = self;
        let mut requests = Vec::new();
        for method in ["GET", "HEAD", "OPTIONS", "POST", "DELETE", "WHATEVER"] {
            let auth = |path| Request::new(method, path).bearer(key);
            for path in [AUTH, VERIFY, BATCH, "/livez", "/nothing", FLAT] {
                requests.push(auth(path));
            }
            for path in [
                "/v1/auth/",
                "//v1/auth",
                "/v1//auth",
                "/v1/%61uth",
                "/v1/auth%2F",
                "/V1/auth",
                "/v1/auth;x",
                "/v1/auth/..",
                "/v1/keys/verify/",
                "/v1/keys/%76erify",
                "/v1/keys/verify-batch/",
                "/v1/keys/verify-",
                "/v1/auth?",
                "/v1/auth?scope=orders:read",
                "/v1/auth?scope=orders:delete",
                "/v1/auth?scope=",
                "/v1/auth?mode=nginx&limit=requests&cost=2",
                "/v1/auth?mode=other",
                "/v1/auth?limit=unknown",
                "/v1/auth?cost=0",
                "/v1/auth?token=x",
            ] {
                requests.push(auth(path));
            }
        }
        for credential in ["nonsense", NOBODYS_KEY, session, operator, ""] {
            requests.push(get(AUTH).bearer(credential));
            requests.push(get(AUTH).header("X-API-Key", credential));
            requests.push(get(AUTH).bearer(key).header("X-API-Key", credential));
            requests.push(post(VERIFY).bearer(credential).json(r#"{"key":"x"}"#));
        }
        for header in ["Forwarded", "X-Forwarded-For"] {
            let value = "for=198.51.100.9, 192.0.2.1";
            requests.push(get(AUTH).bearer("nonsense").header(header, value));
        }
        requests.extend(self.questions());
        requests
    }

    fn questions(&self) -> Vec<Request> {
        let key = &self.key;
        let escaped = key.replacen('s', r"\u0073", 1);
        let bodies = [
            format!(r#"{{"key":"{key}"}}"#),
            format!(r#" {{ "key" : "{key}" }} "#),
            format!(r#"{{"key":"{escaped}"}}"#),
            format!(r#"["{key}"]"#),
            format!(r#"{{"key":"{key}","key":"{key}"}}"#),
            format!(r#"{{"key":"{key}"}}}}"#),
            format!(r#"{{"key":"{key}","limit":"requests","cost":2}}"#),
            format!(r#"{{"key":"{key}","client_ip":"192.0.2.1","scopes":["orders:read"]}}"#),
            format!(r#"{{"key":"{key}","unknown":[1e999]}}"#),
            format!(r#"{{"requests":[{{"key":"{key}"}},{{"key":"{NOBODYS_KEY}"}}]}}"#),
            format!(r#"{{"key":"{}"}}"#, self.session),
            r#"{"key":"\ud800"}"#.to_owned(),
            r#"{"key":"x","#.to_owned(),
            r#"{"key":1e999}"#.to_owned(),
            r#"{"key":null}"#.to_owned(),
            r#"{"requests":[]}"#.to_owned(),
            "{}".to_owned(),
            "null".to_owned(),
            " ".to_owned(),
            "{".repeat(65 * 1024),
        ];
        let mut requests = Vec::new();
        for path in [VERIFY, BATCH, "/v1/keys/%76erify"] {
            let ask = || post(path).bearer(&self.operator);
            requests.extend(bodies.iter().map(|body| ask().json(body.as_str())));
            let body = bodies[0].as_str();
            requests.extend([
                ask(),
                ask().json(b"{\"key\":\"\xff\"}"),
                ask().body("text/plain", body),
                ask().body("application/json; charset=utf-8", body),
                ask().body("application/problem+json", body),
                ask().body("nonsense", body),
                ask().json(body).header("Content-Type", "text/plain"),
                ask().json(body).header("Content-Encoding", "gzip"),
                ask().json(body).header("Content-Encoding", "identity"),
                ask().json(body).header("Content-Length", "10000000"),
                ask().json(body).header("Cache-Control", "x, No-Cache"),
                post(path).json(body),
            ]);
        }
        requests
    }
}

/// Returns the logged events, without durations.
fn events(logged: &str) -> Vec<String> {
    let timeless = |line: &str| {
        let words = line.split(' ');
        let mut follows_in = false;
        let kept = words.filter(|word| {
            let is_duration = follows_in || word.starts_with("duration_micros=");
            follows_in = *word == "in";
            !is_duration
        });
        kept.collect::<Vec<_>>().join(" ")
    };
    let lines = logged.lines();
    lines
        .filter(|line| line.contains("keys_http::access_log"))
        .map(timeless)
        .collect()
}

fn sorted(mut answer: Answer) -> (u16, Vec<(String, String)>, String) {
    answer.headers.sort();
    (answer.status, answer.headers, answer.body)
}

#[actix_web::test]
async fn answers_events_and_figures_are_the_same_before_an_application_and_within_it() {
    log::begin();
    let [before, within] = WAYS.map(Stage::set);
    let (before, within) = (before.await, within.await);
    assert_eq!(before.key, within.key);
    let mut statuses = Vec::new();
    for (one, other) in before.requests().into_iter().zip(within.requests()) {
        let shown = format!("{one:?}").chars().take(400).collect::<String>();
        log::take();
        let one = sorted(before.world.exchange(one).await);
        let logged = events(&log::take());
        assert_eq!(logged.len(), 1, "{shown}");
        let other = sorted(within.world.exchange(other).await);
        assert_eq!(one, other, "{shown}");
        assert_eq!(logged, events(&log::take()), "{shown}");
        statuses.push(one.0);
        // Otherwise a caller that is refused too often would get nothing but 429.
        for stage in [&before, &within] {
            stage.world.advance(60);
        }
    }
    // Every status occurs.
    for status in [200, 400, 401, 403, 404, 405, 413, 415] {
        assert!(statuses.contains(&status), "{status}");
    }
    let [one, other] = [&before, &within].map(|stage| stage.world.exchange(get("/metrics")));
    let (one, other) = (one.await.body, other.await.body);
    // The others depend on when the changes were followed last.
    let counted = ["keys_verdicts_total{", "keys_http_requests_total{"];
    let figures = |text: &str| {
        let lines = text.lines().map(str::to_owned);
        let is_counted = |line: &String| counted.iter().any(|name| line.starts_with(name));
        lines.filter(is_counted).collect::<BTreeSet<_>>()
    };
    assert_eq!(figures(&one), figures(&other));
    assert!(one.contains(r#"keys_http_requests_total{route="/v1/auth",status="200"}"#));
}

#[actix_web::test]
async fn application_answers_where_verification_is_not_served() {
    let world = World::with_api(|api| api.verification(false));
    let key = world.pro_key().await;
    for request in [get(AUTH).bearer(&key), post(VERIFY), post(BATCH)] {
        let answer = world.exchange(request).await;
        assert_eq!((answer.status, &*answer.text("/code")), (404, "not_found"));
    }
}

/// A server on a socket of its own.
struct Running {
    address: SocketAddr,
    handle: ServerHandle,
}

impl Running {
    fn start(stage: &Stage, way: Way) -> Self {
        let api = stage.world.api.clone();
        let app = move || {
            let api = api.clone();
            App::new()
                .wrap(api.log_requests())
                .configure(move |app| api.configure(app))
        };
        let any = (Ipv4Addr::LOCALHOST, 0);
        let (server, address) = match way {
            Way::BeforeTheApplication => {
                let api = stage.world.api.clone();
                let server = HttpServer::new(move || api.front(app()));
                let server = server.workers(1).disable_signals().bind(any).unwrap();
                let address = server.addrs()[0];
                (server.run(), address)
            }
            Way::WithinIt => {
                let server = HttpServer::new(app);
                let server = server.workers(1).disable_signals().bind(any).unwrap();
                let address = server.addrs()[0];
                (server.run(), address)
            }
        };
        let handle = server.handle();
        actix_web::rt::spawn(server);
        Self { address, handle }
    }

    /// Returns the answers to these pieces, each sent a moment after the previous one, until the
    /// server closes the connection.
    async fn hears(&self, pieces: &[Vec<u8>], then: Then) -> Vec<String> {
        const MOMENT: Duration = Duration::from_millis(60);
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        for piece in pieces {
            stream.write_all(piece).await.unwrap();
            time::sleep(MOMENT).await;
        }
        if then == Then::SayNoMore {
            stream.shutdown().await.unwrap();
        }
        let mut said = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut said).await;
        let said = String::from_utf8(said).unwrap();
        // Headers have no order, and the time of day may have advanced.
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("date: "));
        lines.sort();
        lines
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Wait,
    SayNoMore,
}

#[actix_web::test]
async fn connections_go_on_in_the_same_way_before_an_application_and_within_it() {
    let [before, within] = WAYS.map(Stage::set);
    let stages = [before.await, within.await];
    let servers = [0, 1].map(|place| Running::start(&stages[place], WAYS[place]));
    let Stage { operator, key, .. } = &stages[0];

    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{more}\r\n")
    };
    let post = |more: &str| {
        format!(
            "POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {operator}\r\n\
             Content-Type: application/json\r\n{more}\r\n"
        )
    };
    let body = format!(r#"{{"key":"{key}"}}"#);
    let length = format!("Content-Length: {}\r\n", body.len());
    let chunked = "Transfer-Encoding: chunked\r\n";
    let (half, rest) = body.split_at(20);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let last = get(AUTH, "Connection: close\r\n");
    let whole = post(&length) + &body;
    let many = whole.repeat(20);

    let talks: Vec<(Then, Vec<String>)> = vec![
        (Then::Wait, vec![last.clone()]),
        (Then::Wait, vec![get(AUTH, ""), last.clone()]),
        (
            Then::Wait,
            vec![get(AUTH, "") + &whole + &get("/livez", "") + &last],
        ),
        (Then::Wait, vec![many + &last]),
        // Bodies that arrive with their head, after it, in parts, in chunks, and behind a request
        // that is not answered yet.
        (Then::Wait, vec![whole.clone(), last.clone()]),
        (Then::Wait, vec![post(&length), body.clone(), last.clone()]),
        (
            Then::Wait,
            vec![post(&length) + half, rest.to_owned() + &last],
        ),
        (
            Then::Wait,
            vec![post(chunked) + &chunk(&body) + &chunk("") + &last],
        ),
        (
            Then::Wait,
            vec![post(chunked), chunk(half), chunk(rest), chunk("") + &last],
        ),
        (
            Then::Wait,
            vec![whole.clone() + &post(&length), body.clone() + &last],
        ),
        (
            Then::Wait,
            vec![
                whole.clone() + &post(&length) + half,
                rest.to_owned() + &last,
            ],
        ),
        // Bodies that are announced, too long, cut off, or unexpected.
        (
            Then::Wait,
            vec![
                post(&format!("Expect: 100-continue\r\n{length}")),
                body.clone() + &last,
            ],
        ),
        (Then::Wait, vec![post("Content-Length: 70000\r\n")]),
        (Then::SayNoMore, vec![post(&length) + half]),
        (Then::SayNoMore, vec![whole.clone() + &post(&length)]),
        (Then::SayNoMore, vec![whole.clone()]),
        (Then::Wait, vec![get(AUTH, &length) + &body]),
        (Then::Wait, vec![get(AUTH, &length), body.clone()]),
        (Then::Wait, vec![get(VERIFY, &length) + &body]),
        (
            Then::Wait,
            vec![get(AUTH, chunked) + &chunk(&body) + &chunk("") + &last],
        ),
        // Other ways to write the head.
        (Then::Wait, vec![last.replacen("GET", "HEAD", 1)]),
        (Then::Wait, vec![last.replacen("GET", "OPTIONS", 1)]),
        (
            Then::Wait,
            vec![last.replacen("/v1/auth", "http://x/v1/auth", 1)],
        ),
        (
            Then::Wait,
            vec![get(AUTH, "").replacen("HTTP/1.1", "HTTP/1.0", 1)],
        ),
        (
            Then::Wait,
            vec![get(AUTH, "Connection: upgrade\r\nUpgrade: x\r\n") + "x"],
        ),
        (Then::Wait, vec![get("/v1/auth x", "")]),
        (Then::Wait, vec!["GET\r\n\r\n".to_owned()]),
    ];
    for (then, pieces) in talks {
        let bytes: Vec<_> = pieces
            .iter()
            .map(|piece| piece.clone().into_bytes())
            .collect();
        let heard = servers.each_ref().map(|server| async {
            let heard = time::timeout(Duration::from_secs(10), server.hears(&bytes, then));
            heard.await.ok()
        });
        let [one, other] = heard;
        let (one, other) = futures_util::future::join(one, other).await;
        assert!(one.is_some(), "no end of the answer to {pieces:?}");
        assert_eq!(one, other, "{pieces:?}");
        assert!(one.is_some_and(|lines| !lines.is_empty()), "{pieces:?}");
    }
    for server in servers {
        server.handle.stop(false).await;
    }
}

#[actix_web::test]
async fn head_is_answered_like_get_without_the_body() {
    for way in WAYS {
        let stage = Stage::set(way).await;
        let server = Running::start(&stage, way);
        for (path, credential) in [
            (AUTH, &*stage.key),
            (AUTH, "nonsense"),
            ("/v1/auth?cost=0", &stage.key),
            (VERIFY, &stage.operator),
            (FLAT, &stage.key),
            ("/api/account/api-keys", &stage.key),
            ("/livez", ""),
            ("/readyz", ""),
            ("/nothing", ""),
        ] {
            let hears = async |method: &str| {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n\
                     Connection: close\r\n\r\n"
                );
                let said = server.hears(&[request.into_bytes()], Then::Wait).await;
                // The clock of the world stands still, so the buckets differ by the requests that
                // were counted.
                stage.world.advance(60);
                said
            };
            let (head, mut get) = (hears("HEAD").await, hears("GET").await);
            get.retain(|line| !line.starts_with(['{', '[']));
            assert!(
                head.iter().any(|line| line.starts_with("content-length: ")),
                "{head:?}"
            );
            assert_eq!(head, get, "{path}");
        }
        server.handle.stop(false).await;
    }
}

#[actix_web::test]
async fn body_that_never_comes_is_given_up_even_behind_another_request() {
    let stage = Stage::set(Way::BeforeTheApplication).await;
    let server = Running::start(&stage, Way::BeforeTheApplication);
    let head = |length: usize| {
        format!(
            "POST /v1/keys/verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            stage.operator
        )
    };
    let start = Instant::now();
    // The first one waits for its own body, so that the second has been read before its turn.
    let pieces = [head(2), "{}".to_owned() + &head(2)].map(String::into_bytes);
    let said = server.hears(&pieces, Then::Wait).await;
    let said = said.join("\n");
    assert!(said.contains("HTTP/1.1 400 Bad Request"), "{said}");
    assert!(said.contains("HTTP/1.1 408 Request Timeout"), "{said}");
    assert!(start.elapsed() >= Duration::from_secs(15));
    server.handle.stop(false).await;
}
