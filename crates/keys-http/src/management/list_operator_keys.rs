//! `GET /v1/operator-keys`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_core::{KeyKind, KeyStatus};
use keys_service::ports::{KeyCursor, KeyQuery};

use super::operator_view::{OperatorKeyPageView, OperatorKeyView};
use super::shared::{answer, operator};
use crate::api::Api;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::query::Query;
use crate::unknown;

const LIMIT_DEFAULT: u64 = 50;
const LIMIT_MAX: u64 = 1_000;

/// Lists operator keys that are not revoked, the newest first.
pub(super) async fn list_operator_keys(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
) -> HttpResponse {
    let list = async || {
        unknown::check_query(&request, &["cursor", "limit"])?;
        let query = Query::parse(request.query_string());
        let mut faults = Faults::default();
        let after: Option<KeyCursor> = faults.note(query.one("cursor").and_then(|text| {
            let expectation = "must be a next_cursor of another page";
            let parse = |text| fields::parse("cursor", text, expectation);
            text.map(parse).transpose()
        }));
        let limit = faults.note(query.number("limit", LIMIT_DEFAULT, LIMIT_MAX));
        faults.finish()?;
        let wanted = KeyQuery::new(u32::try_from(limit).unwrap_or(u32::MAX))
            .kind(KeyKind::Operator)
            .statuses(
                KeyStatus::ALL
                    .into_iter()
                    .filter(|status| *status != KeyStatus::Revoked),
            )
            .after(after);
        let service = api.service();
        let page = service.find_keys(&operator(&identity)?, wanted).await?;
        let now = service.now();
        let data = page.keys.iter().map(|details| {
            let unreadable = page.is_unreadable(details.key.id);
            OperatorKeyView::listed(&details.key, unreadable, details.status(now))
        });
        Ok(HttpResponse::Ok().json(OperatorKeyPageView {
            data: data.collect(),
            next_cursor: page.next.map(|cursor| cursor.to_string()),
        }))
    };
    answer(list().await)
}
