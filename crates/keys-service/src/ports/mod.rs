//! The ports: what the service needs from outside, as small object-safe traits.
//!
//! Every change goes through one transaction in which, in this order: the account is locked, the caller is judged
//! again on what the transaction sees, the change is made, its audit event is written, and a reserved idempotent
//! answer is completed. So a key that was revoked a moment ago cannot mint its successor, and no change exists
//! without its trace.

mod accounts;
mod change;
mod changes;
mod errors;
mod idempotency;
mod keys;
mod limiter;
mod maintenance;
mod readers;
mod store;
mod uses;

pub use accounts::{AccountEntry, AccountPatch, AccountQuery, UnreadableAccount};
pub use change::{Authority, Caller, Change};
pub use changes::{
    CHANGES_MAX, CHANGES_PAGED_MAX, ChangeFeed, Changed, Changes, Commit, POLL_INTERVAL, Page,
    REPORT_AGE_MAX, REVOCATION_BOUND, SILENCE_MAX, TRUST_MAX, silence_max,
};
pub use errors::{ChangeError, StoreError};
pub use idempotency::{Completion, RESERVATION_KEPT, RESERVATION_PENDING, Reservation, Reserved};
pub use keys::{Admission, FoundKey, KeyOwner, KeyPage, NewKey, StoredKey, UnreadableKey};
pub use limiter::{Bucket, Decision, LimiterError, LimiterState, RateLimiter, Subject};
pub use maintenance::{BoxFuture, ENDED_SESSIONS_KEPT, Readiness};
pub use readers::{Place, Readers};
pub use store::KeyStore;
pub use uses::KeyUse;
