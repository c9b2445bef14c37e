//! A clock that tests control.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use keys_core::Timestamp;
use keys_service::Clock;

use crate::data::NOON;

/// A clock that stands still until it is moved. Clones share the same time.
///
/// ```
/// use std::time::Duration;
/// use keys_service::Clock;
/// use keys_testkit::{clock::FakeClock, data::NOON};
///
/// let clock = FakeClock::new(NOON);
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), NOON.saturating_add(Duration::from_secs(60)));
/// assert_eq!(clock.elapsed(), Duration::from_secs(60));
/// ```
#[derive(Debug, Clone)]
pub struct FakeClock(Arc<Moments>);

#[derive(Debug)]
struct Moments {
    now_micros: AtomicI64,
    elapsed_micros: AtomicI64,
}

impl FakeClock {
    /// Returns a clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Moments {
            now_micros: AtomicI64::new(now.unix_micros()),
            elapsed_micros: AtomicI64::new(0),
        }))
    }

    /// Advances both the time of day and the monotonic clock.
    pub fn advance(&self, duration: Duration) {
        let micros = i64::try_from(duration.as_micros()).expect("a test lasts less than an age");
        self.0.now_micros.fetch_add(micros, SeqCst);
        self.0.elapsed_micros.fetch_add(micros, SeqCst);
    }

    /// Sets the time of day, also backwards, as an administrator may. The monotonic clock is not
    /// changed.
    pub fn set(&self, now: Timestamp) {
        self.0.now_micros.store(now.unix_micros(), SeqCst);
    }
}

/// A clock that shows [`NOON`].
impl Default for FakeClock {
    fn default() -> Self {
        Self::new(NOON)
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_micros(self.0.now_micros.load(SeqCst))
    }

    fn elapsed(&self) -> Duration {
        let micros = self.0.elapsed_micros.load(SeqCst);
        Duration::from_micros(u64::try_from(micros).expect("intervals never go back"))
    }
}
