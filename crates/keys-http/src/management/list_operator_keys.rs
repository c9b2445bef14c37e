//! `GET /v1/operator-keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyDetails, KeyId};
use keys_service::ports::KeyOwner;

use super::operator_view::{OperatorKeyPageView, OperatorKeyView};
use super::shared::answer;
use crate::api::Api;
use crate::fields::{self, Faults};
use crate::query::Query;
use crate::unknown;

const LIMIT_DEFAULT: u64 = 50;
const LIMIT_MAX: u64 = 1_000;

/// Operators have few keys, so all of them are read for each page.
const KEYS_MAX: u32 = 10_000;

pub(super) async fn list_operator_keys(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let list = async || {
        unknown::check_query(&request, &["cursor", "limit"])?;
        let query = Query::parse(request.query_string());
        let mut faults = Faults::default();
        let after: Option<KeyId> = faults.note(query.one("cursor").and_then(|text| {
            let expectation = "must be a next_cursor of another page";
            let parse = |text| fields::parse("cursor", text, expectation);
            text.map(parse).transpose()
        }));
        let limit = faults.note(query.number("limit", LIMIT_DEFAULT, LIMIT_MAX));
        faults.finish()?;
        let service = api.service();
        let page = service.list_keys(KeyOwner::Operators, 0, KEYS_MAX).await?;
        // Identifiers are ordered by the time of creation. So a page continues after the last key
        // of the one before, also if that was revoked meanwhile.
        let mut keys: Vec<_> = page.keys.iter().collect();
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.id));
        keys.retain(|key| after.is_none_or(|after| key.id < after));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let next = keys.get(limit).and(keys.get(limit - 1));
        let next_cursor = next.map(|key| key.id.to_string());
        keys.truncate(limit);
        let data = keys.into_iter().map(|key| {
            let status = service.key_status(&KeyDetails::new(key.clone()));
            OperatorKeyView::listed(key, page.is_unreadable(key.id), status)
        });
        Ok(HttpResponse::Ok().json(OperatorKeyPageView {
            data: data.collect(),
            next_cursor,
        }))
    };
    answer(list().await)
}
