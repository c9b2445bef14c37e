//! The contents of the database contain no usable credential.

use std::path::Path;

use serde_json::json;

use crate::dialect::Dialect;
use crate::world::Place;

on_both_databases!(database_holds_no_key_session_or_idempotency_key);

const IDEMPOTENCY_KEY: &str = "an-idempotency-key-of-nobodys-business";

async fn database_holds_no_key_session_or_idempotency_key(place: Place) {
    let mut world = place.roomy().await;
    let account = world.account("roomy").await;
    let session = world.session(&account).await;
    let mut secrets = vec![world.operator().to_owned(), session.clone()];
    secrets.push(world.issue(&account, &json!({})).await.text("/key"));
    for dialect in Dialect::BOTH {
        let created = world.create(dialect, &session, "key").await;
        secrets.push(dialect.key(&created));
        let create = world.post(dialect.path()).bearer(&session);
        let create = create.idempotency_key(IDEMPOTENCY_KEY);
        let created = create.json(&dialect.draft("kept answer")).send().await;
        secrets.push(dialect.key(&created));
    }
    for secret in &secrets {
        let status = world.status(secret).await;
        assert!([200, 403].contains(&status), "{status}");
    }
    world.stop();
    let dump = match world.database() {
        Some(database) => database.dump().into_bytes(),
        None => files(&world.server().folder().join("data")),
    };
    let holds = |text: &str| {
        let mut windows = dump.windows(text.len());
        windows.any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
    };
    assert!(holds("kept answer"), "the names are in there");
    assert!(!holds(IDEMPOTENCY_KEY));
    for secret in &secrets {
        // Without the public prefix.
        let unknown = &secret[secret.len() - 20..];
        assert!(!holds(unknown), "{secret}");
        // As PostgreSQL dumps bytes.
        let digits = unknown.bytes().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex: String = digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
        assert!(!holds(&hex), "{secret}");
    }
}

/// Returns all files of an embedded database except the pepper, which is not part of it.
fn files(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "pepper") {
            all.extend(std::fs::read(path).unwrap());
        }
    }
    all
}
