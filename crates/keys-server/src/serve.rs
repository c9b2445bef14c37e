//! Serves HTTP until the signal to stop.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context as _, bail};
use keys_core::address::TrustedProxies;
use keys_http::{Api, HeadRefusal, Mount};
use keys_service::KeyService;
use keys_store::DatabaseUrl;
use keys_store::Store;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::config::{self, Http, Settings};
use crate::connections::{Connections, Limits, Refused};
use crate::listen::{Claim, Endpoint, Listener};
use crate::open::{Opened, open_to_serve};
use crate::stop::{Request, Signals};
use crate::workers::{self, Ended, Workers};
use crate::{telemetry, welcome};

/// Time limit of the last flush of uses.
const LAST_FLUSH: Duration = Duration::from_secs(2);

const REFUSED: &str = "keys_http_connections_refused_total";
const REFUSED_DESCRIPTION: &str = "Connections that were refused, because there were too many in total or of their client address.";

const HEADS_REFUSED: &str = "keys_http_heads_refused_total";
const HEADS_REFUSED_DESCRIPTION: &str = "Heads of requests that were refused, because they were malformed, too long or not complete in time.";

/// Settings that can be reloaded without a restart.
#[derive(Debug)]
pub(crate) struct Reload {
    /// The settings file, if any.
    pub settings: Option<PathBuf>,
    pub telemetry: telemetry::Handle,
}

impl Reload {
    /// Reads the settings again and applies the filter of the log.
    fn apply(&self) {
        let applied = Settings::load(self.settings.as_deref()).and_then(|settings| {
            self.telemetry.reload_filter(&settings.log.filter)?;
            Ok(settings.log.filter)
        });
        match applied {
            Ok(filter) => tracing::info!(
                "read the settings again: `log.filter` is {filter:?}; other settings need a restart"
            ),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the settings cannot be read again; nothing was changed"
            ),
        }
    }
}

/// Opens everything and serves. Returns when the drain is over and everything is written.
pub(crate) fn run(runtime: &Runtime, settings: &Settings, reload: &Reload) -> anyhow::Result<()> {
    // Reserved first. If it failed after the database was created, the output of a first start
    // would be lost.
    {
        let _guard = runtime.enter();
        drop(claim(&settings.http)?);
    }
    let open_files = raise_open_files();
    let mut signals = {
        let _guard = runtime.enter();
        Signals::handle().context("handling signals")?
    };
    let opened = runtime.block_on(async {
        tokio::select! {
            opened = open_to_serve(settings) => opened.map(Some),
            _ = signals.stop() => Ok(None),
        }
    })?;
    let Some(Opened {
        service,
        store,
        is_new_embedded,
    }) = opened
    else {
        return Ok(());
    };
    let maintenance = runtime.spawn(maintain(service.clone()));
    let served: anyhow::Result<()> = runtime.block_on(async {
        let http = &settings.http;
        let listeners = listen(http)?;
        let endpoints = listeners
            .iter()
            .map(Listener::endpoint)
            .collect::<Result<Vec<_>, _>>()
            .context("setting `http.listen`")?;
        let threads = match http.workers {
            0 => available_parallelism().map_or(2, usize::from),
            count => count,
        };
        let limits = Limits::choose(
            http.connections_max,
            http.connections_per_address_max,
            open_files,
            threads,
            usize::try_from(settings.database.connections_max.get()).unwrap_or(usize::MAX),
        );
        let proxies = http.trusted_proxies.clone();
        let connections = Connections::new(limits, proxies.clone());
        let api = api(&service, http, proxies, &reload.telemetry, &connections)?;
        let (workers, ended) = Workers::start(threads, &api, connections).await?;
        for endpoint in &endpoints {
            telemetry::say(&format!(
                "keys-server {} listening on {endpoint}",
                env!("CARGO_PKG_VERSION")
            ));
        }
        // Before the first request is answered, so that the output is complete for a program that
        // waits for the answer.
        if is_new_embedded {
            let database = embedded_path(&settings.database.url);
            welcome::print(&service, &endpoints, http, database.as_deref()).await?;
        } else {
            welcome::hint(&service, is_embedded(&settings.database.url)).await?;
        }
        let server = Server {
            api,
            accepting: workers::accept(listeners, workers).context("accepting connections")?,
            ended,
        };
        server.run(http.drain, &mut signals, reload, &store).await
    });
    let is_lost = runtime.block_on(is_lost(&store));
    // Before the maintenance ends, because it may be writing some of them at this moment.
    if !is_lost {
        flush(runtime, &service);
    }
    maintenance.abort();
    served?;
    if is_lost {
        bail!("the server stopped because its database file was lost");
    }
    Ok(())
}

async fn is_lost(store: &Store) -> bool {
    tokio::select! {
        biased;
        _ = store.lost() => true,
        () = std::future::ready(()) => false,
    }
}

/// Raises the limit on open files to the hard limit, because each connection needs one. systemd and
/// shells often set 1,024. Returns the limit, or `None` if there is none.
fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => {
            tracing::info!(
                "open files: the limit is {} (it was {})",
                maximum.map_or("none".to_owned(), |limit| limit.to_string()),
                current.map_or("none".to_owned(), |limit| limit.to_string())
            );
            maximum
        }
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            current
        }
    }
}

fn listen(http: &Http) -> anyhow::Result<Vec<Listener>> {
    let claims = http.listen.iter().zip(claim(http)?);
    claims
        .map(|(endpoint, claim)| claim.listen().with_context(|| cannot_listen(endpoint)))
        .collect()
}

/// Reserves all endpoints at once, because two of them may conflict.
fn claim(http: &Http) -> anyhow::Result<Vec<Claim>> {
    let claim = |endpoint: &Endpoint| {
        let claim = endpoint.claim(http.unix_mode, &http.listen);
        claim.with_context(|| cannot_listen(endpoint))
    };
    http.listen.iter().map(claim).collect()
}

/// A server that accepts connections.
struct Server {
    api: Api,
    /// Connections are accepted until this is closed.
    accepting: UnixStream,
    ended: Ended,
}

impl Server {
    /// Serves until a signal asks to stop or the database is lost, and until the stop is over.
    async fn run(
        mut self,
        drain: Duration,
        signals: &mut Signals,
        reload: &Reload,
        store: &Store,
    ) -> anyhow::Result<()> {
        let request = loop {
            tokio::select! {
                request = signals.next() => match request {
                    Request::Reload => reload.apply(),
                    request => break request,
                },
                // Answers from now on could be wrong.
                lost = store.lost() => {
                    tracing::error!("stopping, because the database is lost: {lost}");
                    break Request::Now;
                }
                () = self.ended.wait() => bail!("all threads that answer requests have ended"),
            }
        };
        if request == Request::Drain && !drain.is_zero() {
            self.api.start_draining();
            tracing::info!(
                "stopping: not ready from now on, answers are the last on their connections; \
                 new connections are served for {} s more",
                drain.as_secs()
            );
            tokio::select! {
                () = tokio::time::sleep(drain) => {}
                () = signals.stop_at_once() => {}
            }
        }
        self.api.start_draining();
        tracing::info!("stopping: no new connections, requests under way are finished");
        drop(self.accepting);
        tokio::select! {
            () = self.ended.wait() => {}
            () = signals.stop_at_once() => tracing::warn!("stopping: requests under way are given up"),
        }
        Ok(())
    }
}

/// Maintains the service for ever. A panic must not silently end it.
async fn maintain(service: KeyService) {
    const PAUSE: Duration = Duration::from_secs(1);
    // Aborts its task when dropped.
    let mut tasks = JoinSet::new();
    loop {
        let service = service.clone();
        tasks.spawn(async move { service.maintain().await });
        if let Some(Err(error)) = tasks.join_next().await {
            tracing::error!(%error, "the maintenance of the service ended and is started again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn embedded_path(url: &str) -> Option<PathBuf> {
    let url: DatabaseUrl = url.parse().ok()?;
    Some(url.sqlite_path()?.to_owned())
}

fn is_embedded(url: &str) -> bool {
    url.starts_with("sqlite")
}

fn cannot_listen(endpoint: &Endpoint) -> String {
    format!("setting `http.listen`: cannot listen on {endpoint}")
}

fn api(
    service: &KeyService,
    http: &Http,
    proxies: TrustedProxies,
    telemetry: &telemetry::Handle,
    connections: &Arc<Connections>,
) -> anyhow::Result<Api> {
    let telemetry = telemetry.clone();
    let asked = || Arc::clone(connections);
    let (open, total, address, closed) = (asked(), asked(), asked(), asked());
    let mut builder = Api::builder(service.clone());
    for reason in HeadRefusal::ALL {
        let label = ("reason", reason.as_str());
        builder =
            builder.labelled_counter(HEADS_REFUSED, label, HEADS_REFUSED_DESCRIPTION, move || {
                reason.total()
            });
    }
    Ok(builder
        .trusted_proxies(proxies)
        .unauthenticated_quota(http.unauthenticated)
        .key_management(http.key_management)
        .flat(mount(&http.flat, "http.flat")?)
        .account(mount(&http.account, "http.account")?)
        .management(http.management.enabled)
        .verification(http.verification.enabled)
        .metrics(http.metrics.enabled)
        .counter(
            "keys_log_dropped_total",
            "Lines of the log that were not written, because the reader of standard error did not take them.",
            move || telemetry.dropped_total(),
        )
        .gauge("keys_http_connections", "Open connections.", move || {
            u64::try_from(open.open()).unwrap_or(u64::MAX)
        })
        .labelled_counter(
            REFUSED,
            ("reason", Refused::Total.as_str()),
            REFUSED_DESCRIPTION,
            move || total.refused_total(Refused::Total),
        )
        .labelled_counter(
            REFUSED,
            ("reason", Refused::Address.as_str()),
            REFUSED_DESCRIPTION,
            move || address.refused_total(Refused::Address),
        )
        .counter(
            "keys_http_connections_closed_total",
            "Connections that were closed to make room for new ones.",
            move || closed.closed_total(),
        )
        .build())
}

fn mount(configured: &config::Mount, setting: &str) -> anyhow::Result<Option<Mount>> {
    let mount = Mount::new(configured.path.clone(), configured.key_prefix.clone())
        .with_context(|| format!("setting `{setting}.key_prefix`"))?
        .plan_gate(configured.plan_gate)
        .cap(configured.cap);
    Ok(configured.enabled.then_some(mount))
}

fn flush(runtime: &Runtime, service: &KeyService) {
    let flushed = runtime
        .block_on(async { tokio::time::timeout(LAST_FLUSH, service.flush_last_uses()).await });
    if flushed.is_err() {
        tracing::error!(
            "the last uses of {} keys could not be written in time",
            service.unwritten_uses()
        );
    }
}
