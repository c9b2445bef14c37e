//! `DELETE` of one key, in both contracts.

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyId, Operation};
use keys_service::ports::KeyOwner;
use serde::Serialize;

use crate::guard::Authenticated;
use crate::propagation::{self, Wait};
use crate::rejection::Rejection;
use crate::surface::Surface;

#[derive(Serialize)]
struct Deleted {
    success: bool,
    /// Not part of the contracts, so it is present only for clients that send `?wait=global`, which
    /// is not part of them either.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_everywhere_by: Option<String>,
}

pub(crate) async fn delete(
    surface: web::Data<Surface>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    surface
        .manage(&identity, Operation::Delete, async |manager| {
            let wait = Wait::of(&request)?;
            let id = request.match_info().query(surface.key_parameter);
            let id: KeyId = id.parse().map_err(|_| Rejection::KeyNotFound)?;
            let owner = Some(KeyOwner::Account(manager.account_id));
            let revoked = surface.service.revoke_key(&manager.actor, owner, id);
            let effective = revoked.await?.ok_or(Rejection::KeyNotFound)?;
            let by = wait.until(&surface.service, effective).await;
            let body = Deleted {
                success: true,
                effective_everywhere_by: wait.shown(by),
            };
            Ok(propagation::show(by, HttpResponse::Ok().json(body)))
        })
        .await
}
