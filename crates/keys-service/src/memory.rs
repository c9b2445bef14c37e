//! A store in memory: for tests of programs that embed the service, and for trying it out. It loses
//! everything at exit.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::{
    Account, AccountId, ApiKey, AuditAction, AuditActor, AuditEvent, AuditSubject, CreatedBy,
    EventId, ExternalId, KeyDetails, KeyDigest, KeyId, KeyKind, OperatorScope, PepperId,
    PepperedDigest, Revocation, RevocationReason, Scope, ScopeSet, StoredKey, Timestamp,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::ports::{
    AccountPatch, AccountQuery, Accounts, Authority, CHAIN_MAX, CHANGES_MAX, Change, ChangeError,
    ChangeFeed, ChangeLog, Changed, Changes, Commit, Completion, ENDED_SESSIONS_KEPT, FoundKey,
    Idempotency, KeyListing, KeyManagement, KeyOwner, KeyPage, KeyPatch, KeyRotation, KeySelection,
    KeyUse, KeyUses, Keys, ListPosition, ListedKeys, Maintenance, NewKey, Others, POLL_INTERVAL,
    Page, Place, REMAINING_MAX, REVOKED_MAX, Readers, Readiness, Reservation, Reserved,
    RevokedKeys, Selected, StoreError, UnreadableKey, day_of,
};

/// Time for which changes are kept for feeds.
const CHANGES_KEPT: Duration = Duration::from_mins(10);

/// Keeps keys and accounts in this process, under one lock.
///
/// It obeys every rule of [`KeyStore`](crate::ports::KeyStore) and is held to them by the same
/// contract suite as the databases. It grows without bound, keeps nothing across a restart and
/// shares nothing with other processes, so it is no store to run a service on.
///
/// ```
/// use std::sync::Arc;
/// use keys_service::MemoryStore;
/// use keys_service::ports::KeyStore;
///
/// let store: Arc<dyn KeyStore> = Arc::new(MemoryStore::new());
/// ```
///
/// Clones are the same store.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// Notified when the log has grown.
    woken: Arc<watch::Sender<()>>,
    readers: Readers,
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the audit trail so far, oldest first.
    #[must_use]
    pub fn audit_events(&self) -> Vec<AuditEvent> {
        self.state.lock().audit.clone()
    }
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<AccountId, Account>,
    external_ids: HashMap<ExternalId, AccountId>,
    keys: HashMap<KeyId, KeyRow>,
    /// The keys of each account, and of the operators.
    owned: HashMap<Option<AccountId>, Vec<KeyId>>,
    digests: HashMap<(PepperId, [u8; KeyDigest::LEN]), KeyId>,
    answers: HashMap<[u8; 32], Answer>,
    audit: Vec<AuditEvent>,
    log: Log,
}

/// The changes, in order.
#[derive(Debug, Default)]
struct Log {
    last: u64,
    /// Changes up to this number may have been deleted.
    pruned: u64,
    kept: VecDeque<Note>,
}

#[derive(Debug)]
struct Note {
    number: u64,
    at: Timestamp,
    changed: Changed,
}

impl Log {
    fn note(&mut self, at: Timestamp, changed: Changed) -> Commit {
        self.last += 1;
        self.kept.push_back(Note {
            number: self.last,
            at,
            changed,
        });
        Commit::from_number(self.last)
    }

    fn since(&self, seen: Option<u64>, page: Option<Page>) -> (Changes, Option<Page>) {
        let seen = page.map(|page| page.after).or(seen);
        let Some(seen) = seen.filter(|seen| *seen >= self.pruned) else {
            return (Changes::everything(), None);
        };
        let first = self.kept.partition_point(|note| note.number <= seen);
        let new = self.kept.iter().skip(first).take(CHANGES_MAX + 1);
        let new = new.map(|note| (note.number, note.changed)).collect();
        Page::next(page, new)
    }

    fn prune(&mut self, before: Timestamp, up_to: u64) {
        while let Some(oldest) = self.kept.front()
            && oldest.at < before
            && oldest.number <= up_to
        {
            self.pruned = oldest.number;
            self.kept.pop_front();
        }
    }
}

#[derive(Debug)]
struct KeyRow {
    details: KeyDetails,
    pepper: PepperId,
}

#[derive(Debug)]
struct Answer {
    token: EventId,
    body_digest: [u8; 32],
    /// `None` while the attempt is under way.
    sealed: Option<Vec<u8>>,
    /// Time from which the attempt may be taken over, or its answer is deleted.
    until: Timestamp,
}

// Each change checks everything first and then writes, so that a refusal leaves nothing to roll
// back.
impl State {
    fn stored(&self, row: &KeyRow) -> StoredKey {
        let account = row
            .details
            .key
            .account_id
            .and_then(|id| self.accounts.get(&id).cloned());
        StoredKey::new(row.details.key.clone(), account)
    }

    fn check_caller(&self, change: &Change) -> Result<(), ChangeError> {
        self.caller(change).map(drop)
    }

    /// Checks the caller, and returns its key. `None` if the change is made without a caller.
    fn caller(&self, change: &Change) -> Result<Option<&ApiKey>, ChangeError> {
        let Authority::Caller(caller) = &change.authority else {
            return Ok(None);
        };
        let row = self.keys.get(&caller.key_id);
        caller
            .check(row.map(|row| self.stored(row)).as_ref(), change.at)
            .map_err(ChangeError::CallerDenied)?;
        Ok(row.map(|row| &row.details.key))
    }

    fn check_completion(&self, change: &Change) -> Result<(), ChangeError> {
        match &change.completion {
            Some(completion) if !self.is_pending(completion) => Err(ChangeError::Superseded),
            _ => Ok(()),
        }
    }

    fn is_pending(&self, completion: &Completion) -> bool {
        self.answers
            .get(&completion.lookup)
            .is_some_and(|answer| answer.sealed.is_none() && answer.token == completion.token)
    }

    fn check_external_id(&self, wanted: &ExternalId, by: AccountId) -> Result<(), ChangeError> {
        match self.external_ids.get(wanted) {
            Some(holder) if *holder != by => Err(ChangeError::ExternalIdTaken),
            _ => Ok(()),
        }
    }

    fn check_admission(&self, new: &NewKey, at: Timestamp) -> Result<(), ChangeError> {
        let Some(account_id) = new.key.account_id else {
            return Ok(());
        };
        let account = self
            .accounts
            .get(&account_id)
            .ok_or(ChangeError::AccountNotFound)?;
        let keys_max = new
            .admission
            .keys_max(account)
            .map_err(ChangeError::AccountDenied)?;
        let Some(max) = keys_max.filter(|_| new.key.kind == KeyKind::Account) else {
            return Ok(());
        };
        let usable = self
            .listed(KeyOwner::Account(account_id))
            .filter(|key| key.is_usable(at))
            .count();
        if u32::try_from(usable).is_ok_and(|usable| usable < max) {
            Ok(())
        } else {
            Err(ChangeError::CapReached { max })
        }
    }

    fn check_new(&self, new: &NewKey) -> Result<(), StoreError> {
        let digest = (new.digest.pepper, *new.digest.digest.as_bytes());
        if self.keys.contains_key(&new.key.id) || self.digests.contains_key(&digest) {
            return Err(unexpected("a key of this id or digest exists"));
        }
        if (new.key.kind == KeyKind::Operator) != new.key.account_id.is_none() {
            return Err(unexpected("exactly operator keys have no account"));
        }
        Ok(())
    }

    fn add(&mut self, new: &NewKey, change: &Change) {
        let id = new.key.id;
        let digest = (new.digest.pepper, *new.digest.digest.as_bytes());
        self.digests.insert(digest, id);
        self.owned.entry(new.key.account_id).or_default().push(id);
        let row = KeyRow {
            details: new.details(change),
            pepper: new.digest.pepper,
        };
        self.keys.insert(id, row);
    }

    fn listed(&self, owner: KeyOwner) -> impl Iterator<Item = &ApiKey> {
        let account_id = match owner {
            KeyOwner::Account(id) => Some(id),
            KeyOwner::Operators => None,
        };
        let owned = self.owned.get(&account_id).into_iter().flatten();
        owned
            .filter_map(|id| self.keys.get(id))
            .map(|row| &row.details.key)
            .filter(move |key| is_listed(key, owner))
    }

    /// Returns the keys that are to be revoked, in the order in which they are.
    fn to_revoke(&self, selection: &KeySelection, is_leaked: bool, now: Timestamp) -> Vec<KeyId> {
        let mut selected: Vec<&KeyDetails> = match &selection.of {
            Selected::Ids(ids) => {
                let distinct: HashSet<&KeyId> = ids.iter().collect();
                let rows = distinct.into_iter().filter_map(|id| self.keys.get(id));
                rows.map(|row| &row.details).collect()
            }
            Selected::AllOf(..) | Selected::CreatedBy(..) => {
                let rows = self.keys.values().map(|row| &row.details);
                rows.filter(|details| is_selected(details, &selection.of))
                    .collect()
            }
        };
        let is_named = matches!(selection.of, Selected::Ids(_));
        selected.retain(|details| {
            let key = &details.key;
            let has_ended = key.kind == KeyKind::Session
                && key.revoked_at.is_none()
                && key.expires_at.is_some_and(|end| now >= end);
            selection.kind.is_none_or(|kind| key.kind == kind)
                && (selection.account.is_none() || key.account_id == selection.account)
                && (is_named || !has_ended)
        });
        selected.sort_unstable_by_key(|details| {
            std::cmp::Reverse((details.key.created_at, details.key.id))
        });
        let living = |details: &&KeyDetails| details.key.revoked_at.is_none();
        let ids = |details: &KeyDetails| details.key.id;
        let mut found: Vec<KeyId> = selected.iter().copied().filter(living).map(ids).collect();
        if !is_leaked || found.len() > REVOKED_MAX {
            return found;
        }
        let mut visited: HashSet<KeyId> =
            selected.iter().take(CHAIN_MAX).copied().map(ids).collect();
        let mut edge: HashSet<KeyId> = visited.clone();
        while !edge.is_empty() {
            let successors: HashSet<KeyId> = edge
                .iter()
                .filter_map(|id| self.keys.get(id)?.details.successor)
                .collect();
            let mut next: Vec<&KeyDetails> = self
                .keys
                .values()
                .map(|row| &row.details)
                .filter(|details| {
                    let maker = details.created_by.and_then(AuditActor::credential_id);
                    let is_made = maker.is_some_and(|maker| edge.contains(&maker));
                    (is_made || successors.contains(&details.key.id))
                        && !visited.contains(&details.key.id)
                })
                .collect();
            next.sort_unstable_by_key(|details| details.key.id);
            next.truncate(CHAIN_MAX.saturating_sub(visited.len()));
            found.extend(next.iter().copied().filter(living).map(ids));
            edge = next.into_iter().map(ids).collect();
            visited.extend(&edge);
        }
        found
    }

    /// Checks that a usable operator key with `operators:write` is left without `gone`, unless none
    /// of these is one.
    fn check_operators(&self, gone: &[KeyId], now: Timestamp) -> Result<(), ChangeError> {
        let wanted = Scope::from(OperatorScope::OperatorsWrite);
        let is_able = |key: &ApiKey| {
            key.kind == KeyKind::Operator
                && key.is_usable(now)
                && key.disabled_at.is_none()
                && key.scopes.contains(&wanted)
        };
        let (going, left): (Vec<_>, Vec<_>) = self
            .keys
            .values()
            .map(|row| &row.details.key)
            .filter(|key| is_able(key))
            .partition(|key| gone.contains(&key.id));
        if left.is_empty() && !going.is_empty() {
            Err(ChangeError::LastOperator)
        } else {
            Ok(())
        }
    }

    /// Writes the audit event of a change that was just made, and stores its answer.
    fn record(&mut self, change: Change, action: AuditAction, subject: AuditSubject) {
        self.audit.push(change.event(action, subject));
        self.complete(change.completion);
    }

    /// Stores the answer of a change that was just made.
    fn complete(&mut self, completion: Option<Completion>) {
        if let Some(completion) = completion
            && let Some(answer) = self.answers.get_mut(&completion.lookup)
        {
            answer.sealed = Some(completion.sealed);
            answer.until = completion.expires_at;
        }
    }
}

fn is_listed(key: &ApiKey, owner: KeyOwner) -> bool {
    key.revoked_at.is_none() && owner.owns(key)
}

/// Returns whether a selection has this key, before its filters.
fn is_selected(details: &KeyDetails, selected: &Selected) -> bool {
    let key = &details.key;
    match selected {
        Selected::Ids(ids) => ids.contains(&key.id),
        Selected::AllOf(account, kind) => key.account_id == Some(*account) && key.kind == *kind,
        Selected::CreatedBy(CreatedBy::Operator(id), kind) => {
            let maker = AuditActor::Credential {
                kind: KeyKind::Operator,
                id: *id,
            };
            key.kind == *kind && details.created_by == Some(maker)
        }
        Selected::CreatedBy(CreatedBy::Subject(subject), kind) => {
            key.kind == *kind && key.subject.as_ref() == Some(subject)
        }
    }
}

fn unexpected(message: &'static str) -> StoreError {
    StoreError::Unexpected(message.into())
}

#[async_trait]
impl Keys for MemoryStore {
    async fn find_by_digests(
        &self,
        digests: Vec<PepperedDigest>,
    ) -> Result<Vec<FoundKey>, StoreError> {
        let state = self.state.lock();
        let mut seen = HashSet::new();
        let found = digests.into_iter().filter_map(|digest| {
            let id = state
                .digests
                .get(&(digest.pepper, *digest.digest.as_bytes()))?;
            let row = state.keys.get(id).filter(|_| seen.insert(*id))?;
            let stored = state.stored(row);
            Some(FoundKey::new(digest, Ok(stored)))
        });
        Ok(found.collect())
    }

    async fn keys(&self, owner: KeyOwner, offset: u64, limit: u32) -> Result<KeyPage, StoreError> {
        let state = self.state.lock();
        let mut keys: Vec<&ApiKey> = state.listed(owner).collect();
        keys.sort_unstable_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
        let page = keys
            .iter()
            .skip(usize::try_from(offset).unwrap_or(usize::MAX))
            .take(limit as usize);
        Ok(KeyPage::new(
            page.copied().cloned().collect(),
            keys.len() as u64,
        ))
    }

    async fn insert_key(&self, key: NewKey, change: Change) -> Result<(), ChangeError> {
        let mut state = self.state.lock();
        if let Some(caller) = state.caller(&change)? {
            key.check_caller(caller)?;
        }
        state.check_admission(&key, change.at)?;
        state.check_new(&key)?;
        state.check_completion(&change)?;

        state.add(&key, &change);
        let subject = AuditSubject::Key(key.key.id);
        state.record(change, AuditAction::KeyCreated, subject);
        Ok(())
    }

    async fn revoke_key(
        &self,
        owner: Option<KeyOwner>,
        id: KeyId,
        revocation: Revocation,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError> {
        let mut state = self.state.lock();
        state.check_caller(&change)?;
        let there = state.keys.get(&id).is_some_and(|row| {
            row.details.key.revoked_at.is_none()
                && owner.is_none_or(|owner| is_listed(&row.details.key, owner))
        });
        if !there {
            return Ok(None);
        }
        state.check_completion(&change)?;

        if let Some(row) = state.keys.get_mut(&id) {
            row.details.key.revoked_at = Some(change.at);
            row.details.revocation = revocation;
        }
        let commit = state.log.note(change.at, Changed::Key(id));
        state.record(change, AuditAction::KeyRevoked, AuditSubject::Key(id));
        self.woken.send_replace(());
        Ok(Some(commit))
    }
}

#[async_trait]
impl KeyManagement for MemoryStore {
    async fn find_key(
        &self,
        id: KeyId,
    ) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError> {
        let state = self.state.lock();
        Ok(state.keys.get(&id).map(|row| Ok(row.details.clone())))
    }

    async fn list_keys(&self, listing: KeyListing) -> Result<ListedKeys, StoreError> {
        let state = self.state.lock();
        let KeyListing { query, now, .. } = &listing;
        let order = query.order();
        let mut covered: Vec<(ListPosition, &KeyDetails)> = state
            .keys
            .values()
            .map(|row| &row.details)
            .filter(|details| query.covers(details))
            .map(|details| {
                let day = details.key.last_used_at.map(day_of);
                (order.position(details, day), details)
            })
            .collect();
        covered.sort_unstable_by_key(|(position, _)| *position);
        if order.is_descending {
            covered.reverse();
        }
        let is_passed = |position: ListPosition| {
            listing.after.is_some_and(|after| {
                if order.is_descending {
                    position >= after
                } else {
                    position <= after
                }
            })
        };
        let selected = |details: &KeyDetails| query.selects_status(details.status(*now));
        let mut page = ListedKeys::default();
        if listing.counts_others() {
            let others = covered.iter().filter(|(_, details)| !selected(details));
            page.others = Some(Others::new(others.count() as u64, false));
        }
        let mut rest = covered
            .into_iter()
            .filter(|(position, details)| selected(details) && !is_passed(*position));
        let shown: Vec<_> = rest.by_ref().take(query.limit as usize).collect();
        if rest.next().is_some() {
            page.next = shown.last().map(|(position, _)| *position);
        }
        page.keys = shown.into_iter().map(|(_, one)| one.clone()).collect();
        Ok(page)
    }

    async fn revoke_keys(
        &self,
        selection: KeySelection,
        revocation: Revocation,
        change: Change,
    ) -> Result<RevokedKeys, ChangeError> {
        let mut state = self.state.lock();
        state.check_caller(&change)?;
        if let Some(account) = selection.account
            && !state.accounts.contains_key(&account)
        {
            return Err(ChangeError::AccountNotFound);
        }
        let is_leaked = revocation.reason == Some(RevocationReason::Leaked);
        let mut keys = state.to_revoke(&selection, is_leaked, change.at);
        let count = keys.len().saturating_sub(REVOKED_MAX) as u64;
        keys.truncate(REVOKED_MAX);
        if selection.keeps_an_operator {
            state.check_operators(&keys, change.at)?;
        }
        if keys.is_empty() {
            return Ok(RevokedKeys::default());
        }
        state.check_completion(&change)?;

        let mut commit = None;
        for (index, id) in keys.iter().enumerate() {
            if let Some(row) = state.keys.get_mut(id) {
                row.details.key.revoked_at = Some(change.at);
                row.details.revocation = revocation.clone();
            }
            commit = Some(state.log.note(change.at, Changed::Key(*id)));
            let mut one = change.clone();
            one.event_id = change.event_id_of(index);
            state.record(one, AuditAction::KeyRevoked, AuditSubject::Key(*id));
        }
        self.woken.send_replace(());
        Ok(RevokedKeys::new(keys, count.min(REMAINING_MAX), commit))
    }

    async fn set_operator_scopes(
        &self,
        id: KeyId,
        scopes: ScopeSet,
        keeps_an_operator: bool,
        change: Change,
    ) -> Result<Option<Commit>, ChangeError> {
        let mut state = self.state.lock();
        state.check_caller(&change)?;
        let is_there = state
            .keys
            .get(&id)
            .is_some_and(|row| is_listed(&row.details.key, KeyOwner::Operators));
        if !is_there {
            return Ok(None);
        }
        if keeps_an_operator && !scopes.contains(&Scope::from(OperatorScope::OperatorsWrite)) {
            state.check_operators(&[id], change.at)?;
        }
        state.check_completion(&change)?;

        if let Some(row) = state.keys.get_mut(&id) {
            row.details.key.scopes = scopes;
        }
        let commit = state.log.note(change.at, Changed::Key(id));
        state.record(change, AuditAction::KeyUpdated, AuditSubject::Key(id));
        self.woken.send_replace(());
        Ok(Some(commit))
    }

    async fn rotate_key(
        &self,
        rotation: KeyRotation,
        change: Change,
    ) -> Result<(Option<KeyId>, Commit), ChangeError> {
        let mut state = self.state.lock();
        if let Some(caller) = state.caller(&change)? {
            rotation.new.check_caller(caller)?;
        }
        state.check_admission(&rotation.new, change.at)?;
        let details = |id: &KeyId| state.keys.get(id).map(|row| row.details.clone());
        let old = details(&rotation.old)
            .filter(|old| old.version() == rotation.version)
            .ok_or(ChangeError::KeyChanged)?;
        let oldest = rotation.oldest.as_ref().and_then(details);
        state.check_new(&rotation.new)?;
        state.check_completion(&change)?;

        state.add(&rotation.new, &change);
        let ended = oldest.and_then(|oldest| rotation.superseded(oldest, &change));
        let ended_id = ended.as_ref().map(|key| key.key.id);
        let mut commit = state.log.note(change.at, Changed::Key(rotation.old));
        if let Some(id) = ended_id {
            commit = state.log.note(change.at, Changed::Key(id));
        }
        for changed in ended.into_iter().chain([rotation.replaced(old, &change)]) {
            if let Some(row) = state.keys.get_mut(&changed.key.id) {
                row.details = changed;
            }
        }
        state.audit.push(rotation.created_event(&change));
        if let Some(id) = ended_id {
            state.audit.push(rotation.ended_event(id, &change));
        }
        let subject = AuditSubject::Key(rotation.old);
        state.record(change, AuditAction::KeyRotated, subject);
        self.woken.send_replace(());
        Ok((ended_id, commit))
    }

    async fn update_key(
        &self,
        owner: KeyOwner,
        id: KeyId,
        patch: KeyPatch,
        change: Change,
    ) -> Result<Option<(KeyDetails, Commit)>, ChangeError> {
        let mut state = self.state.lock();
        let caller = state.caller(&change)?;
        let row = state.keys.get(&id);
        let Some(row) = row.filter(|row| owner.owns(&row.details.key)) else {
            return Ok(None);
        };
        let after = patch.apply(&row.details, caller, change.at)?;
        let action = KeyPatch::action(&row.details, &after);
        // Metadata is in no cache.
        let is_noted = row.details.key != after.key;
        state.check_completion(&change)?;

        if let Some(row) = state.keys.get_mut(&id) {
            row.details = after.clone();
        }
        let commit = if is_noted {
            state.log.note(change.at, Changed::Key(id))
        } else {
            Commit::from_number(state.log.last)
        };
        match action {
            Some(action) => state.record(change, action, AuditSubject::Key(id)),
            None => state.complete(change.completion),
        }
        self.woken.send_replace(());
        Ok(Some((after, commit)))
    }
}

#[async_trait]
impl KeyUses for MemoryStore {
    async fn record_uses(&self, uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError> {
        let mut state = self.state.lock();
        for used in uses {
            if let Some(row) = state.keys.get_mut(&used.key_id) {
                let details = &mut row.details;
                details.use_count = details.use_count.saturating_add(used.count);
                details.key.last_used_at = details.key.last_used_at.max(Some(used.last_used_at));
            }
        }
        Ok(Vec::new())
    }
}

#[async_trait]
impl Accounts for MemoryStore {
    async fn find_account(&self, id: AccountId) -> Result<Option<Account>, StoreError> {
        Ok(self.state.lock().accounts.get(&id).cloned())
    }

    async fn accounts(&self, query: AccountQuery) -> Result<Vec<Account>, StoreError> {
        let after = query.after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.lock();
        let page = state
            .accounts
            .range((after, Bound::Unbounded))
            .map(|(_, account)| account)
            .filter(|account| {
                query.external_id.is_none() || account.external_id == query.external_id
            })
            .take(query.limit as usize);
        Ok(page.cloned().collect())
    }

    async fn insert_account(&self, account: Account, change: Change) -> Result<(), ChangeError> {
        let mut state = self.state.lock();
        state.check_caller(&change)?;
        if let Some(external_id) = &account.external_id {
            state.check_external_id(external_id, account.id)?;
        }
        if state.accounts.contains_key(&account.id) {
            return Err(unexpected("an account of this id exists").into());
        }
        state.check_completion(&change)?;

        let id = account.id;
        if let Some(external_id) = &account.external_id {
            state.external_ids.insert(external_id.clone(), id);
        }
        state.accounts.insert(id, account);
        state.record(
            change,
            AuditAction::AccountCreated,
            AuditSubject::Account(id),
        );
        Ok(())
    }

    async fn update_account(
        &self,
        id: AccountId,
        patch: AccountPatch,
        change: Change,
    ) -> Result<(Account, Commit), ChangeError> {
        let mut state = self.state.lock();
        state.check_caller(&change)?;
        let before = state
            .accounts
            .get(&id)
            .ok_or(ChangeError::AccountNotFound)?
            .clone();
        if let Some(Some(external_id)) = &patch.external_id {
            state.check_external_id(external_id, id)?;
        }
        state.check_completion(&change)?;

        let mut account = before.clone();
        if let Some(plan) = patch.plan {
            account.plan = plan;
        }
        if let Some(disabled) = patch.disabled {
            account.disabled = disabled;
        }
        if let Some(external_id) = patch.external_id {
            if let Some(former) = &before.external_id {
                state.external_ids.remove(former);
            }
            if let Some(external_id) = &external_id {
                state.external_ids.insert(external_id.clone(), id);
            }
            account.external_id = external_id;
        }
        state.accounts.insert(id, account.clone());
        let commit = state.log.note(change.at, Changed::Account(id));
        state.record(
            change,
            AuditAction::AccountUpdated,
            AuditSubject::Account(id),
        );
        self.woken.send_replace(());
        Ok((account, commit))
    }
}

#[async_trait]
impl Idempotency for MemoryStore {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        let Some(current) = reservation.lookups.first().copied() else {
            return Err(unexpected("a reservation without a look-up digest"));
        };
        let mut state = self.state.lock();
        let live = reservation.lookups.iter().find_map(|lookup| {
            let answer = state.answers.get(lookup)?;
            (reservation.at < answer.until).then_some((*lookup, answer))
        });
        if let Some((lookup, answer)) = live {
            return Ok(match &answer.sealed {
                None => Reserved::Pending {
                    until: answer.until,
                },
                Some(sealed) => Reserved::Done {
                    body_digest: answer.body_digest,
                    lookup,
                    sealed: sealed.clone(),
                },
            });
        }
        // The attempt taken over may be stored under a former pepper, and must not find its
        // reservation again.
        for lookup in &reservation.lookups {
            state.answers.remove(lookup);
        }
        let answer = Answer {
            token: reservation.token,
            body_digest: reservation.body_digest,
            sealed: None,
            until: reservation.pending_until,
        };
        state.answers.insert(current, answer);
        Ok(Reserved::New)
    }

    async fn release(&self, lookup: [u8; 32], token: EventId) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if let Some(answer) = state.answers.get(&lookup)
            && answer.token == token
            && answer.sealed.is_none()
        {
            state.answers.remove(&lookup);
        }
        Ok(())
    }
}

#[async_trait]
impl ChangeLog for MemoryStore {
    fn feed(&self) -> Box<dyn ChangeFeed> {
        Box::new(MemoryFeed {
            store: self.clone(),
            woken: self.woken.subscribe(),
            place: self.readers.join(),
            polled_at: None,
            found: None,
            page: None,
            applied: None,
        })
    }

    async fn is_seen_everywhere(&self, commit: &Commit, _: Duration) -> Result<bool, StoreError> {
        Ok(self.readers.have_applied(commit.number()))
    }
}

#[async_trait]
impl Maintenance for MemoryStore {
    async fn ready(&self) -> Result<Readiness, StoreError> {
        Ok(Readiness::new(true))
    }

    async fn pepper_ids(&self, now: Timestamp) -> Result<Vec<PepperId>, StoreError> {
        let state = self.state.lock();
        let living = state
            .keys
            .values()
            .filter(|row| row.details.key.is_usable(now));
        let ids: HashSet<&PepperId> = living.map(|row| &row.pepper).collect();
        Ok(ids.into_iter().copied().collect())
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut state = self.state.lock();
        let count = state.answers.len();
        state.answers.retain(|_, answer| now < answer.until);
        let kept = i64::try_from(CHANGES_KEPT.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_unix_micros(now.unix_micros().saturating_sub(kept));
        let up_to = self.readers.slowest().unwrap_or(u64::MAX);
        state.log.prune(before, up_to);
        let kept = i64::try_from(ENDED_SESSIONS_KEPT.as_micros()).unwrap_or(i64::MAX);
        let before = Timestamp::from_unix_micros(now.unix_micros().saturating_sub(kept));
        let ended: Vec<KeyId> = state
            .keys
            .values()
            .filter(|row| row.details.key.kind == KeyKind::Session)
            .filter(|row| row.details.key.expires_at.is_some_and(|end| end < before))
            .map(|row| row.details.key.id)
            .collect();
        for id in ended {
            let row = state.keys.remove(&id);
            if let Some(owned) =
                row.and_then(|row| state.owned.get_mut(&row.details.key.account_id))
            {
                owned.retain(|kept| *kept != id);
            }
            state.digests.retain(|_, kept| *kept != id);
            state.log.note(now, Changed::Key(id));
        }
        Ok((count - state.answers.len()) as u64)
    }
}

struct MemoryFeed {
    store: MemoryStore,
    woken: watch::Receiver<()>,
    place: Place,
    polled_at: Option<Instant>,
    /// Position of the last poll, until it is applied.
    found: Option<u64>,
    /// Start of the next page of a poll that takes several.
    page: Option<Page>,
    applied: Option<u64>,
}

#[async_trait]
impl ChangeFeed for MemoryFeed {
    async fn wait(&mut self) {
        let Some(polled_at) = self.polled_at else {
            return;
        };
        tokio::select! {
            // The store that this feed holds keeps the other end open.
            _ = self.woken.changed() => {}
            () = sleep_until(polled_at + POLL_INTERVAL) => {}
        }
    }

    async fn poll(&mut self) -> Result<Changes, StoreError> {
        self.polled_at = Some(Instant::now());
        self.place.heard();
        // Before the log is read, because later changes must wake.
        self.woken.mark_unchanged();
        let state = self.store.state.lock();
        self.found = Some(state.log.last);
        let (changes, next) = state.log.since(self.applied, self.page);
        self.page = next;
        Ok(changes)
    }

    async fn applied(&mut self) {
        if let Some(found) = self.found.take() {
            self.applied = Some(found);
            self.place.applied(found);
        }
    }

    fn is_live(&self) -> bool {
        self.polled_at.is_some()
    }
}
