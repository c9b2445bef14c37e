//! Rejections as RFC 9457 writes them: the dialect of everything that is not one of the two
//! contracts.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Serialize;

use crate::field_error::FieldView;
use crate::rejection::Rejection;

const PROBLEM_JSON: &str = "application/problem+json";

#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    /// Present only if a key was rotated already.
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldView<'a>>,
}

pub(crate) fn render(rejection: &Rejection) -> HttpResponse {
    render_as(rejection.status(), rejection)
}

/// Renders a refusal with another status than its own.
pub(crate) fn render_as(status: StatusCode, rejection: &Rejection) -> HttpResponse {
    HttpResponse::build(status)
        .content_type(PROBLEM_JSON)
        .json(Problem {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code: rejection.code(),
            detail: &rejection.message(),
            successor: rejection.successor().map(|id| id.to_string()),
            errors: rejection.fields().iter().map(FieldView::from).collect(),
        })
}
