//! Three nodes with PostgreSQL under Patroni and etcd, each in a network namespace of its own,
//! configured by the files in `docs/ha`.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use keys_testkit::process::signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{millis, now};

pub(crate) const NODES: usize = 3;

/// The documented addresses are `10.0.0.11` to `10.0.0.13`.
const DOCUMENTED_NETWORK: &str = "10.0.0.";

/// The user of all processes. The package of PostgreSQL creates it.
const USER: &str = "postgres";

/// The superuser's password, as documented.
const PASSWORD: &str = "CHANGE-ME-superuser";

/// A node and its processes.
struct Node {
    namespace: String,
    /// The machine's end of its network cable.
    cable: String,
    folder: PathBuf,
    etcd: Child,
    /// Runs the first process of a process namespace. When it ends, all others in the namespace
    /// end.
    patroni: Option<Child>,
}

/// The nodes. They end with this value or with the process.
pub(crate) struct Patroni {
    nodes: Vec<Node>,
    network: String,
    /// Ends everything and cleans up when its standard input is closed.
    cleaner: Child,
    _folder: TempDir,
}

/// A member of the cluster, as Patroni describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) state: String,
    pub(crate) timeline: Option<u64>,
    /// Bytes that it has not received yet. `None` for the leader, and if Patroni does not know.
    pub(crate) lag: Option<u64>,
}

impl Patroni {
    /// Starts the nodes and waits until one leads and the others follow.
    pub(crate) async fn start() -> Self {
        // Deleted namespaces continue for a moment, so the next cluster of this process has other
        // names.
        static CLUSTERS: AtomicU8 = AtomicU8::new(0);
        let id = Command::new("id").arg("-u").output().unwrap();
        assert_eq!(
            id.stdout.trim_ascii(),
            b"0",
            "network namespaces are made by root; the programs run as `{USER}`"
        );
        let cluster = char::from(b'a' + CLUSTERS.fetch_add(1, Ordering::Relaxed) % 26);
        let process = std::process::id();
        let bridge = format!("kh{process}{cluster}");
        let network = format!("10.213.{}.", process % 250);
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let folder = tempfile::Builder::new()
            .prefix("keys-ha-")
            .tempdir_in(place);
        let folder = folder.unwrap();
        let namespaces = [1, 2, 3].map(|number| format!("{bridge}n{number}"));
        // First, so that it cleans up in all cases.
        let cleaner = clean_up_at_the_end(&namespaces, &bridge);
        let run = |command: &str| run(command.split(' '));
        run(&format!("ip link add {bridge} type bridge"));
        run(&format!("ip addr add {network}1/24 dev {bridge}"));
        run(&format!("ip link set {bridge} up"));
        let mut nodes = Vec::new();
        for (namespace, number) in namespaces.into_iter().zip(1..) {
            let cable = format!("{bridge}v{number}");
            run(&format!("ip netns add {namespace}"));
            run(&format!(
                "ip link add {cable} type veth peer name eth0 netns {namespace}"
            ));
            run(&format!("ip link set {cable} master {bridge} up"));
            run(&format!("ip -n {namespace} link set lo up"));
            run(&format!(
                "ip -n {namespace} addr add {network}1{number}/24 dev eth0"
            ));
            run(&format!("ip -n {namespace} link set eth0 up"));
            let home = folder.path().join(format!("node{number}"));
            std::fs::create_dir(&home).unwrap();
            for (name, text) in [
                ("etcd.yaml", include_str!("../../../../docs/ha/etcd.yaml")),
                (
                    "patroni.yaml",
                    include_str!("../../../../docs/ha/patroni.yaml"),
                ),
            ] {
                let text = settings(text, number, &network, &home);
                std::fs::write(home.join(name), text).unwrap();
            }
            nodes.push((namespace, cable, home));
        }
        let owner = format!("{USER}:");
        crate::patroni::run(["chown", "-R", &owner, folder.path().to_str().unwrap()]);
        let nodes = nodes.into_iter().map(|(namespace, cable, folder)| {
            let config = folder.join("etcd.yaml");
            let etcd = unprivileged(&namespace, &[], &folder, "etcd")
                .arg("--config-file")
                .arg(config)
                .spawn();
            Node {
                namespace,
                cable,
                folder,
                etcd: etcd.unwrap(),
                patroni: None,
            }
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            network,
            cleaner,
            _folder: folder,
        };
        for node in 0..NODES {
            cluster.start_node(node);
        }
        cluster.is_healthy().await;
        cluster
    }

    /// Returns the address of a node, without a port.
    pub(crate) fn address(&self, node: usize) -> String {
        format!("{}1{}", self.network, node + 1)
    }

    /// Returns the URL of the PostgreSQL of one node for a superuser, up to the name of a database.
    pub(crate) fn superuser_url(&self, node: usize) -> String {
        format!("postgres://postgres:{PASSWORD}@{}:5432", self.address(node))
    }

    /// Returns the documented configuration of HAProxy for these nodes, on another port.
    pub(crate) fn haproxy(&self, port: u16) -> String {
        include_str!("../../../../docs/ha/haproxy.cfg")
            .replace("127.0.0.1:5000", &format!("127.0.0.1:{port}"))
            .replace(DOCUMENTED_NETWORK, &self.network)
    }

    /// Starts Patroni on a node, which starts PostgreSQL.
    pub(crate) fn start_node(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let own_processes = ["unshare", "--pid", "--fork", "--mount-proc"];
        let config = node.folder.join("patroni.yaml");
        let patroni = unprivileged(&node.namespace, &own_processes, &node.folder, "patroni")
            .arg(config)
            .spawn();
        node.patroni = Some(patroni.unwrap());
    }

    /// Kills Patroni and all processes of PostgreSQL on a node (SIGKILL), also if they are stopped.
    pub(crate) fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let mut patroni = node.patroni.take().expect("the node runs");
        let children = format!("/proc/{0}/task/{0}/children", patroni.id());
        let first = std::fs::read_to_string(children).unwrap();
        signal("KILL", first.trim().parse().expect("a process"));
        patroni.wait().unwrap();
        // Process numbers start again, so the one in this file may later be that of another
        // process.
        let _ = std::fs::remove_file(node.folder.join("data/postmaster.pid"));
    }

    /// Stops Patroni and all processes of PostgreSQL on a node (SIGSTOP).
    pub(crate) fn stop(&self, node: usize) {
        let node = &self.nodes[node];
        // Twice, because some may have started others meanwhile.
        for _ in 0..2 {
            let pids = Command::new("ip")
                .args(["netns", "pids", &node.namespace])
                .output();
            let pids = String::from_utf8(pids.unwrap().stdout).unwrap();
            let keep = [node.etcd.id(), node.patroni.as_ref().unwrap().id()];
            for pid in pids.lines().map(|line| line.trim().parse().unwrap()) {
                if !keep.contains(&pid) {
                    signal("STOP", pid);
                }
            }
        }
    }

    /// Unplugs the network cable of a node.
    pub(crate) fn cut(&self, node: usize) {
        run(["ip", "link", "set", &self.nodes[node].cable, "down"]);
    }

    /// Plugs it in again.
    pub(crate) fn mend(&self, node: usize) {
        run(["ip", "link", "set", &self.nodes[node].cable, "up"]);
    }

    /// Requests a planned change of the primary by `patronictl`, which ends when it is done.
    pub(crate) fn switch_over(&self, from: usize, to: usize) -> Child {
        let config = self.nodes[to].folder.join("patroni.yaml");
        let mut patronictl = Command::new("patronictl");
        patronictl.arg("-c").arg(config);
        patronictl.args(["switchover", "--force", "--primary", &name(from)]);
        patronictl.args(["--candidate", &name(to)]);
        // Python may not know the locale of the tests.
        patronictl.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
        patronictl.stdin(Stdio::null()).stdout(Stdio::null());
        patronictl.spawn().unwrap()
    }

    /// Returns the members, as a node describes them. Empty if it or its etcd is not healthy.
    async fn members(&self, client: &reqwest::Client, node: usize) -> Vec<Member> {
        let get = async |port: u16, path: &str| {
            let url = format!("http://{}:{port}/{path}", self.address(node));
            client.get(url).send().await?.text().await
        };
        match (get(2379, "health").await, get(8008, "cluster").await) {
            (Ok(etcd), Ok(text)) if etcd.contains(r#""health":"true""#) => members(&text),
            _ => Vec::new(),
        }
    }

    /// Waits until all nodes have been healthy for a while, in the view of each. Returns the leader
    /// and the standby that may take over from it. A node that does not recover by itself is copied
    /// again from the leader, as operators would do.
    pub(crate) async fn is_healthy(&self) -> (usize, usize) {
        const AT_MOST: Duration = Duration::from_mins(4);
        /// Time for a node to recover by itself.
        const BY_ITSELF: Duration = Duration::from_secs(45);
        /// Longer than an election of etcd, which a node causes that was cut off.
        const FOR: Duration = Duration::from_secs(3);
        let client = reqwest::Client::builder().no_proxy().timeout(millis(1_000));
        let client = client.build().unwrap();
        let start = now();
        let mut copied_at = start;
        let mut well: Option<((usize, usize), Duration)> = None;
        loop {
            let mut views = Vec::new();
            for node in 0..NODES {
                views.push(self.members(&client, node).await);
            }
            let roles = healthy(&views[0]);
            let is_shared = views.iter().all(|view| healthy(view) == roles);
            well = match (roles.filter(|_| is_shared), well) {
                (Some(roles), Some((same, since))) if roles == same => Some((same, since)),
                (Some(roles), _) => Some((roles, now())),
                (None, _) => None,
            };
            match well {
                Some((roles, since)) if now() >= since + FOR => return roles,
                _ => {}
            }
            if now() >= copied_at + BY_ITSELF {
                copied_at = now();
                self.copy_anew(&views);
            }
            assert!(
                now() < start + AT_MOST,
                "the cluster does not recover: {views:#?}\n{}",
                self.said()
            );
            tokio::time::sleep(millis(200)).await;
        }
    }

    /// Copies members that do not run from the leader by `patronictl reinit`.
    fn copy_anew(&self, views: &[Vec<Member>]) {
        let Some(view) = views.iter().find(|view| !view.is_empty()) else {
            return;
        };
        for member in view {
            if member.role == "leader" || ["running", "streaming"].contains(&&*member.state) {
                continue;
            }
            eprintln!("{} is {} and copied anew", member.name, member.state);
            let config = self.nodes[0].folder.join("patroni.yaml");
            let mut patronictl = Command::new("patronictl");
            patronictl.arg("-c").arg(config);
            patronictl.args(["reinit", "--force", "keys", &member.name]);
            patronictl.env("LC_ALL", "C.UTF-8").env("LANG", "C.UTF-8");
            patronictl.stdin(Stdio::null()).stdout(Stdio::null());
            let _ = patronictl.status();
        }
    }

    /// Returns the end of the logs of Patroni and PostgreSQL on each node, without errors of
    /// clients.
    pub(crate) fn said(&self) -> String {
        const LINES: usize = 60;
        let is_of_interest = |line: &&str| {
            let clients = [
                "ERROR: ",
                "STATEMENT: ",
                "CONTEXT: ",
                "from client",
                "no action",
            ];
            !clients.iter().any(|words| line.contains(words))
        };
        let logs = self.nodes.iter().map(|node| {
            let path = node.folder.join("patroni.log");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<_> = text.lines().filter(is_of_interest).collect();
            let last = &lines[lines.len().saturating_sub(LINES)..];
            format!("--- {}\n{}\n", node.namespace, last.join("\n"))
        });
        logs.collect()
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        drop(self.cleaner.stdin.take());
        let _ = self.cleaner.wait();
        for node in &mut self.nodes {
            let _ = node.etcd.wait();
            if let Some(patroni) = &mut node.patroni {
                let _ = patroni.wait();
            }
        }
    }
}

/// Returns the name of a node.
pub(crate) fn name(node: usize) -> String {
    format!("node{}", node + 1)
}

/// Returns one of the documented files for a node with this number, in this network, with its data
/// in this folder.
fn settings(documented: &str, number: usize, network: &str, folder: &Path) -> String {
    let own = format!("{DOCUMENTED_NETWORK}1{number}");
    let lines = documented.lines().map(|line| {
        // Lines that name all nodes are the same on each.
        let line = if line.contains("10.0.0.12") {
            line.to_owned()
        } else {
            line.replace("10.0.0.11", &own)
        };
        line.replace(DOCUMENTED_NETWORK, network) + "\n"
    });
    let folder = folder.to_str().unwrap();
    let binaries = keys_testkit::postgres::find_binaries().unwrap().folder;
    let binaries = binaries.join("postgres").canonicalize().unwrap();
    let binaries = binaries.parent().unwrap().to_str().unwrap();
    lines
        .collect::<String>()
        .replace("name: node1", &format!("name: node{number}"))
        .replace("/var/lib/etcd/keys", &format!("{folder}/etcd"))
        .replace("/var/lib/postgresql/15/keys", &format!("{folder}/data"))
        .replace("/var/run/postgresql", folder)
        .replace("/usr/lib/postgresql/15/bin", binaries)
}

/// Returns a program in a network namespace, as a user who is not root, with a log in its folder.
fn unprivileged(namespace: &str, within: &[&str], folder: &Path, program: &str) -> Command {
    let log = File::create(folder.join(format!("{program}.log"))).unwrap();
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .args(within)
        .args([
            "setpriv",
            &format!("--reuid={USER}"),
            &format!("--regid={USER}"),
        ])
        .args(["--clear-groups", "--", program])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", folder)
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        // A Ctrl-C is for the tests. The cleaner ends these.
        .process_group(0);
    command
}

/// Waits for the end of this process, then kills everything in the namespaces and removes them.
fn clean_up_at_the_end(namespaces: &[String], bridge: &str) -> Child {
    const SCRIPT: &str = r#"
        trap '' HUP INT TERM PIPE
        read -r _
        bridge=$1
        shift
        for namespace; do
            for try in 1 2 3; do
                for process in $(ip netns pids "$namespace"); do kill -s KILL "$process"; done
                sleep 0.1
            done
            ip netns del "$namespace"
        done
        ip link del "$bridge"
    "#;
    Command::new("sh")
        .args(["-c", SCRIPT, "cleaner", bridge])
        .args(namespaces)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0)
        .spawn()
        .unwrap()
}

fn run<'a>(words: impl IntoIterator<Item = &'a str>) {
    let words: Vec<_> = words.into_iter().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// Reads Patroni's answer to `GET /cluster`.
fn members(text: &str) -> Vec<Member> {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let members = json["members"].as_array().cloned().unwrap_or_default();
    let text = |member: &Value, name: &str| member[name].as_str().unwrap_or_default().to_owned();
    let members = members.iter().map(|member| Member {
        name: text(member, "name"),
        role: text(member, "role"),
        state: text(member, "state"),
        timeline: member["timeline"].as_u64(),
        lag: member["lag"].as_u64(),
    });
    members.collect()
}

/// Returns the leader and its synchronous standby if all nodes are healthy: they run on one
/// timeline, and no replica is far behind.
fn healthy(members: &[Member]) -> Option<(usize, usize)> {
    const LAG_MAX: u64 = 1 << 20;
    let number = |role: &str| {
        let member = members.iter().find(|member| member.role == role)?;
        let number: usize = member.name.strip_prefix("node")?.parse().ok()?;
        number.checked_sub(1)
    };
    let (leader, standby) = (number("leader")?, number("sync_standby")?);
    let timeline = members[0].timeline;
    let is_well = |member: &Member| {
        let is_current = member.role == "leader" || member.lag.is_some_and(|lag| lag <= LAG_MAX);
        ["running", "streaming"].contains(&&*member.state)
            && member.timeline == timeline
            && is_current
    };
    (members.len() == NODES && members.iter().all(is_well)).then_some((leader, standby))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = r#"{"members": [
        {"name": "node1", "role": "leader", "state": "running", "host": "10.0.0.11", "port": 5432, "timeline": 2},
        {"name": "node2", "role": "sync_standby", "state": "running", "port": 5432, "timeline": 2, "lag": 0},
        {"name": "node3", "role": "replica", "state": "streaming", "port": 5432, "timeline": 2, "lag": 3848}]}"#;

    #[test]
    fn cluster_is_well_when_all_follow_its_leader() {
        assert_eq!(healthy(&members(WELL)), Some((0, 1)));
        for (now, then) in [
            (r#""lag": 0"#, r#""lag": "unknown""#),
            (r#""lag": 3848"#, r#""lag": 33554432"#),
            ("streaming", "starting"),
            ("sync_standby", "replica"),
            ("leader", "replica"),
            (r#""timeline": 2, "lag": 0"#, r#""timeline": 1, "lag": 0"#),
            (r#""name": "node2""#, r#""name": "else""#),
        ] {
            let text = WELL.replace(now, then);
            assert_ne!(text, WELL);
            assert_eq!(healthy(&members(&text)), None, "{text}");
        }
        assert_eq!(healthy(&members("")), None);
        assert_eq!(healthy(&members("{}")), None);
    }

    #[test]
    fn documented_files_are_fitted_to_a_node() {
        let folder = Path::new("/here");
        let documented = include_str!("../../../../docs/ha/etcd.yaml");
        let etcd = settings(documented, 2, "10.213.7.", folder);
        assert!(
            etcd.contains("name: node2\ndata-dir: /here/etcd\n"),
            "{etcd}"
        );
        assert!(etcd.contains("listen-peer-urls: http://10.213.7.12:2380\n"));
        assert!(etcd.contains(
            "initial-cluster: node1=http://10.213.7.11:2380,node2=http://10.213.7.12:2380"
        ));
        let documented = include_str!("../../../../docs/ha/patroni.yaml");
        let patroni = settings(documented, 3, "10.213.7.", folder);
        assert!(patroni.contains("listen: 10.213.7.13:5432\n"), "{patroni}");
        assert!(patroni.contains("hosts: 10.213.7.11:2379,10.213.7.12:2379,10.213.7.13:2379\n"));
        assert!(patroni.contains("data_dir: /here/data\n") && !patroni.contains("10.0.0."));
        assert!(patroni.contains("synchronous_mode_strict: true\n"));
    }
}
