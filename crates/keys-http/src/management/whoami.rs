//! `GET` and `DELETE /v1/whoami`

use actix_web::{HttpRequest, HttpResponse, web};

use super::shared::answer;
use super::view::{RevokedView, WhoamiView};
use crate::api::Api;
use crate::guard::Authenticated;
use crate::propagation::{self, Wait};
use crate::rejection::Rejection;
use crate::unknown;

pub(super) async fn whoami(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    let tell = async || {
        unknown::check_query(&request, &[])?;
        let limits = api.service().limits(&identity).await;
        Ok(HttpResponse::Ok().json(WhoamiView::new(&identity, &limits)))
    };
    answer(tell().await)
}

/// Revokes the credential of the request.
pub(super) async fn revoke(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    let revoke = async || {
        unknown::check_query(&request, &["wait"])?;
        let wait = Wait::of(&request)?;
        let revoked = api.service().revoke_own_key(&identity).await?;
        // Another request revoked it after this one was authenticated.
        let effective = revoked.ok_or(Rejection::KeyNotFound)?;
        let by = wait.until(api.service(), effective).await;
        let body = RevokedView::new(identity.key.id, by);
        Ok(propagation::show(by, HttpResponse::Ok().json(body)))
    };
    answer(revoke().await)
}
