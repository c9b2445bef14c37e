//! `POST /v1/keys/verify`

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, RequestHead, Response};

use super::handler::Handler;
use super::question::Question;
use super::view::{USUAL_LEN, disclosed, write_verdict};
use super::wire::{json, wants_fresh};
use crate::rejection::Rejection;
use crate::{body, unknown};

pub(super) async fn verify(
    handler: &Handler,
    head: &RequestHead,
    payload: Payload,
) -> Result<Response<BoxBody>, Rejection> {
    handler.admit(head).await?;
    unknown::check_query_string(head.uri.query().unwrap_or_default(), &[])?;
    let body = body::read(&head.headers, payload).await?;
    let question = Question::parse(&body, &handler.api)?;
    let asked = question.request(wants_fresh(&head.headers));
    let verdict = handler.api.service().verify(&asked).await?;
    handler.api.count_verdict(disclosed(&verdict).0);
    let mut body = Vec::with_capacity(USUAL_LEN);
    write_verdict(&mut body, &verdict);
    Ok(json(body))
}
