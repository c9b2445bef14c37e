//! Repetition of a create without creating a second record: `Idempotency-Key`
//! (draft-ietf-httpapi-idempotency-key-header).
//!
//! The stored answer contains a secret, so it is sealed under a key derived from a pepper *and* the
//! idempotency key (HKDF, RFC 5869; ChaCha20-Poly1305, RFC 8439). Only a digest of the idempotency
//! key is stored. A dump of the database lacks both, and the running server lacks the idempotency
//! key until the client sends it again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use hkdf::Hkdf;
use keys_core::{EventId, Pepper, PepperRing, Timestamp};
use rand_core::TryRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::actor::Actor;
use crate::entropy::{Entropy, EntropyError};
use crate::ports::{
    Completion, RESERVATION_KEPT, RESERVATION_PENDING, Reservation, Reserved, StoreError,
};
use crate::service::KeyService;

/// The client's name of its own request: 1 to 255 visible ASCII characters.
#[derive(Clone)]
pub struct IdempotencyKey(Zeroizing<String>);

impl IdempotencyKey {
    /// Maximum number of characters.
    pub const MAX_LEN: usize = 255;
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(<redacted>)")
    }
}

/// Error returned when a text is not an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key is 1 to 255 visible ASCII characters")]
#[non_exhaustive]
pub struct InvalidIdempotencyKey;

/// A request that may be a repetition.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Idempotent {
    /// The idempotency key of the client.
    pub key: IdempotencyKey,
    /// The operation and its subject.
    pub operation: String,
    /// The request's body, byte for byte.
    pub body: Vec<u8>,
}

impl Idempotent {
    /// Joins the idempotency key, the operation with its subject, and the request's body.
    #[must_use]
    pub fn new(
        key: IdempotencyKey,
        operation: impl Into<String>,
        body: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            key,
            operation: operation.into(),
            body: body.into(),
        }
    }
}

/// Error returned when a repetition was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdempotencyError {
    /// The first request had another body.
    #[error("this Idempotency-Key was used with another body")]
    BodyDiffers,
    /// The first request is still under way.
    #[error("a request with this Idempotency-Key is still in flight")]
    InFlight {
        /// Time until a repetition may take over. Zero if the other request has just taken over.
        retry_after: Duration,
    },
    /// The first request was answered by an instance of a newer version, in a form that this
    /// version cannot read. Nothing was created. A repetition succeeds at an instance of that
    /// version.
    #[error("the answer was stored by a newer version")]
    NewerFormat,
}

/// One attempt at a request that may be a repetition.
pub(crate) struct Attempt {
    request: Idempotent,
    /// The credential of the request. The same idempotency key under another credential is another
    /// request. Otherwise a restricted key could request the answer of a wider one of its account.
    owner: String,
    body_digest: [u8; 32],
    lookups: Vec<[u8; 32]>,
    token: EventId,
}

impl Attempt {
    pub(crate) fn new(request: Idempotent, by: &Actor, ring: &PepperRing, token: EventId) -> Self {
        let owner = by
            .credential_id()
            .map_or_else(|| "system".to_owned(), |id| id.to_string());
        Self::of(request, owner, ring, token)
    }

    fn of(request: Idempotent, owner: String, ring: &PepperRing, token: EventId) -> Self {
        let body_digest = Sha256::new_with_prefix(&request.body).finalize().into();
        let lookups = ring
            .peppers()
            .map(|(_, pepper)| *derive(pepper, &request, &owner, b"look-up"))
            .collect();
        Self {
            request,
            owner,
            body_digest,
            lookups,
            token,
        }
    }

    pub(crate) fn reservation(&self, at: Timestamp) -> Reservation {
        Reservation {
            lookups: self.lookups.clone(),
            body_digest: self.body_digest,
            token: self.token,
            at,
            pending_until: at.saturating_add(RESERVATION_PENDING),
        }
    }

    /// Returns the reservation to release after a refusal.
    pub(crate) fn release(&self) -> ([u8; 32], EventId) {
        (self.lookups[0], self.token)
    }

    pub(crate) fn is_same_body(&self, body_digest: [u8; 32]) -> bool {
        self.body_digest == body_digest
    }

    /// Seals `answer` under the current pepper.
    pub(crate) fn seal(
        &self,
        ring: &PepperRing,
        answer: &[u8],
        at: Timestamp,
        entropy: &mut Entropy,
    ) -> Result<Completion, EntropyError> {
        let (_, pepper) = ring.peppers().next().expect("a ring has a current pepper");
        let mut nonce = [0; 12];
        entropy.try_fill_bytes(&mut nonce)?;
        let payload = Payload {
            msg: answer,
            aad: &self.body_digest,
        };
        let mut sealed = nonce.to_vec();
        sealed.extend(
            cipher(pepper, &self.request, &self.owner)
                .encrypt(&Nonce::from(nonce), payload)
                .expect("an answer is far shorter than the cipher's 256 GiB"),
        );
        Ok(Completion {
            lookup: self.lookups[0],
            token: self.token,
            sealed,
            expires_at: at.saturating_add(RESERVATION_KEPT),
        })
    }

    /// Opens the sealed answer of an earlier attempt. `None` if it was tampered with or its pepper
    /// is gone.
    pub(crate) fn open(
        &self,
        ring: &PepperRing,
        lookup: [u8; 32],
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let index = self.lookups.iter().position(|known| *known == lookup)?;
        let (_, pepper) = ring.peppers().nth(index)?;
        let (nonce, ciphertext) = sealed.split_first_chunk::<12>()?;
        let payload = Payload {
            msg: ciphertext,
            aad: &self.body_digest,
        };
        cipher(pepper, &self.request, &self.owner)
            .decrypt(&Nonce::from(*nonce), payload)
            .ok()
            .map(Zeroizing::new)
    }
}

fn cipher(pepper: &Pepper, request: &Idempotent, owner: &str) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&(*derive(pepper, request, owner, b"seal")).into())
}

/// Derives 32 bytes from a pepper and a request's idempotency key, bound to owner, operation and
/// purpose.
fn derive(
    pepper: &Pepper,
    request: &Idempotent,
    owner: &str,
    purpose: &[u8],
) -> Zeroizing<[u8; 32]> {
    let hkdf = Hkdf::<Sha256>::new(Some(pepper.expose()), request.key.0.as_bytes());
    let mut okm = Zeroizing::new([0; 32]);
    // None of these contains NUL, so different requests never give the same bytes.
    let info = [
        b"idempotency\0",
        purpose,
        b"\0",
        owner.as_bytes(),
        b"\0",
        request.operation.as_bytes(),
    ];
    hkdf.expand_multi_info(&info, &mut *okm)
        .expect("32 bytes are within HKDF's 255 blocks");
    okm
}

impl KeyService {
    /// Reserves the right to create the record of a request. `Some` is the answer of an earlier
    /// one.
    pub(crate) async fn reserve(
        &self,
        attempt: &Attempt,
        at: Timestamp,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ReserveError> {
        match self.inner.store.reserve(attempt.reservation(at)).await? {
            Reserved::New => Ok(None),
            Reserved::Pending { until } => {
                let left = until.unix_micros().saturating_sub(self.now().unix_micros());
                let retry_after = Duration::from_micros(u64::try_from(left).unwrap_or(0));
                Err(IdempotencyError::InFlight { retry_after }.into())
            }
            Reserved::Done { body_digest, .. } if !attempt.is_same_body(body_digest) => {
                Err(IdempotencyError::BodyDiffers.into())
            }
            Reserved::Done { lookup, sealed, .. } => {
                let answer = attempt.open(&self.inner.peppers, lookup, &sealed);
                answer.ok_or_else(unreadable).map(Some).map_err(Into::into)
            }
        }
    }

    /// Releases a reservation after a refusal or a failure, so that the client may try again. If
    /// the store does not answer, the release is retried in the background, because the attempt is
    /// over, and a repetition need not wait until its time is over.
    pub(crate) async fn release(&self, attempt: &Attempt) {
        /// Interval of attempts to release.
        const PAUSE: Duration = Duration::from_millis(500);
        let (lookup, token) = attempt.release();
        if self.inner.store.release(lookup, token).await.is_ok() {
            return;
        }
        let service = self.clone();
        let until = self.inner.clock.elapsed() + RESERVATION_PENDING;
        self.inner.store.spawn(Box::pin(async move {
            while service.inner.clock.elapsed() < until {
                tokio::time::sleep(PAUSE).await;
                // A change that was committed in spite of the failure is not released, because it
                // has its answer.
                if service.inner.store.release(lookup, token).await.is_ok() {
                    return;
                }
            }
            tracing::warn!("an idempotent reservation could not be released and has timed out");
        }));
    }
}

/// Error returned when nothing could be reserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReserveError {
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Returns an error without the contents, which are secret.
pub(crate) fn unreadable() -> StoreError {
    StoreError::Unexpected("a kept idempotent answer is unreadable".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(byte: u8) -> PepperRing {
        PepperRing::new(
            "p1".parse().unwrap(),
            Pepper::from_bytes(&[byte; 32]).unwrap(),
        )
    }

    fn attempt(key: &str, owner: &str, body: &str, ring: &PepperRing) -> Attempt {
        let request = Idempotent {
            key: key.parse().unwrap(),
            operation: "create".to_owned(),
            body: body.as_bytes().to_vec(),
        };
        let at = Timestamp::from_unix_micros(0);
        let token = EventId::generate(at, &mut getrandom::SysRng).unwrap();
        Attempt::of(request, owner.to_owned(), ring, token)
    }

    fn sealed() -> Completion {
        attempt("k", "a", "body", &ring(1))
            .seal(
                &ring(1),
                b"answer",
                Timestamp::from_unix_micros(0),
                &mut Entropy::system(),
            )
            .unwrap()
    }

    #[test]
    fn only_the_same_request_opens_the_answer() {
        let kept = sealed();
        let open = |attempt: Attempt, ring: PepperRing| {
            let lookup = attempt.lookups[0];
            attempt.open(&ring, lookup, &kept.sealed)
        };
        assert_eq!(
            open(attempt("k", "a", "body", &ring(1)), ring(1))
                .unwrap()
                .as_slice(),
            b"answer"
        );
        assert!(open(attempt("l", "a", "body", &ring(1)), ring(1)).is_none());
        assert!(open(attempt("k", "b", "body", &ring(1)), ring(1)).is_none());
        assert!(open(attempt("k", "a", "other", &ring(1)), ring(1)).is_none());
        assert!(open(attempt("k", "a", "body", &ring(2)), ring(2)).is_none());
    }

    #[test]
    fn what_is_stored_holds_neither_key_nor_answer() {
        let kept = sealed();
        let stored = [kept.lookup.as_slice(), &kept.sealed].concat();
        assert!(!stored.windows(6).any(|window| window == b"answer"));
        assert_ne!(kept.lookup, <[u8; 32]>::from(Sha256::digest(b"k")));
    }

    #[test]
    fn an_answer_sealed_under_a_former_pepper_still_opens() {
        let kept = sealed();
        let rotated = PepperRing::new("p2".parse().unwrap(), Pepper::from_bytes(&[2; 32]).unwrap())
            .with_former("p1".parse().unwrap(), Pepper::from_bytes(&[1; 32]).unwrap())
            .unwrap();
        let again = attempt("k", "a", "body", &rotated);
        assert!(again.lookups.contains(&kept.lookup));
        assert!(again.open(&rotated, kept.lookup, &kept.sealed).is_some());
    }

    #[test]
    fn keys_outside_visible_ascii_are_refused() {
        for text in ["", "a b", "é", "a\n", &"k".repeat(256)] {
            assert!(text.parse::<IdempotencyKey>().is_err(), "{text:?}");
        }
    }
}
