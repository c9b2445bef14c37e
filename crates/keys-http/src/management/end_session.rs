//! `DELETE /v1/accounts/{account_id}/sessions/{session_id}`

use actix_web::{HttpRequest, HttpResponse, web};

use super::revocation;
use super::shared::{account_id, answer, operator};
use crate::api::Api;
use crate::guard::Authenticated;
use crate::propagation::Wait;
use crate::rejection::Rejection;

pub(super) async fn end_session(
    api: web::Data<Api>,
    identity: Authenticated,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let end = async || {
        // A malformed id is treated as one that no session has.
        let account = account_id(&request).map_err(|_| Rejection::SessionNotFound)?;
        let id = request.match_info().query("session_id").parse();
        let id = id.map_err(|_| Rejection::SessionNotFound)?;
        let revocation = revocation::read(&request, payload, &[]).await?;
        revocation::check_scope(&identity, &revocation)?;
        let wait = Wait::of(&request)?;
        let actor = operator(&identity)?;
        let service = api.service();
        let ended = service.end_session(&actor, account, id, revocation).await?;
        let ended = ended.ok_or(Rejection::SessionNotFound)?;
        Ok(revocation::answer(&api, wait, ended).await)
    };
    answer(end().await)
}
