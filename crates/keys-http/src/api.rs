//! The handle of the surfaces, and its builder.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::http::StatusCode;
use keys_core::address::TrustedProxies;
use keys_core::{LimitName, Quota};
use keys_service::{KeyService, VerdictCode};

#[cfg(feature = "metrics")]
use crate::metrics::registry::{Extra, Metrics};
use crate::route_label::Route;
#[cfg(feature = "surfaces")]
use crate::settings::Settings;

/// All surfaces over one [`KeyService`]. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Api {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) service: KeyService,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) unauthenticated_quota: Quota,
    #[cfg(feature = "surfaces")]
    pub(crate) surfaces: Settings,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<Metrics>,
    #[cfg(feature = "metrics")]
    pub(crate) extra_metrics: Vec<Extra>,
    is_draining: AtomicBool,
}

impl Api {
    /// Starts building the surfaces over `service`. By default everything is served at its
    /// documented path.
    pub fn builder(service: KeyService) -> ApiBuilder {
        const FAILURES: Quota = Quota::per_minute(60).expect("60 is not zero");
        ApiBuilder {
            inner: Inner {
                service,
                trusted_proxies: TrustedProxies::default(),
                unauthenticated_quota: FAILURES,
                #[cfg(feature = "surfaces")]
                surfaces: Settings::default(),
                #[cfg(feature = "metrics")]
                metrics: Some(Metrics::default()),
                #[cfg(feature = "metrics")]
                extra_metrics: Vec::new(),
                is_draining: AtomicBool::new(false),
            },
        }
    }

    /// Counts a verdict, with the code in the answer, if metrics are kept.
    #[cfg_attr(
        not(feature = "surfaces"),
        expect(dead_code, reason = "only the verification surface discloses verdicts")
    )]
    pub(crate) fn count_verdict(&self, code: VerdictCode) {
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &self.inner.metrics {
            metrics.count_verdict(code);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (self, code);
    }

    /// Counts an answered request, if metrics are kept.
    pub(crate) fn count_request(&self, route: &Route, status: StatusCode) {
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &self.inner.metrics {
            metrics.count_request(route, status);
        }
        #[cfg(not(feature = "metrics"))]
        let _ = (self, route, status);
    }

    /// Returns the limit of that name, if any plan has it.
    pub(crate) fn limit(&self, name: &str) -> Option<LimitName> {
        let mut plans = self.inner.service.plans().iter();
        plans.find_map(|(_, plan)| Some(plan.limits.get_key_value(name)?.0.clone()))
    }

    /// Tells load balancers and clients that the process is about to stop.
    ///
    /// From now on `/readyz` is 503, and within [`log_requests`](Self::log_requests) each answer
    /// says `Connection: close`, so that clients open their next connection elsewhere. Requests are
    /// answered as before.
    pub fn start_draining(&self) {
        self.inner.is_draining.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`start_draining`](Self::start_draining) was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.is_draining.load(Ordering::Relaxed)
    }

    /// Returns the service behind the surfaces.
    #[must_use]
    pub fn service(&self) -> &KeyService {
        &self.inner.service
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

/// Builds an [`Api`].
#[must_use]
pub struct ApiBuilder {
    pub(crate) inner: Inner,
}

impl ApiBuilder {
    /// Proxies whose `Forwarded` and `X-Forwarded-For` headers are trusted. Defaults to none.
    pub fn trusted_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.inner.trusted_proxies = proxies;
        self
    }

    /// Failed authentications that a client address may have. Defaults to 60 a minute. Beyond it
    /// the answer is 429.
    pub fn unauthenticated_quota(mut self, quota: Quota) -> Self {
        self.inner.unauthenticated_quota = quota;
        self
    }

    /// The surfaces.
    #[must_use]
    pub fn build(self) -> Api {
        Api {
            inner: Arc::new(self.inner),
        }
    }
}
