//! Rolling restarts of three real servers behind nginx and HAProxy, configured by the files in
//! `docs/rolling`. Clients send requests all the time, and none may fail.
//!
//! One rolling restart by default. In full, 200,000 requests through each proxy:
//!
//! ```sh
//! KEYS_TEST_FULL=1 cargo test --profile dist -p keys-server --test drain -- --nocapture
//! ```

#![expect(
    clippy::unwrap_used,
    reason = "set-up panics: that is how a test fails"
)]

use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use keys_testkit::gateway::Gateway;
use keys_testkit::haproxy::HaProxy;
use keys_testkit::nginx::Nginx;
use keys_testkit::postgres::Database;
use keys_testkit::report;
use keys_testkit::server::Server;
use keys_testkit::wire;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const NGINX: &str = include_str!("../../../docs/rolling/nginx.conf");
const HAPROXY: &str = include_str!("../../../docs/rolling/haproxy.cfg");

/// The addresses in these files.
const LISTENS: &str = "127.0.0.1:8000";
const SERVERS: [&str; 3] = ["10.0.0.21:8080", "10.0.0.22:8080", "10.0.0.23:8080"];

/// Clients of each proxy, of each kind.
const CLIENTS: u64 = 4;

/// Minimum requests through each proxy in full.
const REQUESTS_MIN: u64 = 200_000;

/// Minimum rolling restarts in full.
const ROUNDS_MIN: u32 = 5;

/// Time for which a restarted server is ready before the next one is stopped, as docs/operations.md
/// says.
const BETWEEN: Duration = Duration::from_secs(2);

/// Longer than any proxy waits for a server. A client without an answer by then has lost its
/// request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Maximum number of failures that are shown, because one cause may have many.
const SHOWN_MAX: usize = 10;

struct Fleet {
    servers: Vec<Server>,
    addresses: Vec<String>,
    operator: String,
    key: String,
    _database: Database,
}

impl Fleet {
    async fn start() -> Self {
        let database = Database::create().await;
        let mut servers = Vec::new();
        let mut addresses = Vec::new();
        for _ in SERVERS {
            let address = restartable_address();
            // With the default drain, which other tests set to 0.
            let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
                .postgres(&database.url())
                .env("KEYS_HTTP__LISTEN", &address)
                .env("KEYS_HTTP__DRAIN_SECONDS", "3")
                .env("KEYS_HTTP__TRUSTED_PROXIES", "127.0.0.1")
                .env("KEYS_HTTP__WORKERS", "1")
                .start()
                .await;
            servers.push(server);
            addresses.push(address);
        }
        let operator = servers[0].operator_key("test");
        let post = async |path: &str, body: &Value| {
            let call = servers[0].post(path).bearer(&operator).json(body);
            let answer = call.send().await;
            assert_eq!(answer.status, 201, "{answer:?}");
            answer
        };
        let account = post("/v1/accounts", &json!({ "plan": "pro" })).await;
        let path = format!("/v1/accounts/{}/keys", account.text("/id"));
        let key = post(&path, &json!({})).await.text("/key");
        Self {
            servers,
            addresses,
            operator,
            key,
            _database: database,
        }
    }

    /// Returns a configuration of the documents, with the addresses of these servers.
    fn configured(&self, text: &str, port: u16) -> String {
        let own = format!("127.0.0.1:{port}");
        let own = [(LISTENS, own.as_str())].into_iter();
        let servers = SERVERS
            .into_iter()
            .zip(self.addresses.iter().map(String::as_str));
        own.chain(servers)
            .fold(text.to_owned(), |text, (from, to)| {
                assert_eq!(text.matches(from).count(), 1, "{from} in\n{text}");
                text.replace(from, to)
            })
    }

    /// Stops each server and starts it again, one after the other. Returns the longest stop.
    async fn restart_all(&mut self) -> Duration {
        let mut longest = Duration::ZERO;
        for server in &mut self.servers {
            let start = Instant::now();
            let status = tokio::task::block_in_place(|| server.stop());
            longest = longest.max(start.elapsed());
            assert!(status.success(), "{status}");
            server.start_again().await;
            sleep(BETWEEN).await;
            // Wait until the proxies use it again, so that others do not do its work.
            let served = verdicts(server).await;
            assert!(served > 0.0, "no requests after the restart");
        }
        longest
    }
}

/// Returns an address that stays free while its server is restarted. The many outgoing connections
/// take their ports from the system's range, 32768 and above.
fn restartable_address() -> String {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    let seed = std::process::id().wrapping_mul(7) % u32::from(COUNT);
    let seed = u16::try_from(seed).unwrap();
    let mut ports = (0..COUNT).map(|number| FIRST + (seed + number) % COUNT);
    let port = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    format!("127.0.0.1:{}", port.unwrap())
}

/// Returns the number of verdicts of a server since its start.
async fn verdicts(server: &Server) -> f64 {
    let answer = server.get("/metrics").send().await;
    let lines = answer.body.lines();
    let values = lines.filter_map(|line| {
        let (_, value) = line
            .strip_prefix("keys_verdicts_total{")?
            .rsplit_once(' ')?;
        value.parse::<f64>().ok()
    });
    values.sum()
}

/// A proxy and its clients.
struct Load {
    name: &'static str,
    proxy: Gateway,
    asked: Arc<AtomicU64>,
    clients: JoinSet<Tally>,
}

/// Results of the requests of a client.
#[derive(Debug, Default)]
struct Tally {
    kept: u64,
    fresh: u64,
    opened: u64,
    failed: u64,
    shown: Vec<String>,
    times: Vec<Duration>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.kept += other.kept;
        self.fresh += other.fresh;
        self.opened += other.opened;
        self.failed += other.failed;
        self.shown.extend(other.shown);
        self.times.extend(other.times);
    }
}

impl Load {
    fn start(name: &'static str, proxy: Gateway, fleet: &Fleet, done: &Arc<AtomicBool>) -> Self {
        let asked = Arc::<AtomicU64>::default();
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS * 2 {
            let client = Client {
                port: proxy.port(),
                is_kept: number % 2 == 0,
                number,
                requests: requests(fleet),
                done: Arc::clone(done),
                asked: Arc::clone(&asked),
            };
            clients.spawn(client.run());
        }
        Self {
            name,
            proxy,
            asked,
            clients,
        }
    }

    /// Waits for the clients and prints the figures. Returns the failures.
    async fn end(mut self) -> String {
        let mut all = Tally::default();
        while let Some(tally) = self.clients.join_next().await {
            all.add(tally.unwrap());
        }
        let name = self.name;
        all.times.sort_unstable();
        let at = |part: usize| {
            let index = (all.times.len() * part / 1_000).min(all.times.len() - 1);
            format!("{:.1} ms", all.times[index].as_secs_f64() * 1_000.0)
        };
        let (p50, p99, max) = (at(500), at(990), at(1_000));
        report::information(
            &format!("drain, {name}: requests on kept connections"),
            format_args!("{}, on {} connections", all.kept, all.opened),
        );
        report::information(
            &format!("drain, {name}: requests on fresh connections"),
            all.fresh,
        );
        report::information(
            &format!("drain, {name}: answered after"),
            format_args!("p50 {p50}, p99 {p99}, max {max}"),
        );
        report::figure(
            &format!("drain, {name}: failed requests"),
            format_args!("{} of {}", all.failed, all.kept + all.fresh),
            "none",
            all.failed == 0,
        );
        let mut failures = String::new();
        for shown in all.shown.iter().take(SHOWN_MAX) {
            writeln!(failures, "{name}: {shown}").unwrap();
        }
        if all.failed > 0 {
            writeln!(failures, "{name} said: {}", self.proxy.said()).unwrap();
        }
        failures
    }
}

/// Returns a verification, which is a POST and therefore not repeated by proxies, and a gateway's
/// request.
fn requests(fleet: &Fleet) -> [Vec<u8>; 2] {
    let question = json!({ "key": fleet.key }).to_string();
    [
        wire::request_with("POST", "/v1/keys/verify", &fleet.operator, &question),
        wire::request("GET", "/v1/auth", &fleet.key),
    ]
}

struct Client {
    port: u16,
    is_kept: bool,
    number: u64,
    requests: [Vec<u8>; 2],
    done: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
}

impl Client {
    async fn run(self) -> Tally {
        let mut tally = Tally::default();
        let mut kept = None;
        for number in self.number.. {
            if self.done.load(Relaxed) {
                break;
            }
            let request = &self.requests[usize::from(number % 3 == 0)];
            let start = Instant::now();
            let answer = timeout(ANSWERED_WITHIN, self.ask(&mut kept, request, &mut tally)).await;
            let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            tally.times.push(start.elapsed());
            let count = if self.is_kept {
                &mut tally.kept
            } else {
                &mut tally.fresh
            };
            *count += 1;
            let failure = match answer {
                Ok(answer) if is_right(&answer) => None,
                Ok(answer) => Some(answer),
                Err(error) => Some(error.to_string()),
            };
            if let Some(failure) = failure {
                kept = None;
                tally.failed += 1;
                if tally.shown.len() < SHOWN_MAX {
                    let request = String::from_utf8_lossy(request);
                    let line = request.lines().next().unwrap_or_default();
                    let kind = if self.is_kept { "kept" } else { "fresh" };
                    tally.shown.push(format!(
                        "{line}, {kind}, after {:?}: {failure}",
                        start.elapsed()
                    ));
                }
            }
            self.asked.fetch_add(1, Relaxed);
            // Of different lengths, so that connections of the proxy to the servers are idle for
            // different times.
            let most = if report::is_full() { 5 } else { 40 };
            sleep(Duration::from_millis(number.wrapping_mul(7_919) % most)).await;
        }
        tally
    }

    /// Sends a request once, on the kept connection if there is one, and never repeats it.
    async fn ask(
        &self,
        kept: &mut Option<TcpStream>,
        request: &[u8],
        tally: &mut Tally,
    ) -> io::Result<String> {
        let mut stream = if let Some(stream) = kept.take() {
            stream
        } else {
            if self.is_kept {
                tally.opened += 1;
            }
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.set_nodelay(true)?;
            stream
        };
        stream.write_all(request).await?;
        let answer = read(&mut stream).await?;
        if self.is_kept && header(&answer, "connection").is_none_or(|value| value != "close") {
            *kept = Some(stream);
        }
        Ok(answer)
    }
}

/// Reads one answer.
async fn read(stream: &mut TcpStream) -> io::Result<String> {
    let mut said = Vec::new();
    loop {
        if stream.read_buf(&mut said).await? == 0 {
            let so_far = String::from_utf8_lossy(&said);
            let error = format!("the connection was closed after {so_far:?}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
        }
        let text = String::from_utf8_lossy(&said);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = header(head, "content-length");
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return Ok(text.into_owned());
        }
    }
}

/// Returns a header of an answer.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = answer.lines().take_while(|line| !line.is_empty());
    lines.find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Returns whether this is the expected answer to one of the requests.
fn is_right(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
        && (answer.contains(r#""code":"valid""#) || header(answer, "x-key-id").is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn rolling_restarts_behind_nginx_and_haproxy_lose_no_request() {
    let mut fleet = Fleet::start().await;
    let done = Arc::<AtomicBool>::default();
    let nginx = Nginx::start(|port| fleet.configured(NGINX, port));
    let haproxy = HaProxy::start(|port| fleet.configured(HAPROXY, port));
    let loads = [("nginx", nginx), ("HAProxy", haproxy)]
        .map(|(name, proxy)| Load::start(name, proxy, &fleet, &done));

    let mut rounds = 0;
    let mut longest = Duration::ZERO;
    let is_enough = |rounds: u32| {
        let asked = loads.iter().map(|load| load.asked.load(Relaxed));
        !report::is_full()
            || rounds >= ROUNDS_MIN && asked.min().is_some_and(|asked| asked >= REQUESTS_MIN)
    };
    while rounds == 0 || !is_enough(rounds) {
        longest = longest.max(fleet.restart_all().await);
        rounds += 1;
    }
    done.store(true, Relaxed);

    report::information("drain: rolling restarts of three servers", rounds);
    report::information(
        "drain: longest stop, with a drain of 3 s",
        format_args!("{:.1} s", longest.as_secs_f64()),
    );
    let mut failures = String::new();
    for load in loads {
        failures += &load.end().await;
    }
    assert!(failures.is_empty(), "{failures}");
}
