//! Time that tests decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use keys_core::Timestamp;
use keys_service::clock::Clock;

use crate::data::NOON;

/// A clock that stands still until it is moved. Clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use keys_service::clock::Clock;
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
    /// A clock that says `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(Moments {
            now_micros: AtomicI64::new(now.unix_micros()),
            elapsed_micros: AtomicI64::new(0),
        }))
    }

    /// Lets time pass, of the day and of intervals alike.
    pub fn advance(&self, duration: Duration) {
        let micros = i64::try_from(duration.as_micros()).expect("a test lasts less than an age");
        self.0.now_micros.fetch_add(micros, SeqCst);
        self.0.elapsed_micros.fetch_add(micros, SeqCst);
    }

    /// Sets the time of day, backwards too, as an administrator may. Intervals do not notice.
    pub fn set(&self, now: Timestamp) {
        self.0.now_micros.store(now.unix_micros(), SeqCst);
    }
}

/// A clock that says [`NOON`].
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
