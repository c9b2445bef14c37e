//! The management surface for operators: `/v1`, `snake_case`, errors of RFC 9457.

mod create_account;
mod issue_key;
mod key_view;
mod list_accounts;
mod list_keys;
mod open_session;
mod read_account;
mod read_key;
mod shared;
mod update_account;
mod view;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::DefaultHeaders;
use actix_web::web;
use keys_core::OperatorScope::{
    self, AccountsRead, AccountsWrite, KeysRead, KeysWrite, SessionsRead,
};
use keys_service::Requirement;

use self::create_account::create_account;
use self::issue_key::issue_key;
use self::list_accounts::list_accounts;
use self::list_keys::{list_keys, list_keys_of_account, list_sessions};
use self::open_session::open_session;
use self::read_account::read_account;
use self::read_key::read_key;
use self::update_account::update_account;
use crate::api::Api;
use crate::guard::RequireManager;
use crate::{fallback, problem};

pub(crate) fn scope(api: &Api) -> impl HttpServiceFactory + use<> {
    let resource = |path, allow| fallback::resource(path, allow, problem::render);
    let requires = |scopes: &[OperatorScope]| {
        let scopes = scopes.iter().copied().collect();
        RequireManager::new(api, Requirement::operator(scopes))
    };
    let reads = || requires(&[AccountsRead]);
    let writes = || requires(&[AccountsWrite]);
    let accounts = resource("/accounts", "GET, HEAD, POST")
        .route(fallback::read().to(list_accounts).wrap(reads()))
        .route(web::post().to(create_account).wrap(writes()));
    let account = resource("/accounts/{account_id}", "GET, HEAD, PATCH")
        .route(fallback::read().to(read_account).wrap(reads()))
        .route(web::patch().to(update_account).wrap(writes()));
    // A session lists, creates and deletes keys, so opening one requires the scopes for all of
    // that.
    let opens = requires(&[KeysRead, KeysWrite]);
    let sessions = resource("/accounts/{account_id}/sessions", "GET, HEAD, POST")
        .route(
            fallback::read()
                .to(list_sessions)
                .wrap(requires(&[SessionsRead])),
        )
        .route(web::post().to(open_session).wrap(opens));
    // Also for the account itself. The handlers record the use once they have checked the rest.
    let manages_keys = |scope: OperatorScope| {
        let scopes = [scope].into_iter().collect();
        RequireManager::new(api, Requirement::key_manager(scopes)).without_recording()
    };
    let keys = resource("/accounts/{account_id}/keys", "GET, HEAD, POST")
        .route(
            fallback::read()
                .to(list_keys_of_account)
                .wrap(manages_keys(KeysRead)),
        )
        .route(
            web::post()
                .to(issue_key)
                .wrap(requires(&[KeysWrite])),
        );
    let all_keys = resource("/keys", "GET, HEAD").route(
        fallback::read()
            .to(list_keys)
            .wrap(manages_keys(KeysRead)),
    );
    let key = resource("/keys/{key_id}", "GET, HEAD").route(
        fallback::read()
            .to(read_key)
            .wrap(manages_keys(KeysRead)),
    );
    web::scope("/v1")
        .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
        .app_data(web::Data::new(api.clone()))
        .service(accounts)
        .service(account)
        .service(sessions)
        .service(keys)
        .service(all_keys)
        .service(key)
        .default_service(web::to(fallback::unknown_path_in(problem::render)))
}
