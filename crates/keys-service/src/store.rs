//! The port to whatever keeps keys and accounts.
//!
//! Every change goes through one transaction in which, in this order: the account is locked, the caller is judged
//! again on what the transaction sees, the change is made, its audit event is written, and a reserved idempotent
//! answer is completed. So a key that was revoked a moment ago cannot mint its successor, and no change exists
//! without its trace.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::pepper::PepperedDigest;
use keys_core::{
    Account, AccountId, ApiKey, Denial, EventId, ExternalId, KeyId, KeyKind, PepperId, PlanName,
    Plans, ScopeSet, Timestamp,
};

use crate::feed::{ChangeFeed, Commit};

/// A key with the account that holds it, read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub key: ApiKey,
    /// Its account; none exactly for an operator's key.
    pub account: Option<Account>,
}

/// A key that a look-up found, and what it was found by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundKey {
    /// The one of the wanted digests that it is kept under.
    pub digest: PepperedDigest,
    /// The key, or why its row cannot be read. An unreadable row refuses its own key and no other.
    pub stored: Result<StoredKey, UnreadableKey>,
}

/// A stored key that cannot be read, because its row or that of its account breaks a rule of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableKey {
    /// The key. `None` if even its identifier cannot be read.
    pub id: Option<KeyId>,
    /// Whether the row says that the key is revoked.
    pub is_revoked: bool,
}

impl UnreadableKey {
    /// Why the key is refused.
    #[must_use]
    pub fn denial(&self) -> Denial {
        if self.is_revoked {
            Denial::Revoked
        } else {
            Denial::Unreadable
        }
    }
}

/// An account as listed: the account, or the readable part of a row that cannot be read as one.
pub type AccountEntry = Result<Account, UnreadableAccount>;

/// A stored account that cannot be read. Its keys are refused until it is mended by
/// [`KeyStore::update_account`] or by SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableAccount {
    /// The identifier.
    pub id: AccountId,
    /// The columns that cannot be read, in the order of the table.
    pub columns: Vec<&'static str>,
    /// The external identifier as it is stored, legal or not. `None` if there is none, or if it is no text.
    pub external_id: Option<String>,
    /// The plan as it is stored, legal or not. `None` if it is no text.
    pub plan: Option<String>,
    /// Whether the account is disabled; `true` if that cannot be read.
    pub disabled: bool,
    /// When it was created. `None` if that cannot be read.
    pub created_at: Option<Timestamp>,
}

/// A key about to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The record; not revoked, not yet used.
    pub key: ApiKey,
    /// What it will be found by.
    pub digest: PepperedDigest,
    /// What its account must satisfy, judged on the locked account.
    pub admission: Admission,
}

/// What an account must satisfy to be given a key. Judged inside the transaction, on the locked account.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The configured plans.
    pub plans: Arc<Plans>,
    /// Whether the plan must have keys and the account not be disabled.
    pub plan_gate: bool,
    /// Whether the plan's maximum of usable keys holds.
    pub cap: bool,
}

impl Admission {
    /// The most usable keys `account` may have, counted without the new one. `None` is no maximum.
    ///
    /// # Errors
    /// When the account may not have keys at all.
    pub fn keys_max(&self, account: &Account) -> Result<Option<u32>, Denial> {
        if self.plan_gate {
            self.plans.check(account)?;
        } else if account.disabled {
            return Err(Denial::AccountDisabled);
        }
        Ok(self.cap.then(|| self.plans.keys_max(account)))
    }
}

/// On whose word a change is made.
#[derive(Debug, Clone)]
pub enum Authority {
    /// The owner of the machine or of the embedding program.
    Trusted,
    /// The holder of a credential, to be judged again inside the transaction.
    Caller(Caller),
}

/// A credential that was accepted for a change, and what it was accepted for.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The credential.
    pub key_id: KeyId,
    /// Its kind, which the stored key must have.
    pub kind: KeyKind,
    /// The account it belongs to, which the stored key must belong to.
    pub account_id: Option<AccountId>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The scopes that the change needs.
    pub scopes: ScopeSet,
    /// The plans its account must satisfy; `None` where the plan does not matter.
    pub plans: Option<Arc<Plans>>,
}

impl Caller {
    /// Judges the caller as the transaction sees it. `stored` is `None` if it is gone.
    ///
    /// # Errors
    /// The reason why it may no longer make the change.
    pub fn check(&self, stored: Option<&StoredKey>, now: Timestamp) -> Result<(), Denial> {
        let stored = stored.ok_or(Denial::NotFound)?;
        stored.key.check_life(now)?;
        if stored.key.kind != self.kind || stored.key.account_id != self.account_id {
            return Err(Denial::KindNotAllowed);
        }
        if let Some(account) = &stored.account {
            match &self.plans {
                Some(plans) => plans.check(account)?,
                None if account.disabled => return Err(Denial::AccountDisabled),
                None => {}
            }
        }
        stored.key.check_use(self.address, &self.scopes)
    }
}

/// What every change carries: when, on whose word, from where, and which reserved answer it completes.
#[derive(Debug, Clone)]
pub struct Change {
    /// When the change is made.
    pub at: Timestamp,
    /// Identifies its audit event.
    pub event_id: EventId,
    /// On whose word.
    pub authority: Authority,
    /// The idempotent answer to keep in the same transaction, if one was reserved.
    pub completion: Option<Completion>,
    /// The reason of a change that no caller asks for at this moment, for the audit trail.
    pub reason: Option<&'static str>,
}

impl Change {
    /// Who the audit trail says made the change: the kind and, where there is one, the credential.
    #[must_use]
    pub fn actor(&self) -> (&'static str, Option<KeyId>) {
        match &self.authority {
            Authority::Trusted => ("system", None),
            Authority::Caller(caller) => (caller.kind.as_str(), Some(caller.key_id)),
        }
    }

    /// The client address the audit trail keeps.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match &self.authority {
            Authority::Trusted => None,
            Authority::Caller(caller) => caller.address,
        }
    }
}

/// What is to change of an account. `None` leaves a member as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountPatch {
    /// The new plan.
    pub plan: Option<PlanName>,
    /// Disable or enable.
    pub disabled: Option<bool>,
    /// The new external identifier; `Some(None)` removes it.
    pub external_id: Option<Option<ExternalId>>,
}

/// Which accounts to list: ordered by identifier, which is by time of creation, oldest first.
#[derive(Debug, Clone)]
pub struct AccountQuery {
    /// Only the account with this external identifier.
    pub external_id: Option<ExternalId>,
    /// Only accounts after this one.
    pub after: Option<AccountId>,
    /// At most this many.
    pub limit: u32,
}

/// Which keys to list. Revoked keys never are; expired ones are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOwner {
    /// The keys of kind [`KeyKind::Account`] of this account.
    Account(AccountId),
    /// The operators' keys.
    Operators,
}

/// One page of keys, newest first, ties by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<ApiKey>,
    /// Which of `keys` stand for rows that cannot be read. Such an entry has the columns that can be read, and a
    /// harmless value in place of each other one. Its key is refused wherever it is presented.
    pub unreadable: Vec<KeyId>,
    /// How many there are on all pages.
    pub total: u64,
}

impl KeyPage {
    /// Whether the row of `id` cannot be read.
    #[must_use]
    pub fn is_unreadable(&self, id: KeyId) -> bool {
        self.unreadable.contains(&id)
    }
}

/// Uses of one key since the last flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key_id: KeyId,
    /// The latest of them.
    pub last_used_at: Timestamp,
    /// How many.
    pub count: u64,
}

/// An attempt to be the one request that makes something, under an `Idempotency-Key`.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// The digests the reservation may be kept under, one for each live pepper, the current one first.
    pub lookups: Vec<[u8; 32]>,
    /// Digest of the request's body.
    pub body_digest: [u8; 32],
    /// Identifies this attempt.
    pub token: EventId,
    /// Now.
    pub at: Timestamp,
    /// When others may assume that this attempt died.
    pub pending_until: Timestamp,
}

/// What came of a [`Reservation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// This attempt is the one; complete or release it.
    New,
    /// Another attempt is under way.
    Pending {
        /// When this one may take over, if the other has not ended until then.
        until: Timestamp,
    },
    /// It was done before, with a body of this digest; here is the sealed answer, kept under this look-up digest.
    Done {
        /// Digest of the body of the request that did it.
        body_digest: [u8; 32],
        /// The digest it is kept under.
        lookup: [u8; 32],
        /// The sealed answer.
        sealed: Vec<u8>,
    },
}

/// The sealed answer of a [`Reservation`].
#[derive(Debug, Clone)]
pub struct Completion {
    /// The first of the reservation's look-up digests.
    pub lookup: [u8; 32],
    /// The reservation's token; if another attempt has taken over since, the change must not happen.
    pub token: EventId,
    /// The sealed answer.
    pub sealed: Vec<u8>,
    /// Until when it is kept.
    pub expires_at: Timestamp,
}

/// The state of a store that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// `false` while it is known that nothing can be changed: the database is read-only, its disk is full, or commits do not end.
    pub is_writable: bool,
}

/// The store could not answer. Says nothing about any key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached or is overloaded; trying again later may help.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered something that should not be possible.
    #[error("the database answered unexpectedly")]
    Unexpected(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The caller may no longer make it.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// There is no such account.
    #[error("there is no such account")]
    AccountNotFound,
    /// The account would still be unreadable after the change, because of these columns.
    #[error("columns of the stored account cannot be read: {}", .columns.join(", "))]
    AccountUnreadable {
        /// The columns that the change must set as well.
        columns: Vec<&'static str>,
    },
    /// The account may not be given a key.
    #[error("the account was refused")]
    AccountDenied(#[source] Denial),
    /// The account has as many usable keys as it may.
    #[error("the account already has its {max} keys")]
    CapReached {
        /// The maximum.
        max: u32,
    },
    /// Another account has this external identifier.
    #[error("the external id is taken")]
    ExternalIdTaken,
    /// Another attempt under the same `Idempotency-Key` took over.
    #[error("another attempt took over")]
    Superseded,
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

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

/// A future on the heap that may go to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How long an attempt under an `Idempotency-Key` may take before another may take over: longer than any request is
/// allowed to.
pub const RESERVATION_PENDING: Duration = Duration::from_secs(30);

/// How long a session is kept after its end, so that a denial can still say why.
pub const ENDED_SESSIONS_KEPT: Duration = Duration::from_hours(24);

/// How long an idempotent answer is kept.
pub const RESERVATION_KEPT: Duration = Duration::from_mins(10);
