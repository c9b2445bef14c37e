//! From settings to a service on an open, migrated database.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use keys_core::PepperRing;
use keys_redis::RedisLimiter;
use keys_service::ports::{Maintenance as _, RateLimiter, StoreError};
use keys_service::{Clock as _, FallbackLimiter, KeyService, SystemClock};
use keys_store::{DatabaseUrl, SchemaError, Store, StoreOptions};

use crate::config::Settings;
use crate::embedded::{Creation, Embedded};
use crate::peppers;

/// A service on an open database.
pub(crate) struct Opened {
    pub service: KeyService,
    /// The database itself.
    pub store: Store,
    /// Whether this start created an embedded database, or its pepper.
    pub is_new_embedded: bool,
}

/// Like [`open`], with the rate limiter of the settings. Its connections live on the current
/// runtime.
pub(crate) async fn open_to_serve(settings: &Settings) -> anyhow::Result<Opened> {
    let limits = &settings.limits;
    let Some(url) = &limits.redis_url else {
        return open_with(settings, None).await;
    };
    let redis = RedisLimiter::builder(url.clone()).key_prefix(limits.key_prefix.clone());
    let clock = Arc::new(SystemClock);
    let limiter = FallbackLimiter::start(redis.build(), limits.on_unavailable, clock).await;
    open_with(settings, Some(Arc::new(limiter))).await
}

/// Opens the database, migrates its schema if configured, and checks that no key lacks its pepper.
/// Limits are counted inside the process, because commands do not use them.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Opened> {
    open_with(settings, None).await
}

async fn open_with(
    settings: &Settings,
    limiter: Option<Arc<dyn RateLimiter>>,
) -> anyhow::Result<Opened> {
    let url = database_url(settings)?;
    let embedded = Embedded::find(settings, &url, Creation::FirstStart)?;
    let source = pepper_source(settings, &url, embedded.as_ref())?;
    let made_now = embedded.as_ref().is_some_and(Embedded::is_missing);
    let store = connect(settings, &url, embedded.as_ref()).await?;
    if settings.database.auto_migrate {
        store.migrate().await.context("migrating the database")?;
    }
    store.ready().await.context(if settings.database.auto_migrate {
        "the database of setting `database.url` is not ready"
    } else {
        "the database of setting `database.url` is not ready; run `keys-server migrate` if its schema is missing or old"
    })?;
    match store.connections_short().await {
        Ok(Some(short)) => tracing::warn!("{short}"),
        Ok(None) => {}
        // A role may have no access to the catalog. That must not prevent the start.
        Err(error) => tracing::debug!(
            error = &error as &dyn std::error::Error,
            "the server does not say how many connections it has"
        ),
    }
    let (ring, is_new_embedded) = match source {
        PepperSource::Settings(ring) => (*ring, made_now),
        // `migrate` creates a database without a pepper, so a missing file does not mean that it
        // was lost.
        PepperSource::File(path) => {
            let keys_exist = !store.pepper_ids(SystemClock.now()).await?.is_empty();
            peppers::embedded(&path, keys_exist)?
        }
    };
    let mut builder = KeyService::builder(store.clone(), ring)
        .plans(settings.plans.clone())
        .cache(settings.cache.into())
        .grace(settings.verification.grace);
    if let Some(limiter) = limiter {
        builder = builder.limiter(limiter);
    }
    let service = builder.build();
    let missing = service.missing_peppers().await?;
    if let Some(id) = missing.first() {
        bail!(
            "there are keys made under pepper {id}, which is not configured: set `peppers.keys.{id}` \
             (KEYS_PEPPERS__KEYS__{})",
            id.as_str().to_uppercase()
        );
    }
    Ok(Opened {
        service,
        store,
        is_new_embedded,
    })
}

/// Opens the database and migrates its schema. Needs no pepper.
pub(crate) async fn migrate(settings: &Settings, creation: Creation) -> anyhow::Result<()> {
    let url = database_url(settings)?;
    let embedded = Embedded::find(settings, &url, creation)?;
    let store = connect(settings, &url, embedded.as_ref()).await?;
    store.migrate().await.context("migrating the database")?;
    let recounted = store.recount_keys().await;
    if recounted.context("comparing the numbers of keys of the accounts")? {
        tracing::warn!(
            "keys of some accounts had been changed without being counted, and were counted again"
        );
    }
    Ok(())
}

/// Opens the database without changing it.
pub(crate) async fn store(settings: &Settings) -> anyhow::Result<Store> {
    let url = database_url(settings)?;
    let embedded = Embedded::find(settings, &url, Creation::FirstStart)?;
    connect(settings, &url, embedded.as_ref()).await
}

fn database_url(settings: &Settings) -> anyhow::Result<DatabaseUrl> {
    settings
        .database
        .url
        .parse()
        .context("setting `database.url`")
}

async fn connect(
    settings: &Settings,
    url: &DatabaseUrl,
    embedded: Option<&Embedded>,
) -> anyhow::Result<Store> {
    if let Some(embedded) = embedded {
        embedded.check_missing()?;
    }
    let direct_url = Some(&*settings.database.direct_url).filter(|url| !url.is_empty());
    let direct_url = direct_url
        .map(|url| url.parse())
        .transpose()
        .context("setting `database.direct_url`")?;
    let options = StoreOptions::default()
        .connections_max(settings.database.connections_max)
        .direct_url(direct_url)
        .create(embedded.is_none_or(Embedded::may_create));
    let store = Store::connect(url, options)
        .await
        .context("setting `database.url`: opening the database")?;
    if let Some(embedded) = embedded
        && embedded.must_have_tables()
        && !has_tables(&store).await
    {
        bail!(embedded.refusal("has no tables"));
    }
    Ok(store)
}

/// Returns whether there is a schema, of any version.
async fn has_tables(store: &Store) -> bool {
    match store.ready().await {
        Err(StoreError::Unexpected(error)) => !matches!(
            error.downcast_ref::<SchemaError>(),
            Some(SchemaError::Missing(_))
        ),
        _ => true,
    }
}

enum PepperSource {
    Settings(Box<PepperRing>),
    /// Beside an embedded database.
    File(PathBuf),
}

fn pepper_source(
    settings: &Settings,
    url: &DatabaseUrl,
    embedded: Option<&Embedded>,
) -> anyhow::Result<PepperSource> {
    if let Some(ring) = peppers::configured(&settings.peppers)? {
        return Ok(PepperSource::Settings(Box::new(ring)));
    }
    let embedded = embedded.context(
        "a pepper is needed with PostgreSQL: set `peppers.keys.p1` \
         (KEYS_PEPPERS__KEYS__P1) to the output of `openssl rand -base64 32`, \
         or to file:PATH, and keep it as safe as the database: without it no key can be verified",
    )?;
    Ok(PepperSource::File(embedded.pepper_file(url)?))
}
