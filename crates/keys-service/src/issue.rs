//! Creation of keys of every kind.

use std::sync::Arc;
use std::time::Duration;

use keys_core::{
    AccountId, AllowedNetworks, ApiKey, Denial, ExceededBound, ExternalId, IssuePolicy, KeyBounds,
    KeyDetails, KeyId, KeyKind, KeyLimits, KeyName, KeyPrefix, KeyVersion, LimitName, Metadata,
    ScopeSet, SecretKey, Timestamp,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::actor::Actor;
use crate::answer;
use crate::entropy::{Entropy, EntropyError};
use crate::idempotency::{Attempt, IdempotencyError, Idempotent, ReserveError, unreadable};
use crate::ports::{Admission, ChangeError, Completion, NewKey, StoreError};
use crate::service::KeyService;
use crate::setters::setters;

/// The prefix of operator keys. Accounts' keys may not have it.
pub const OPERATOR_PREFIX: &str = "operator";

/// The prefix of sessions. Accounts' keys may not have it.
pub const SESSION_PREFIX: &str = "session";

/// Returns whether the prefix is that of another kind of credential. Accounts' keys may not have
/// it.
#[must_use]
pub fn is_reserved(prefix: &KeyPrefix) -> bool {
    [OPERATOR_PREFIX, SESSION_PREFIX].contains(&prefix.as_str())
}

/// Maximum life of a session: a person signs in again after a day.
pub const SESSION_TTL_MAX: Duration = Duration::from_hours(24);

/// A key to be issued to an account.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct KeyDraft {
    /// The account of the key.
    pub account_id: AccountId,
    /// The prefix of the key.
    pub prefix: KeyPrefix,
    /// The owner's name of the key.
    pub name: Option<KeyName>,
    /// Addresses that may use the key.
    pub allowed_networks: AllowedNetworks,
    /// Scopes of the new key. `None` inherits the scopes of the key that creates it; without a
    /// creating key, the new key has no scopes.
    pub scopes: Option<ScopeSet>,
    /// Expiry of the key.
    pub expires_at: Option<Timestamp>,
    /// Names and values of the host system.
    pub metadata: Metadata,
    /// Limits of the key on top of those of the plan.
    pub limits: KeyLimits,
    /// Requirements on the account.
    pub policy: IssuePolicy,
    /// Identifies a repetition of the request. `None` issues a key in any case.
    pub idempotent: Option<Idempotent>,
}

impl KeyDraft {
    /// Returns a draft of a key that never expires and may be used from anywhere, under the
    /// plan gate and the cap.
    pub fn new(account_id: AccountId, prefix: KeyPrefix) -> Self {
        Self {
            account_id,
            prefix,
            name: None,
            allowed_networks: AllowedNetworks::default(),
            scopes: None,
            expires_at: None,
            metadata: Metadata::default(),
            limits: KeyLimits::default(),
            policy: IssuePolicy::default(),
            idempotent: None,
        }
    }

    setters! {
        /// Sets the owner's name of the key.
        name: Option<KeyName>,
        /// Sets the addresses that may use the key.
        allowed_networks: AllowedNetworks,
        /// Sets the scopes. `None` inherits them.
        scopes: Option<ScopeSet>,
        /// Sets the expiry.
        expires_at: Option<Timestamp>,
        /// Sets names and values of the host system.
        metadata: Metadata,
        /// Sets limits of the key on top of those of the plan.
        limits: KeyLimits,
        /// Sets the requirements on the account.
        policy: IssuePolicy,
        /// Returns the first answer again if the request is a repetition.
        idempotent: Option<Idempotent>,
    }
}

/// A session to be opened.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct SessionDraft {
    /// The account of the session.
    pub account_id: AccountId,
    /// Life of the session: 1 second to [`SESSION_TTL_MAX`].
    pub ttl: Duration,
    /// The host system's identifier of the person. Keys made in the session inherit it.
    pub subject: Option<ExternalId>,
    /// Scopes that keys made in the session may have. An empty set does not limit them.
    pub scopes: ScopeSet,
    /// Identifies a repetition of the request. `None` opens a session in any case.
    pub idempotent: Option<Idempotent>,
}

impl SessionDraft {
    /// Returns a draft of a session of this life.
    pub fn new(account_id: AccountId, ttl: Duration) -> Self {
        Self {
            account_id,
            ttl,
            subject: None,
            scopes: ScopeSet::default(),
            idempotent: None,
        }
    }

    setters! {
        /// Sets the host system's identifier of the person.
        subject: Option<ExternalId>,
        /// Limits the scopes of keys made in the session. An empty set does not limit them.
        scopes: ScopeSet,
        /// Returns the first answer again if the request is a repetition.
        idempotent: Option<Idempotent>,
    }
}

/// An operator key to be issued.
#[derive(Debug, Clone)]
#[must_use]
#[non_exhaustive]
pub struct OperatorKeyDraft {
    /// The name of the key.
    pub name: KeyName,
    /// Addresses that may use the key.
    pub allowed_networks: AllowedNetworks,
    /// Scopes of the key.
    pub scopes: ScopeSet,
    /// Expiry of the key.
    pub expires_at: Option<Timestamp>,
    /// Identifies a repetition of the request. `None` issues a key in any case.
    pub idempotent: Option<Idempotent>,
}

impl OperatorKeyDraft {
    /// Returns a draft of a key without scopes that never expires and may be used from anywhere.
    pub fn new(name: KeyName) -> Self {
        Self {
            name,
            allowed_networks: AllowedNetworks::default(),
            scopes: ScopeSet::default(),
            expires_at: None,
            idempotent: None,
        }
    }

    setters! {
        /// Sets the addresses that may use the key.
        allowed_networks: AllowedNetworks,
        /// Sets the scopes.
        scopes: ScopeSet,
        /// Sets the expiry.
        expires_at: Option<Timestamp>,
        /// Returns the first answer again if the request is a repetition.
        idempotent: Option<Idempotent>,
    }
}

/// A new key with its secret. The secret exists only here and with its owner.
#[derive(Debug)]
#[non_exhaustive]
pub struct Issued {
    /// The record.
    pub key: ApiKey,
    /// Names and values of the host system.
    pub metadata: Metadata,
    /// The secret. Show it once.
    pub secret: SecretKey,
}

impl Issued {
    /// Returns the version of the key, as [`KeyDetails::version`] does until it is changed.
    #[must_use]
    pub fn version(&self) -> KeyVersion {
        let mut details = KeyDetails::new(self.key.clone());
        details.metadata.clone_from(&self.metadata);
        details.version()
    }
}

/// An invalid field of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "complete: every surface names each field"
)]
pub enum IssueField {
    /// The expiry.
    ExpiresAt,
    /// The entry at this index of the address list, counted from 0.
    AllowedNetworks(usize),
    /// The scopes.
    Scopes,
    /// The key's own limits.
    Limits,
    /// The prefix.
    Prefix,
    /// The life of a session.
    Ttl,
}

impl From<ExceededBound> for IssueField {
    fn from(bound: ExceededBound) -> Self {
        match bound {
            ExceededBound::ExpiresAt => Self::ExpiresAt,
            ExceededBound::AllowedNetworks(index) => Self::AllowedNetworks(index),
            ExceededBound::Scopes => Self::Scopes,
            ExceededBound::Limits => Self::Limits,
        }
    }
}

/// Error returned when a key was not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// It would be expired already.
    #[error("the expiry is not in the future")]
    ExpiryNotInFuture,
    /// The life of a session is zero or longer than [`SESSION_TTL_MAX`].
    #[error("a session lives for 1 second to 24 hours")]
    SessionTtl,
    /// Its prefix is that of another kind of credential.
    #[error("the prefix is reserved for another kind of credential")]
    ReservedPrefix,
    /// No plan has a limit of this name, so it would have no effect.
    #[error("no plan has a limit named {0}")]
    UnknownLimit(LimitName),
    /// This field exceeds the key that creates it: a later expiry, an address outside its list, a
    /// scope that it lacks, or a higher limit.
    #[error("a key cannot create a key that may do more than itself")]
    ExceedsCreator(IssueField),
    /// The key that creates it was restricted after it was authenticated. The draft inherits a
    /// limit that is too wide by now. A repetition inherits the present one.
    #[error("the key that creates it was restricted a moment ago")]
    CreatorRestricted,
    /// The caller is no longer authorized.
    #[error("the caller was refused")]
    CallerDenied(#[source] Denial),
    /// The account does not exist.
    #[error("there is no such account")]
    AccountNotFound,
    /// The account may not have keys.
    #[error("the account was refused")]
    AccountDenied(#[source] Denial),
    /// The account has as many usable keys as its plan allows.
    #[error("the account already has its {max} keys")]
    CapReached {
        /// The maximum.
        max: u32,
    },
    /// The request is a repetition that cannot be answered.
    #[error(transparent)]
    Idempotency(#[from] IdempotencyError),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The store could not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IssueError {
    /// Returns the invalid field of the draft, or `None` if the draft is valid.
    #[must_use]
    pub fn field(&self) -> Option<IssueField> {
        match self {
            Self::ExpiryNotInFuture => Some(IssueField::ExpiresAt),
            Self::SessionTtl => Some(IssueField::Ttl),
            Self::ReservedPrefix => Some(IssueField::Prefix),
            Self::UnknownLimit(_) => Some(IssueField::Limits),
            Self::ExceedsCreator(field) => Some(*field),
            _ => None,
        }
    }
}

impl From<ChangeError> for IssueError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::CallerDenied(denial) => Self::CallerDenied(denial),
            ChangeError::ExceedsCaller(limit) => Self::ExceedsCreator(limit.into()),
            ChangeError::AccountNotFound => Self::AccountNotFound,
            ChangeError::AccountDenied(denial) => Self::AccountDenied(denial),
            ChangeError::CapReached { max } => Self::CapReached { max },
            ChangeError::Superseded => Self::Idempotency(IdempotencyError::InFlight {
                retry_after: Duration::ZERO,
            }),
            ChangeError::Store(error) => Self::Store(error),
            error @ (ChangeError::ExternalIdTaken
            | ChangeError::AccountUnreadable { .. }
            | ChangeError::LastOperator
            | ChangeError::KeyEnded
            | ChangeError::KeyInvalid(_)
            | ChangeError::KeyChanged) => Self::Store(StoreError::Unexpected(error.into())),
        }
    }
}

impl KeyService {
    /// Issues a key to an account.
    ///
    /// A key that an account's key creates is limited to the expiry, addresses and scopes of its
    /// creator. Fields that the draft leaves open are inherited from the creator.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub async fn issue_key(&self, by: &Actor, draft: KeyDraft) -> Result<Issued, IssueError> {
        if !by.may_act_for(draft.account_id) {
            return Err(IssueError::AccountNotFound);
        }
        if is_reserved(&draft.prefix) {
            return Err(IssueError::ReservedPrefix);
        }
        if let Some(name) = self.unknown_limit(draft.limits.iter().map(|(name, _)| name)) {
            return Err(IssueError::UnknownLimit(name));
        }
        let inherited = Inherited::by(&draft);
        let draft = match &by.parent {
            Some(parent) => narrow(draft, parent).map_err(IssueError::ExceedsCreator)?,
            None => draft,
        };
        let template = Template {
            kind: KeyKind::Account,
            account_id: Some(draft.account_id),
            prefix: draft.prefix,
            name: draft.name,
            allowed_networks: draft.allowed_networks,
            scopes: draft.scopes.unwrap_or_default(),
            expires_at: draft.expires_at,
            metadata: draft.metadata,
            limits: draft.limits,
            subject: by.subject().cloned(),
            policy: draft.policy,
        };
        let issued = self.issue(by, template, draft.idempotent).await;
        issued.map_err(|error| match error {
            // The expiry is the creator's, which has passed since the creator was authenticated.
            IssueError::ExpiryNotInFuture if inherited.expires_at => {
                IssueError::CallerDenied(Denial::Expired)
            }
            IssueError::ExceedsCreator(field) if inherited.includes(field) => {
                IssueError::CreatorRestricted
            }
            error => error,
        })
    }

    /// Opens a session for an account: a short-lived credential for a signed-in person.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub async fn open_session(
        &self,
        by: &Actor,
        draft: SessionDraft,
    ) -> Result<Issued, IssueError> {
        if !by.may_administer() {
            return Err(IssueError::CallerDenied(Denial::KindNotAllowed));
        }
        if draft.ttl < Duration::from_secs(1) || draft.ttl > SESSION_TTL_MAX {
            return Err(IssueError::SessionTtl);
        }
        let template = Template {
            kind: KeyKind::Session,
            account_id: Some(draft.account_id),
            prefix: prefix(SESSION_PREFIX),
            name: None,
            allowed_networks: AllowedNetworks::default(),
            scopes: draft.scopes,
            expires_at: Some(self.now().saturating_add(draft.ttl)),
            metadata: Metadata::default(),
            limits: KeyLimits::default(),
            subject: draft.subject,
            policy: IssuePolicy::NONE,
        };
        self.issue(by, template, draft.idempotent).await
    }

    /// Issues a key to an operator. The key of an operator gives no scope that it lacks, no address
    /// outside its own list, and no expiry after its own. Open fields are inherited from it.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub async fn issue_operator_key(
        &self,
        by: &Actor,
        draft: OperatorKeyDraft,
    ) -> Result<Issued, IssueError> {
        if !by.may_administer() {
            return Err(IssueError::CallerDenied(Denial::KindNotAllowed));
        }
        let draft = match by.operator_key() {
            Some(creator) => within_operator(draft, creator).map_err(IssueError::ExceedsCreator)?,
            None => draft,
        };
        let by = &by.giving(&draft.scopes);
        let template = Template {
            kind: KeyKind::Operator,
            account_id: None,
            prefix: prefix(OPERATOR_PREFIX),
            name: Some(draft.name),
            allowed_networks: draft.allowed_networks,
            scopes: draft.scopes,
            expires_at: draft.expires_at,
            metadata: Metadata::default(),
            limits: KeyLimits::default(),
            subject: None,
            policy: IssuePolicy::NONE,
        };
        self.issue(by, template, draft.idempotent).await
    }

    async fn issue(
        &self,
        by: &Actor,
        template: Template,
        idempotent: Option<Idempotent>,
    ) -> Result<Issued, IssueError> {
        let at = self.now();
        let Some(idempotent) = idempotent else {
            let issued = template.fill(at, &mut self.entropy())?;
            self.insert(by, &template, &issued, None).await?;
            return Ok(issued);
        };
        let attempt = Attempt::new(idempotent, by, &self.inner.peppers, self.event_id(at)?);
        if let Some(answer) = self.reserve(&attempt, at).await? {
            return Ok(SealedKey::read(&answer)?);
        }
        let result = async {
            let issued = template.fill(at, &mut self.entropy())?;
            let answer = SealedKey::write(&issued)?;
            let peppers = &self.inner.peppers;
            let completion = attempt.seal(peppers, &answer, at, &mut self.entropy())?;
            self.insert(by, &template, &issued, Some(completion))
                .await?;
            Ok(issued)
        }
        .await;
        if result.is_err() {
            self.release(&attempt).await;
        }
        result
    }

    async fn insert(
        &self,
        by: &Actor,
        template: &Template,
        issued: &Issued,
        completion: Option<Completion>,
    ) -> Result<(), IssueError> {
        let admission = Admission::new(Arc::clone(&self.inner.plans), template.policy);
        let digest = self.inner.peppers.digest(&issued.secret);
        let new_key =
            NewKey::new(issued.key.clone(), digest, admission).metadata(template.metadata.clone());
        let digest = *new_key.digest.digest.as_bytes();
        let change = self.change(by, issued.key.created_at, completion)?;
        self.inner.store.insert_key(new_key, change).await?;
        // Before the answer: from then on this instance must know the key.
        self.inner.cache.key_made(&digest);
        Ok(())
    }
}

/// The data of a new key.
struct Template {
    kind: KeyKind,
    account_id: Option<AccountId>,
    prefix: KeyPrefix,
    name: Option<KeyName>,
    allowed_networks: AllowedNetworks,
    scopes: ScopeSet,
    expires_at: Option<Timestamp>,
    metadata: Metadata,
    limits: KeyLimits,
    subject: Option<ExternalId>,
    policy: IssuePolicy,
}

impl Template {
    fn fill(&self, at: Timestamp, entropy: &mut Entropy) -> Result<Issued, IssueError> {
        if self.expires_at.is_some_and(|end| end <= at) {
            return Err(IssueError::ExpiryNotInFuture);
        }
        let secret = SecretKey::generate(&self.prefix, entropy)?;
        let id = KeyId::generate(at, entropy)?;
        let mut key = ApiKey::new(id, self.kind, secret.shown_prefix(), at);
        key.account_id = self.account_id;
        key.name.clone_from(&self.name);
        key.allowed_networks.clone_from(&self.allowed_networks);
        key.scopes.clone_from(&self.scopes);
        key.expires_at = self.expires_at;
        key.limits.clone_from(&self.limits);
        key.subject.clone_from(&self.subject);
        Ok(Issued {
            key,
            metadata: self.metadata.clone(),
            secret,
        })
    }
}

fn prefix(reserved: &str) -> KeyPrefix {
    reserved.parse().expect("reserved prefixes are legal")
}

/// Fields that a draft leaves open, which are inherited from the credential that creates it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each field of a draft is open or not"
)]
struct Inherited {
    expires_at: bool,
    allowed_networks: bool,
    scopes: bool,
    limits: bool,
}

impl Inherited {
    fn by(draft: &KeyDraft) -> Self {
        Self {
            expires_at: draft.expires_at.is_none(),
            allowed_networks: draft.allowed_networks.is_unrestricted(),
            scopes: draft.scopes.is_none(),
            limits: draft.limits.is_empty(),
        }
    }

    fn includes(&self, field: IssueField) -> bool {
        match field {
            IssueField::ExpiresAt => self.expires_at,
            IssueField::AllowedNetworks(_) => self.allowed_networks,
            IssueField::Scopes => self.scopes,
            IssueField::Limits => self.limits,
            IssueField::Prefix | IssueField::Ttl => false,
        }
    }
}

/// Applies the bounds of the operator key that creates it to a draft. Open fields are inherited.
fn within_operator(
    mut draft: OperatorKeyDraft,
    creator: &ApiKey,
) -> Result<OperatorKeyDraft, IssueField> {
    draft.expires_at = draft.expires_at.or(creator.expires_at);
    if draft.allowed_networks.is_unrestricted() {
        draft.allowed_networks = creator.allowed_networks.clone();
    }
    let bounds = KeyBounds {
        expires_at: draft.expires_at,
        allowed_networks: &draft.allowed_networks,
        scopes: &draft.scopes,
        limits: &KeyLimits::default(),
    };
    match creator.bounds().exceeded_by(&bounds) {
        Some(bound) => Err(bound.into()),
        None => Ok(draft),
    }
}

/// Applies the bounds of the credential that creates it to a draft. Open fields are inherited from
/// the parent.
fn narrow(mut draft: KeyDraft, parent: &ApiKey) -> Result<KeyDraft, IssueField> {
    if parent.kind == KeyKind::Session {
        // Keys outlive the session that makes them. Only its scopes bound them, if it has any.
        draft.scopes.get_or_insert_with(|| parent.scopes.clone());
    } else {
        draft.expires_at = draft.expires_at.or(parent.expires_at);
        if draft.allowed_networks.is_unrestricted() {
            draft.allowed_networks = parent.allowed_networks.clone();
        }
        draft.scopes.get_or_insert_with(|| parent.scopes.clone());
        draft.limits = draft
            .limits
            .with_missing_of(&parent.limits)
            .map_err(|_| IssueField::Limits)?;
    }
    let bounds = KeyBounds {
        expires_at: draft.expires_at,
        allowed_networks: &draft.allowed_networks,
        scopes: draft.scopes.get_or_insert_default(),
        limits: &draft.limits,
    };
    match parent.exceeded_by(&bounds) {
        Some(bound) => Err(bound.into()),
        None => Ok(draft),
    }
}

/// A new key as it is stored, sealed, for a repetition of the request that created it. See
/// [`answer`] before you change a member, also one of [`ApiKey`].
#[derive(Serialize, Deserialize)]
pub(crate) struct SealedKey {
    secret: Zeroizing<String>,
    key: ApiKey,
    #[serde(default)]
    metadata: Metadata,
}

impl SealedKey {
    fn write(issued: &Issued) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        answer::write(&Self::from(issued))
    }

    fn read(answer: &[u8]) -> Result<Issued, ReserveError> {
        Ok(answer::read::<Self>(answer)?.issued()?)
    }

    pub(crate) fn issued(self) -> Result<Issued, StoreError> {
        let secret = SecretKey::parse(&self.secret).map_err(|_| unreadable())?;
        Ok(Issued {
            key: self.key,
            metadata: self.metadata,
            secret,
        })
    }
}

impl From<&Issued> for SealedKey {
    fn from(issued: &Issued) -> Self {
        Self {
            secret: Zeroizing::new(issued.secret.expose().to_owned()),
            key: issued.key.clone(),
            metadata: issued.metadata.clone(),
        }
    }
}

impl From<ReserveError> for IssueError {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Idempotency(error) => Self::Idempotency(error),
            ReserveError::Store(error) => Self::Store(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use keys_core::{EventId, Pepper, PepperRing};

    use super::*;

    /// Look-up digest and sealed answer of an earlier version, which knew of no formats: of the
    /// request [`attempt`], under the pepper [`ring`].
    const LOOKUP: &str = "c9f0529efd571fa2c77aa355fac21623b4e8c01eeaa372e52afbb7c7fc2e5c19";
    const SEALED: &str = "\
        53723d0d363956c22c7e9f5ce598bbd67a8f6a2a2a2d40d9049a86e490c4fc40c399063e0c7d489c5a7479ab\
        06bc3fa3b9426b46a014cb3c3786f9a5e4e5e7662c36d041704ba6e529b20c87d595818087197a80a3eee1b3\
        e5b72ffff984e4141dee94fa8a91deacb10861eb65e84ad2db097407b4554a7019eb7ecf34d5f3e6f657b5aa\
        6af1905b36f2b250accdcaf52b21aede822f8f034fecaad50edf67bdbdb437cffdcbe1f594cc7ccf5cc54032\
        a526fb7a21dc5f26928cf09206a0ffd8f80cc82e092c409347ff08ae2dc49270b3c660dced1809d51d2ba344\
        cec9fe1ad94c057907be97570daf9d58513ea9dd89e1eccee49967c5bbe49bb0e338864c0584af28420f3d74\
        516847a406c9f216847bf52e91d23ffb2ecce86816578a87138b165089c3d1b185d4c27ab99c3d9346b7156a\
        f1d471e197d230b1e1f5ca10e525d20c84d46bf24893e9b84647fba4e6c04190b8d99de6de13d038a00cbb93\
        137ab87149d530bd8e3f3572a535c9a9ec09d805fcfb4f8c848b4505189412a3d541231f69e42644ec81bc25\
        c70858374073af2808ef3399b6";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(byte).collect()
    }

    fn ring() -> PepperRing {
        let pepper = Pepper::from_bytes(&[1; 32]).unwrap();
        PepperRing::new("p1".parse().unwrap(), pepper)
    }

    fn attempt() -> Attempt {
        let request = Idempotent::new("request-1".parse().unwrap(), "create", "body");
        let token = EventId::generate(NOON, &mut Entropy::system()).unwrap();
        Attempt::new(request, &Actor::system(), &ring(), token)
    }

    const NOON: Timestamp = Timestamp::from_unix_micros(1_767_268_800_000_000);

    /// A rolling upgrade: the repetition reaches an instance of this version.
    #[test]
    fn answer_that_an_earlier_version_sealed_opens() {
        let lookup = bytes(LOOKUP).try_into().unwrap();
        let answer = attempt().open(&ring(), lookup, &bytes(SEALED)).unwrap();
        let issued = SealedKey::read(&answer).unwrap();
        let secret = issued.secret.expose();
        assert_eq!(secret, "sk_live_1Pm9JOVo4Mu5bOWZME9vGh1Rw80YI7I6");
        let id = "AZt5bdYAcxOJeg8vOYR3wQ".parse().unwrap();
        let mut key = ApiKey::new(id, KeyKind::Account, issued.secret.shown_prefix(), NOON);
        key.account_id = Some("AZt5bdYAeTCXxo6qyPiW9Q".parse().unwrap());
        key.name = KeyName::from_memo("Production").unwrap();
        key.allowed_networks = AllowedNetworks::parse(["192.0.2.0/24"]).unwrap();
        key.scopes = ScopeSet::parse(["orders:read"]).unwrap();
        key.expires_at = Some(NOON.saturating_add(Duration::from_hours(24)));
        assert_eq!(issued.key, key);
    }

    /// The repetition reaches an instance that was not upgraded yet.
    #[test]
    fn earlier_version_reads_what_this_one_seals() {
        let lookup = bytes(LOOKUP).try_into().unwrap();
        let answer = attempt().open(&ring(), lookup, &bytes(SEALED)).unwrap();
        let issued = SealedKey::read(&answer).unwrap();
        let written = SealedKey::write(&issued).unwrap();
        let read: SealedKey = serde_json::from_slice(&written).unwrap();
        assert_eq!(*read.secret, issued.secret.expose());
        assert_eq!(read.key, issued.key);
    }
}
