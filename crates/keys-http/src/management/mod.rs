//! The management surface: `/v1`, `snake_case`, errors of RFC 9457. For operators, and for accounts
//! that manage their own keys.

mod create_account;
mod create_operator_key;
mod end_session;
mod end_sessions;
mod issue_key;
mod key_view;
mod list_accounts;
mod list_keys;
mod list_operator_keys;
mod open_session;
mod operator_view;
mod read_account;
mod read_key;
mod read_operator_key;
mod revocation;
mod revoke_key;
mod revoke_keys;
mod revoke_operator_key;
mod rotate_key;
mod shared;
mod update_account;
mod update_key;
mod version;
mod view;
mod whoami;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::DefaultHeaders;
use actix_web::{Resource, web};
use keys_core::KeyKind;
use keys_core::OperatorScope::{
    self, AccountsRead, AccountsWrite, KeysRead, KeysWrite, OperatorsRead, OperatorsWrite,
    SessionsRead, SessionsWrite,
};
use keys_service::Requirement;

use self::create_account::create_account;
use self::create_operator_key::create_operator_key;
use self::end_session::end_session;
use self::end_sessions::end_sessions;
use self::issue_key::issue_key;
use self::list_accounts::list_accounts;
use self::list_keys::{list_keys, list_keys_of_account, list_sessions};
use self::list_operator_keys::list_operator_keys;
use self::open_session::open_session;
use self::read_account::read_account;
use self::read_key::read_key;
use self::read_operator_key::read_operator_key;
use self::revoke_key::revoke_key;
use self::revoke_keys::revoke_keys;
use self::revoke_operator_key::revoke_operator_key;
use self::rotate_key::{rotate_key, rotate_own_key};
use self::update_account::update_account;
use self::update_key::update_key;
use self::whoami::{revoke, whoami};
use crate::api::Api;
use crate::guard::RequireManager;
use crate::{fallback, problem};

#[expect(clippy::too_many_lines, reason = "a table of routes")]
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
    let sessions = resource("/accounts/{account_id}/sessions", "DELETE, GET, HEAD, POST")
        .route(
            fallback::read()
                .to(list_sessions)
                .wrap(requires(&[SessionsRead])),
        )
        .route(web::post().to(open_session).wrap(opens))
        .route(
            web::delete()
                .to(end_sessions)
                .wrap(requires(&[SessionsWrite])),
        );
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
        .route(web::post().to(issue_key).wrap(requires(&[KeysWrite])));
    let all_keys = resource("/keys", "GET, HEAD")
        .route(fallback::read().to(list_keys).wrap(manages_keys(KeysRead)));
    let key = resource("/keys/{key_id}", "DELETE, GET, HEAD, PATCH")
        .route(fallback::read().to(read_key).wrap(manages_keys(KeysRead)))
        .route(web::patch().to(update_key).wrap(manages_keys(KeysWrite)))
        .route(web::delete().to(revoke_key).wrap(manages_keys(KeysWrite)));
    let session = resource("/accounts/{account_id}/sessions/{session_id}", "DELETE").route(
        web::delete()
            .to(end_session)
            .wrap(requires(&[SessionsWrite])),
    );
    // Before the path of one key.
    let revocations = resource("/keys/revoke", "POST")
        .route(web::post().to(revoke_keys).wrap(manages_keys(KeysWrite)));
    let operator_keys = resource("/operator-keys", "GET, HEAD, POST")
        .route(
            fallback::read()
                .to(list_operator_keys)
                .wrap(requires(&[OperatorsRead])),
        )
        .route(
            web::post()
                .to(create_operator_key)
                .wrap(requires(&[OperatorsWrite])),
        );
    let operator_key = resource("/operator-keys/{key_id}", "DELETE, GET, HEAD")
        .route(
            fallback::read()
                .to(read_operator_key)
                .wrap(requires(&[OperatorsRead])),
        )
        .route(
            web::delete()
                .to(revoke_operator_key)
                .wrap(requires(&[OperatorsWrite])),
        );
    // Any credential of these kinds, on any plan and with any scopes.
    let holds = |kinds: &[KeyKind]| {
        let mut requirement = Requirement::account_holder();
        requirement.kinds = kinds.to_vec();
        RequireManager::new(api, requirement)
    };
    let rotate = resource("/keys/{key_id}/rotate", "POST")
        .route(web::post().to(rotate_key).wrap(manages_keys(KeysWrite)));
    let own = resource("/whoami", "DELETE, GET, HEAD")
        .route(fallback::read().to(whoami).wrap(holds(&KeyKind::ALL)))
        .route(web::delete().to(revoke).wrap(holds(&KeyKind::ALL)));
    let rotate_own = resource("/whoami/rotate", "POST").route(
        web::post()
            .to(rotate_own_key)
            .wrap(holds(&[KeyKind::Account]).without_recording()),
    );
    web::scope("/v1")
        .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
        .app_data(web::Data::new(api.clone()))
        .service(accounts)
        .service(account)
        .service(sessions)
        .service(session)
        .service(keys)
        .service(all_keys)
        .service(unserved("/keys/verify"))
        .service(unserved("/keys/verify-batch"))
        .service(revocations)
        .service(key)
        .service(operator_keys)
        .service(operator_key)
        .service(rotate)
        .service(own)
        .service(rotate_own)
        .default_service(web::to(fallback::unknown_path_in(problem::render)))
}

/// Returns a path that is unknown. Where verification is served, its routes come before this scope.
/// Otherwise these paths would be those of keys.
fn unserved(path: &str) -> Resource {
    web::resource(path).default_service(web::to(fallback::unknown_path_in(problem::render)))
}
