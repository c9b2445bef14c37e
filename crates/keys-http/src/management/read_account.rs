//! `GET /v1/accounts/{account_id}`

use actix_web::{HttpRequest, HttpResponse, web};

use super::shared::{account_id, answer};
use super::view::AccountView;
use crate::api::Api;
use crate::rejection::Rejection;
use crate::unknown;

pub(super) async fn read_account(api: web::Data<Api>, request: HttpRequest) -> HttpResponse {
    let read = async || {
        unknown::check_query(&request, &[])?;
        let found = api.service().account_entry(account_id(&request)?).await?;
        let account = found.ok_or(Rejection::AccountNotFound)?;
        Ok(HttpResponse::Ok().json(AccountView::from(&account)))
    };
    answer(read().await)
}
