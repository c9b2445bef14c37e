//! `GET /v1/operator-keys/{key_id}`

use actix_web::{HttpRequest, HttpResponse, web};

use super::operator_view::OperatorKeyView;
use super::shared::{answer, key_id};
use crate::api::Api;
use crate::rejection::Rejection;
use crate::unknown;

pub(super) async fn read_operator_key(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let read = async || {
        let id = key_id(&request)?;
        unknown::check_query(&request, &[])?;
        let service = api.service();
        let found = service.operator_key(id).await?;
        let details = found.ok_or(Rejection::KeyNotFound)?;
        let view = OperatorKeyView::details(&details, details.status(service.now()));
        Ok(HttpResponse::Ok().json(view))
    };
    answer(read().await)
}
