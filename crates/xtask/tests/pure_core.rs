//! The core has no clock, no environment, no files: time and randomness are passed in.

use std::fs;
use std::path::{Path, PathBuf};

/// Names that would make the core depend on time, place or environment.
const IMPURE: [&str; 16] = [
    "SystemTime",
    "Instant",
    "Utc::now",
    "Local::now",
    "std::env",
    "env!",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "println!",
    "getrandom",
    "static mut",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn core_is_pure() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../keys-core/src");
    let sources = sources(&folder);
    assert!(
        sources.len() > 5,
        "the sources are where this test looks for them"
    );
    for path in sources {
        let text = fs::read_to_string(&path).unwrap();
        // Comments may contain these names, and tests may use them.
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (index, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            for word in IMPURE {
                assert!(
                    !code.contains(word),
                    "{}:{}: {word}",
                    path.display(),
                    index + 1
                );
            }
        }
    }
}
