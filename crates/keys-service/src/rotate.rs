//! Rotation: a new key takes the place of an old one, which stays usable for a while.

use std::sync::Arc;
use std::time::Duration;

use keys_core::{
    ApiKey, Denial, IssuePolicy, KeyDetails, KeyId, KeyStatus, RevocationReason, SecretKey,
    Timestamp,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::actor::Actor;
use crate::answer;
use crate::entropy::EntropyError;
use crate::everywhere::Effective;
use crate::idempotency::{Attempt, IdempotencyError, Idempotent, ReserveError};
use crate::issue::{IssueField, Issued, SealedKey};
use crate::ports::{Admission, ChangeError, Commit, KeyRotation, NewKey, StoreError};
use crate::service::KeyService;

/// Maximum time for which a key stays usable after its rotation: a week.
pub const ROTATION_GRACE_MAX: Duration = Duration::from_hours(7 * 24);

/// Minimum of that time for a key that rotates itself, so that a caller whose answer was lost is
/// not locked out: it can repeat the request with the same `Idempotency-Key`.
pub const OWN_ROTATION_GRACE_MIN: Duration = Duration::from_mins(1);

/// The rotation of a key: a new key with the same account, prefix, name, addresses, scopes, limits,
/// metadata, person and expiry takes its place.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct Rotation {
    /// The key that is replaced.
    pub key_id: KeyId,
    /// Time for which the old key stays usable, unless it ends earlier by itself. At most
    /// [`ROTATION_GRACE_MAX`].
    pub grace: Duration,
    /// Expiry of the new key. `None` takes that of the old key. Only operators may set a later one.
    pub expires_at: Option<Timestamp>,
    /// Identifies a repetition of the request. `None` rotates the key in any case.
    pub idempotent: Option<Idempotent>,
}

impl Rotation {
    /// Default time for which the old key stays usable.
    pub const GRACE_DEFAULT: Duration = Duration::from_hours(1);

    /// Returns the rotation of a key, which then stays usable for an hour.
    pub fn new(key_id: KeyId) -> Self {
        Self {
            key_id,
            grace: Self::GRACE_DEFAULT,
            expires_at: None,
            idempotent: None,
        }
    }

    /// Sets the time for which the old key stays usable. Zero ends it at once.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the expiry of the new key. `None` takes that of the old key.
    pub fn expires_at(mut self, expires_at: Option<Timestamp>) -> Self {
        self.expires_at = expires_at;
        self
    }

    /// Returns the first answer again if the request is a repetition.
    pub fn idempotent(mut self, idempotent: Option<Idempotent>) -> Self {
        self.idempotent = idempotent;
        self
    }
}

/// A key that was rotated.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rotated {
    /// The new key with its secret.
    pub issued: Issued,
    /// The old key.
    pub predecessor: KeyId,
    /// End of the old key.
    pub predecessor_ends_at: Timestamp,
    /// Propagation of the end of the old key to all instances.
    pub effective: Effective,
}

/// Error returned when a key was not rotated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The grace is longer than [`ROTATION_GRACE_MAX`].
    #[error("a key stays usable for at most a week after its rotation")]
    GraceTooLong,
    /// A key that rotates itself must stay usable for [`OWN_ROTATION_GRACE_MIN`].
    #[error("a key that rotates itself must stay usable for at least a minute")]
    GraceTooShort,
    /// The new key would be expired already.
    #[error("the expiry is not in the future")]
    ExpiryNotInFuture,
    /// The new key would expire later than the old one, which only operators may permit.
    #[error("the expiry is later than that of the key")]
    ExpiryTooLate,
    /// The key may do more than the account's key or session that rotates it, by this field.
    #[error("a key cannot rotate a key that may do more than itself")]
    ExceedsCaller(IssueField),
    /// The caller is no longer authorized.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// There is no such key, or it is of an account or kind that the caller may not see.
    #[error("there is no such key")]
    NotFound,
    /// The stored key cannot be read.
    #[error("the stored record of the key cannot be read")]
    Unreadable,
    /// The key was revoked or has expired.
    #[error("the key was revoked or has expired")]
    Ended,
    /// The key is disabled.
    #[error("the key is disabled: enable it first")]
    Disabled,
    /// The key was rotated before.
    #[error("the key was rotated already, its successor is {successor}")]
    Rotated {
        /// The key that replaced it.
        successor: KeyId,
    },
    /// The account may not have keys.
    #[error("the account was refused")]
    AccountDenied(#[source] Denial),
    /// The request is a repetition that cannot be answered.
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ChangeError> for RotateError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::CallerDenied(denial) => Self::CallerDenied(denial),
            ChangeError::ExceedsCaller(bound) => Self::ExceedsCaller(bound.into()),
            ChangeError::AccountNotFound => Self::NotFound,
            ChangeError::AccountDenied(denial) => Self::AccountDenied(denial),
            ChangeError::Superseded => Self::Idempotency(IdempotencyError::InFlight {
                retry_after: Duration::ZERO,
            }),
            ChangeError::Store(error) => Self::Store(error),
            error => Self::Store(StoreError::Unexpected(error.into())),
        }
    }
}

impl From<ReserveError> for RotateError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Idempotency(error) => Self::Idempotency(error),
            ReserveError::Store(error) => Self::Store(error),
        }
    }
}

/// Attempts at a rotation of a key that others change at the same time.
const TURNS_MAX: u32 = 4;

impl KeyService {
    /// Rotates a key: issues a new one like it, and ends the old one after the grace. Both know of
    /// each other. Needs no free slot under the cap of the account. A chain of rotations has at
    /// most two usable keys: rotating the newer one ends the older one at once.
    ///
    /// An operator rotates keys of accounts. An account's key or session rotates those of its
    /// account that may do no more than itself. Only [`Actor::system`] rotates operator keys.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # use keys_core::{Pepper, PepperRing};
    /// # use keys_service::{KeyDraft, KeyService, MemoryStore, NewAccount};
    /// use keys_service::{Actor, Rotation};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
    /// # let peppers = PepperRing::new("p1".parse()?, pepper);
    /// # let service = KeyService::builder(MemoryStore::default(), peppers).build();
    /// # let system = Actor::system();
    /// # let account = service
    /// #     .create_account(&system, NewAccount::new("pro".parse()?))
    /// #     .await?;
    /// # let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// # let old = service.issue_key(&system, draft).await?;
    /// let rotation = Rotation::new(old.key.id).grace(Duration::from_hours(24));
    /// let rotated = service.rotate_key(&system, rotation).await?;
    /// println!("the new key, shown once: {}", rotated.issued.secret.expose());
    /// println!("the old one ends at {}", rotated.predecessor_ends_at);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`RotateError`].
    pub async fn rotate_key(&self, by: &Actor, rotation: Rotation) -> Result<Rotated, RotateError> {
        if rotation.grace > ROTATION_GRACE_MAX {
            return Err(RotateError::GraceTooLong);
        }
        if by.credential_id() == Some(rotation.key_id) && rotation.grace < OWN_ROTATION_GRACE_MIN {
            return Err(RotateError::GraceTooShort);
        }
        // Keys that the caller may not see are unknown, also to repetitions.
        let old = self.seen_by(by, rotation.key_id).await?;
        let Some(idempotent) = rotation.idempotent.clone() else {
            return self.rotate(by, &rotation, old, None).await;
        };
        let at = self.now();
        let attempt = Attempt::new(idempotent, by, &self.inner.peppers, self.event_id(at)?);
        if let Some(answer) = self.reserve(&attempt, at).await? {
            return self.repeated(&answer);
        }
        let result = self.rotate(by, &rotation, old, Some(&attempt)).await;
        if result.is_err() {
            self.release(&attempt).await;
        }
        result
    }

    /// Returns a key that `by` may rotate.
    async fn seen_by(&self, by: &Actor, id: KeyId) -> Result<KeyDetails, RotateError> {
        let found = self.inner.store.find_key(id).await?;
        let details = match found.ok_or(RotateError::NotFound)? {
            Ok(details) => details,
            // The account that it belongs to may be what cannot be read.
            Err(_) if !by.may_administer() => return Err(RotateError::NotFound),
            Err(_) => return Err(RotateError::Unreadable),
        };
        let is_seen = by.may_manage(&details.key);
        is_seen.then_some(details).ok_or(RotateError::NotFound)
    }

    async fn rotate(
        &self,
        by: &Actor,
        rotation: &Rotation,
        mut old: KeyDetails,
        attempt: Option<&Attempt>,
    ) -> Result<Rotated, RotateError> {
        let mut turns = 0;
        loop {
            match self.try_rotate(by, rotation, &old, attempt).await? {
                Some(rotated) => return Ok(rotated),
                None if turns < TURNS_MAX => turns += 1,
                None => return Err(busy().into()),
            }
            old = self.seen_by(by, rotation.key_id).await?;
        }
    }

    /// Makes the new key from `old` and stores it. `None` if `old` is out of date.
    async fn try_rotate(
        &self,
        by: &Actor,
        rotation: &Rotation,
        old: &KeyDetails,
        attempt: Option<&Attempt>,
    ) -> Result<Option<Rotated>, RotateError> {
        let at = self.now();
        check(by, rotation, old, at)?;
        let issued = self.like(old, rotation.expires_at, at)?;
        let ends_at = at
            .saturating_add(rotation.grace)
            .min(old.key.expires_at.unwrap_or(Timestamp::MAX));
        let completion = match attempt {
            None => None,
            Some(attempt) => {
                let answer = SealedRotation::write(&issued, old.key.id, ends_at)?;
                let peppers = &self.inner.peppers;
                Some(attempt.seal(peppers, &answer, at, &mut self.entropy())?)
            }
        };
        let policy = IssuePolicy::default().without_cap();
        let admission = Admission::new(Arc::clone(&self.inner.plans), policy);
        let digest = self.inner.peppers.digest(&issued.secret);
        let new = NewKey::new(issued.key.clone(), digest, admission).metadata(old.metadata.clone());
        let digest = *new.digest.digest.as_bytes();
        let events = [self.event_id(at)?, self.event_id(at)?];
        let replacement = KeyRotation::new(old, new, ends_at, events);
        let is_own = by.credential_id() == Some(old.key.id);
        let change = self.change(by, at, completion)?;
        let stored = self.inner.store.rotate_key(replacement, change).await;
        let (ended, commit): (Option<KeyId>, Commit) = match stored {
            Err(ChangeError::KeyChanged) => return Ok(None),
            // The key was restricted meanwhile, and so is its successor once it is made anew.
            Err(ChangeError::ExceedsCaller(_)) if is_own => return Ok(None),
            stored => stored?,
        };
        let effective = self.effective(commit);
        let cache = &self.inner.cache;
        // Before the answer: from then on this instance must know both ends and the new key.
        cache.key_made(&digest);
        let ends_now = (ends_at <= at).then_some(old.key.id);
        for id in ended.into_iter().chain(ends_now) {
            cache.key_revoked_here(id, Some(RevocationReason::Superseded));
        }
        if ends_now.is_none() {
            cache.key_changed(old.key.id);
        }
        Ok(Some(Rotated {
            issued,
            predecessor: old.key.id,
            predecessor_ends_at: ends_at,
            effective,
        }))
    }

    /// Makes a new key like that of `details`.
    fn like(
        &self,
        details: &KeyDetails,
        expires_at: Option<Timestamp>,
        at: Timestamp,
    ) -> Result<Issued, RotateError> {
        let old = &details.key;
        let prefix = old.shown_prefix.key_prefix();
        let prefix = prefix.ok_or(RotateError::Unreadable)?;
        let mut entropy = self.entropy();
        let secret = SecretKey::generate(&prefix, &mut entropy)?;
        let id = KeyId::generate(at, &mut entropy)?;
        let mut key = ApiKey::new(id, old.kind, secret.shown_prefix(), at);
        key.account_id = old.account_id;
        key.name.clone_from(&old.name);
        key.allowed_networks.clone_from(&old.allowed_networks);
        key.scopes.clone_from(&old.scopes);
        key.expires_at = expires_at.or(old.expires_at);
        key.limits.clone_from(&old.limits);
        key.subject.clone_from(&old.subject);
        Ok(Issued {
            key,
            metadata: details.metadata.clone(),
            secret,
        })
    }

    /// Answers a repetition.
    fn repeated(&self, answer: &[u8]) -> Result<Rotated, RotateError> {
        let sealed: SealedRotation = answer::read(answer)?;
        Ok(Rotated {
            issued: sealed.new.issued()?,
            predecessor: sealed.predecessor,
            predecessor_ends_at: sealed.predecessor_ends_at,
            effective: self.effective_already(),
        })
    }
}

/// Checks whether `old`, which the caller may see, may be rotated.
fn check(
    by: &Actor,
    rotation: &Rotation,
    old: &KeyDetails,
    at: Timestamp,
) -> Result<(), RotateError> {
    if let Some(successor) = old.successor {
        return Err(RotateError::Rotated { successor });
    }
    match old.status(at) {
        KeyStatus::Revoked | KeyStatus::Expired => return Err(RotateError::Ended),
        KeyStatus::Disabled => return Err(RotateError::Disabled),
        KeyStatus::Rotating | KeyStatus::Active => {}
    }
    if let Some(expires_at) = rotation.expires_at {
        if expires_at <= at {
            return Err(RotateError::ExpiryNotInFuture);
        }
        let is_later = old.key.expires_at.is_some_and(|own| expires_at > own);
        if is_later && !by.may_administer() {
            return Err(RotateError::ExpiryTooLate);
        }
    }
    Ok(())
}

fn busy() -> StoreError {
    StoreError::Unavailable("the key was changed by others again and again".into())
}

/// The answer to a rotation, for a repetition of the request. See [`answer`] before you change a
/// member.
#[derive(Serialize, Deserialize)]
struct SealedRotation {
    new: SealedKey,
    predecessor: KeyId,
    predecessor_ends_at: Timestamp,
}

impl SealedRotation {
    fn write(
        new: &Issued,
        predecessor: KeyId,
        predecessor_ends_at: Timestamp,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        answer::write(&Self {
            new: SealedKey::from(new),
            predecessor,
            predecessor_ends_at,
        })
    }
}
