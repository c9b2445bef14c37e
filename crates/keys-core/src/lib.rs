//! The rules of API keys.
//!
//! This crate is pure: no async, no input or output, no clock, no environment. Time and randomness
//! are passed in, so every rule can be tested to the microsecond and used in any program.
//!
//! | Module | Holds |
//! |---|---|
//! | [`secret`] | the full key: generation, parsing, checksum |
//! | [`pepper`] | the digest of a key under a ring of peppers |
//! | [`key`] | the record of a key |
//! | [`judge`](mod@judge), [`denial`] | whether a key may be used, and the reasons to refuse it |
//! | [`account`], [`plan`] | accounts, their limits and quotas |
//! | [`audit`] | the changes that leave an event in the audit trail, and its fields |
//! | [`network`], [`address`] | address lists, and the client's address of a request |
//! | [`header`] | the credential in the headers of a request |
//! | [`issue_policy`] | what an account must satisfy for a new key |
//! | [`operator_scope`] | the scopes of operator keys |
//! | [`scope`], [`name`], [`id`], [`timestamp`] | small value types |
//! | [`suggestion`] | the known name nearest to a misspelt one |
//!
//! | Feature | Adds |
//! |---|---|
//! | `serde` | `Serialize` and `Deserialize` for values and plans, never for secrets and digests |
//!
//! ```
//! use keys_core::{Pepper, PepperRing, SecretKey};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let secret = SecretKey::generate(&"sk_live".parse()?, &mut getrandom::SysRng)?;
//! let ring = PepperRing::new("p1".parse()?, Pepper::from_bytes(&[7; 32])?);
//!
//! // Only the digest is stored. The key of a request is parsed, then looked up by its digest.
//! let presented = SecretKey::parse(secret.expose())?;
//! assert_eq!(ring.digest(&presented), ring.digest(&secret));
//! # Ok(())
//! # }
//! ```

pub mod account;
pub mod address;
pub mod audit;
mod base62;
pub mod denial;
mod forwarded;
pub mod header;
pub mod id;
pub mod issue_policy;
pub mod judge;
pub mod key;
mod mac;
pub mod name;
pub mod network;
pub mod operator_scope;
pub mod pepper;
pub mod plan;
pub mod scope;
pub mod secret;
#[cfg(feature = "serde")]
mod serde;
pub mod suggestion;
pub mod timestamp;

pub use account::{Account, ExternalId};
pub use audit::{AuditAction, AuditActor, AuditEvent, AuditSubject};
pub use denial::Denial;
pub use id::{AccountId, EventId, KeyId};
pub use issue_policy::IssuePolicy;
pub use judge::{Evidence, Question, judge};
pub use key::{ApiKey, KeyKind, StoredKey};
pub use name::KeyName;
pub use network::{AllowedNetworks, Network};
pub use operator_scope::OperatorScope;
pub use pepper::{KeyDigest, Pepper, PepperId, PepperRing};
pub use plan::{Limit, LimitName, LimitPer, Operation, Plan, PlanName, Plans, Quota};
pub use scope::{Scope, ScopeSet};
pub use secret::{KeyPrefix, PresentedKey, SecretKey, ShownPrefix};
pub use timestamp::Timestamp;
