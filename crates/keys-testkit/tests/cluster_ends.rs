//! A cluster ends with the process that started it, however that process ends.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use keys_testkit::postgres::Cluster;

/// Set in the process that is to be killed, which is this same test, run once more.
const VICTIM_VARIABLE: &str = "KEYS_TESTKIT_VICTIM";

#[test]
fn cluster_ends_with_a_killed_process() {
    if std::env::var_os(VICTIM_VARIABLE).is_some() {
        let cluster = Cluster::start().unwrap();
        println!("\nvictim {} {}", cluster.url(), cluster.folder().display());
        std::thread::sleep(Duration::from_mins(10));
    }

    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "cluster_ends_with_a_killed_process",
            "--exact",
            "--nocapture",
        ])
        .env(VICTIM_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("victim ").map(str::to_owned))
        .expect("the victim has started a cluster");
    let (url, folder) = said.split_once(' ').unwrap();
    let address = url.rsplit('@').next().unwrap();
    assert!(TcpStream::connect(address).is_ok(), "the cluster is up");
    assert!(Path::new(folder).exists());

    // SIGKILL: no code in that process runs after it.
    victim.kill().unwrap();
    victim.wait().unwrap();
    for _ in 0..300 {
        if !Path::new(folder).exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!Path::new(folder).exists(), "the folder is gone");
    assert!(TcpStream::connect(address).is_err(), "the server is gone");
}

#[test]
fn cluster_ends_with_its_value() {
    let cluster = Cluster::start().unwrap();
    let folder = cluster.folder().to_owned();
    let address = cluster.url().rsplit('@').next().unwrap().to_owned();
    drop(cluster);
    assert!(!folder.exists());
    assert!(TcpStream::connect(address).is_err());
}
