//! Dependencies point inward, and some are banned. Read from cargo itself, as built for this
//! machine.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Siblings that each crate may use as a normal dependency.
const SIBLINGS: [(&str, &[&str]); 9] = [
    ("keys-core", &[]),
    ("keys-service", &["keys-core"]),
    ("keys-store", &["keys-core", "keys-service"]),
    ("keys-redis", &["keys-core", "keys-service"]),
    ("keys-http", &["keys-core", "keys-service"]),
    ("keys-tower", &["keys-core", "keys-service"]),
    (
        "keys-server",
        &[
            "keys-core",
            "keys-service",
            "keys-store",
            "keys-redis",
            "keys-http",
            "keys-tower",
        ],
    ),
    ("keys-testkit", &["keys-core", "keys-service"]),
    ("xtask", &["keys-testkit"]),
];

/// Crates for asynchronous code, input and output, or the outside world.
const IO: [&str; 9] = [
    "tokio",
    "async-trait",
    "futures-util",
    "mio",
    "socket2",
    "hyper",
    "reqwest",
    "tracing",
    "getrandom",
];
const DATABASE: [&str; 6] = [
    "diesel",
    "diesel-async",
    "diesel_migrations",
    "tokio-postgres",
    "libsqlite3-sys",
    "rusqlite",
];
const ACTIX: [&str; 4] = ["actix-web", "actix-http", "actix-service", "actix-rt"];
const TOWER: [&str; 3] = ["axum", "tower", "tower-service"];

/// Returns the crates that a crate must not depend on, directly or indirectly.
fn never_seen(name: &str) -> Vec<&'static [&'static str]> {
    match name {
        "keys-core" => vec![
            &IO,
            &DATABASE,
            &ACTIX,
            &TOWER,
            &["serde_json", "toml", "clap"],
        ],
        "keys-service" | "keys-redis" => vec![
            &DATABASE,
            &ACTIX,
            &TOWER,
            &["hyper", "reqwest", "config", "clap"],
        ],
        "keys-store" => vec![&ACTIX, &TOWER, &["hyper", "reqwest", "config", "clap"]],
        "keys-http" => vec![&DATABASE, &TOWER, &["hyper", "reqwest", "config", "clap"]],
        "keys-tower" => vec![&DATABASE, &ACTIX, &["reqwest", "config", "clap"]],
        "keys-server" => vec![&["reqwest", "keys-testkit"]],
        _ => vec![],
    }
}

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");

/// Returns the output of a program.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the toolchain is installed");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the toolchain prints UTF-8")
}

fn metadata() -> Metadata {
    // Crates for other systems may not have been downloaded, and are not needed.
    let version = output_of("rustc", &["-vV"]);
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc says which system it builds for");
    MetadataCommand::new()
        .manifest_path(MANIFEST)
        .other_options(["--filter-platform".to_owned(), host.to_owned()])
        .exec()
        .expect("the workspace can be read")
}

/// Returns the direct and indirect dependencies of a package, with build dependencies and without
/// those of tests.
///
/// By `cargo tree` rather than from the metadata, because the metadata has the features of the
/// whole workspace. A crate would seem to use a dependency that only another crate enables.
fn all_dependencies(package: &str) -> BTreeSet<String> {
    let tree = ["tree", "--manifest-path", MANIFEST, "--package", package];
    let shape = [
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let lines = output_of(env!("CARGO"), &[&tree[..], &shape].concat());
    lines
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_use_only_the_siblings_they_may() {
    let metadata = metadata();
    let table: BTreeMap<_, _> = SIBLINGS.into();
    let members = metadata.workspace_packages();
    let names: BTreeSet<&str> = members.iter().map(|member| member.name.as_str()).collect();
    for member in &members {
        let name = member.name.as_str();
        let allowed = table.get(name).unwrap_or_else(|| {
            panic!("{name} is not in the table of siblings: decide what it may use")
        });
        for dependency in &member.dependencies {
            let sibling = dependency.name.as_str();
            if dependency.kind != DependencyKind::Development && names.contains(sibling) {
                assert!(allowed.contains(&sibling), "{name} may not use {sibling}");
            }
        }
    }
    assert!(names.contains("keys-core"), "the workspace was read");
}

#[test]
fn crates_never_see_what_lies_outside_of_them() {
    let metadata = metadata();
    for member in metadata.workspace_packages() {
        let name = member.name.as_str();
        let seen = all_dependencies(name);
        for outside in never_seen(name).into_iter().flatten() {
            assert!(
                !seen.contains(*outside),
                "{name} must not see {outside}: cargo tree -p {name} -e no-dev -i {outside}"
            );
        }
    }
}

#[test]
fn server_is_built_of_all_layers() {
    // The other tests would pass on an empty graph.
    let seen = all_dependencies("keys-server");
    for layer in [
        "keys-core",
        "keys-service",
        "keys-store",
        "keys-http",
        "diesel",
        "actix-web",
        "tokio",
    ] {
        assert!(seen.contains(layer), "{layer}");
    }
}
