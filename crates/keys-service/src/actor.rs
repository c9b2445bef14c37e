//! Actors of changes.

use std::net::IpAddr;
use std::sync::Arc;

use keys_core::{
    Account, AccountId, ApiKey, Denial, ExternalId, KeyDetails, KeyId, KeyKind, Plans, ScopeSet,
    StoredKey,
};

use crate::ports::{Authority, Caller};

/// The holder of a presented credential.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Identity {
    /// The credential's record.
    pub key: ApiKey,
    /// The account it belongs to. `None` for an operator key.
    pub account: Option<Account>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The scopes that were required and present.
    pub scopes: ScopeSet,
}

/// The actor of a change. Inside the change's transaction a credential is checked again.
#[derive(Debug, Clone)]
pub struct Actor {
    pub(crate) authority: Authority,
    /// The account's key or session that acts. The keys that a key creates are limited to its own
    /// expiry, addresses, scopes and limits; those that a session creates, to its scopes.
    pub(crate) parent: Option<ApiKey>,
}

impl Actor {
    /// Returns the owner of the machine, or the program that embeds the service. It may do
    /// everything.
    #[must_use]
    pub fn system() -> Self {
        Self {
            authority: Authority::Trusted,
            parent: None,
        }
    }

    /// Returns the credential that acts, if one does.
    pub(crate) fn credential_id(&self) -> Option<KeyId> {
        match &self.authority {
            Authority::Trusted => None,
            Authority::Caller(caller) => Some(caller.key_id),
        }
    }

    /// Returns the holder of a credential. With `plans`, its account's plan must have keys.
    #[must_use]
    pub(crate) fn credential(identity: &Identity, plans: Option<Arc<Plans>>) -> Self {
        let key = &identity.key;
        Self {
            authority: Authority::Caller(Caller {
                key_id: key.id,
                kind: key.kind,
                account_id: key.account_id,
                address: identity.address,
                scopes: identity.scopes.clone(),
                plans,
                accepted: Some(Arc::new(StoredKey::new(
                    key.clone(),
                    identity.account.clone(),
                ))),
            }),
            parent: (key.kind != KeyKind::Operator).then(|| key.clone()),
        }
    }

    /// Returns an operator, by its credential.
    ///
    /// # Errors
    /// [`Denial::KindNotAllowed`] if the credential is of another kind, because no account's key or
    /// session counts as an operator, whatever its scopes.
    pub fn operator(identity: &Identity) -> Result<Self, Denial> {
        if identity.key.kind == KeyKind::Operator {
            Ok(Self::credential(identity, None))
        } else {
            Err(Denial::KindNotAllowed)
        }
    }

    /// Returns the host system's identifier of the person that acts, if a credential of an account
    /// acts and it is known.
    pub(crate) fn subject(&self) -> Option<&ExternalId> {
        self.parent.as_ref()?.subject.as_ref()
    }

    /// Returns whether the actor is the owner of the machine or the embedding program.
    pub(crate) fn is_trusted(&self) -> bool {
        matches!(self.authority, Authority::Trusted)
    }

    /// Returns the only account that the actor may act for. `None` for operators and the system.
    pub(crate) fn own_account(&self) -> Option<AccountId> {
        match &self.authority {
            Authority::Trusted => None,
            Authority::Caller(caller) => caller.account_id,
        }
    }

    /// Returns the operator key that acts, as it was when it was accepted.
    pub(crate) fn operator_key(&self) -> Option<&ApiKey> {
        match &self.authority {
            Authority::Caller(caller) if caller.kind == KeyKind::Operator => {
                caller.accepted.as_ref().map(|stored| &stored.key)
            }
            _ => None,
        }
    }

    /// Returns the actor for a change that gives `scopes` to another operator key: the transaction
    /// checks that it has them itself.
    pub(crate) fn giving(&self, scopes: &ScopeSet) -> Self {
        let mut giving = self.clone();
        if let Authority::Caller(caller) = &mut giving.authority {
            caller.scopes = caller.scopes.union(scopes);
        }
        giving
    }

    /// Returns whether the actor may act for the account: an account's key or session acts for no
    /// other.
    pub(crate) fn may_act_for(&self, account: AccountId) -> bool {
        match &self.authority {
            Authority::Trusted => true,
            Authority::Caller(caller) => caller.account_id.is_none_or(|own| own == account),
        }
    }

    /// Returns whether the actor may manage this key. An operator manages keys of accounts, and
    /// neither operator keys nor sessions. An account's key or session manages those of its own
    /// account.
    pub(crate) fn may_manage(&self, key: &ApiKey) -> bool {
        match (key.kind, key.account_id) {
            (KeyKind::Account, Some(account)) => self.may_act_for(account),
            (KeyKind::Operator, None) => self.is_trusted(),
            _ => false,
        }
    }

    /// Returns whether the actor may change accounts, and records that belong to no account.
    pub(crate) fn may_administer(&self) -> bool {
        match &self.authority {
            Authority::Trusted => true,
            Authority::Caller(caller) => caller.kind == KeyKind::Operator,
        }
    }

    /// Returns whether the actor may see a key: operators see the keys of all accounts, an
    /// account's key or session those of its account. Operator keys and sessions are seen by the
    /// system only, unless they are listed as such.
    pub(crate) fn may_see(&self, details: &KeyDetails) -> bool {
        match &self.authority {
            Authority::Trusted => true,
            Authority::Caller(caller) => {
                let key = &details.key;
                key.kind == KeyKind::Account
                    && (caller.kind == KeyKind::Operator
                        || (caller.account_id.is_some() && key.account_id == caller.account_id))
            }
        }
    }
}
