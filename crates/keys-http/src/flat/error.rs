//! Rejections in the flat dialect.

use actix_web::HttpResponse;
use serde::Serialize;

use crate::rejection::Rejection;

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    code: &'a str,
}

pub(super) fn render(rejection: &Rejection) -> HttpResponse {
    HttpResponse::build(rejection.status()).json(ErrorBody {
        message: &rejection.message(),
        code: rejection.code(),
    })
}
