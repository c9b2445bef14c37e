//! Decides for each event whether it is written at once, counted, or dropped.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::sampler::{About, Sampler};

/// Target of the events of the HTTP surfaces, one for each request.
const ACCESS_LOG: &str = "keys_http::access_log";

/// Routes that are answered without a credential. On other routes, the rate limits of credentials
/// bound the number of logged successes.
const OPEN_ROUTES: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// Characters of a message that are repeated in the line with the count.
const MESSAGE_MAX_CHARS: usize = 200;

/// The layer in front of the one that writes.
#[derive(Debug)]
pub(super) struct Sampling {
    sampler: Arc<Sampler>,
}

impl Sampling {
    pub(super) fn new(sampler: Arc<Sampler>) -> Self {
        Self { sampler }
    }
}

impl<S: Subscriber> Layer<S> for Sampling {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if repeats_requests(metadata) {
            Interest::never()
        } else {
            Interest::always()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        !repeats_requests(metadata)
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if is_fault_of_a_client(metadata) {
            self.sampler.count_malformed();
            return false;
        }
        // Finer levels are enabled on purpose. A line with a count is not counted again.
        if *metadata.level() > Level::INFO || metadata.fields().field("repeated").is_some() {
            return true;
        }
        let mut kind = Kind::default();
        if metadata.target() == ACCESS_LOG {
            event.record(&mut kind);
            if kind.status < 400 && !OPEN_ROUTES.contains(&&*kind.route) {
                return true;
            }
        }
        let named = (&*kind.route, kind.status);
        self.sampler.admits(metadata.callsite(), named, || {
            if metadata.target() == ACCESS_LOG {
                About::Answers {
                    route: kind.route.clone(),
                    status: kind.status,
                }
            } else {
                let mut message = Message::default();
                event.record(&mut message);
                About::Other {
                    level: *metadata.level(),
                    message: message.0.chars().take(MESSAGE_MAX_CHARS).collect(),
                }
            }
        })
    }
}

/// Returns whether events of this kind may repeat parts of a request, with any filter. At its debug
/// level actix-http repeats headers that it cannot read, and a key may be in any header by mistake.
fn repeats_requests(metadata: &Metadata<'_>) -> bool {
    *metadata.level() > Level::INFO && metadata.target().starts_with("actix_http")
}

/// Returns whether this is an error of actix-http about the bytes of a client or a closed
/// connection, or the refusal of a head before it.
fn is_fault_of_a_client(metadata: &Metadata<'_>) -> bool {
    const TARGETS: [&str; 3] = [
        "actix_http::h1::dispatcher",
        "actix_http::h1::decoder",
        "keys_http::connection",
    ];
    TARGETS.contains(&metadata.target())
}

/// Key by which answers are counted together.
#[derive(Default)]
struct Kind {
    route: String,
    status: u64,
}

impl Visit for Kind {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "http.status" {
            self.status = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "http.route" {
            value.clone_into(&mut self.route);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}
