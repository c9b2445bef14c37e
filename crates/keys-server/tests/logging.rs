//! The log never blocks the service, and clients without a credential cannot make it grow without
//! limit.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod support {
    #[expect(dead_code, reason = "the tests of the command line use more of it")]
    pub(crate) mod program;
}

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use keys_testkit::fault_proxy::{Fault, FaultProxy};
use keys_testkit::postgres::Database;
use keys_testkit::process::{Watch, signal};
use keys_testkit::server::Server;
use tempfile::TempDir;

use support::program::BINARY;

/// Time limit of a stop under all circumstances.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// Time limit of an answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Settings with one line for each verification, in its longest form.
const TALKATIVE: [(&str, &str); 2] = [("KEYS_LOG__FILTER", "debug"), ("KEYS_LOG__FORMAT", "json")];

/// A server whose standard error is a pipe to this process.
struct Piped {
    process: Child,
    watch: Option<Watch>,
    log: Option<BufReader<ChildStderr>>,
    address: SocketAddr,
    folder: TempDir,
}

impl Piped {
    fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(BINARY)
            .env("KEYS_HTTP__LISTEN", "127.0.0.1:0")
            .envs(settings.iter().copied())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("stdout.log")).unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watch = Some(Watch::over_process(process.id()).unwrap());
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server ended");
            if let Some((_, address)) = line.split_once("listening on http://") {
                break address.trim().parse().unwrap();
            }
        };
        Self {
            process,
            watch,
            log: Some(log),
            address,
            folder,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.address, ANSWERED_WITHIN).unwrap();
        stream.set_read_timeout(Some(ANSWERED_WITHIN)).unwrap();
        stream
    }

    /// Sends the bytes on a connection of their own, and returns the whole answer.
    fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    }

    /// Returns the value of a counter in `/metrics`.
    fn counter(&self, name: &str) -> u64 {
        let metrics = self.get("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Runs a command on the server's database.
    fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new(BINARY)
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes the server write more lines than the pipe and the queue can hold, and checks that all
    /// requests are answered.
    fn overflow_log(&self) {
        let account = self.command(&["account", "create", "--plan", "pro"]);
        let key = self.command(&["key", "create", "--account", &account]);
        let request =
            format!("GET /v1/auth HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
        let requests = request.repeat(100);
        let mut stream = self.connect();
        let mut read = vec![0; 64 * 1024];
        while self.counter("keys_log_dropped_total") == 0 {
            for _ in 0..10 {
                stream.write_all(requests.as_bytes()).unwrap();
                let mut answered = 0;
                while answered < 100 {
                    let length = stream.read(&mut read).expect("answered in time");
                    assert_ne!(length, 0, "the connection is kept");
                    let text = String::from_utf8_lossy(&read[..length]);
                    answered += text.matches("HTTP/1.1 200").count();
                }
            }
        }
    }

    /// Sends SIGTERM, and waits until the server has ended successfully and in time.
    fn stop(&mut self) {
        let start = Instant::now();
        signal("TERM", self.process.id());
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > STOPPED_WITHIN {
                self.process.kill().unwrap();
                panic!("the server does not stop");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.watch.take().unwrap().disarm();
        assert!(status.success(), "{status}");
    }
}

#[test]
fn reader_that_stalls_holds_up_neither_requests_nor_the_stop() {
    let mut server = Piped::start(&TALKATIVE);
    server.overflow_log();
    assert!(server.get("/livez").starts_with("HTTP/1.1 200"));
    assert!(server.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(server.get("/api/api-keys").starts_with("HTTP/1.1 401"));
    server.stop();
}

#[test]
fn log_says_how_many_lines_are_missing_once_it_is_read_again() {
    let mut server = Piped::start(&TALKATIVE);
    server.overflow_log();
    let mut log = server.log.take().unwrap();
    let mut line = String::new();
    while !line.contains("lines of the log are missing here") {
        line.clear();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the log says so");
    }
    assert!(line.contains("WARN"), "{line}");
    server.log = Some(log);
    server.stop();
}

#[test]
fn reader_that_went_away_disturbs_nothing() {
    let mut server = Piped::start(&[]);
    drop(server.log.take());
    for _ in 0..50 {
        assert!(server.get("/nothing").starts_with("HTTP/1.1 404"));
    }
    while server.counter("keys_log_dropped_total") == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    server.stop();
}

fn is_answered(address: SocketAddr) -> bool {
    let mut answer = String::new();
    TcpStream::connect(address).is_ok_and(|mut stream| {
        stream.set_read_timeout(Some(ANSWERED_WITHIN)).unwrap();
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).is_ok() && stream.read_to_string(&mut answer).is_ok()
    }) && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn full_disk_under_the_log_neither_prevents_a_start_nor_ends_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut process = Command::new(BINARY)
        .env("KEYS_HTTP__LISTEN", address.to_string())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(full())
        .spawn()
        .unwrap();
    let watch = Watch::over_process(process.id()).unwrap();
    let start = Instant::now();
    while !is_answered(address) {
        assert_eq!(process.try_wait().unwrap(), None, "the server ended");
        assert!(start.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(20));
    }
    signal("TERM", process.id());
    assert!(process.wait().unwrap().success());
    watch.disarm();
}

#[test]
fn refusals_of_one_kind_beyond_ten_a_second_are_one_line_with_a_count() {
    let mut server = Piped::start(&[]);
    let mut log = server.log.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    let mut stream = server.connect();
    let requests = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let (mut sent, mut read) = (0, vec![0; 64 * 1024]);
    let start = Instant::now();
    while sent < 2_000 {
        stream.write_all(&requests).unwrap();
        let mut answered = 0;
        while answered < 100 {
            let length = stream.read(&mut read).unwrap();
            let text = String::from_utf8_lossy(&read[..length]);
            answered += text.matches("HTTP/1.1 404").count();
        }
        sent += 100;
    }
    // Another kind is not held back with them.
    server.get("/livez");
    let seconds = start.elapsed().as_secs() + 2;
    server.stop();
    let log = reader.join().unwrap();
    let lines = log
        .lines()
        .filter(|line| line.contains("unmatched answered 404"));
    let (counts, single): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains("more requests"));
    let held_back: u64 = counts
        .iter()
        .map(|line| {
            let (_, rest) = line.split_once("404 to ").unwrap();
            rest.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(held_back + single.len() as u64, 2_000, "{log}");
    assert!(
        single.len() as u64 <= 10 * seconds,
        "{} lines",
        single.len()
    );
    assert!(counts.len() as u64 <= seconds, "{counts:?}");
    assert!(log.contains("GET /livez answered 200"), "{log}");
}

#[test]
fn bytes_that_are_not_http_are_told_at_debug_and_never_repeated() {
    const GARBAGE: &[u8] = b"sk_live_canary \x01\x02 canary\r\n\r\n";
    for (filter, is_told) in [("info", false), ("debug", true), ("trace", true)] {
        let mut server = Piped::start(&[("KEYS_LOG__FILTER", filter)]);
        let mut log = server.log.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            log.read_to_string(&mut text).unwrap();
            text
        });
        for _ in 0..50 {
            server.send(GARBAGE);
            server.send(b"GET / HTTP/1.1\r\nX-\x01canary: canary\r\n\r\n");
        }
        server.stop();
        let log = reader.join().unwrap();
        assert!(!log.contains("canary"), "{log}");
        assert!(!log.contains("ERROR"), "{log}");
        let told: Vec<_> = log
            .lines()
            .filter(|line| line.contains("not HTTP"))
            .collect();
        assert_eq!(!told.is_empty(), is_told, "{log}");
        assert!(told.iter().all(|line| line.contains("DEBUG")), "{told:?}");
    }
}

#[test]
fn request_that_panics_costs_one_line_without_a_backtrace() {
    let mut server = Piped::start(&[("RUST_BACKTRACE", "1")]);
    let mut log = server.log.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    // A header name of 64 KiB made the HTTP library panic.
    let head = format!("GET /livez HTTP/1.1\r\n{}: x\r\n\r\n", "a".repeat(65_536));
    for _ in 0..20 {
        let mut stream = server.connect();
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
    }
    server.stop();
    let log = reader.join().unwrap();
    assert!(!log.contains("stack backtrace"), "{log}");
    assert!(log.lines().count() < 60, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_the_database_are_one_line_each_and_few_lines_together() {
    const REQUESTS: usize = 60;
    let database = Database::create().await;
    let (proxy, url) = FaultProxy::in_front_of(&database.url()).await;
    let server = Server::builder(BINARY).postgres(&url).start().await;
    let operator = server.operator_key("test");
    let answer = server.get("/v1/accounts").bearer(&operator).send().await;
    assert_eq!(answer.status, 200);
    proxy.set(Fault::Cut).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = server.stderr().len();
    let start = Instant::now();
    for _ in 0..REQUESTS {
        let answer = server.get("/v1/accounts").bearer(&operator).send().await;
        assert_eq!(answer.status, 503);
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 2;
    let log = server.stderr().split_off(before);
    assert!(!log.contains("answered 503"), "{log}");
    let causes = log.matches("the database is not available").count();
    assert!(causes > 0, "{log}");
    assert!(causes <= 11 * seconds && causes <= REQUESTS, "{log}");
}
