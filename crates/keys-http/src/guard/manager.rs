//! The guard of routes that manage keys and accounts.

use std::ops::Deref;
use std::rc::Rc;

use actix_web::HttpMessage as _;
use actix_web::dev::ServiceRequest;
use keys_service::ports::Decision;
use keys_service::{AuthenticateError, Identity, Requirement};

use super::admission::admit;
use super::middleware::{Guard, middleware};
use crate::api::Api;
use crate::problem;
use crate::rejection::{Rejection, Render};

/// Lets only requests pass whose credential satisfies a requirement. It is checked with the
/// database, because management must not depend on the cache. Handlers take an [`Authenticated`].
#[derive(Clone)]
pub(crate) struct RequireManager {
    api: Api,
    requirement: Requirement,
    render: Render,
    records_use: bool,
}

impl RequireManager {
    pub(crate) fn new(api: &Api, requirement: Requirement) -> Self {
        Self {
            api: api.clone(),
            requirement,
            render: problem::render,
            records_use: true,
        }
    }

    /// Lets the handler record the use of the key, once it has checked the rest.
    pub(crate) fn without_recording(self) -> Self {
        Self {
            records_use: false,
            ..self
        }
    }

    /// Writes rejections in another form than `application/problem+json`.
    pub(crate) fn render(self, render: Render) -> Self {
        Self { render, ..self }
    }

    async fn authenticate(&self, request: &ServiceRequest) -> Result<Identity, Rejection> {
        let service = &self.api.inner.service;
        let judge = async |presented: &str, address| {
            let judged = service.authenticate(presented, address, &self.requirement);
            match judged.await {
                Ok(identity) => Ok(Ok(identity)),
                Err(AuthenticateError::Denied(denial)) => Ok(Err(denial)),
                Err(AuthenticateError::Store(error)) => Err(error.into()),
                // The error says nothing about the credential, so the answer says nothing either.
                Err(_) => Err(Rejection::Unavailable),
            }
        };
        let identity = admit(&self.api, request.head(), judge).await?;
        if self.records_use {
            service.record_success(&identity);
        }
        Ok(identity)
    }
}

impl Guard for RequireManager {
    async fn check(&self, request: &ServiceRequest) -> Result<Option<Decision>, Rejection> {
        let identity = Authenticated(Rc::new(self.authenticate(request).await?));
        request.extensions_mut().insert(identity);
        Ok(None)
    }

    fn render(&self) -> Render {
        self.render
    }
}

middleware!(RequireManager, Authenticated);

/// The operator or account that manages keys or accounts, as the database knows it.
#[derive(Debug, Clone)]
pub(crate) struct Authenticated(Rc<Identity>);

impl Deref for Authenticated {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}
