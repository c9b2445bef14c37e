//! A store whose methods a test overrides one by one.

use std::ops::Deref;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::{
    Account, AccountId, EventId, KeyDetails, KeyId, PepperId, PepperedDigest, Revocation, ScopeSet,
    Timestamp,
};
use keys_service::ports::{
    AccountEntry, AccountPatch, AccountQuery, Accounts, BoxFuture, Change, ChangeError, ChangeFeed,
    ChangeLog, Commit, FoundKey, Idempotency, KeyListing, KeyManagement, KeyOwner, KeyPage,
    KeyPatch, KeyRotation, KeySelection, KeyStore, KeyUse, KeyUses, Keys, ListedKeys, Maintenance,
    NewKey, Readiness, Reservation, Reserved, RevokedKeys, StoreError, UnreadableKey,
};

/// A store that answers as `T` says.
///
/// ```
/// use async_trait::async_trait;
/// use keys_service::ports::{KeyStore, StoreError};
/// use keys_service::{KeyService, MemoryStore};
/// use keys_testkit::store::{Overrides, TestStore};
///
/// struct Away(MemoryStore);
///
/// #[async_trait]
/// impl Overrides for Away {
///     fn store(&self) -> &dyn KeyStore {
///         &self.0
///     }
///
///     async fn before_read(&self) -> Result<(), StoreError> {
///         Err(StoreError::Unavailable("away".into()))
///     }
/// }
///
/// let store = TestStore(Away(MemoryStore::new()));
/// let service = KeyService::builder(store, keys_testkit::data::pepper_ring("p1")).build();
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TestStore<T>(pub T);

impl<T> Deref for TestStore<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Writes [`Overrides`], and the ports of [`TestStore`] in terms of it, from one list of
/// signatures. The name in brackets in front of a method is that of the hook that runs first.
macro_rules! overridable {
    ($($port:ident {
        $([$before:ident] $method:ident($($name:ident: $kind:ty),*) -> $answer:ty;)*
        $(fn $plain:ident($($plain_name:ident: $plain_kind:ty),*) $(-> $plain_answer:ty)?;)*
    })*) => {
        /// How a [`TestStore`] answers: by default as [`store`](Self::store) does.
        #[async_trait]
        pub trait Overrides: Send + Sync + 'static {
            /// Returns the store for methods that are not overridden.
            fn store(&self) -> &dyn KeyStore;

            /// Runs before each method that changes no key and no account, and is not upkeep. An
            /// error is the answer of that method.
            async fn before_read(&self) -> Result<(), StoreError> {
                Ok(())
            }

            /// Runs before each method that changes a key or an account. An error is the answer of
            /// that method. By default as [`before_read`](Self::before_read).
            async fn before_change(&self) -> Result<(), ChangeError> {
                Ok(self.before_read().await?)
            }

            /// Runs before each method that a service calls at intervals and for no request. An
            /// error is the answer of that method. By default as
            /// [`before_read`](Self::before_read).
            async fn before_upkeep(&self) -> Result<(), StoreError> {
                self.before_read().await
            }

            $(
                $(
                    #[doc = concat!("As [`", stringify!($port), "::", stringify!($method), "`].")]
                    async fn $method(&self, $($name: $kind),*) -> $answer {
                        self.store().$method($($name),*).await
                    }
                )*
                $(
                    #[doc = concat!("As [`", stringify!($port), "::", stringify!($plain), "`].")]
                    fn $plain(&self, $($plain_name: $plain_kind),*) $(-> $plain_answer)? {
                        self.store().$plain($($plain_name),*)
                    }
                )*
            )*
        }

        $(
            #[async_trait]
            impl<T: Overrides> $port for TestStore<T> {
                $(
                    async fn $method(&self, $($name: $kind),*) -> $answer {
                        self.0.$before().await?;
                        self.0.$method($($name),*).await
                    }
                )*
                $(
                    fn $plain(&self, $($plain_name: $plain_kind),*) $(-> $plain_answer)? {
                        self.0.$plain($($plain_name),*)
                    }
                )*
            }
        )*
    };
}

overridable! {
    Keys {
        [before_read] find_by_digests(digests: Vec<PepperedDigest>) -> Result<Vec<FoundKey>, StoreError>;
        [before_read] keys(owner: KeyOwner, offset: u64, limit: u32) -> Result<KeyPage, StoreError>;
        [before_change] insert_key(key: NewKey, change: Change) -> Result<(), ChangeError>;
        [before_change] revoke_key(
            owner: Option<KeyOwner>,
            id: KeyId,
            revocation: Revocation,
            change: Change
        ) -> Result<Option<Commit>, ChangeError>;
    }
    KeyManagement {
        [before_read] find_key(id: KeyId) -> Result<Option<Result<KeyDetails, UnreadableKey>>, StoreError>;
        [before_read] list_keys(listing: KeyListing) -> Result<ListedKeys, StoreError>;
        [before_change] revoke_keys(
            selection: KeySelection,
            revocation: Revocation,
            change: Change
        ) -> Result<RevokedKeys, ChangeError>;
        [before_change] set_operator_scopes(
            id: KeyId,
            scopes: ScopeSet,
            keeps_an_operator: bool,
            change: Change
        ) -> Result<Option<Commit>, ChangeError>;
        [before_change] rotate_key(
            rotation: KeyRotation,
            change: Change
        ) -> Result<(Option<KeyId>, Commit), ChangeError>;
        [before_change] update_key(
            owner: KeyOwner,
            id: KeyId,
            patch: KeyPatch,
            change: Change
        ) -> Result<Option<(KeyDetails, Commit)>, ChangeError>;
    }
    KeyUses {
        [before_upkeep] record_uses(uses: Vec<KeyUse>) -> Result<Vec<KeyId>, StoreError>;
    }
    Accounts {
        [before_read] find_account(id: AccountId) -> Result<Option<Account>, StoreError>;
        [before_read] accounts(query: AccountQuery) -> Result<Vec<Account>, StoreError>;
        [before_read] account_entry(id: AccountId) -> Result<Option<AccountEntry>, StoreError>;
        [before_read] account_entries(query: AccountQuery) -> Result<Vec<AccountEntry>, StoreError>;
        [before_change] insert_account(account: Account, change: Change) -> Result<(), ChangeError>;
        [before_change] update_account(
            id: AccountId,
            patch: AccountPatch,
            change: Change
        ) -> Result<(Account, Commit), ChangeError>;
    }
    Idempotency {
        [before_read] reserve(reservation: Reservation) -> Result<Reserved, StoreError>;
        [before_read] release(lookup: [u8; 32], token: EventId) -> Result<(), StoreError>;
    }
    ChangeLog {
        [before_read] is_seen_everywhere(commit: &Commit, silence: Duration) -> Result<bool, StoreError>;
        [before_upkeep] oldest_change() -> Result<Option<Duration>, StoreError>;
        fn feed() -> Box<dyn ChangeFeed>;
    }
    Maintenance {
        [before_read] ready() -> Result<Readiness, StoreError>;
        [before_read] pepper_ids(now: Timestamp) -> Result<Vec<PepperId>, StoreError>;
        [before_upkeep] sweep(now: Timestamp) -> Result<u64, StoreError>;
        fn spawn(future: BoxFuture<'static, ()>);
    }
}
