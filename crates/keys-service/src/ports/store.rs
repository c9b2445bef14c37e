//! The store of keys and accounts.

use super::accounts::Accounts;
use super::changes::ChangeLog;
use super::idempotency::Idempotency;
use super::keys::Keys;
use super::maintenance::Maintenance;
use super::management::KeyManagement;
use super::uses::KeyUses;

/// A store of keys and accounts: every port that [`KeyService`](crate::KeyService) needs one for.
/// Implemented for each type that implements those.
///
/// One contract suite (`keys-testkit`) checks that every implementation behaves in the same way.
/// Every method resolves within a bounded time, with
/// [`StoreError::Unavailable`](super::StoreError::Unavailable) if need be. Changes continue to
/// their end even if the returned future is dropped.
pub trait KeyStore:
    Keys + KeyManagement + KeyUses + Accounts + Idempotency + ChangeLog + Maintenance
{
}

impl<T> KeyStore for T where
    T: Keys + KeyManagement + KeyUses + Accounts + Idempotency + ChangeLog + Maintenance
{
}
