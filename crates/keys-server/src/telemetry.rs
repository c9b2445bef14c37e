//! Logs, on standard error.
//!
//! Writing the log never blocks the program. Threads put their lines into a bounded queue, and a
//! dedicated thread writes them. While the reader of standard error is stalled, lines are dropped
//! and counted.

mod layer;
mod queue;
mod sampler;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::config::{Log, LogFormat};
use layer::Sampling;
use queue::Queue;
use sampler::Sampler;

/// Time that the end of the program waits for a reader that accepts no more lines.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The log of this process, once it has started.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// The running log: changes its filter, and counts dropped lines. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    filter: reload::Handle<EnvFilter, Registry>,
    queue: Arc<Queue>,
}

impl Handle {
    /// Replaces the filter, for example by `info,keys_http=debug`. On an error the old filter
    /// stays.
    pub(crate) fn reload_filter(&self, filter: &str) -> anyhow::Result<()> {
        let filter = parse_filter(filter)?;
        self.filter
            .reload(filter)
            .context("the log filter could not be replaced")
    }

    /// Returns the lines that were not written since the start.
    pub(crate) fn dropped_total(&self) -> u64 {
        self.queue.dropped_total()
    }
}

/// Starts the log.
pub(crate) fn start(log: &Log) -> anyhow::Result<Handle> {
    let wanted = parse_filter(&log.filter)?;
    let queue = Arc::new(Queue::default());
    let sampler = Arc::new(Sampler::new(Arc::clone(&queue)));
    queue::spawn_writer(&queue, &sampler, io::stderr())
        .context("starting the thread of the log")?;
    let lines = Arc::clone(&queue);
    let layer = fmt::layer()
        .with_writer(move || queue::Line(Arc::clone(&lines)))
        // It would write errors to standard error directly, and block.
        .log_internal_errors(false);
    let layer = match log.format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let (wanted, filter) = reload::Layer::new(wanted);
    tracing_subscriber::registry()
        .with(wanted)
        .with(Sampling::new(sampler))
        .with(layer)
        .init();
    let queue = QUEUE.get_or_init(|| queue);
    std::panic::set_hook(Box::new(log_panic));
    Ok(Handle {
        filter,
        queue: Arc::clone(queue),
    })
}

fn parse_filter(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).with_context(|| format!("setting `log.filter`: {filter:?}"))
}

/// Writes one line to standard error, in the order of the log. Failures are ignored, because
/// neither a full disk under the log nor a closed reader may end the program.
pub(crate) fn say(text: &str) {
    // Errors may repeat names, and a terminal would obey hidden characters.
    let lines: Vec<_> = text.lines().map(keys_core::escaped).collect();
    let text = lines.join("\n");
    match QUEUE.get() {
        Some(queue) => queue.push(format!("{text}\n").as_bytes()),
        None => drop(writeln!(io::stderr(), "{text}")),
    }
}

/// Waits until all lines are written, or until the reader has accepted none for a while.
pub(crate) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.finish(LAST_LINES);
    }
}

/// Logs a panic in one line, without a backtrace: with `RUST_BACKTRACE=1` one request that panics
/// would cost 100 KB of log.
///
/// The message is shown only if it is a literal of the program. A formatted one may repeat what a
/// client sent.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let message = panic
        .payload()
        .downcast_ref::<&'static str>()
        .unwrap_or(&"message withheld");
    let place = panic
        .location()
        .map_or_else(String::new, |place| format!(" at {place}"));
    tracing::error!("thread {thread} panicked{place}: {message}");
}
