//! The log of the thread of a test.

use std::cell::RefCell;
use std::io;
use std::sync::Once;

use tracing_subscriber::filter::LevelFilter;

thread_local! {
    /// Each test has a thread of its own.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct ToThisThread;

impl io::Write for ToThisThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts recording, at every level.
pub(crate) fn begin() {
    static BEGUN: Once = Once::new();
    // For all threads, because whether an event is logged at all is decided once, by the first
    // thread that logs it.
    BEGUN.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(|| ToThisThread)
            .init();
    });
}

/// Returns the log since the last call.
pub(crate) fn take() -> String {
    let logged = LOGGED.take();
    String::from_utf8_lossy(&logged).into_owned()
}
