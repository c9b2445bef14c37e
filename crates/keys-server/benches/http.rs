//! Cost of verification over HTTP, compared with an actix handler that answers a constant and with
//! nginx with a static map.
//!
//! All of them run on one processor with one worker. The client runs on another processor and uses
//! the same number of connections for each, in turns of less than a second. Each figure is the
//! median of the rounds, so that other load of the machine cancels out.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse, HttpServer, web};
use keys_testkit::gateway::Gateway;
use keys_testkit::many::{self, ManyKey};
use keys_testkit::nginx::Nginx;
use keys_testkit::postgres::Database;
use keys_testkit::process::Watch;
use keys_testkit::report;
use keys_testkit::server::Server;
use tempfile::TempDir;

const KEYS: usize = 10_000;
const CONNECTIONS: usize = 32;
const CONTESTANTS: usize = 6;
const ROUNDS: usize = 18;
const TURN: Duration = Duration::from_millis(700);

/// Time limit of an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first argument of the process that answers a constant.
const CONSTANT: &str = "--answer-a-constant";

fn main() {
    if std::env::args().any(|argument| argument == CONSTANT) {
        answer_a_constant().expect("the constant can be served");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let is_pinned = processors > 1 && pin(1);
    let stage = Stage::set(&runtime);
    if is_pinned {
        pin(0);
    }
    report::information("connections", CONNECTIONS);
    report::information(
        "servers and client on a processor each",
        if is_pinned { "yes" } else { "no" },
    );
    stage.compare();
}

/// Pins this process, and all processes that it starts from now on, to one processor.
fn pin(processor: usize) -> bool {
    let id = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid"])
        .args([processor.to_string(), id])
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// Serves the constant with the set-up of the server and nothing else: the floor of its cost.
#[actix_web::main]
async fn answer_a_constant() -> std::io::Result<()> {
    async fn constant() -> HttpResponse {
        HttpResponse::Ok().content_type("text/plain").body("ok")
    }
    let app = || App::new().route("/v1/auth", web::to(constant));
    // As the server does, with one worker.
    let server = HttpServer::new(app)
        .workers(1)
        .client_request_timeout(Duration::from_secs(5))
        .keep_alive(Duration::from_secs(75))
        .bind(("127.0.0.1", 0))?;
    for address in server.addrs() {
        println!("{address}");
    }
    server.run().await
}

/// All measured programs, running.
struct Stage {
    constant: Constant,
    nginx: Gateway,
    server: Server,
    server_with_log: Server,
    /// Also contains the Unix socket that the server listens on.
    sockets: TempDir,
    operator: String,
    keys: Vec<ManyKey>,
    _database: Database,
}

struct Constant {
    process: Child,
    watch: Option<Watch>,
    address: SocketAddr,
}

impl Stage {
    fn set(runtime: &tokio::runtime::Runtime) -> Self {
        let keys = many::keys(KEYS);
        let database = Database::create_blocking();
        let sockets = tempfile::tempdir().expect("a temporary folder can be made");
        let start = |filter: &str, listen: String| {
            let server = Server::builder(env!("CARGO_BIN_EXE_keys-server"))
                .postgres(&database.url())
                .env("KEYS_HTTP__WORKERS", "1")
                .env("KEYS_HTTP__LISTEN", listen)
                .env("KEYS_LOG__FILTER", filter);
            runtime.block_on(server.start())
        };
        let unix = unix_path(&sockets);
        let server = start("info", format!("127.0.0.1:0,unix:{}", unix.display()));
        let server_with_log = start("info,keys_http=debug", "127.0.0.1:0".to_owned());
        many::fill_postgres(&database, &keys, keys.len());
        Self {
            constant: Constant::start(),
            nginx: Nginx::start(|port| map(port, &keys)),
            operator: server.operator_key("benchmark"),
            server,
            server_with_log,
            sockets,
            keys,
            _database: database,
        }
    }

    fn compare(&self) {
        let auth = requests(&self.keys, |key| {
            format!(
                "GET /v1/auth HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
            )
        });
        let verify = requests(&self.keys, |key| {
            let (operator, body) = (&self.operator, format!(r#"{{"key":"{key}"}}"#));
            format!(
                "POST /v1/keys/verify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {operator}\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        });
        let server = (address(&self.server.url("")), self.server.process_id());
        let with_log = &self.server_with_log;
        let with_log = (address(&with_log.url("")), with_log.process_id());
        let constant = (self.constant.address, self.constant.process.id());
        let nginx = (address(&self.nginx.url("")), std::process::id());
        let unix = (Place::Unix(unix_path(&self.sockets)), server.1);
        let mut contestants = [constant, server, server, nginx, with_log]
            .into_iter()
            .map(|(address, process)| (Place::Tcp(address), process))
            .chain([unix])
            .zip([&auth, &auth, &verify, &auth, &auth, &auth])
            .map(|((place, process), requests)| Contestant::new(place, process, requests))
            .collect::<Vec<_>>();
        let mut rounds = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let mut turns = [Turn::default(); CONTESTANTS];
            for place in 0..turns.len() {
                // No program always follows the same one.
                let who = (round + place) % turns.len();
                turns[who] = contestants[who].take_turn();
            }
            rounds.push(turns);
        }
        show(&rounds);
    }
}

fn unix_path(sockets: &TempDir) -> PathBuf {
    sockets.path().join("keys.sock")
}

fn show(rounds: &[[Turn; CONTESTANTS]]) {
    let median = |value: &dyn Fn(&[Turn; CONTESTANTS]) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let micros = |what: &str, who: usize| {
        let text = format!("{:.2} us", median(&|turns| turns[who].cpu_micros));
        report::information(what, text);
    };
    let rate = |what: &str, who: usize| {
        report::information(what, format!("{:.0}/s", median(&|turns| turns[who].rate)));
    };
    let cpu = |who: usize| median(&|turns| turns[who].cpu_micros / turns[0].cpu_micros);
    let rates = |who: usize, beside: usize| median(&|turns| turns[who].rate / turns[beside].rate);
    micros("CPU per request: a constant", 0);
    micros("CPU per request: `GET /v1/auth`", 1);
    micros("CPU per request: `POST /v1/keys/verify`", 2);
    micros("CPU per request: `GET /v1/auth`, each logged", 4);
    micros("CPU per request: `GET /v1/auth` over a Unix socket", 5);
    rate("requests: a constant", 0);
    rate("requests: `GET /v1/auth`", 1);
    rate("requests: `POST /v1/keys/verify`", 2);
    rate("requests: `GET /v1/auth`, each logged", 4);
    rate("requests: `GET /v1/auth` over a Unix socket", 5);
    rate("requests: nginx with a static map", 3);
    let unix = "CPU per request of `GET /v1/auth` over a Unix socket against TCP";
    let unix_cpu = median(&|turns| turns[5].cpu_micros / turns[1].cpu_micros);
    report::ratio_at_most(unix, unix_cpu, 0.75);
    let auth_cpu = "CPU per request of `GET /v1/auth` against a constant";
    report::ratio_at_most(auth_cpu, cpu(1), 1.3);
    let verify_cpu = "CPU per request of `POST /v1/keys/verify` against a constant";
    report::ratio_at_most(verify_cpu, cpu(2), 1.6);
    let auth_rate = "requests a second of `GET /v1/auth` against a constant";
    report::ratio_at_least(auth_rate, rates(1, 0), 0.78);
    let verify_rate = "requests a second of `POST /v1/keys/verify` against a constant";
    report::ratio_at_least(verify_rate, rates(2, 0), 0.62);
    let nginx_rate = "requests a second of `GET /v1/auth` against nginx with a static map";
    report::ratio_at_least(nginx_rate, rates(1, 3), 0.8);
}

/// Returns all keys in a configuration file, the set-up without a service.
fn map(port: u16, keys: &[ManyKey]) -> String {
    let mut config = String::from(
        "map_hash_max_size 65536;\nmap_hash_bucket_size 128;\nkeepalive_timeout 75s;\n\
         keepalive_requests 1000000000;\nmap $http_authorization $account {\ndefault \"\";\n",
    );
    for (number, key) in keys.iter().enumerate() {
        let account = many::account_id(number / many::KEYS_PER_ACCOUNT);
        let _ = writeln!(config, "\"Bearer {}\" \"{account}\";", key.secret);
    }
    let _ = write!(
        config,
        "}}\nserver {{\nlisten 127.0.0.1:{port};\nlocation = /v1/auth {{\nif ($account = \"\") {{ return 401; }}\n\
         add_header X-Account-Id $account;\nadd_header Cache-Control no-store;\nreturn 200 \"\";\n}}\n}}\n"
    );
    config
}

impl Constant {
    fn start() -> Self {
        let program: PathBuf = std::env::current_exe().expect("this program has a path");
        let mut process = Command::new(program)
            .arg(CONSTANT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be run once more");
        let watch = Watch::over_process(process.id()).expect("a shell can be started");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("standard output is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it says where it listens");
        Self {
            process,
            watch: Some(watch),
            address: line.trim().parse().expect("an address"),
        }
    }
}

impl Drop for Constant {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(watch) = self.watch.take() {
            watch.disarm();
        }
    }
}

fn address(url: &str) -> SocketAddr {
    let bare = url.strip_prefix("http://").expect("a plain URL");
    bare.parse().expect("an address")
}

/// Returns the request for each of the keys.
fn requests(keys: &[ManyKey], write: impl Fn(&str) -> String) -> Vec<Vec<u8>> {
    let all = keys.iter().map(|key| write(&key.secret).into_bytes());
    all.collect()
}

/// Result of one turn.
#[derive(Clone, Copy, Default)]
struct Turn {
    /// Requests answered in a second.
    rate: f64,
    /// Processor time of the server per request.
    cpu_micros: f64,
}

/// A measured program, over connections that stay open.
struct Contestant<'a> {
    place: Place,
    process: u32,
    requests: &'a [Vec<u8>],
    connections: Vec<Connection>,
    random: usize,
}

impl<'a> Contestant<'a> {
    fn new(place: Place, process: u32, requests: &'a [Vec<u8>]) -> Self {
        let connections = (0..CONNECTIONS).map(|_| Connection::open(&place));
        let mut connections: Vec<_> = connections.collect();
        // Each key is verified once before anything is measured, so that later ones are cached.
        for requests in requests.chunks(CONNECTIONS) {
            for (connection, request) in connections.iter_mut().zip(requests) {
                connection.send(request);
            }
            for (connection, _) in connections.iter_mut().zip(requests) {
                connection.receive();
            }
        }
        Self {
            place,
            process,
            requests,
            connections,
            random: 1,
        }
    }

    /// Keeps one request under way on each connection. The next one is sent after the answer.
    fn take_turn(&mut self) -> Turn {
        for connection in &mut self.connections {
            // If the others took long to start, the server may have closed an idle connection.
            if connection.is_closed() {
                *connection = Connection::open(&self.place);
            }
        }
        let (start, cpu) = (Instant::now(), cpu_nanos(self.process));
        for number in 0..self.connections.len() {
            self.send(number);
        }
        let mut answered = 0_u32;
        while start.elapsed() < TURN {
            for number in 0..self.connections.len() {
                if self.connections[number].has_answer() {
                    self.send(number);
                    answered += 1;
                }
            }
        }
        for connection in &mut self.connections {
            connection.receive();
            answered += 1;
        }
        let cpu = cpu_nanos(self.process) - cpu;
        Turn {
            rate: f64::from(answered) / start.elapsed().as_secs_f64(),
            cpu_micros: cpu / 1e3 / f64::from(answered),
        }
    }

    fn send(&mut self, number: usize) {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let request = &self.requests[(self.random >> 33) % self.requests.len()];
        self.connections[number].send(request);
    }
}

/// Address of a measured program.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn tcp(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self::Tcp(stream))
    }

    fn unix(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(Self::Unix(stream))
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// A connection that never blocks in the kernel. Otherwise each answer would have to wake it, at a
/// cost that depends on timing.
struct Connection {
    stream: Stream,
    buffer: Box<[u8; 4_096]>,
    filled: usize,
}

impl Connection {
    fn open(place: &Place) -> Self {
        let stream = match place {
            Place::Tcp(address) => Stream::tcp(*address),
            Place::Unix(path) => Stream::unix(path),
        };
        Self {
            stream: stream.expect("the server listens"),
            buffer: Box::new([0; 4_096]),
            filled: 0,
        }
    }

    /// Returns whether the server has closed it while it was idle.
    fn is_closed(&mut self) -> bool {
        let read = self.stream.read(&mut [0]);
        !read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).expect("the server reads");
    }

    /// Returns whether the answer has arrived. It must be a 200.
    fn has_answer(&mut self) -> bool {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(read) => self.filled += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("the server does not answer: {error}"),
        }
        let is_complete = is_complete(&self.buffer[..self.filled]);
        if is_complete {
            self.filled = 0;
        }
        is_complete
    }

    fn receive(&mut self) {
        let start = Instant::now();
        while !self.has_answer() {
            assert!(start.elapsed() < PATIENCE, "the server does not answer");
        }
    }
}

fn is_complete(answer: &[u8]) -> bool {
    const LENGTH: &[u8] = b"content-length: ";
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(answer)
    );
    let mut rest = answer;
    let mut length = 0;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line == b"\r" {
            return rest.len() >= length;
        }
        if line.len() > LENGTH.len() && line[..LENGTH.len()].eq_ignore_ascii_case(LENGTH) {
            let digits = line[LENGTH.len()..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            length = digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
        }
    }
    false
}

/// Processor time of all threads of a process so far.
fn cpu_nanos(process: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    let Ok(tasks) = tasks else { return f64::NAN };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum()
}
