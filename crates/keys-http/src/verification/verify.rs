//! `POST /v1/keys/verify`

use actix_web::dev::Payload;
use actix_web::{HttpRequest, HttpResponse};

use super::question::Question;
use super::view::VerdictView;
use super::{Desk, json, told, wants_fresh};
use crate::body;
use crate::refusal::Refusal;

pub(super) async fn verify(desk: &Desk, request: &HttpRequest, payload: Payload) -> HttpResponse {
    let verify = async || {
        let body = body::read(request, payload).await?;
        let question = Question::read(body::parse(&body)?, "", &desk.api)?;
        let asked = question.request(wants_fresh(request.headers()));
        let verdict = desk.api.service().verify(&asked).await;
        let verdict = verdict.map_err(Refusal::from)?;
        desk.api.count_verdict(told(&verdict).0);
        Ok(json(&VerdictView::from(&verdict))?)
    };
    desk.answer(request, verify).await
}
