//! All that a store does.

use super::accounts::Accounts;
use super::changes::ChangeLog;
use super::idempotency::Idempotency;
use super::keys::Keys;
use super::maintenance::Maintenance;
use super::uses::KeyUses;

/// A store of keys and accounts: every port that [`KeyService`](crate::KeyService) needs one for. Implemented for each type that
/// implements those.
///
/// One contract suite (`keys-testkit`) holds every implementation to the same behaviour. Every method resolves within a
/// bounded time, with [`StoreError::Unavailable`](super::StoreError::Unavailable) if need be. Changes go on to their end
/// even if the returned future is dropped.
pub trait KeyStore: Keys + KeyUses + Accounts + Idempotency + ChangeLog + Maintenance {}

impl<T: Keys + KeyUses + Accounts + Idempotency + ChangeLog + Maintenance> KeyStore for T {}
