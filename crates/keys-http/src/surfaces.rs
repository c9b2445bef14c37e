//! All surfaces in one application.

use actix_web::web;

use crate::access_log::AccessLog;
use crate::api::Api;
use crate::{account, fallback, flat, health, management, metrics, verification};

impl Api {
    /// Puts every surface, `/livez`, `/readyz`, `/metrics` and JSON answers to unknown paths into an application.
    pub fn configure(&self, app: &mut web::ServiceConfig) {
        // First, as the hot path, and before the management surface, which claims the rest of `/v1`.
        if self.inner.verification {
            verification::configure(self, app);
        }
        if let Some(mount) = &self.inner.account {
            app.service(account::scope(self, mount));
        }
        if let Some(mount) = &self.inner.flat {
            app.service(flat::scope(self, mount));
        }
        if self.inner.management {
            app.service(management::scope(self));
        }
        health::configure(self, app);
        if self.inner.metrics.is_some() {
            metrics::configure(self, app);
        }
        app.default_service(web::to(fallback::unknown_path));
    }

    /// Middleware that writes one log event for each request, and counts it. Wrap the whole application in it.
    #[must_use]
    pub fn log_requests(&self) -> AccessLog {
        AccessLog::counting(self)
    }
}
