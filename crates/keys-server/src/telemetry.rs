//! Logs, on standard error.

use anyhow::Context as _;
use tracing::{Level, Metadata};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, filter, fmt};

use crate::config::{Log, LogFormat};

/// Starts logging.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let wanted = EnvFilter::try_new(&log.filter)
        .with_context(|| format!("setting `log.filter`: {:?}", log.filter))?;
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match log.format {
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            layer.with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(wanted)
        .with(layer.with_filter(filter::filter_fn(repeats_no_request)))
        .init();
    Ok(())
}

/// Whatever the filter says: at its debug level actix-http repeats headers that it cannot read, and a key may have got
/// into any header by mistake.
fn repeats_no_request(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !metadata.target().starts_with("actix_http")
}
