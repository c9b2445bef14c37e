//! Signals from sources other than a service manager: terminals, log rotation, containers.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use keys_testkit::process::{Watch, signal};
use keys_testkit::server::Server;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

use crate::BINARY;

const PATIENCE: Duration = Duration::from_secs(15);

/// Writes `[log] filter` into the settings file of a server in `folder`.
fn write_filter(path: &std::path::Path, filter: &str) {
    std::fs::write(path, format!("[log]\nfilter = \"{filter}\"\n")).unwrap();
}

/// Requests `path` until the log contains `text`. Returns `false` if it does not for a while.
async fn is_logged(server: &Server, text: &str) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        server.get("/livez").send().await;
        if server.stderr().contains(text) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn hangup_reads_the_filter_of_the_log_again_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("keys.toml");
    write_filter(&settings, "warn");
    let mut server = Server::builder(BINARY)
        .argument("--config")
        .argument(&settings)
        .start()
        .await;
    assert!(!server.stderr().contains("/livez answered"));
    write_filter(&settings, "info");
    signal("HUP", server.process_id());
    assert!(
        is_logged(&server, "/livez answered").await,
        "{}",
        server.stderr()
    );
    // An invalid file changes nothing.
    std::fs::write(&settings, "[log]\nfilter = 1\n[nonsense]\n").unwrap();
    signal("HUP", server.process_id());
    assert!(
        is_logged(&server, "nothing was changed").await,
        "{}",
        server.stderr()
    );
    for _ in 0..20 {
        signal("HUP", server.process_id());
    }
    assert_eq!(server.get("/livez").send().await.status, 200);
    assert!(server.stop().success());
}

/// A server started through `exec` by another program.
#[tokio::test(flavor = "multi_thread")]
async fn server_under_nohup_outlives_a_hangup() {
    let mut server = Server::builder("nohup")
        .argument(BINARY)
        .argument("serve")
        .start()
        .await;
    signal("HUP", server.process_id());
    assert!(is_logged(&server, "read the settings again").await);
    assert!(server.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn first_process_of_a_container_drains_and_stops() {
    for name in ["TERM", "QUIT", "INT"] {
        let mut server = Server::builder("unshare")
            .argument("--user")
            .argument("--map-root-user")
            .argument("--pid")
            .argument("--fork")
            .argument(BINARY)
            .argument("serve")
            .start()
            .await;
        let unshare = server.process_id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let first: u32 = std::fs::read_to_string(children)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        signal("HUP", first);
        assert!(is_logged(&server, "read the settings again").await);
        signal(name, first);
        assert!(server.wait().success(), "SIG{name}");
        assert!(server.stderr().contains("stopping"), "SIG{name}");
    }
}

/// A server on a terminal of its own.
struct OnTerminal {
    terminal: Option<File>,
    process: Child,
    watch: Option<Watch>,
    port: u16,
    _folder: TempDir,
}

impl OnTerminal {
    /// Starts it with all its streams on the terminal, or with none.
    fn start(is_attached: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let terminal =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let side = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        // `setsid --ctty` makes the standard input the controlling terminal. The shell may redirect
        // it afterwards.
        let redirect = if is_attached {
            ""
        } else {
            "</dev/null >server.log 2>&1"
        };
        let process = Command::new("setsid")
            .args(["--ctty", "sh", "-c"])
            .arg(format!("exec \"$0\" serve {redirect}"))
            .arg(BINARY)
            .current_dir(folder.path())
            .env("KEYS_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("KEYS_HTTP__DRAIN_SECONDS", "2")
            // Little enough for the buffer of the terminal, which this test does not read.
            .env("KEYS_LOG__FILTER", "error")
            .stdin(side.try_clone().unwrap())
            .stdout(side.try_clone().unwrap())
            .stderr(side)
            .spawn()
            .unwrap();
        let watch = Watch::over_process(process.id()).unwrap();
        let mut server = Self {
            terminal: Some(File::from(terminal)),
            process,
            watch: Some(watch),
            port,
            _folder: folder,
        };
        server.until_it_answers();
        server
    }

    fn until_it_answers(&mut self) {
        let start = Instant::now();
        while !self.answers() {
            assert!(start.elapsed() < PATIENCE, "the server does not start");
            assert!(self.process.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        stream.write_all(request).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200 ")
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                if let Some(watch) = self.watch.take() {
                    watch.disarm();
                }
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn control_c_in_a_terminal_stops_without_the_drain() {
    let mut server = OnTerminal::start(true);
    let start = Instant::now();
    let terminal = server.terminal.as_mut().unwrap();
    terminal.write_all(b"\x03").unwrap();
    assert!(server.wait().success());
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn hangup_while_the_terminal_is_there_ends_nothing() {
    let mut server = OnTerminal::start(true);
    signal("HUP", server.process.id());
    std::thread::sleep(Duration::from_secs(1));
    assert!(server.answers());
    signal("TERM", server.process.id());
    assert!(server.wait().success());
}

#[test]
fn terminal_that_is_closed_stops_the_server_with_a_drain() {
    for is_attached in [true, false] {
        let mut server = OnTerminal::start(is_attached);
        let start = Instant::now();
        // Closes the terminal, as closing its window does.
        drop(server.terminal.take());
        // Like a shell between them, which forwards the signal as well.
        std::thread::sleep(Duration::from_millis(500));
        signal("HUP", server.process.id());
        let status = server.wait();
        assert!(status.success(), "attached {is_attached}: {status}");
        assert!(start.elapsed() >= Duration::from_secs(2), "no drain");
    }
}

#[test]
fn server_starts_and_serves_where_standard_error_cannot_be_written_to() {
    for stream in ["2>/dev/full", "2>&-", "2>/dev/full >/dev/full", "2>&- <&-"] {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        // With a key there is no output that must not be lost.
        let script = format!(
            "\"$0\" operator-key create --name first >/dev/null || exit 9; exec \"$0\" serve {stream}"
        );
        let process = Command::new("sh")
            .args(["-c", &script, BINARY])
            .current_dir(folder.path())
            .env("KEYS_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("KEYS_HTTP__DRAIN_SECONDS", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let watch = Some(Watch::over_process(process.id()).unwrap());
        let mut server = OnTerminal {
            terminal: None,
            process,
            watch,
            port,
            _folder: folder,
        };
        server.until_it_answers();
        signal("TERM", server.process.id());
        assert!(server.wait().success(), "{stream}");
    }
    let refused = Command::new("sh")
        .args(["-c", "exec \"$0\" serve 2>/dev/full", BINARY])
        .env("KEYS_HTTP__LISTEN", "nonsense")
        .status()
        .unwrap();
    assert_eq!(refused.code(), Some(1));
}
