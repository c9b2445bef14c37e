//! Traefik.

use keys_testkit::traefik::{Config, Traefik};

use crate::{Kind, replace_addresses};

const FIXED: &str = include_str!("../../../../docs/gateways/traefik.yaml");
const DYNAMIC: &str = include_str!("../../../../docs/gateways/traefik-dynamic.yaml");

const TRAEFIK: Kind = Kind {
    start: |addresses| {
        Traefik::start("/health", |port, dynamic| {
            let file = "/etc/traefik/traefik-dynamic.yaml";
            let fixed = [
                ("127.0.0.1:8000", format!("127.0.0.1:{port}")),
                (file, dynamic.display().to_string()),
            ];
            let real = [
                ("127.0.0.1:8080", addresses.keys.to_string()),
                ("127.0.0.1:3000", addresses.application.to_string()),
            ];
            Config {
                fixed: replace_addresses(FIXED, fixed),
                dynamic: replace_addresses(DYNAMIC, real),
            }
        })
    },
    unreachable: (500, None),
    passes_empty_headers: true,
    shows_every_api_key: || true,
};

crate::scenarios::hold_to_all!(super::TRAEFIK);
