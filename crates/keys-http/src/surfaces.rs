//! All surfaces in one application.

use actix_web::web;

use crate::access_log::AccessLog;
use crate::api::Api;
use crate::{account, fallback, flat, health, management, metrics, verification};

impl Api {
    /// Adds every surface, `/livez`, `/readyz`, `/metrics` and JSON answers to unknown paths to an
    /// application.
    pub fn configure(&self, app: &mut web::ServiceConfig) {
        // First, because it is the fast path, and before the management surface, which handles the
        // rest of `/v1`.
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

    /// Returns middleware that writes one log event for each request, and counts it. After
    /// [`start_draining`](Self::start_draining), it closes the connection of each answer. Wrap the
    /// whole application in it.
    #[must_use]
    pub fn log_requests(&self) -> AccessLog {
        AccessLog::counting(self)
    }
}
