//! `GET /v1/keys/{key_id}`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{Denial, Operation};

use super::key_view::KeyView;
use super::shared::{key_id, manage_keys};
use super::version;
use crate::api::Api;
use crate::guard::Authenticated;
use crate::rejection::Rejection;
use crate::unknown;

pub(super) async fn read_key(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    manage_keys(&api, &identity, Operation::List, async |actor| {
        unknown::check_query(&request, &[])?;
        let found = api.service().find_key(&actor, key_id(&request)?).await?;
        let details = found
            .ok_or(Rejection::KeyNotFound)?
            .map_err(|_| Rejection::denied(Denial::Unreadable))?;
        let view = KeyView::new(&details, api.service().now());
        Ok(version::show(
            details.version(),
            HttpResponse::Ok().json(view),
        ))
    })
    .await
}
