use std::collections::BTreeMap;
use std::fmt;

use anyhow::bail;
use keys_core::PepperId;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Configured peppers: base64, or `file:PATH`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peppers {
    /// The pepper of new keys. May be `None` if there is only one.
    #[serde(default)]
    pub current: Option<PepperId>,
    #[serde(default)]
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
