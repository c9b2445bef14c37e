//! Rejections in the account dialect.

use actix_web::HttpResponse;
use serde::Serialize;

use crate::field_error::FieldView;
use crate::rejection::Rejection;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    status_code: u16,
    message: &'a str,
    errors: Vec<FieldView<'a>>,
}

pub(super) fn render(rejection: &Rejection) -> HttpResponse {
    let status = rejection.status();
    HttpResponse::build(status).json(ErrorBody {
        status_code: status.as_u16(),
        message: &rejection.message(),
        errors: rejection.fields().iter().map(FieldView::from).collect(),
    })
}
