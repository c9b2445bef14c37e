//! Events of one kind beyond a few a second become one line with a count.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing::callsite::Identifier;

use super::queue::Queue;

/// Window in which events of one kind are counted.
pub(super) const WINDOW: Duration = Duration::from_secs(1);

/// Events of one kind that are written in a window. The rest of the window is one line.
const EVENTS_MAX: u64 = 10;

/// Maximum number of kinds. The program has some hundred; beyond that, kinds of a call site share
/// one count.
const KINDS_MAX: usize = 4_096;

/// Counts events by kind.
#[derive(Debug)]
pub(super) struct Sampler {
    queue: Arc<Queue>,
    hasher: RandomState,
    windows: Mutex<HashMap<(Identifier, u64), Window>>,
    /// Connections that sent something that is not HTTP and were not reported yet.
    malformed: AtomicU64,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    events: u64,
    /// Set with the first event that is held back.
    held_back: Option<HeldBack>,
}

#[derive(Debug)]
struct HeldBack {
    about: About,
    count: u64,
}

/// Content of the line with the count.
#[derive(Debug, Clone)]
pub(super) enum About {
    /// Requests with the same kind of answer.
    Answers { route: String, status: u64 },
    /// Any other event.
    Other { level: Level, message: String },
}

impl Sampler {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            hasher: RandomState::new(),
            windows: Mutex::default(),
            malformed: AtomicU64::new(0),
        }
    }

    /// Returns whether an event of this kind is written. `about` is called once for each window in
    /// which some are held back.
    pub(super) fn admits(
        &self,
        callsite: Identifier,
        kind: (&str, u64),
        about: impl FnOnce() -> About,
    ) -> bool {
        let now = Instant::now();
        let mut kind = (callsite, self.hasher.hash_one(kind));
        let mut over = None;
        let admitted = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            if windows.len() >= KINDS_MAX && !windows.contains_key(&kind) {
                kind.1 = 0;
            }
            let window = windows.entry(kind).or_insert(Window {
                began: now,
                events: 0,
                held_back: None,
            });
            if now.saturating_duration_since(window.began) >= WINDOW {
                over = window.held_back.take();
                (window.began, window.events) = (now, 0);
            }
            window.events += 1;
            if window.events > EVENTS_MAX {
                let held_back = window.held_back.get_or_insert_with(|| HeldBack {
                    about: about(),
                    count: 0,
                });
                held_back.count += 1;
            }
            window.events <= EVENTS_MAX
        };
        if let Some(held_back) = over {
            held_back.tell();
        }
        self.queue.want_ticks();
        admitted
    }

    /// Counts a connection that sent something that is not HTTP.
    pub(super) fn count_malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
        self.queue.want_ticks();
    }

    /// Reports windows that are over. Returns whether there are more to come.
    pub(super) fn tell(&self) -> bool {
        self.tell_before(Instant::now())
    }

    /// Reports all windows.
    pub(super) fn tell_all(&self) {
        self.tell_before(Instant::now() + WINDOW);
    }

    fn tell_before(&self, now: Instant) -> bool {
        let mut over = Vec::new();
        let more_to_come = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.retain(|_, window| {
                let is_over = now.saturating_duration_since(window.began) >= WINDOW;
                if is_over {
                    over.extend(window.held_back.take());
                }
                !is_over
            });
            !windows.is_empty()
        };
        for held_back in over {
            held_back.tell();
        }
        let malformed = self.malformed.swap(0, Ordering::Relaxed);
        if malformed > 0 {
            tracing::debug!(
                count = malformed,
                "{malformed} connections were closed because what they sent is not HTTP"
            );
        }
        more_to_come
    }
}

impl HeldBack {
    fn tell(&self) {
        let Self { about, count } = self;
        match about {
            About::Answers { route, status } => tracing::event!(
                target: "keys_http::access_log",
                Level::INFO,
                http.route = route,
                http.status = status,
                repeated = count,
                "{route} answered {status} to {count} more requests within a second"
            ),
            About::Other { level, message } => match *level {
                Level::ERROR => {
                    tracing::error!(repeated = count, "{count} more within a second: {message}");
                }
                Level::WARN => {
                    tracing::warn!(repeated = count, "{count} more within a second: {message}");
                }
                _ => tracing::info!(repeated = count, "{count} more within a second: {message}"),
            },
        }
    }
}
