//! Code that both contracts share around each operation on an account's keys.

use actix_web::dev::HttpServiceFactory;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::DefaultHeaders;
use actix_web::{HttpResponse, Route, web};
use keys_core::{AccountId, Denial, Operation};
use keys_service::{Actor, KeyService, ManagementPolicy, Requirement};

use crate::api::Api;
use crate::fallback;
use crate::guard::{Authenticated, RequireManager};
use crate::mount::Mount;
use crate::rejection::{Rejection, Render};
use crate::{key_expires, limits};

/// Text in place of the name of a key whose row cannot be read.
pub(crate) const UNREADABLE: &str = "(unreadable)";

/// One of the two contracts, as it is mounted.
pub(crate) struct Surface {
    pub(crate) service: KeyService,
    pub(crate) mount: Mount,
    pub(crate) policy: ManagementPolicy,
    /// Name of the parameter with the identifier of a key, in the pattern of the path.
    pub(crate) key_parameter: &'static str,
    render: Render,
}

/// The manager of keys, and their account.
pub(crate) struct Manager {
    pub(crate) actor: Actor,
    pub(crate) account_id: AccountId,
}

impl Surface {
    pub(crate) fn new(
        api: &Api,
        mount: &Mount,
        render: Render,
        key_parameter: &'static str,
    ) -> Self {
        Self {
            service: api.inner.service.clone(),
            policy: ManagementPolicy::new(mount.policy, api.inner.surfaces.key_management),
            mount: mount.clone(),
            key_parameter,
            render,
        }
    }

    /// Serves the contract at its path: `list` and `create` there, and `delete` one segment below.
    /// They are guarded, but the plan is checked after the limit, by [`manage`](Self::manage).
    pub(crate) fn scope(
        self,
        api: &Api,
        list: Route,
        create: Route,
        delete: Route,
    ) -> impl HttpServiceFactory + use<> {
        let render = self.render;
        let guard = || {
            RequireManager::new(api, Requirement::account_holder())
                .render(render)
                .without_recording()
        };
        let keys = fallback::resource("", "GET, HEAD, POST", render)
            .route(list.wrap(guard()))
            .route(create.wrap(guard()));
        let key_path = format!("/{{{}}}", self.key_parameter);
        let key = fallback::resource(&key_path, "DELETE", render).route(delete.wrap(guard()));
        web::scope(self.mount.path.as_str())
            .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
            .service(keys)
            .service(key)
            .default_service(web::to(fallback::unknown_path_in(render)))
            .app_data(web::Data::new(self))
    }

    /// Runs `work` if the limit, the plan and the kind of credential permit it. The answer has the
    /// headers of the limit in both cases.
    pub(crate) async fn manage(
        &self,
        identity: &Authenticated,
        operation: Operation,
        work: impl AsyncFnOnce(Manager) -> Result<HttpResponse, Rejection>,
    ) -> HttpResponse {
        let decision = match self.service.count_operation(identity, operation).await {
            Ok(decision) => decision,
            Err(error) => return Rejection::from(error).respond(self.render),
        };
        let result = match &decision {
            Some(decision) if !decision.allowed => Err(Rejection::RateLimited(decision.clone())),
            _ => match self.manager(identity, operation) {
                Ok(manager) => work(manager).await,
                Err(denial) => Err(Rejection::denied(denial)),
            },
        };
        let mut response = result.unwrap_or_else(|rejection| rejection.respond(self.render));
        if let Some(decision) = &decision {
            limits::show(decision, response.headers_mut());
        }
        key_expires::show(identity.key.expires_at, response.headers_mut());
        response
    }

    fn manager(&self, identity: &Authenticated, operation: Operation) -> Result<Manager, Denial> {
        let account_id = identity.key.account_id.ok_or(Denial::KindNotAllowed)?;
        let actor = self.service.manager(identity, operation, &self.policy)?;
        self.service.record_success(identity);
        Ok(Manager { actor, account_id })
    }
}
