//! The rules of API keys.
//!
//! This crate is pure: no async, no input or output, no clock, no environment. Time and randomness
//! are passed in, so every rule can be tested to the microsecond and used in any program.
//!
//! | Type | Is |
//! |---|---|
//! | [`SecretKey`], [`PresentedKey`] | the full key: generation, parsing, checksum |
//! | [`PepperRing`], [`PepperedDigest`] | the digest of a key under a ring of peppers |
//! | [`ApiKey`], [`StoredKey`] | the record of a key |
//! | [`judge()`], [`Denial`] | whether a key may be used, and the reasons to refuse it |
//! | [`Account`], [`Plans`] | accounts, their limits and quotas |
//! | [`AuditEvent`] | a change in the audit trail |
//! | [`AllowedNetworks`] | the addresses that may use a key |
//! | [`OperatorScope`] | the scopes of operator keys |
//!
//! Functions for the edges of a program are in modules: [`header`] finds the credential of a
//! request, [`address`] the address of its client, and [`suggestion`] the known name nearest to a
//! misspelt one.
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

mod account;
pub mod address;
mod audit;
mod base62;
mod chain;
mod created_by;
mod denial;
mod forwarded;
pub mod header;
mod id;
mod issue_policy;
mod judge;
mod key;
mod key_details;
mod key_format;
mod key_limits;
mod mac;
mod metadata;
mod name;
mod network;
mod operator_scope;
mod pepper;
mod plan;
mod revocation;
mod scope;
#[cfg(feature = "serde")]
mod serde;
pub mod suggestion;
mod texts;
mod timestamp;

pub use account::{Account, ExternalId, InvalidExternalId};
pub use audit::{AuditAction, AuditActor, AuditEvent, AuditSubject};
pub use chain::chain;
pub use created_by::{CreatedBy, InvalidCreatedBy};
pub use denial::Denial;
pub use id::{AccountId, EventId, ID_LEN, InvalidId, KeyId};
pub use issue_policy::IssuePolicy;
pub use judge::{Evidence, Question, judge, judge_account};
pub use key::{ApiKey, ExceededBound, KeyBounds, KeyKind, StoredKey};
pub use key_details::{InvalidKeyVersion, KeyDetails, KeyStatus, KeyVersion, UnknownKeyStatus};
pub use key_format::{
    BODY_LEN, InvalidPrefix, KeyPrefix, Malformed, PresentedKey, RANDOM_LEN, SECRET_MAX_LEN,
    SecretKey, ShownPrefix, check_form,
};
pub use key_limits::{KeyLimits, TooManyLimits};
pub use metadata::{InvalidMetadata, Metadata};
pub use name::{InvalidName, KeyName, escaped};
pub use network::{AllowedNetworks, InvalidNetwork, InvalidNetworks, Network};
pub use operator_scope::{OperatorScope, UnknownOperatorScope};
pub use pepper::{
    DOCUMENTED_PEPPER, KeyDigest, Pepper, PepperError, PepperId, PepperRing, PepperedDigest,
};
pub use plan::{
    InvalidPlanName, Limit, LimitName, LimitPer, Operation, Plan, PlanName, Plans, Quota,
};
pub use revocation::{Revocation, RevocationNote, RevocationReason, UnknownReason};
pub use scope::{InvalidScope, Scope, ScopeSet};
pub use timestamp::{InvalidTimestamp, Timestamp};
