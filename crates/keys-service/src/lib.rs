//! Use cases of the API-key service behind one cheap handle, without HTTP and without SQL.
//!
//! [`KeyService`] is the handle: it issues, lists, authenticates and revokes keys and manages
//! accounts. Its dependencies are small ports: a [`KeyStore`], a [`RateLimiter`] and a [`Clock`].
//!
//! | Module | Use case |
//! |---|---|
//! | [`verify`] | verification of keys: the fast path, from a coherent cache |
//! | [`authenticate`] | authentication of callers that manage keys or accounts |
//! | [`issue`] | keys of accounts and operators, sessions |
//! | [`manage`] | listing and revoking keys |
//! | [`account`] | accounts |
//! | [`idempotency`] | repetition of a create without creating a second record |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

pub mod account;
pub mod actor;
pub mod authenticate;
mod cache;
pub mod clock;
pub mod entropy;
pub mod everywhere;
pub mod idempotency;
pub mod issue;
mod limiter;
pub mod manage;
pub mod memory;
pub mod ports;
mod replay;
pub mod service;
mod usage;
pub mod verify;

pub use account::{AccountError, AccountPage, NewAccount};
pub use actor::{Actor, Identity};
pub use authenticate::{AuthenticateError, KeyManagement, ManagementPolicy, Requirement};
pub use cache::CacheOptions;
pub use cache::loader::ReadState;
pub use clock::{Clock, SystemClock};
pub use everywhere::Effective;
pub use idempotency::{IdempotencyError, IdempotencyKey, Idempotent};
pub use issue::{IssueError, IssueField, Issued, KeyDraft, OperatorKeyDraft, SessionDraft};
pub use limiter::{FallbackLimiter, LocalLimiter, OnUnavailable, SharedLimiter};
pub use manage::RevokeError;
pub use memory::MemoryStore;
pub use ports::{
    AccountEntry, AccountPatch, AccountQuery, Bucket, ChangeFeed, Changed, Changes, Commit,
    Decision, KeyOwner, KeyPage, KeyStore, LimiterError, LimiterState, RateLimiter, Readiness,
    StoreError, Subject, UnreadableAccount, UnreadableKey,
};
pub use service::{CacheState, KeyService, KeyServiceBuilder};
pub use verify::{
    Freshness, Verdict, VerdictCode, VerifiedAccount, VerifiedKey, VerifyError, VerifyRequest,
};
