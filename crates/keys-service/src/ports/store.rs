//! The store of keys and accounts.

use std::time::Duration;

use async_trait::async_trait;
use keys_core::pepper::PepperedDigest;
use keys_core::{Account, AccountId, EventId, KeyId, PepperId, Timestamp};

use super::accounts::{AccountEntry, AccountPatch, AccountQuery};
use super::change::Change;
use super::changes::{ChangeFeed, Commit};
use super::errors::{ChangeError, StoreError};
use super::idempotency::{Reservation, Reserved};
use super::keys::{FoundKey, KeyOwner, KeyPage, NewKey};
use super::maintenance::{BoxFuture, Readiness};
use super::uses::KeyUse;

/// Keeps keys and accounts. One contract suite (`keys-testkit`) holds every implementation to the same behaviour.
///
/// Every method resolves within a bounded time, with [`StoreError::Unavailable`] if need be. Changes go on to their
/// end even if the returned future is dropped.
#[async_trait]
pub trait KeyStore: Send + Sync + 'static {
    /// The keys kept under any of `digests` (digest and pepper both equal), with their accounts, each once and in no
    /// particular order. Revoked keys are found too. One round trip, however many: a thousand are fine.
    async fn find_by_digests(
        &self,
        digests: Vec<PepperedDigest>,
    ) -> Result<Vec<FoundKey>, StoreError>;

    /// The account of that identifier. Fails with [`StoreError::Unexpected`] if its row cannot be read; see
    /// [`account_entry`](Self::account_entry).
    async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError>;

    /// Accounts in order of identifier. Leaves out rows that cannot be read; see
    /// [`account_entries`](Self::account_entries).
    async fn accounts(&self, query: AccountQuery) -> Result<Vec<Account>, StoreError>;

    /// The account of that identifier, also if its row cannot be read. By default as
    /// [`find_account`](Self::find_account).
    async fn account_entry(&self, id: AccountId) -> Result<Option<AccountEntry>, StoreError> {
        Ok(self.find_account(id).await?.map(Ok))
    }

    /// Accounts in order of identifier, rows that cannot be read among them. By default as
    /// [`accounts`](Self::accounts).
    async fn account_entries(&self, query: AccountQuery) -> Result<Vec<AccountEntry>, StoreError> {
        Ok(self.accounts(query).await?.into_iter().map(Ok).collect())
    }

    /// Adds an account. Audit action `account.created`.
    async fn insert_account(&self, account: Account, change: Change) -> Result<(), ChangeError>;

    /// Changes an account and returns it as it is then, with the transaction. Audit action `account.updated`. An
    /// account that cannot be read is mended if `patch` sets each column at fault.
    async fn update_account(
        &self,
        id: AccountId,
        patch: AccountPatch,
        change: Change,
    ) -> Result<(Account, Commit), ChangeError>;

    /// Adds a key. Audit action `key.created`. With an account: it is locked, admitted, its usable keys of kind
    /// [`KeyKind::Account`] are counted (not revoked, and not expired at `change.at`) and compared with the cap, all
    /// in one transaction. The cap concerns keys of that kind only.
    async fn insert_key(&self, key: NewKey, change: Change) -> Result<(), ChangeError>;

    /// One page of keys, skipping `offset`.
    async fn keys(&self, owner: KeyOwner, offset: u64, limit: u32) -> Result<KeyPage, StoreError>;

    /// Revokes a key and says by which transaction; `None` if there was none to revoke. Audit action `key.revoked`. With
    /// an `owner`, only a key that [`keys`](Self::keys) would list for it; without, a key of any kind.
    async fn revoke_key(
        &self,
        owner: Option<KeyOwner>,
        id: KeyId,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError>;

    /// Records uses: adds the counts, moves each `last_used_at` forward, never back. Not audited.
    ///
    /// Returns the keys that another transaction has locked for longer than a moment. Nothing of their uses is
    /// recorded, so that one of them does not keep the others from being recorded; try again later.
    async fn record_uses(&self, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError>;

    /// Reserves an idempotent answer. One that has expired, and a pending one whose time is up, are taken over; so is, at
    /// once, a pending one whose process has ended, if the store can tell.
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError>;

    /// Gives a reservation back after a refusal, unless another attempt took over.
    async fn release(&self, lookup: [u8; 32], token: EventId) -> Result<(), StoreError>;

    /// A feed of all changes of keys and accounts, recorded uses excepted, for one instance. Each is a reader of its
    /// own, whom others wait for from its first poll on.
    fn feed(&self) -> Box<dyn ChangeFeed>;

    /// Whether every instance that may still have a cache has applied what `commit` changed. Those that have given no sign of life
    /// for `silence` have none they may use. `false` also where the store cannot tell: whoever waits for `true` waits
    /// no longer than until everything has run out anyway.
    async fn is_seen_everywhere(
        &self,
        commit: &Commit,
        silence: Duration,
    ) -> Result<bool, StoreError>;

    /// Runs `future` where the store runs its own work, for as long as that takes: on a runtime that outlives the
    /// request that asks.
    fn spawn(&self, future: BoxFuture<'static, ()>);

    /// Deletes idempotent answers that have expired, and returns how many. Also deletes sessions that ended more than
    /// [`ENDED_SESSIONS_KEPT`] ago, and prunes the log of changes, never past a
    /// feed that is being followed. Each of the three is done whether or not another one fails, a batch at a time and
    /// for a bounded time; the next call goes on with what is left.
    ///
    /// # Errors
    /// The first failure. It names what could not be deleted.
    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// How old the oldest row of the log of changes is. `None` if the log is empty, or if the store keeps none.
    async fn oldest_change(&self) -> Result<Option<Duration>, StoreError> {
        Ok(None)
    }

    /// The peppers that living keys are kept under: neither revoked nor, at `now`, expired.
    async fn pepper_ids(&self, now: Timestamp) -> Result<Vec<PepperId>, StoreError>;

    /// Whether the database can be read and has the schema that this program knows, asked anew each time; and whether it takes
    /// changes, as far as that is known without making one.
    async fn ready(&self) -> Result<Readiness, StoreError>;
}
