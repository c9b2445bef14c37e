//! All surfaces in one application.

use actix_web::web;
use keys_service::KeyManagement;

use crate::api::{Api, ApiBuilder};
use crate::mount::Mount;
use crate::{account, fallback, flat, health, management, verification};

impl Api {
    /// Adds every surface, `/livez`, `/readyz`, `/metrics` and JSON answers to unknown paths to an
    /// application.
    pub fn configure(&self, app: &mut web::ServiceConfig) {
        // First, because it is the fast path, and before the management surface, which handles the
        // rest of `/v1`.
        if self.inner.surfaces.verification {
            verification::configure(self, app);
        }
        if let Some(mount) = &self.inner.surfaces.account {
            app.service(account::scope(self, mount));
        }
        if let Some(mount) = &self.inner.surfaces.flat {
            app.service(flat::scope(self, mount));
        }
        if self.inner.surfaces.management {
            app.service(management::scope(self));
        }
        health::configure(self, app);
        #[cfg(feature = "metrics")]
        self.configure_metrics(app);
        app.default_service(web::to(fallback::unknown_path));
    }
}

impl ApiBuilder {
    /// Credentials that may manage an account's keys through the two contracts. Defaults to its
    /// keys and its sessions.
    pub fn key_management(mut self, key_management: KeyManagement) -> Self {
        self.inner.surfaces.key_management = key_management;
        self
    }

    /// Mount of the flat contract, or `None` if it is not served. Defaults to [`Mount::flat`].
    pub fn flat(mut self, mount: Option<Mount>) -> Self {
        self.inner.surfaces.flat = mount;
        self
    }

    /// Mount of the account contract, or `None` if it is not served. Defaults to
    /// [`Mount::account`].
    pub fn account(mut self, mount: Option<Mount>) -> Self {
        self.inner.surfaces.account = mount;
        self
    }

    /// Sets whether accounts, sessions and keys can be managed under `/v1`. Defaults to `true`.
    pub fn management(mut self, served: bool) -> Self {
        self.inner.surfaces.management = served;
        self
    }

    /// Sets whether `/v1/keys/verify`, `/v1/keys/verify-batch` and `/v1/auth` are served. Defaults
    /// to `true`.
    pub fn verification(mut self, served: bool) -> Self {
        self.inner.surfaces.verification = served;
        self
    }
}
