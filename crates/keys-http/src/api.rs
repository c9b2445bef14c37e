//! The handle of the surfaces, and its builder.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keys_core::address::TrustedProxies;
use keys_core::{LimitName, Quota};
use keys_service::{KeyManagement, KeyService, VerdictCode};

use crate::health::readiness::Prober;
use crate::metrics::registry::{Extra, ExtraKind, Metrics};
use crate::mount::Mount;

/// All surfaces over one [`KeyService`]. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Api {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) service: KeyService,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) unauthenticated_quota: Quota,
    pub(crate) key_management: KeyManagement,
    pub(crate) flat: Option<Mount>,
    pub(crate) account: Option<Mount>,
    pub(crate) management: bool,
    pub(crate) verification: bool,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) extra_metrics: Vec<Extra>,
    pub(crate) prober: Prober,
    is_draining: AtomicBool,
}

impl Api {
    /// Starts building the surfaces over `service`. By default everything is served at its
    /// documented path.
    pub fn builder(service: KeyService) -> ApiBuilder {
        const FAILURES_A_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("60 is not zero");
        ApiBuilder {
            inner: Inner {
                service,
                trusted_proxies: TrustedProxies::default(),
                unauthenticated_quota: Quota::per_minute(FAILURES_A_MINUTE),
                key_management: KeyManagement::Any,
                flat: Some(Mount::flat()),
                account: Some(Mount::account()),
                management: true,
                verification: true,
                metrics: Some(Metrics::default()),
                extra_metrics: Vec::new(),
                prober: Prober::default(),
                is_draining: AtomicBool::new(false),
            },
        }
    }

    /// Counts a verdict, with the code in the answer.
    pub(crate) fn count_verdict(&self, code: VerdictCode) {
        if let Some(metrics) = &self.inner.metrics {
            metrics.count_verdict(code);
        }
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
        f.debug_struct("Api")
            .field("flat", &self.inner.flat)
            .field("account", &self.inner.account)
            .field("management", &self.inner.management)
            .field("verification", &self.inner.verification)
            .finish_non_exhaustive()
    }
}

/// Builds an [`Api`].
#[must_use]
pub struct ApiBuilder {
    inner: Inner,
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

    /// Credentials that may manage an account's keys through the two contracts. Defaults to its
    /// keys and its sessions.
    pub fn key_management(mut self, key_management: KeyManagement) -> Self {
        self.inner.key_management = key_management;
        self
    }

    /// Mount of the flat contract, or `None` if it is not served. Defaults to [`Mount::flat`].
    pub fn flat(mut self, mount: Option<Mount>) -> Self {
        self.inner.flat = mount;
        self
    }

    /// Mount of the account contract, or `None` if it is not served. Defaults to
    /// [`Mount::account`].
    pub fn account(mut self, mount: Option<Mount>) -> Self {
        self.inner.account = mount;
        self
    }

    /// Sets whether accounts, sessions and keys can be managed under `/v1`. Defaults to `true`.
    pub fn management(mut self, served: bool) -> Self {
        self.inner.management = served;
        self
    }

    /// Sets whether `/v1/keys/verify`, `/v1/keys/verify-batch` and `/v1/auth` are served. Defaults
    /// to `true`.
    pub fn verification(mut self, served: bool) -> Self {
        self.inner.verification = served;
        self
    }

    /// Sets whether metrics are kept and served at `/metrics`. Defaults to `true`. They contain no
    /// secrets, but tell how many keys and requests there are.
    pub fn metrics(mut self, served: bool) -> Self {
        self.inner.metrics = served.then(Metrics::default);
        self
    }

    /// Adds a counter of the application's own to `/metrics`. `value` is called for each answer and
    /// must not block; the count must never go down.
    pub fn counter(
        self,
        name: &'static str,
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.extra(Extra {
            name,
            label: None,
            description,
            kind: ExtraKind::Counter,
            value: Box::new(value),
        })
    }

    /// Adds a counter with a label, a name and a value. Otherwise like [`counter`](Self::counter).
    pub fn labelled_counter(
        self,
        name: &'static str,
        label: (&'static str, &'static str),
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.extra(Extra {
            name,
            label: Some(label),
            description,
            kind: ExtraKind::Counter,
            value: Box::new(value),
        })
    }

    /// Adds a gauge, which may go up and down. Otherwise like [`counter`](Self::counter).
    pub fn gauge(
        self,
        name: &'static str,
        description: &'static str,
        value: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.extra(Extra {
            name,
            label: None,
            description,
            kind: ExtraKind::Gauge,
            value: Box::new(value),
        })
    }

    fn extra(mut self, metric: Extra) -> Self {
        self.inner.extra_metrics.push(metric);
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
