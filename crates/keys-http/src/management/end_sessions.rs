//! `DELETE /v1/accounts/{account_id}/sessions`

use actix_web::{HttpRequest, HttpResponse, web};

use super::revocation;
use super::shared::{account_id, answer, operator};
use crate::api::Api;
use crate::fields::{self, Faults};
use crate::guard::Authenticated;
use crate::propagation::Wait;
use crate::query::Query;

const SUBJECT: &str = "subject";

pub(super) async fn end_sessions(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let end = async || {
        let account = account_id(&request)?;
        let revocation = revocation::read(&request, payload, &[SUBJECT]).await?;
        revocation::check_scope(&identity, &revocation)?;
        let wait = Wait::of(&request)?;
        let query = Query::parse(request.query_string());
        let mut faults = Faults::default();
        let subject = faults.note(query.one(SUBJECT).and_then(|text| {
            let parse = |text| fields::known_external_id(SUBJECT, text);
            text.map(parse).transpose()
        }));
        faults.finish()?;
        let actor = operator(&identity)?;
        let ended = api
            .service()
            .end_sessions(&actor, account, subject, revocation)
            .await?;
        Ok(revocation::answer(&api, wait, ended).await)
    };
    answer(end().await)
}
