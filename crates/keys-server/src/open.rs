//! From settings to a service on an open, migrated database.

use std::path::Path;

use anyhow::{Context as _, bail};
use keys_core::PepperRing;
use keys_service::KeyService;
use keys_store::{DatabaseUrl, Store, StoreOptions};

use crate::config::Settings;
use crate::peppers;

/// A service on an open database.
pub(crate) struct Opened {
    pub service: KeyService,
    /// Whether this start made an embedded database.
    pub is_new_embedded: bool,
}

/// Opens the database, brings its schema up to date if that is wanted, and checks that no key lacks its pepper.
pub(crate) async fn open(settings: &Settings) -> anyhow::Result<Opened> {
    let url = database_url(settings)?;
    let (ring, is_new_embedded) = ring(settings, &url)?;
    let store = connect(settings, &url).await?;
    if settings.database.auto_migrate {
        store.migrate().await.context("migrating the database")?;
    }
    let service = KeyService::builder(store, ring)
        .plans(settings.plans.clone())
        .build();
    service
        .ready()
        .await
        .context("the database of setting `database.url` is not ready")?;
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
        is_new_embedded,
    })
}

/// Opens the database and brings its schema up to date. Needs no pepper.
pub(crate) async fn migrate(settings: &Settings) -> anyhow::Result<()> {
    let store = connect(settings, &database_url(settings)?).await?;
    store.migrate().await.context("migrating the database")
}

fn database_url(settings: &Settings) -> anyhow::Result<DatabaseUrl> {
    settings
        .database
        .url
        .parse()
        .context("setting `database.url`")
}

async fn connect(settings: &Settings, url: &DatabaseUrl) -> anyhow::Result<Store> {
    let options = StoreOptions {
        connections_max: settings.database.connections_max,
        ..StoreOptions::default()
    };
    Store::connect(url, options)
        .await
        .context("setting `database.url`: opening the database")
}

/// The configured peppers, or the one beside an embedded database.
fn ring(settings: &Settings, url: &DatabaseUrl) -> anyhow::Result<(PepperRing, bool)> {
    let configured = peppers::configured(&settings.peppers)?;
    let Some(database) = url.sqlite_path() else {
        let ring = configured.context(
            "a pepper is needed with PostgreSQL: set `peppers.keys.p1` \
             (KEYS_PEPPERS__KEYS__P1) to the output of `openssl rand -base64 32`, \
             or to file:PATH, and keep it as safe as the database: without it no key can be verified",
        )?;
        return Ok((ring, false));
    };
    let exists = database.exists();
    let ring = if let Some(ring) = configured {
        ring
    } else {
        let folder = database.parent().unwrap_or(Path::new(""));
        create_folder(folder).with_context(|| format!("folder {}", folder.display()))?;
        peppers::embedded(&folder.join("pepper"), exists)?
    };
    Ok((ring, !exists))
}

fn create_folder(folder: &Path) -> std::io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
