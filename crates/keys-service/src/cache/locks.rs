//! The locks of the cache, replaceable so that its tests can control the scheduling.

/// A family of locks.
pub(crate) trait Locks: 'static {
    /// A lock around `T`.
    type Lock<T>: Lock<T>;
}

/// A lock around `T`.
pub(crate) trait Lock<T> {
    fn new(value: T) -> Self;

    /// Runs `critical` with exclusive access to the value.
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R;
}

/// The locks of production.
pub(crate) struct ParkingLot;

impl Locks for ParkingLot {
    type Lock<T> = parking_lot::Mutex<T>;
}

impl<T> Lock<T> for parking_lot::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    #[inline]
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.lock())
    }
}
