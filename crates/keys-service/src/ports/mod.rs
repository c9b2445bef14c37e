//! The ports: the dependencies of the service, as small object-safe traits.
//!
//! | Port | Does |
//! |---|---|
//! | [`Keys`] | finds, adds and revokes keys of every kind |
//! | [`KeyManagement`] | reads, lists and changes keys with everything that is stored about them |
//! | [`KeyUses`] | records when and how often keys are used |
//! | [`Accounts`] | finds, adds and changes accounts |
//! | [`Idempotency`] | reserves answers to requests that may be repeated |
//! | [`ChangeLog`] | returns a [`ChangeFeed`] of all changes to each instance with a cache |
//! | [`Maintenance`] | checks the store, deletes old rows, runs background work |
//! | [`RateLimiter`] | counts requests |
//!
//! A store implements all of them except the last, and is then a [`KeyStore`], which a
//! [`KeyService`](crate::KeyService) is built over.
//!
//! Every change is one transaction in which, in this order: the account is locked, the caller is
//! checked again with the rows of the transaction, the change is made, its audit event is written,
//! and a reserved idempotent answer is completed. So a key that was revoked a moment ago cannot
//! create another one, one that was restricted a moment ago cannot create a wider one
//! or widen another one, and no change exists without its audit event. A caller that comes with the
//! records by which it was accepted may be checked with these, if the transaction locks them and
//! finds them unchanged.

mod accounts;
mod change;
mod changes;
mod errors;
mod feed;
mod idempotency;
mod key_patch;
mod keys;
mod limiter;
mod lists;
mod maintenance;
mod management;
mod readers;
mod revocations;
mod rotation;
mod store;
mod uses;

pub use accounts::{AccountEntry, AccountPatch, AccountQuery, Accounts, UnreadableAccount};
pub use change::{Authority, Caller, Change};
pub use changes::{
    ChangeLog, Commit, REPORT_AGE_MAX, REVOCATION_BOUND, SILENCE_MAX, TRUST_MAX, silence_max,
};
pub use errors::{ChangeError, InvalidKeyPatch, StoreError};
pub use feed::{CHANGES_MAX, CHANGES_PAGED_MAX, ChangeFeed, Changed, Changes, POLL_INTERVAL, Page};
pub use idempotency::{
    Completion, Idempotency, RESERVATION_KEPT, RESERVATION_PENDING, Reservation, Reserved,
};
pub use key_patch::{KeyPatch, LimitsPatch, MetadataPatch, QuotaPatch};
pub use keys::{Admission, FoundKey, KeyOwner, KeyPage, Keys, NewKey, UnreadableKey};
pub use limiter::{Bucket, Decision, LimiterError, LimiterState, RateLimiter, Subject};
pub use lists::{
    EXAMINED_MAX, ForeignCursor, InvalidCursor, KEYS_PER_PAGE_MAX, KeyCursor, KeyListing, KeyOrder,
    KeyQuery, KeySort, ListPosition, ListedKeys, NAME_PART_MAX_CHARS, OTHERS_MAX, Others,
    UnboundedFilter, UnknownKeyOrder, day_of,
};
pub use maintenance::{BoxFuture, ENDED_SESSIONS_KEPT, Maintenance, Readiness};
pub use management::KeyManagement;
pub use readers::{Place, Readers};
pub use revocations::{CHAIN_MAX, KeySelection, REMAINING_MAX, REVOKED_MAX, RevokedKeys, Selected};
pub use rotation::KeyRotation;
pub use store::KeyStore;
pub use uses::{KeyUse, KeyUses};
