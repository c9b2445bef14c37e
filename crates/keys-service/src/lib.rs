//! Use cases of the API-key service behind one cheap handle, without HTTP and without SQL.
//!
//! [`KeyService`] is the handle: it issues, lists, authenticates and revokes keys and manages accounts. What it needs
//! from outside are small ports: a [`KeyStore`], a [`RateLimiter`] and a [`Clock`].
//!
//! | Module | Use case |
//! |---|---|
//! | [`verify`] | may this key do this, from there, now? The hot path, from a coherent cache |
//! | [`authenticate`] | who presents this credential, and may it be used for this? |
//! | [`issue`] | keys of accounts and operators, sessions |
//! | [`manage`] | listing and revoking keys |
//! | [`account`] | accounts |
//! | [`idempotency`] | repeating a create without making a second thing |

pub mod account;
pub mod actor;
pub mod authenticate;
mod cache;
pub mod clock;
pub mod entropy;
pub mod everywhere;
pub mod feed;
pub mod idempotency;
pub mod issue;
pub mod limiter;
pub mod manage;
pub mod memory;
mod replay;
pub mod service;
pub mod store;
mod usage;
pub mod verify;

pub use account::{AccountError, AccountPage, NewAccount};
pub use actor::{Actor, Identity};
pub use authenticate::{AuthenticateError, Gate, KeyManagement, Requirement};
pub use cache::CacheOptions;
pub use cache::loader::ReadState;
pub use clock::{Clock, SystemClock};
pub use everywhere::Effective;
pub use feed::{ChangeFeed, Changed, Changes, Commit};
pub use idempotency::{IdempotencyError, IdempotencyKey, Idempotent};
pub use issue::{IssueError, Issued, KeyDraft, OperatorKeyDraft, Wider};
pub use limiter::{
    Bucket, Decision, LimiterError, LimiterState, LocalLimiter, RateLimiter, Subject,
};
pub use manage::RevokeError;
pub use memory::MemoryStore;
pub use service::{CacheState, KeyService, KeyServiceBuilder};
pub use store::{
    AccountEntry, AccountPatch, AccountQuery, KeyOwner, KeyPage, KeyStore, Readiness, StoreError,
    UnreadableAccount, UnreadableKey,
};
pub use verify::{
    Freshness, Verdict, VerdictCode, VerifiedAccount, VerifiedKey, VerifyError, VerifyRequest,
};
