//! The files that docs/contributing.md names exist.

use std::path::Path;

#[test]
fn contributing_names_only_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/contributing.md")).unwrap();
    let quoted = page.split('`').skip(1).step_by(2);
    let folders = ["config/", "crates/", "docs/", "migrations/"];
    let paths: Vec<&str> = quoted
        .filter(|text| folders.iter().any(|folder| text.starts_with(folder)))
        .collect();
    let missing: Vec<_> = paths
        .iter()
        .filter(|path| !root.join(path).exists())
        .collect();
    assert!(paths.len() > 20, "{paths:?}");
    assert!(missing.is_empty(), "moved or removed: {missing:?}");
}
