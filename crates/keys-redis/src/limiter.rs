//! The limiter on Redis.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use keys_core::Quota;
use keys_service::SharedLimiter;
use keys_service::ports::{Bucket, Decision, LimiterError, LimiterState, RateLimiter};
use redis::io::tcp::TcpSettings;
use redis::{Client, RedisError, RedisResult};

use crate::connection::{self, CONNECT_MAX, Connection, Connections};
use crate::script::{Answer, Request, Take, Wanted};
use crate::settings::{KeyPrefix, RedisUrl};

/// Time that a call may take by default.
const BUDGET: Duration = Duration::from_millis(20);

/// A rate limiter that all instances with the same Redis and prefix share.
///
/// To be used by a [`FallbackLimiter`](keys_service::FallbackLimiter), which decides while Redis is
/// unavailable and calls it on one runtime: its connections live on the runtime of the call that
/// opened them.
pub struct RedisLimiter {
    connections: Connections,
    take: Take,
    key_prefix: KeyPrefix,
    budget: Duration,
}

impl RedisLimiter {
    /// Starts building a limiter on the Redis at `url`.
    pub fn builder(url: RedisUrl) -> RedisLimiterBuilder {
        RedisLimiterBuilder {
            url,
            key_prefix: KeyPrefix::default(),
            budget: BUDGET,
        }
    }

    fn key(&self, bucket: &Bucket) -> String {
        let prefix = self.key_prefix.as_str();
        format!("keys:{prefix}:{}:{}", bucket.limit, bucket.subject)
    }

    async fn ask(&self, key: &str, wanted: Wanted, at_most: Duration) -> Result<Answer, Fault> {
        let asked = async {
            let connection = self.connections.current();
            match self.ask_on(&connection, key, wanted).await {
                // A server closes connections that were idle for long.
                Err(error) if error.is_connection_dropped() => {
                    let other = self.connections.instead_of(Some(&connection));
                    self.ask_on(&other, key, wanted).await
                }
                answered => answered,
            }
        };
        let answered = tokio::time::timeout(at_most, asked).await;
        Ok(answered.map_err(|_| Fault::Late)??)
    }

    async fn ask_on(
        &self,
        connection: &Connection,
        key: &str,
        wanted: Wanted,
    ) -> RedisResult<Answer> {
        let opened = connection.opened().await?;
        let mut calling = opened.clone();
        let call = self.take.call(&mut calling, key, wanted);
        connection::answer(opened, call).await
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
        let answer = self
            .ask(&self.key(bucket), request.take(), self.budget)
            .await?;
        Ok(request.decide(bucket.limit.clone(), answer))
    }

    async fn peek(&self, bucket: &Bucket, quota: Quota) -> Result<Option<Decision>, LimiterError> {
        let request = Request {
            quota,
            cost: NonZeroU32::MIN,
        };
        let answer = self
            .ask(&self.key(bucket), request.peek(), self.budget)
            .await?;
        Ok(Some(request.decide(bucket.limit.clone(), answer)))
    }

    fn state(&self) -> LimiterState {
        LimiterState::Shared
    }
}

#[async_trait]
impl SharedLimiter for RedisLimiter {
    const NAME: &'static str = "Redis";

    async fn probe(&self) -> Result<(), LimiterError> {
        // A whole take, from a bucket of no caller: a server may answer and yet be full, or
        // read-only.
        const QUOTA: Quota = Quota::new(1_000, 1).expect("neither number is zero");
        let request = Request {
            quota: QUOTA,
            cost: NonZeroU32::MIN,
        };
        // Limits have names, so this is the bucket of none.
        let key = format!("keys:{}::trial", self.key_prefix.as_str());
        if let Err(fault) = self.ask(&key, request.take(), CONNECT_MAX).await {
            // It is not known to be closed if the host has vanished, or if the server has become a
            // replica.
            self.connections.reset();
            return Err(fault.into());
        }
        self.ask(&key, request.take(), self.budget).await?;
        Ok(())
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimiter")
            .field("key_prefix", &self.key_prefix)
            .finish_non_exhaustive()
    }
}

/// Builds a [`RedisLimiter`].
#[must_use]
pub struct RedisLimiterBuilder {
    url: RedisUrl,
    key_prefix: KeyPrefix,
    budget: Duration,
}

impl RedisLimiterBuilder {
    /// Sets the prefix of the keys in Redis. Defaults to `default`.
    pub fn key_prefix(mut self, prefix: KeyPrefix) -> Self {
        self.key_prefix = prefix;
        self
    }

    /// Sets the time that a call may wait for Redis in total. Defaults to 20 ms.
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// Returns the limiter. It connects with the first call or probe.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "a URL that was parsed opens a client"
    )]
    pub fn build(self) -> RedisLimiter {
        if self.url.is_tls() && rustls::crypto::CryptoProvider::get_default().is_none() {
            // The client uses the provider of the process, and panics if it has to choose among
            // several. An error means that the process has just chosen one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        // Small requests must not wait for others to share a packet.
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = self.url.connection_info().set_tcp_settings(tcp);
        let client = Client::open(info).expect("parsed connection data opens a client");
        RedisLimiter {
            connections: Connections::new(client),
            take: Take::new(),
            key_prefix: self.key_prefix,
            budget: self.budget,
        }
    }
}

/// Reason why Redis has not decided.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("redis did not answer in time")]
    Late,
    #[error("redis could not be asked")]
    Redis(#[from] RedisError),
}

impl From<Fault> for LimiterError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Late => Self::Late(fault.into()),
            Fault::Redis(_) => Self::Unavailable(fault.into()),
        }
    }
}
