//! What is logged on the thread of a test.

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

/// From now on it is kept, at every level.
pub(crate) fn begin() {
    static BEGUN: Once = Once::new();
    // For all threads: whether an event is logged at all is decided once, by whichever thread gets there first.
    BEGUN.call_once(|| {
        tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(|| ToThisThread)
            .init();
    });
}

/// What was logged since the last time.
pub(crate) fn take() -> String {
    let logged = LOGGED.take();
    String::from_utf8_lossy(&logged).into_owned()
}
