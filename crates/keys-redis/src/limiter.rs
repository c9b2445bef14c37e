//! The limiter: Redis while it answers, and what is done while it does not.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use keys_core::Quota;
use keys_service::clock::{Clock, SystemClock};
use keys_service::{Bucket, Decision, LimiterError, LimiterState, LocalLimiter, RateLimiter};
use parking_lot::RwLock;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, RedisError};
use tokio::runtime::Handle;

use crate::breaker::Breaker;
use crate::script::{Answer, Request, Take};
use crate::settings::{KeyPrefix, OnUnavailable, RedisUrl};

/// How long a call may take unless it is said otherwise.
const BUDGET: Duration = Duration::from_millis(20);

/// How long the start waits for the first connection.
const START_MAX: Duration = Duration::from_millis(500);

/// How long connecting may take. Only trials in the background wait that long.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// Between trials while Redis is away, give or take a quarter, so that many instances do not return
/// at once.
const TRIAL_INTERVAL: Duration = Duration::from_millis(250);

/// A rate limiter that all instances with the same Redis and prefix share. Cheap to clone; all
/// clones are the same.
#[derive(Clone)]
pub struct RedisLimiter {
    inner: Arc<Inner>,
}

impl RedisLimiter {
    /// Starts building a limiter on the Redis at `url`.
    pub fn builder(url: RedisUrl) -> RedisLimiterBuilder {
        RedisLimiterBuilder {
            url,
            key_prefix: KeyPrefix::default(),
            on_unavailable: OnUnavailable::default(),
            budget: BUDGET,
            clock: Arc::new(SystemClock),
        }
    }

    async fn ask(&self, bucket: &Bucket, request: Request) -> Result<Answer, Fault> {
        if self.inner.breaker.is_open() {
            return Err(Fault::Away);
        }
        let inner = Arc::clone(&self.inner);
        let key = inner.key(bucket);
        // Requests are answered on runtimes that end with their worker, and a connection opened on
        // one would end with it. Here the time limit holds too, whatever the caller's runtime is.
        let asked = self.inner.runtime.spawn(async move {
            let answered = inner.ask(&key, request, inner.budget).await;
            match &answered {
                Ok(_) => inner.breaker.succeeded(),
                Err(fault) => {
                    if inner.breaker.failed() {
                        inner.away(fault);
                    }
                }
            }
            answered
        });
        asked.await.unwrap_or(Err(Fault::Stopped))
    }
}

#[async_trait]
impl RateLimiter for RedisLimiter {
    async fn take(
        &self,
        bucket: &Bucket,
        quota: Quota,
        cost: NonZeroU32,
    ) -> Result<Decision, LimiterError> {
        let request = Request { quota, cost };
        let inner = &*self.inner;
        let fault = match self.ask(bucket, request).await {
            Ok(answer) => {
                let decision = request.decide(bucket.limit.clone(), answer);
                if inner.on_unavailable == OnUnavailable::Local {
                    // Otherwise every late answer, and the loss of Redis, would give the whole
                    // quota once more.
                    inner.local.take_over(bucket, quota, decision.reset);
                }
                return Ok(decision);
            }
            Err(fault) => fault,
        };
        inner.undecided.fetch_add(1, Relaxed);
        tracing::debug!(
            error = &fault as &dyn std::error::Error,
            "Redis has not decided"
        );
        match inner.on_unavailable {
            // It was there just now, and others may be asking it: what they have taken is not known
            // here.
            OnUnavailable::Local if matches!(fault, Fault::Late) => {
                Ok(inner.local.take_sparingly(bucket, quota, cost))
            }
            OnUnavailable::Local => inner.local.take(bucket, quota, cost).await,
            OnUnavailable::Deny => Err(LimiterError(fault.into())),
        }
    }

    fn sweep(&self) {
        self.inner.local.sweep();
    }

    fn state(&self) -> LimiterState {
        let inner = &*self.inner;
        match inner.on_unavailable {
            _ if !inner.breaker.is_open() => LimiterState::Shared,
            OnUnavailable::Local => LimiterState::Local,
            OnUnavailable::Deny => LimiterState::Denying,
        }
    }

    /// How many calls Redis has not decided.
    fn undecided_total(&self) -> u64 {
        self.inner.undecided.load(Relaxed)
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisLimiter").field(&self.state()).finish()
    }
}

/// Builds a [`RedisLimiter`].
#[must_use]
pub struct RedisLimiterBuilder {
    url: RedisUrl,
    key_prefix: KeyPrefix,
    on_unavailable: OnUnavailable,
    budget: Duration,
    clock: Arc<dyn Clock>,
}

impl RedisLimiterBuilder {
    /// What the keys in Redis begin with; `default` unless it is set.
    pub fn key_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.key_prefix = prefix;
        self
    }

    /// What to do while Redis does not answer; unless it is set, each instance counts by itself.
    pub fn on_unavailable(mut self, on_unavailable: OnUnavailable) -> Self {
        self.on_unavailable = on_unavailable;
        self
    }

    /// How long a call may wait for Redis, all in all; 20 ms unless it is set. Three that wait
    /// longer in a row are the last to wait.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// The clock by which an instance counts by itself; by default that of the system. Redis counts
    /// by its own.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Connects, waiting half a second at most: a limiter whose Redis is away starts as one that
    /// lost it later.
    ///
    /// Connections live on the runtime that this is called on, whichever runtime the limiter is
    /// used on. It should have several threads, and must last as long as the limiter is to reach
    /// Redis.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn connect(self) -> RedisLimiter {
        if self.url.is_tls() && rustls::crypto::CryptoProvider::get_default().is_none() {
            // The client takes whatever the process has chosen, and panics if it has to choose
            // among several. An error means that somebody has chosen just now.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        // Small requests must not wait for others to share a packet with.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = self.url.connection_info().set_tcp_settings(tcp);
        let client =
            Client::open(info).expect("whatever a connection is described by opens a client");
        let inner = Arc::new(Inner {
            connection: RwLock::new(manager(&client)),
            client,
            take: Take::new(),
            key_prefix: self.key_prefix,
            on_unavailable: self.on_unavailable,
            budget: self.budget,
            breaker: Breaker::open(),
            local: LocalLimiter::new(self.clock),
            undecided: AtomicU64::new(0),
            runtime: Handle::current(),
        });
        match tokio::time::timeout(START_MAX, inner.trial()).await {
            Ok(Ok(())) => inner.back(),
            Ok(Err(fault)) => inner.away(&fault),
            Err(_) => inner.away(&Fault::Late),
        }
        RedisLimiter { inner }
    }
}

/// Why Redis has not decided.
#[derive(Debug, thiserror::Error)]
enum Fault {
    /// Nobody asked.
    #[error("redis has stopped answering")]
    Away,
    #[error("redis did not answer in time")]
    Late,
    #[error("redis could not be asked")]
    Redis(#[from] RedisError),
    #[error("the runtime that asks redis has ended")]
    Stopped,
}

struct Inner {
    client: Client,
    connection: RwLock<ConnectionManager>,
    take: Take,
    key_prefix: KeyPrefix,
    on_unavailable: OnUnavailable,
    budget: Duration,
    breaker: Breaker,
    local: LocalLimiter,
    undecided: AtomicU64,
    runtime: Handle,
}

impl Inner {
    fn key(&self, bucket: &Bucket) -> String {
        let prefix = self.key_prefix.as_str();
        format!("keys:{prefix}:{}:{}", bucket.limit, bucket.subject)
    }

    async fn ask(&self, key: &str, request: Request, at_most: Duration) -> Result<Answer, Fault> {
        let mut connection = self.connection.read().clone();
        let asked = async {
            match self.take.call(&mut connection, key, request).await {
                // A server closes connections that were idle for long; the manager has begun to
                // make another.
                Err(error) if error.is_connection_dropped() => {
                    self.take.call(&mut connection, key, request).await
                }
                answered => answered,
            }
        };
        let answered = tokio::time::timeout(at_most, asked).await;
        Ok(answered.map_err(|_| Fault::Late)??)
    }

    /// Finds out whether Redis decides within the time that calls have.
    async fn trial(&self) -> Result<(), Fault> {
        // A whole take, from a bucket of nobody: a server may answer and yet be full, or only fit
        // for reading.
        const THOUSAND: NonZeroU32 = NonZeroU32::new(1_000).expect("1,000 is not zero");
        let request = Request {
            quota: Quota {
                requests: THOUSAND,
                period_seconds: NonZeroU32::MIN,
            },
            cost: NonZeroU32::MIN,
        };
        // Limits have names, so this is none of theirs.
        let key = format!("keys:{}::trial", self.key_prefix.as_str());
        if let Err(fault) = self.ask(&key, request, CONNECT_MAX).await {
            // The manager does not connect again after errors other than of input and output, such
            // as a wrong password, and does not notice that a host has vanished. A new one does not
            // know what the old one met.
            *self.connection.write() = manager(&self.client);
            return Err(fault);
        }
        self.ask(&key, request, self.budget).await?;
        Ok(())
    }

    fn away(self: &Arc<Self>, fault: &Fault) {
        let error: &dyn std::error::Error = fault;
        match self.on_unavailable {
            OnUnavailable::Local => tracing::warn!(
                error,
                "Redis is away: until it is back this instance counts limits by itself"
            ),
            OnUnavailable::Deny => tracing::warn!(
                error,
                "Redis is away: until it is back whatever has a limit is refused"
            ),
        }
        let weak = Arc::downgrade(self);
        self.runtime.spawn(until_back(weak));
    }

    fn back(&self) {
        self.breaker.close();
        tracing::info!("limits are counted in Redis, for all instances together");
    }
}

/// Tries from time to time, so that no caller has to, until Redis is back or the limiter is gone.
async fn until_back(limiter: Weak<Inner>) {
    loop {
        tokio::time::sleep(jittered(TRIAL_INTERVAL)).await;
        let Some(inner) = limiter.upgrade() else {
            return;
        };
        if inner.trial().await.is_ok() {
            inner.back();
            return;
        }
    }
}

/// Give or take a quarter.
fn jittered(interval: Duration) -> Duration {
    // Without randomness there is no jitter, and nothing worse.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    interval.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

fn manager(client: &Client) -> ConnectionManager {
    // As many calls as wait in line before the next has to wait for its place in it.
    const LINE: usize = 1_024;
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(CONNECT_MAX))
        .set_pipeline_buffer_size(LINE)
        // Trials are the retries: each learns at once why it failed.
        .set_number_of_retries(0);
    client
        .get_connection_manager_lazy(config)
        .expect("only push messages can be configured wrongly")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_a_quarter_at_most() {
        for _ in 0..1_000 {
            let interval = jittered(Duration::from_millis(100));
            assert!(interval >= Duration::from_millis(75), "{interval:?}");
            assert!(interval <= Duration::from_millis(125), "{interval:?}");
        }
    }
}
