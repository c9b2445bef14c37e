//! `POST /v1/keys/verify-batch`

use actix_web::body::BoxBody;
use actix_web::dev::{Payload, RequestHead, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::handler::Handler;
use super::question::{self, OnlyKey, Question};
use super::view::{USUAL_LEN, disclosed, write_verdict};
use super::wire::{json, wants_fresh};
use crate::api::Api;
use crate::rejection::Rejection;
use crate::{body, unknown};

/// Maximum number of requests in a batch.
const LEN_MAX: usize = 1_000;

/// Maximum size of the body in KiB: about 1,000 bytes for each request of a full batch, where a key
/// takes 53 at most.
const KIB_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(borrow)]
    requests: Option<&'a RawValue>,
}

pub(super) async fn verify_batch(
    handler: &Handler,
    head: &RequestHead,
    payload: Payload,
) -> Result<Response<BoxBody>, Rejection> {
    handler.admit(head).await?;
    unknown::check_query_string(head.uri.query().unwrap_or_default(), &[])?;
    let body = body::read_up_to(KIB_MAX, &head.headers, payload).await?;
    let questions = match OnlyKeys::parse(&body) {
        Some(only) => only.requests.into_iter().map(Question::from).collect(),
        None => questions(&body::parse_strict(&body)?, &handler.api)?,
    };
    let fresh = wants_fresh(&head.headers);
    let asked: Vec<_> = questions
        .iter()
        .map(|question| question.request(fresh))
        .collect();
    let verdicts = handler.api.service().verify_batch(&asked).await?;
    let mut body = Vec::with_capacity(USUAL_LEN * verdicts.len());
    body.extend_from_slice(br#"{"results":["#);
    for (index, verdict) in verdicts.iter().enumerate() {
        handler.api.count_verdict(disclosed(verdict).0);
        if index > 0 {
            body.push(b',');
        }
        write_verdict(&mut body, verdict);
    }
    body.extend_from_slice(b"]}");
    Ok(json(body))
}

/// The most frequent body, which is read in one pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnlyKeys<'a> {
    #[serde(borrow)]
    requests: Vec<OnlyKey<'a>>,
}

impl<'a> OnlyKeys<'a> {
    /// Returns `None` if the body is anything else. What is wrong with it is not found out here.
    fn parse(body: &'a [u8]) -> Option<Self> {
        // serde also reads a struct from an array, which is not documented.
        if body.first() != Some(&b'{') {
            return None;
        }
        let only: Self = serde_json::from_slice(body).ok()?;
        (1..=LEN_MAX).contains(&only.requests.len()).then_some(only)
    }
}

/// Reads the requests, up to the first invalid one.
fn questions<'a>(members: &Members<'a>, api: &Api) -> Result<Vec<Question<'a>>, Rejection> {
    let requests = members
        .requests
        .ok_or_else(|| Rejection::field("requests", "is required"))?;
    let entries: Vec<&RawValue> = serde_json::from_str(requests.get())
        .map_err(|_| Rejection::field("requests", "must be a list of objects"))?;
    if !(1..=LEN_MAX).contains(&entries.len()) {
        let message = format!("must have 1 to {LEN_MAX} entries");
        return Err(Rejection::field("requests", message));
    }
    let read = |(index, entry): (usize, &'a RawValue)| {
        let fault = |message| Rejection::field(format!("requests.{index}"), message);
        // serde also reads a struct from an array, which is not documented.
        if !entry.get().starts_with('{') {
            return Err(fault("must be an object"));
        }
        let path = format!("requests.{index}.");
        // The whole body is known to be JSON, so nothing else can be wrong here.
        let members: question::Members<'a> = serde_json::from_str(entry.get()).map_err(|_| {
            match unknown::members::<question::Members<'a>>(entry.get(), &path) {
                Some(faults) => Rejection::Invalid(faults),
                None => fault("has a member twice"),
            }
        })?;
        Question::read(members, &path, api)
    };
    entries.into_iter().enumerate().map(read).collect()
}
