//! Use cases of the API-key service behind one cheap handle, without HTTP and without SQL.
//!
//! [`KeyService`] is the handle: it issues, lists, authenticates and revokes keys and manages
//! accounts. Its dependencies are small [`ports`]: a [`KeyStore`](ports::KeyStore), a
//! [`RateLimiter`](ports::RateLimiter) and a [`Clock`].
//!
//! | Use case | Starts with |
//! |---|---|
//! | verification of keys: the fast path, from a coherent cache | [`KeyService::verify`] |
//! | authentication of callers that manage keys or accounts | [`KeyService::authenticate`] |
//! | keys of accounts and operators, sessions | [`KeyService::issue_key`] |
//! | finding and listing keys with everything about them | [`KeyService::find_keys`] |
//! | revoking keys | [`KeyService::revoke_key`], [`KeyService::revoke_keys`] |
//! | ending sessions | [`KeyService::end_sessions`] |
//! | operator keys | [`KeyService::set_operator_scopes`] |
//! | replacing a key by a new one | [`KeyService::rotate_key`] |
//! | accounts | [`KeyService::create_account`] |
//! | repetition of a create without creating a second record | [`KeyDraft::idempotent`] |
//!
//! | Feature | Adds |
//! |---|---|
//! | `memory` (default) | `MemoryStore`, for tests and examples |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod account;
mod actor;
mod answer;
mod authenticate;
mod cache;
mod clock;
mod entropy;
mod everywhere;
mod find;
mod idempotency;
mod issue;
mod limiter;
mod limits;
mod manage;
#[cfg(feature = "memory")]
mod memory;
mod operators;
pub mod ports;
mod replay;
mod revoke;
mod rotate;
mod service;
mod setters;
mod update_key;
mod usage;
mod verify;
mod whoami;

pub use account::{AccountError, AccountPage, NewAccount};
pub use actor::{Actor, Identity};
pub use authenticate::{AuthenticateError, KeyManagement, ManagementPolicy, Requirement};
pub use cache::CacheOptions;
pub use cache::loader::ReadState;
pub use clock::{Clock, SystemClock};
pub use entropy::EntropyError;
pub use everywhere::Effective;
pub use find::{FindKeysError, FoundKeys};
pub use idempotency::{IdempotencyError, IdempotencyKey, Idempotent, InvalidIdempotencyKey};
pub use issue::{
    IssueError, IssueField, Issued, KeyDraft, OPERATOR_PREFIX, OperatorKeyDraft, SESSION_PREFIX,
    SESSION_TTL_MAX, SessionDraft, is_reserved,
};
pub use limiter::{FallbackLimiter, LocalLimiter, OnUnavailable, SharedLimiter};
pub use manage::RevokeError;
#[cfg(feature = "memory")]
pub use memory::MemoryStore;
pub use operators::LastOperator;
pub use revoke::Revoked;
pub use rotate::{OWN_ROTATION_GRACE_MIN, ROTATION_GRACE_MAX, RotateError, Rotated, Rotation};
pub use service::{CacheState, GRACE_MAX, KeyService, KeyServiceBuilder};
pub use update_key::UpdateKeyError;
pub use verify::{
    Freshness, Verdict, VerdictCode, VerifiedAccount, VerifiedKey, VerifyError, VerifyRequest,
};
pub use whoami::{LimitSource, LimitState};
