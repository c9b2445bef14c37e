//! Settings of the surfaces.

use keys_service::KeyManagement;

use crate::health::readiness::Prober;
use crate::mount::Mount;

pub(crate) struct Settings {
    pub(crate) key_management: KeyManagement,
    pub(crate) flat: Option<Mount>,
    pub(crate) account: Option<Mount>,
    pub(crate) management: bool,
    pub(crate) verification: bool,
    pub(crate) prober: Prober,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key_management: KeyManagement::Any,
            flat: Some(Mount::flat()),
            account: Some(Mount::account()),
            management: true,
            verification: true,
            prober: Prober::default(),
        }
    }
}
