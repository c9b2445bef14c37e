//! Rejections in the account dialect.

use actix_web::HttpResponse;
use serde::Serialize;

use crate::field_error::FieldError;
use crate::rejection::Rejection;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    status_code: u16,
    message: &'a str,
    errors: Vec<FieldView<'a>>,
}

#[derive(Serialize)]
struct FieldView<'a> {
    field: &'a str,
    message: &'a str,
}

impl<'a> From<&'a FieldError> for FieldView<'a> {
    fn from(error: &'a FieldError) -> Self {
        Self {
            field: &error.field,
            message: &error.message,
        }
    }
}

pub(super) fn render(rejection: &Rejection) -> HttpResponse {
    let status = rejection.status();
    HttpResponse::build(status).json(ErrorBody {
        status_code: status.as_u16(),
        message: &rejection.message(),
        errors: rejection.fields().iter().map(FieldView::from).collect(),
    })
}
