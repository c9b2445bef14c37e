//! Refusals in the flat dialect.

use actix_web::HttpResponse;
use serde::Serialize;

use crate::refusal::Refusal;

#[derive(Serialize)]
struct ErrorBody<'a> {
    message: &'a str,
    code: &'a str,
}

pub(super) fn render(refusal: &Refusal) -> HttpResponse {
    HttpResponse::build(refusal.status()).json(ErrorBody {
        message: &refusal.message(),
        code: refusal.code(),
    })
}
