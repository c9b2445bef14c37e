//! Sources of the peppers.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keys_core::{Pepper, PepperId, PepperRing};
use zeroize::Zeroizing;

use crate::config::Peppers;
use crate::secret;

/// Maximum size of a pepper file in bytes: more than the longest pepper in base64.
const FILE_MAX_LEN: u64 = 4_096;

/// Identifier of the pepper that is created beside an embedded database.
const EMBEDDED_ID: &str = "p1";

/// Returns the ring of configured peppers. `None` if none is configured.
pub(crate) fn configured(peppers: &Peppers) -> anyhow::Result<Option<PepperRing>> {
    let Some(first) = peppers.keys.keys().next() else {
        return Ok(None);
    };
    let current = peppers.current.as_ref().unwrap_or(first);
    let mut ring = PepperRing::new(*current, read(current, &peppers.keys[current])?);
    for (id, value) in peppers.keys.iter().filter(|(id, _)| *id != current) {
        ring = ring
            .with_former(*id, read(id, value)?)
            .with_context(|| format!("setting `peppers.keys.{id}`"))?;
    }
    Ok(Some(ring))
}

fn read(id: &PepperId, value: &str) -> anyhow::Result<Pepper> {
    let setting = format!("peppers.keys.{id}");
    let resolved = secret::resolve(&setting, value)?;
    if let Some(warning) = resolved.warning {
        tracing::warn!("{warning}");
    }
    Pepper::from_base64(&resolved.value).with_context(|| format!("setting `{setting}`"))
}

fn read_file(path: &Path) -> anyhow::Result<Pepper> {
    let shown = path.display();
    let length = fs::metadata(path)
        .with_context(|| format!("{shown}"))?
        .len();
    if length > FILE_MAX_LEN {
        bail!("{shown}: too long for a pepper");
    }
    let text = Zeroizing::new(fs::read_to_string(path).with_context(|| format!("{shown}"))?);
    Pepper::from_base64(&text).with_context(|| format!("{shown}"))
}

/// Returns the ring of the pepper beside an embedded database, and whether it was created.
///
/// Refuses to create a pepper if `keys_exist`, because it would make all of them useless.
pub(crate) fn embedded(path: &Path, keys_exist: bool) -> anyhow::Result<(PepperRing, bool)> {
    let id: PepperId = EMBEDDED_ID.parse()?;
    let missing = matches!(fs::metadata(path), Err(error) if error.kind() == ErrorKind::NotFound);
    if missing && keys_exist {
        bail!(
            "the pepper file {} is missing, and the keys in the database cannot be verified without it: \
             put it back, or set `peppers.keys.{id}`",
            path.display()
        );
    }
    if missing {
        create(path).with_context(|| format!("pepper file {}", path.display()))?;
    }
    Ok((PepperRing::new(id, read_file(path)?), missing))
}

fn create(path: &Path) -> anyhow::Result<()> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *bytes).context("the operating system gave no random bytes")?;
    let text = Zeroizing::new(STANDARD.encode(*bytes) + "\n");
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    // If the pepper is lost, all keys created from now on are lost.
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn peppers(current: Option<&str>, keys: &[(&str, &str)]) -> Peppers {
        Peppers {
            current: current.map(|id| id.parse().unwrap()),
            keys: keys
                .iter()
                .map(|(id, value)| (id.parse().unwrap(), Zeroizing::new((*value).to_owned())))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn random(seed: u8) -> String {
        STANDARD.encode(
            (0..32)
                .map(|byte: u8| byte.wrapping_mul(seed))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_current_pepper_leads_the_ring() {
        let settings = peppers(Some("p2"), &[("p1", &random(3)), ("p2", &random(5))]);
        let ring = configured(&settings).unwrap().unwrap();
        let ids: Vec<_> = ring.ids().map(PepperId::as_str).collect();
        assert_eq!(ids, ["p2", "p1"]);
        assert!(configured(&peppers(None, &[])).unwrap().is_none());
    }

    #[test]
    fn bad_peppers_are_refused_by_name_and_never_shown() {
        for value in [
            "c2hvcnQ=",
            keys_core::DOCUMENTED_PEPPER,
            "hunter2!",
            "file:/nowhere/pepper",
        ] {
            let error = configured(&peppers(None, &[("p1", value)])).unwrap_err();
            let message = format!("{error:#}");
            assert!(message.contains("peppers.keys.p1"), "{message}");
            assert!(
                !message.contains("hunter2") && !message.contains("c2hvcnQ="),
                "{message}"
            );
        }
    }

    #[test]
    fn embedded_pepper_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pepper");
        let (_, made_now) = embedded(&path, false).unwrap();
        assert!(made_now);
        let made = fs::read_to_string(&path).unwrap();
        let (_, made_now) = embedded(&path, true).unwrap();
        assert!(!made_now);
        assert_eq!(fs::read_to_string(&path).unwrap(), made);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let settings = peppers(None, &[("p1", &format!("file:{}", path.display()))]);
        assert!(configured(&settings).unwrap().is_some());
    }

    #[test]
    fn lost_pepper_of_existing_keys_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = embedded(&folder.path().join("pepper"), true).unwrap_err();
        assert!(error.to_string().contains("put it back"), "{error}");
    }
}
