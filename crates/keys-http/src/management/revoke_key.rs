//! `DELETE /v1/keys/{key_id}`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::Operation;

use super::revocation;
use super::shared::{key_id, manage_keys};
use crate::api::Api;
use crate::guard::Authenticated;
use crate::propagation::Wait;
use crate::rejection::Rejection;

pub(super) async fn revoke_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::Delete, async |actor| {
        let id = key_id(&request)?;
        let revocation = revocation::read(&request, payload, &[]).await?;
        let wait = Wait::of(&request)?;
        let revoked = api.service().revoke_account_key(&actor, id, revocation);
        let revoked = revoked.await?.ok_or(Rejection::KeyNotFound)?;
        Ok(revocation::answer(&api, wait, revoked).await)
    })
    .await
}
