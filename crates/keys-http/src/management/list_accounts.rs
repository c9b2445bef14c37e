//! `GET /v1/accounts`

use actix_web::{HttpRequest, HttpResponse, web};
use keys_service::ports::AccountQuery;

use super::shared::answer;
use super::view::AccountPageView;
use crate::api::Api;
use crate::fields::{self, Faults};
use crate::query::Query;
use crate::rejection::Rejection;
use crate::unknown;

const LIMIT_DEFAULT: u64 = 50;
const LIMIT_MAX: u64 = 100;

pub(super) async fn list_accounts(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let list = async || {
        unknown::check_query(&request, &["external_id", "cursor", "limit"])?;
        let query = account_query(&Query::parse(request.query_string()))?;
        let page = api.service().list_accounts(query).await?;
        Ok(HttpResponse::Ok().json(AccountPageView::from(&page)))
    };
    answer(list().await)
}

fn account_query(query: &Query) -> Result<AccountQuery, Rejection> {
    let mut faults = Faults::default();
    let external_id = query.one("external_id").and_then(|text| {
        let parse = |text| fields::known_external_id("external_id", text);
        text.map(parse).transpose()
    });
    let after = query.one("cursor").and_then(|text| {
        let parse = |text| fields::parse("cursor", text, "must be a next_cursor of another page");
        text.map(parse).transpose()
    });
    let external_id = faults.note(external_id);
    let after = faults.note(after);
    let limit = faults.note(query.number("limit", LIMIT_DEFAULT, LIMIT_MAX));
    faults.finish()?;
    Ok(
        AccountQuery::new(u32::try_from(limit).expect("the limit is at most 100"))
            .external_id(external_id)
            .after(after),
    )
}
