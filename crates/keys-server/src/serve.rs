//! Serving HTTP until told to stop.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer};
use anyhow::{Context as _, bail};
use keys_core::address::TrustedProxies;
use keys_http::{Api, Mount};
use keys_service::KeyService;
use keys_store::Store;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::config::{self, Http, Settings};
use crate::open::{Opened, open_to_serve};
use crate::{telemetry, welcome};

/// How long requests under way may take after the signal to stop. With the last flush it stays below ten seconds.
const DRAIN: Duration = Duration::from_secs(6);

/// How long the last flush of uses may take.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// How long a client may take to send the head of a request, against clients that keep connections busy with nothing.
const CLIENT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept: longer than the usual 60 s of load balancers, or they would find it closed.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Opens everything and serves. Returns when all has been drained and written.
pub(crate) fn run(
    runtime: &Runtime,
    settings: Settings,
    telemetry: &telemetry::Handle,
) -> anyhow::Result<()> {
    // Asked first: what a first start prints would be lost for good if it failed after it had made the database.
    TcpListener::bind(settings.http.listen).with_context(|| cannot_listen(settings.http.listen))?;
    let Opened {
        service,
        store,
        is_new_embedded,
    } = runtime.block_on(open_to_serve(&settings))?;
    let maintenance = runtime.spawn(maintain(service.clone()));
    let http = settings.http;
    let served = actix_web::rt::System::new().block_on(async {
        let (server, address) = bind(&service, &http, telemetry)?;
        telemetry::say(&format!(
            "keys-server {} listening on http://{address}",
            env!("CARGO_PKG_VERSION")
        ));
        if is_new_embedded {
            welcome::print(&service, address, &http).await?;
        } else {
            welcome::hint(&service, is_embedded(&settings.database.url)).await?;
        }
        actix_web::rt::spawn(stop_on_signal(server.handle()));
        actix_web::rt::spawn(stop_on_loss(server.handle(), store.clone()));
        server.await.context("serving")
    });
    let is_lost = runtime.block_on(is_lost(&store));
    // Before the maintenance ends, which may be writing some of them right now.
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

/// Maintains the service for ever: a fault in the program must not silently end it.
async fn maintain(service: KeyService) {
    const PAUSE: Duration = Duration::from_secs(1);
    // Ends its task with itself.
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

fn is_embedded(url: &str) -> bool {
    url.starts_with("sqlite")
}

fn bind(
    service: &KeyService,
    http: &Http,
    telemetry: &telemetry::Handle,
) -> anyhow::Result<(actix_web::dev::Server, SocketAddr)> {
    let api = api(service, http, telemetry)?;
    let mut server = HttpServer::new(move || {
        let app = App::new()
            .wrap(api.log_requests())
            .configure(|app| api.configure(app));
        api.front(app)
    })
    .client_request_timeout(CLIENT_REQUEST_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .shutdown_timeout(DRAIN.as_secs())
    .disable_signals();
    if http.workers > 0 {
        server = server.workers(http.workers);
    }
    let server = server
        .bind(http.listen)
        .with_context(|| cannot_listen(http.listen))?;
    let address = *server.addrs().first().unwrap_or(&http.listen);
    Ok((server.run(), address))
}

fn cannot_listen(address: SocketAddr) -> String {
    format!("setting `http.listen`: cannot listen on {address}")
}

fn api(service: &KeyService, http: &Http, telemetry: &telemetry::Handle) -> anyhow::Result<Api> {
    let telemetry = telemetry.clone();
    Ok(Api::builder(service.clone())
        .trusted_proxies(TrustedProxies::new(http.trusted_proxies.iter().copied()))
        .unauthenticated_quota(http.unauthenticated)
        .key_management(http.key_management)
        .flat(mount(&http.flat, "http.flat")?)
        .account(mount(&http.account, "http.account")?)
        .management(http.management)
        .verification(http.verification)
        .metrics(http.metrics)
        .counter(
            "keys_log_dropped_total",
            "Lines of the log that were not written, because the reader of standard error did not take them.",
            move || telemetry.dropped_total(),
        )
        .build())
}

fn mount(configured: &config::Mount, setting: &str) -> anyhow::Result<Option<Mount>> {
    let mount = Mount {
        path: configured.path.clone(),
        key_prefix: configured.key_prefix.clone(),
        plan_gate: configured.plan_gate,
        cap: configured.cap,
    };
    mount
        .check()
        .with_context(|| format!("settings `{setting}.path` and `{setting}.key_prefix`"))?;
    Ok(configured.enabled.then_some(mount))
}

/// Stops gracefully on SIGTERM, which service managers send, and on Ctrl-C.
async fn stop_on_signal(server: ServerHandle) {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = interrupt => {}
                    _ = terminate.recv() => {}
                }
            }
            Err(error) => {
                tracing::error!(%error, "SIGTERM cannot be listened for; only Ctrl-C stops gracefully");
                let _ = interrupt.await;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
    tracing::info!("stopping: no new connections, requests under way are finished");
    server.stop(true).await;
}

/// Stops gracefully when the database file was replaced or removed. Nothing that is answered from then on would be true.
async fn stop_on_loss(server: ServerHandle, store: Store) {
    let lost = store.lost().await;
    tracing::error!("stopping, because the database is lost: {lost}");
    server.stop(true).await;
}

fn flush(runtime: &Runtime, service: &KeyService) {
    let flushed =
        runtime.block_on(async { tokio::time::timeout(LAST_FLUSH, service.flush_uses()).await });
    match flushed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the last uses of keys could not be written"),
        Err(_) => tracing::error!("the last uses of keys could not be written in time"),
    }
}
