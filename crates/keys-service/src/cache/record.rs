//! What the cache keeps of a key: enough to judge it, never a verdict.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use keys_core::{
    Account, AccountId, AllowedNetworks, ApiKey, Denial, KeyKind, Plans, ScopeSet, Timestamp,
};
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::lease::Nanos;
use super::map::{RecordId, Weigh};
use crate::store::StoredKey;

/// What a key is judged by. Small, since a million of them are kept.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) facts: Facts,
    /// Uses since they were last collected.
    pub(crate) uses: u32,
    /// The last use, on the clock of intervals: a request reads one clock, not two.
    pub(crate) used_at: Nanos,
    pub(crate) is_revoked: bool,
}

/// What a verdict tells of a key. Cheap to clone: no name that people give is copied to the heap.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) account: Option<Arc<AccountCell>>,
    /// Kept inline up to 23 bytes, which most are: reading it costs no further look at memory.
    pub(crate) name: SmolStr,
    /// Most keys have none.
    pub(crate) restrictions: Option<Arc<Restrictions>>,
    pub(crate) kind: KeyKind,
}

/// What narrows the use of a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Restrictions {
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) networks: AllowedNetworks,
    pub(crate) scopes: ScopeSet,
}

/// An account, shared by the records of all its keys: one change refuses them all at once.
///
/// What every verification looks at comes first, so that it lies beside the counts of the `Arc`, which every verification
/// changes: one line of the processor's cache instead of two.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct AccountCell {
    /// The account has changed since: records that hold this must be read again.
    is_outdated: AtomicBool,
    /// Whether it may use keys, by the configured plans, which do not change while the program runs.
    pub(crate) standing: Result<(), Denial>,
    pub(crate) account: Account,
}

impl AccountCell {
    pub(crate) fn is_outdated(&self) -> bool {
        self.is_outdated.load(Ordering::Acquire)
    }
}

impl Record {
    pub(crate) fn new(key: ApiKey, account: Option<Arc<AccountCell>>) -> Self {
        let is_restricted = key.expires_at.is_some()
            || !key.allowed_networks.is_unrestricted()
            || !key.scopes.is_empty();
        Self {
            facts: Facts {
                account,
                name: key
                    .name
                    .map_or(SmolStr::default(), |name| name.as_str().into()),
                restrictions: is_restricted.then(|| {
                    Arc::new(Restrictions {
                        expires_at: key.expires_at,
                        networks: key.allowed_networks,
                        scopes: key.scopes,
                    })
                }),
                kind: key.kind,
            },
            uses: 0,
            used_at: 0,
            is_revoked: key.revoked_at.is_some(),
        }
    }

    /// Whether the account is no longer what this record holds.
    pub(crate) fn is_outdated(&self) -> bool {
        let account = self.facts.account.as_ref();
        account.is_some_and(|cell| cell.is_outdated())
    }
}

impl Weigh for Record {
    fn heap_bytes(&self) -> usize {
        /// Counts and the allocator's own header.
        const OVERHEAD: usize = 24;
        let name = &self.facts.name;
        let name = if name.is_heap_allocated() {
            name.len() + OVERHEAD
        } else {
            0
        };
        let restrictions = self.facts.restrictions.as_ref().map_or(0, |restrictions| {
            let networks = size_of_val(restrictions.networks.as_slice());
            let scopes: usize = restrictions
                .scopes
                .iter()
                .map(|scope| size_of_val(scope) + scope.as_str().len() + OVERHEAD)
                .sum();
            size_of::<Restrictions>() + networks + scopes + OVERHEAD
        });
        name + restrictions
    }
}

/// The cells of all accounts that have a key in the cache.
pub(crate) struct Accounts {
    shards: [Mutex<Shard>; Self::SHARDS],
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

#[derive(Default)]
struct Shard {
    cells: HashMap<AccountId, Weak<AccountCell>>,
    /// The number of cells after the last look for abandoned ones.
    swept_len: usize,
}

impl Accounts {
    const SHARDS: usize = 64;

    /// The cell of `account` as it was just read. Where another state of it was known, that is outdated from now on.
    pub(crate) fn cell(&self, account: &Account, plans: &Plans) -> Arc<AccountCell> {
        let mut shard = self.shard(account.id).lock();
        if let Some(cell) = shard.cells.get(&account.id).and_then(Weak::upgrade) {
            if cell.account == *account && !cell.is_outdated() {
                return cell;
            }
            cell.is_outdated.store(true, Ordering::Release);
        }
        let cell = Self::detached(account, plans);
        shard.cells.insert(account.id, Arc::downgrade(&cell));
        shard.sweep();
        cell
    }

    /// A cell of an account as an old read saw it, for one judgement and nobody else.
    pub(crate) fn detached(account: &Account, plans: &Plans) -> Arc<AccountCell> {
        Arc::new(AccountCell {
            is_outdated: AtomicBool::new(false),
            standing: plans.check(account),
            account: account.clone(),
        })
    }

    /// Marks what is known of the account as outdated.
    pub(crate) fn forget(&self, id: AccountId) {
        let cell = self.shard(id).lock().cells.remove(&id);
        if let Some(cell) = cell.and_then(|cell| cell.upgrade()) {
            cell.is_outdated.store(true, Ordering::Release);
        }
    }

    /// Marks what is known of every account as outdated.
    pub(crate) fn forget_all(&self) {
        for shard in &self.shards {
            for (_, cell) in shard.lock().cells.drain() {
                if let Some(cell) = cell.upgrade() {
                    cell.is_outdated.store(true, Ordering::Release);
                }
            }
        }
    }

    fn shard(&self, id: AccountId) -> &Mutex<Shard> {
        // The last byte of a UUID of version 7 is random.
        &self.shards[usize::from(id.as_uuid().as_bytes()[15]) % Self::SHARDS]
    }
}

impl Shard {
    /// Drops cells whose keys have all left the cache, once there may be as many of them as of others.
    fn sweep(&mut self) {
        const LEN_MIN: usize = 64;
        if self.cells.len() >= 2 * self.swept_len.max(LEN_MIN) {
            self.cells.retain(|_, cell| cell.strong_count() > 0);
            self.swept_len = self.cells.len();
        }
    }
}

/// How the cache knows a key by.
pub(crate) fn key_record_id(stored: &StoredKey) -> RecordId {
    *stored.key.id.as_uuid().as_bytes()
}

/// How the cache knows an account by.
pub(crate) fn account_record_id(id: AccountId) -> RecordId {
    *id.as_uuid().as_bytes()
}
