//! `DELETE /api/account/api-keys/{identifier}`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyId, Operation};
use keys_service::ports::KeyOwner;

use super::view::Success;
use crate::guard::Authenticated;
use crate::propagation::{self, Wait};
use crate::rejection::Rejection;
use crate::surface::Surface;

pub(super) async fn delete(
    surface: web::Data<Surface>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    surface
        .manage(&identity, Operation::Delete, async |manager| {
            let wait = Wait::of(&request)?;
            let id = request.match_info().query("identifier");
            let id: KeyId = id.parse().map_err(|_| Rejection::KeyNotFound)?;
            let owner = Some(KeyOwner::Account(manager.account_id));
            let revoked = surface.service.revoke_key(&manager.actor, owner, id);
            let effective = revoked.await?.ok_or(Rejection::KeyNotFound)?;
            let by = wait.until(&surface.service, effective).await;
            let body = Success::new(wait.shown(by));
            Ok(propagation::show(by, HttpResponse::Ok().json(body)))
        })
        .await
}
