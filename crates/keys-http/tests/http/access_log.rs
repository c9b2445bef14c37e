//! What is logged of requests.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

use crate::exchange::{Exchange as _, Request, delete, get, post};
use crate::rows::FLAT;
use crate::support::{CLIENT, World};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[actix_web::test]
async fn requests_are_logged_without_anything_a_client_wrote() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new();
    let key = world.pro_key().await;
    let secret = &key["sk_live_".len()..];

    let create = post(FLAT).bearer(&key).json(r#"{"name":"canary"}"#);
    let created = world.exchange(create).await.text("/key");
    world.exchange(get(format!("{FLAT}?key={key}"))).await;
    world
        .exchange(delete(format!("{FLAT}/{key}")).bearer(&key))
        .await;
    world.exchange(get(format!("/{key}/canary"))).await;
    let header = Request::new("POST", FLAT).header("X-API-Key", format!("{key}x"));
    world.exchange(header).await;
    let method = Request::new("CANARY", FLAT).bearer(&key);
    world.exchange(method).await;

    let text = lines.text();
    for expected in [
        "POST /api/api-keys answered 201 in ",
        "GET /api/api-keys answered 401 in ",
        "DELETE /api/api-keys/{id} answered 404 in ",
        "GET unmatched answered 404 in ",
        "POST /api/api-keys answered 401 in ",
        "OTHER /api/api-keys answered 405 in ",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    for absent in [secret, &created, "canary", "CANARY", CLIENT] {
        assert!(!text.contains(absent), "{absent:?} in\n{text}");
    }
}
