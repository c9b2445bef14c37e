//! Dependencies of every verification route.

use actix_web::dev::RequestHead;
use keys_core::{KeyKind, OperatorScope, ScopeSet};

use crate::admission::Refused;
use crate::api::Api;
use crate::guard::Guard;

/// Answers verification requests.
pub(crate) struct Desk {
    pub(crate) api: Api,
    operators: Guard,
}

impl Desk {
    pub(crate) fn new(api: &Api) -> Self {
        let scopes = ScopeSet::from_iter([OperatorScope::KeysVerify]);
        Self {
            api: api.clone(),
            operators: Guard::verifying(api, &[KeyKind::Operator], scopes),
        }
    }

    /// Checks that the caller is an operator.
    pub(super) async fn admit(&self, head: &RequestHead) -> Result<(), Refused> {
        self.operators.admit(head).await.map(|_| ())
    }
}
