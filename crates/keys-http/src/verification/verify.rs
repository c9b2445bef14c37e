//! `POST /v1/keys/verify`

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, RequestHead, Response};

use super::desk::Desk;
use super::question::Question;
use super::view::{VerdictView, told};
use super::wire::{json, wants_fresh};
use crate::admission::Refused;
use crate::refusal::Refusal;
use crate::{body, unknown};

pub(super) async fn verify(
    desk: &Desk,
    head: &RequestHead,
    payload: Payload,
) -> Result<Response<BoxBody>, Refused> {
    desk.admit(head).await?;
    unknown::check_query_string(head.uri.query().unwrap_or_default(), &[])?;
    let body = body::read(&head.headers, payload).await?;
    let question = Question::parse(&body, &desk.api)?;
    let asked = question.request(wants_fresh(&head.headers));
    let verdict = desk.api.service().verify(&asked).await;
    let verdict = verdict.map_err(Refusal::from)?;
    desk.api.count_verdict(told(&verdict).0);
    Ok(json(&VerdictView::from(&verdict))?)
}
