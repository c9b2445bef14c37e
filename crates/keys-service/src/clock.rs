//! Clocks, passed in so that tests can control them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keys_core::Timestamp;

/// The clock of the service.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time of day, for expiry and for records.
    fn now(&self) -> Timestamp;

    /// Returns the time since some fixed moment, for intervals: monotonic, and advances while the
    /// machine is suspended.
    fn elapsed(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::exhaustive_structs, reason = "complete: it has no state")]
pub struct SystemClock;

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the time is read"
)]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_unix_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    #[cfg(target_os = "linux")]
    fn elapsed(&self) -> Duration {
        // `std::time::Instant` stands still during a suspend, so a resumed machine would trust its
        // old cache.
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_nsec).unwrap_or(0),
        )
    }

    #[cfg(not(target_os = "linux"))]
    fn elapsed(&self) -> Duration {
        use std::sync::LazyLock;
        use std::time::Instant;
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_moves_forward() {
        let (wall, steady) = (SystemClock.now(), SystemClock.elapsed());
        assert!(wall > Timestamp::from_unix_micros(1_700_000_000_000_000));
        assert!(SystemClock.elapsed() >= steady);
    }
}
