//! Signals that stop the server.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request by signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Stop after the drain.
    Drain,
    /// Stop without the drain, because a person at a terminal waits for the prompt.
    Now,
    /// Reload the settings that can be reloaded.
    Reload,
}

/// The signals that the server handles. While this value exists none of them terminates the
/// process.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    terminal: Terminal,
}

impl Signals {
    /// Starts to handle signals. Call it on the runtime.
    pub(crate) fn handle() -> io::Result<Self> {
        // Before the handlers are installed, because they replace the setting of `nohup`.
        let terminal = Terminal::at_start();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            terminal,
        })
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Drain,
            _ = self.quit.recv() => Request::Drain,
            _ = self.interrupt.recv() => {
                if Terminal::is_attached() { Request::Now } else { Request::Drain }
            }
            _ = self.hangup.recv() => {
                if self.terminal.is_gone().await { Request::Drain } else { Request::Reload }
            }
        }
    }

    /// Waits for a signal that requests an immediate stop during a stop.
    ///
    /// A hangup does not count: an interactive shell forwards that of its terminal, and then the
    /// system sends it again.
    pub(crate) async fn stop_at_once(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.quit.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the next signal that asks to stop.
    pub(crate) async fn stop(&mut self) -> Request {
        loop {
            let request = self.next().await;
            if request != Request::Reload {
                return request;
            }
        }
    }
}

/// The terminal in which the process was started.
#[derive(Debug, Clone, Copy)]
struct Terminal {
    /// Whether a standard stream was a terminal.
    was_attached: bool,
    /// Whether the process had a controlling terminal.
    was_controlling: bool,
    /// Whether SIGHUP was ignored, as `nohup` does for processes that should outlive their
    /// terminal.
    is_outlived: bool,
}

impl Terminal {
    fn at_start() -> Self {
        Self {
            was_attached: Self::is_attached(),
            was_controlling: Self::is_controlling(),
            is_outlived: ignores_hangup(),
        }
    }

    /// Returns whether the process runs in a terminal.
    fn is_attached() -> bool {
        io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
    }

    fn is_controlling() -> bool {
        File::open("/dev/tty").is_ok()
    }

    /// Returns whether a SIGHUP was sent because the terminal was closed.
    async fn is_gone(self) -> bool {
        // A shell that ends forwards the signal before its terminal is closed.
        const CLOSED_WITHIN: Duration = Duration::from_millis(500);
        if self.is_outlived || !(self.was_attached || self.was_controlling) {
            return false;
        }
        if self.is_gone_now() {
            return true;
        }
        tokio::time::sleep(CLOSED_WITHIN).await;
        self.is_gone_now()
    }

    fn is_gone_now(self) -> bool {
        let is_detached = self.was_attached && !Self::is_attached();
        is_detached || self.was_controlling && !Self::is_controlling()
    }
}

/// Returns whether the process was started with SIGHUP ignored.
fn ignores_hangup() -> bool {
    /// The first bit of the mask is signal 1.
    const HANGUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & HANGUP != 0)
}
