//! Randomness, passed in so that tests can repeat it.

use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::Mutex;
use rand_core::{CryptoRng, TryCryptoRng, TryRng};

/// Error returned when the operating system provides no random bytes. There is no weaker source to
/// fall back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no random bytes")]
#[non_exhaustive]
pub struct EntropyError;

type Fill = dyn Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync;

/// A shared source of secret random bytes.
#[derive(Clone)]
pub(crate) struct Entropy(Arc<Fill>);

impl Entropy {
    pub(crate) fn system() -> Self {
        Self(Arc::new(|bytes| {
            getrandom::fill(bytes).map_err(|_| EntropyError)
        }))
    }

    pub(crate) fn from_rng(rng: impl CryptoRng + Send + 'static) -> Self {
        let rng = Mutex::new(rng);
        Self(Arc::new(move |bytes| {
            let Ok(()) = rng
                .lock()
                .try_fill_bytes(bytes)
                .map_err(|error: Infallible| match error {});
            Ok(())
        }))
    }
}

impl TryRng for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        (self.0)(bytes)
    }
}

impl TryCryptoRng for Entropy {}
