//! `GET /api/api-keys`

use actix_web::{HttpResponse, web};
use keys_core::Operation;
use keys_service::ports::KeyOwner;

use super::view::KeyView;
use crate::guard::Authenticated;
use crate::surface::Surface;

/// Maximum number of keys in a list, the newest. This contract has no pages, and no answer may grow
/// without bound.
const KEYS_MAX: u32 = 1_000;

pub(super) async fn list(surface: web::Data<Surface>, identity: Authenticated) -> HttpResponse {
    surface
        .manage(&identity, Operation::List, async |manager| {
            let owner = KeyOwner::Account(manager.account_id);
            let page = surface.service.list_keys(owner, 0, KEYS_MAX).await?;
            let views: Vec<_> = page
                .keys
                .iter()
                .map(|key| KeyView::listed(key, &page))
                .collect();
            Ok(HttpResponse::Ok().json(views))
        })
        .await
}
