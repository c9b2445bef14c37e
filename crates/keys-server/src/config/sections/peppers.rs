use std::collections::BTreeMap;
use std::fmt;

use anyhow::bail;
use keys_core::PepperId;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::single::{self, Name};

/// Configured peppers: base64, or `file:PATH`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peppers {
    /// The pepper of new keys. May be `None` if there is only one.
    #[serde(default, deserialize_with = "current")]
    pub current: Option<PepperId>,
    #[serde(default, deserialize_with = "keys")]
    pub keys: BTreeMap<PepperId, Zeroizing<String>>,
}

impl Peppers {
    /// Checks that the pepper of new keys is configured.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match &self.current {
            Some(id) if !self.keys.contains_key(id) => {
                let id = id.as_str();
                bail!("setting `peppers.current` names {id:?}, but there is no `peppers.keys.{id}`")
            }
            None if self.keys.len() > 1 => bail!(
                "setting `peppers.current` must say which of the {} peppers new keys are made under",
                self.keys.len()
            ),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

fn current<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PepperId>, D::Error> {
    single::parsed(deserializer).map(Some)
}

fn keys<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<PepperId, Zeroizing<String>>, D::Error> {
    let keys = BTreeMap::<Name<PepperId>, _>::deserialize(deserializer)?;
    Ok(keys.into_iter().map(|(Name(id), key)| (id, key)).collect())
}
