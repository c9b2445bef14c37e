//! Reading and listing keys with everything that is stored about them.

use keys_core::{AccountId, Denial, KeyDetails, KeyId, KeyKind};

use crate::actor::Actor;
use crate::ports::{
    AccountQuery, EXAMINED_MAX, ForeignCursor, KeyCursor, KeyListing, KeyOwner, KeyQuery, KeySort,
    Others, StoreError, UnboundedFilter, UnreadableKey,
};
use crate::service::KeyService;

/// Error returned when keys were not listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindKeysError {
    /// The account that the query names does not exist, or the caller may not act for it.
    #[error("there is no such account")]
    AccountNotFound,
    /// The caller may not list keys of that kind.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// A filter could only be answered by reading the keys of all accounts.
    #[error(transparent)]
    Unbounded(#[from] UnboundedFilter),
    /// The cursor belongs to another list.
    #[error(transparent)]
    Cursor(#[from] ForeignCursor),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One page of a list of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FoundKeys {
    /// The keys.
    pub keys: Vec<KeyDetails>,
    /// Those of `keys` whose rows cannot be read. Such an entry has the columns that can be read,
    /// and a harmless value in place of each other one. Its key is always refused.
    pub unreadable: Vec<KeyId>,
    /// The cursor of the next page. `None` on the last one. A page may have fewer keys than its
    /// limit, or none, and a cursor all the same: at most
    /// [`EXAMINED_MAX`] rows are examined for each.
    pub next: Option<KeyCursor>,
    /// Revoked and expired keys that every other filter matches. `None` if the query names
    /// statuses, and on every page but the first.
    pub others: Option<Others>,
}

impl FoundKeys {
    /// Returns whether the row of `id` cannot be read.
    #[must_use]
    pub fn is_unreadable(&self, id: KeyId) -> bool {
        self.unreadable.contains(&id)
    }
}

impl KeyService {
    /// Returns a key with everything that is stored about it, also if it has ended. `None` if there
    /// is none that the caller may see: an account's key or session sees the keys of its account,
    /// an operator those of all accounts, and the system also operator keys and sessions.
    ///
    /// ```
    /// use keys_core::{IssuePolicy, KeyStatus, Pepper, PepperRing};
    /// use keys_service::{Actor, KeyDraft, KeyService, MemoryStore, NewAccount};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
    /// # let peppers = PepperRing::new("p1".parse()?, pepper);
    /// let service = KeyService::builder(MemoryStore::new(), peppers).build();
    /// let system = Actor::system();
    /// let account = service.create_account(&system, NewAccount::new("pro".parse()?)).await?;
    /// let draft = KeyDraft::new(account.id, "sk_live".parse()?);
    /// let issued = service.issue_key(&system, draft).await?;
    ///
    /// let found = service.find_key(&system, issued.key.id).await?;
    /// let Some(Ok(details)) = found else { panic!("the key was just made") };
    /// assert_eq!(details.status(issued.key.created_at), KeyStatus::Active);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the store cannot answer.
    pub async fn find_key(
        &self,
        by: &Actor,
        id: KeyId,
    ) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError> {
        let found = self.inner.store.find_key(id).await?;
        Ok(found.filter(|found| match found {
            Ok(details) => by.may_see(details),
            // Its account is not known.
            Err(_) => by.may_administer(),
        }))
    }

    /// Returns one page of the keys that match a query. An account's key or session finds the keys
    /// of its account only.
    ///
    /// ```
    /// use keys_core::{KeyStatus, Pepper, PepperRing};
    /// use keys_service::ports::KeyQuery;
    /// use keys_service::{Actor, KeyService, MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let pepper = Pepper::from_bytes(b"an example of thirty-two bytes..")?;
    /// # let peppers = PepperRing::new("p1".parse()?, pepper);
    /// let service = KeyService::builder(MemoryStore::new(), peppers).build();
    /// let mut query = KeyQuery::new(100)
    ///     .statuses([KeyStatus::Active, KeyStatus::Rotating])
    ///     .created_by(Some("subject:user-17".parse()?));
    /// loop {
    ///     let page = service.find_keys(&Actor::system(), query.clone()).await?;
    ///     for details in &page.keys {
    ///         println!("{} {}", details.key.id, details.key.shown_prefix);
    ///     }
    ///     if page.next.is_none() {
    ///         break;
    ///     }
    ///     query = query.after(page.next);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`FindKeysError`].
    pub async fn find_keys(&self, by: &Actor, query: KeyQuery) -> Result<FoundKeys, FindKeysError> {
        if !by.may_administer() && query.kind != KeyKind::Account {
            return Err(FindKeysError::CallerDenied(Denial::KindNotAllowed));
        }
        let names_account = query.names_account();
        let query = self.of_one_account(by, query).await?;
        query.check()?;
        if query.order().sort != KeySort::Created {
            self.check_size(query.account).await?;
        }
        let after = query.start()?;
        let listing = KeyListing::new(query.clone(), self.now()).after(after);
        let listed = self.inner.store.list_keys(listing).await?;
        // A list of nothing may be that of an account that does not exist.
        if let Some(account) = query.account.filter(|_| names_account)
            && listed.keys.is_empty()
            && after.is_none()
            && by.own_account().is_none()
            && self.inner.store.account_entry(account).await?.is_none()
        {
            return Err(FindKeysError::AccountNotFound);
        }
        Ok(FoundKeys {
            keys: listed.keys,
            unreadable: listed.unreadable,
            next: listed.next.map(|position| query.cursor(position)),
            others: listed.others,
        })
    }

    /// Returns the query with the account that it is about, if there is one: the one that it names,
    /// or that of the caller. An account that the caller may not act for is unknown.
    async fn of_one_account(
        &self,
        by: &Actor,
        mut query: KeyQuery,
    ) -> Result<KeyQuery, FindKeysError> {
        let mut named = query.account;
        if let Some(external_id) = query.external_id.take() {
            let accounts = AccountQuery::new(1).external_id(Some(external_id));
            let mut found = self.inner.store.account_entries(accounts).await?;
            let found = found.pop().map(|entry| match entry {
                Ok(account) => account.id,
                Err(unreadable) => unreadable.id,
            });
            let agrees = |id: &AccountId| named.is_none_or(|named| named == *id);
            named = Some(found.filter(agrees).ok_or(FindKeysError::AccountNotFound)?);
        }
        if let Some(named) = named
            && !by.may_act_for(named)
        {
            return Err(FindKeysError::AccountNotFound);
        }
        query.account = named.or(by.own_account());
        Ok(query)
    }

    /// Checks that the keys of an account are few enough to be sorted for each page.
    async fn check_size(&self, account: Option<AccountId>) -> Result<(), FindKeysError> {
        let Some(account) = account else {
            return Ok(());
        };
        let page = self.inner.store.keys(KeyOwner::Account(account), 0, 1);
        if page.await?.total > EXAMINED_MAX as u64 {
            return Err(UnboundedFilter::AccountTooLarge.into());
        }
        Ok(())
    }
}
