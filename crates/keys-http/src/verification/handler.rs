//! Dependencies of every verification route.

use actix_web::dev::RequestHead;
use keys_core::{KeyKind, OperatorScope, ScopeSet};

use crate::api::Api;
use crate::guard::RequireKey;
use crate::rejection::Rejection;

/// Answers the requests of every verification route.
pub(super) struct Handler {
    pub(super) api: Api,
    operators: RequireKey,
}

impl Handler {
    pub(super) fn new(api: &Api) -> Self {
        let scopes = ScopeSet::from_iter([OperatorScope::KeysVerify]);
        Self {
            api: api.clone(),
            operators: RequireKey::new(api)
                .kinds(&[KeyKind::Operator])
                .scopes(scopes),
        }
    }

    /// Checks that the caller is an operator.
    pub(super) async fn admit(&self, head: &RequestHead) -> Result<(), Rejection> {
        self.operators.admit(head).await.map(|_| ())
    }
}
