//! `DELETE /v1/operator-keys/{key_id}`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_service::LastOperator;

use super::revocation;
use super::shared::{answer, key_id, operator};
use crate::api::Api;
use crate::guard::Authenticated;
use crate::propagation::Wait;
use crate::rejection::Rejection;

pub(super) async fn revoke_operator_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let revoke = async || {
        let id = key_id(&request)?;
        let revocation = revocation::read(&request, payload, &[]).await?;
        revocation::check_scope(&identity, &revocation)?;
        let wait = Wait::of(&request)?;
        let actor = operator(&identity)?;
        let revoked = api
            .service()
            .revoke_operator_key(&actor, id, revocation, LastOperator::Keep)
            .await?;
        let revoked = revoked.ok_or(Rejection::KeyNotFound)?;
        Ok(revocation::answer(&api, wait, revoked).await)
    };
    answer(revoke().await)
}
